"""Texts with places for a row's values: `{service}: {errors} errors`. Nothing else can be said in them.

No expressions, no attributes, no formats: a name between braces is a column, `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mql.errors import MqlError, did_you_mean
from server import encode

PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
VALUE_MAX = 500
TEXT_MAX = 2_000


def names_in(text: str) -> Iterator[str]:
    """The columns that a text names. MqlError where its braces do not match."""
    for found in PART.finditer(text):
        whole, name = found[0], found[1]
        if name is not None:
            if not name.strip():
                raise MqlError('"{}" names no column', hint="Write {column}, or {{ and }} for braces.")
            yield name.strip()
        elif len(whole) == 1:
            raise MqlError(f'a single "{whole}" in "{text[:60]}"', hint="Write {column}, or {{ and }} for braces.")


def check_names(text: str, known: Mapping[str, Any]) -> None:
    """MqlError where the text names what no row has."""
    for name in names_in(text):
        if name not in known:
            hint = did_you_mean(name, known) or f"There are {', '.join(known)}."
            raise MqlError(f'the rows have no column "{name}"', hint=hint, code="invalid-sink")


def filled(text: str, values: Mapping[str, Any]) -> str:
    """The text with the values in their places."""

    def put(found: re.Match[str]) -> str:
        return found[0][0] if found[1] is None else shown(values.get(found[1].strip()))

    return PART.sub(put, text)[:TEXT_MAX]


def shown(value: Any) -> str:
    """A value as people read it."""
    match value:
        case None:
            return ""
        case str():
            return value[:VALUE_MAX]
        case float():
            return f"{value:.6g}"
        case _:
            return encode.dumps(value).decode()[:VALUE_MAX].strip('"')
