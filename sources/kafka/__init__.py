"""Kafka topics: read live, alone or as a member of a consumer group; the topic's log is its history.

`source.py` is what others use, and runs each source's coroutines on a thread of its own; `directory.py` knows the
partitions, `reading.py` where a reading stands in them, `messages.py` makes columns of what came.
"""
