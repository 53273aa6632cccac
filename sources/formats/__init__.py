"""Formats of event values other than JSON: one file each, and `declared.py` with the table that names them.

A format makes columns (or JSON texts) of the bytes of events, before the hub sees them. `source.py` puts one before any
source that gives bytes, so that live reading, history and the archive decode alike: what is archived is the bytes.
"""
