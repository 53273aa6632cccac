"""Lines of text, by a regular expression: each named group is a column.

The expression is RE2's, run over all lines at once by Arrow (about 1 M lines/s with seven groups).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError, Span
from mql.regexes import check_regex
from mql.schema import VARCHAR, DataType, Field, Shape
from sources.columns import arrow_of
from sources.formats.typed import typed_texts
from sources.formats.values import Values

PATTERN_BYTES_MAX = 1 << 12
LINE = "line"
NAME = re.compile(r"\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>")
UNNAMED = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?!\?)", re.DOTALL)


class TextFormat:
    """`pattern`: with at least one named group, found anywhere in the line; None: the column `line` is the line.

    `types`: of groups that are more than text. A group that took no part, or nothing, is null, and so is what does not
    have the type. A line without a match is malformed.
    """

    encoding = "columns"

    def __init__(self, pattern: str | None = None, types: Mapping[str, DataType] | None = None) -> None:
        self._pattern = None if pattern is None else checked(pattern)
        names = [LINE] if pattern is None else list(dict.fromkeys(NAME.findall(pattern)))
        for name in types or {}:
            if name not in names:
                raise invalid(f'types: the pattern has no group "{name}"', f"There are {', '.join(names)}.")
        self.fields = tuple(Field(name, (types or {}).get(name, VARCHAR)) for name in names)
        self.shape = Shape(self.fields)

    def read(self, values: pa.BinaryArray) -> Values:
        lines = without_ends(values)
        texts, bad = as_texts(lines)
        if self._pattern is None:
            return Values(self._typed({LINE: texts}), bad)
        found = pc.extract_regex(texts, self._pattern)
        if found.null_count:
            kept = found.is_valid()
            readable = [at for at in range(len(lines)) if at not in bad] if bad else range(len(lines))
            bad |= {
                readable[row]: "does not match the pattern" for row in pc.indices_nonzero(found.is_null()).to_pylist()
            }
            found = found.filter(kept)
        columns = dict(zip([field.name for field in found.type], found.flatten(), strict=True))
        return Values(self._typed(columns), dict(sorted(bad.items())))

    def _typed(self, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
        arrays = [typed_texts(columns[field.name], field.type) for field in self.fields]
        schema = pa.schema([pa.field(field.name, arrow_of(field.type)) for field in self.fields])
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def checked(pattern: str) -> str:
    """The pattern as RE2 takes it, with `.` matching line ends. MqlError where it can't be used."""
    if len(pattern.encode()) > PATTERN_BYTES_MAX:
        raise invalid(f"the pattern is longer than {PATTERN_BYTES_MAX} bytes", "Make it shorter.")
    try:
        check_regex(pattern, Span(0, 0))
    except MqlError as error:
        raise invalid(error.message, error.hint or "") from error
    names = NAME.findall(pattern)
    if not names:
        raise invalid("the pattern has no named group", "Name what is to be a column: (?P<status>[0-9]+).")
    if len(set(names)) < len(names):
        raise invalid("the pattern has two groups of one name", "Give each its own.")
    pattern = re.sub(r"\(\?<(?![=!])", "(?P<", pattern)
    # Arrow asks that every group has a name.
    pattern = UNNAMED.sub(lambda found: "(?:" if found[0] == "(" else found[0], pattern)
    try:
        pc.extract_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise invalid(f"the pattern is none for RE2: {' '.join(str(error).split())[:200]}", "Check it.") from error
    return f"(?s){pattern}"


def invalid(message: str, hint: str) -> MqlError:
    return MqlError(message, hint=hint, code="invalid-source")


def without_ends(values: pa.BinaryArray) -> pa.BinaryArray:
    """The lines without the ends that are no part of them."""
    return pa.array([value.rstrip(b"\r\n") for value in values.to_pylist()], pa.binary())


def as_texts(values: pa.BinaryArray) -> tuple[pa.Array, dict[int, str]]:
    """Those that are UTF-8, and which are not."""
    try:
        return values.cast(pa.string()), {}
    except pa.ArrowInvalid:
        good: list[str] = []
        bad: dict[int, str] = {}
        for at, value in enumerate(values.to_pylist()):
            try:
                good.append(value.decode())
            except UnicodeDecodeError:
                bad[at] = "not UTF-8"
        return pa.array(good, pa.string()), bad
