"""Texts as the types that were declared for them; what does not fit is null, and so is an empty text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mql.schema import BIGINT, BOOLEAN, DECIMAL, DOUBLE, JSON, TIMESTAMP, VARCHAR, DataType
from sources.columns import arrow_of, cast_or_null

NUMBERS = {BIGINT: r"^[+-]?[0-9]{1,19}$", DOUBLE: r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"}
TRUE, FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


def typed_texts(texts: pa.Array, type: DataType) -> pa.Array:
    """A column of texts in a type. Times are ISO 8601, and UTC where they name no zone."""
    some = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if type in (VARCHAR, JSON):
        return some
    if type in NUMBERS and (swift := plain_numbers(some, type)) is not None:
        return swift
    bare = pc.utf8_trim_whitespace(some)
    if type in NUMBERS:
        fitting = pc.match_substring_regex(bare, NUMBERS[type])
        bare = pc.utf8_ltrim(pc.if_else(fitting, bare, pa.scalar(None, pa.string())), "+")
    elif type == BOOLEAN:
        low = pc.utf8_lower(bare)
        is_true, is_false = (pc.is_in(low, pa.array(words)) for words in (TRUE, FALSE))
        return pc.if_else(is_true, True, pc.if_else(is_false, False, pa.scalar(None, pa.bool_())))
    elif type == TIMESTAMP:
        return instants(bare)
    elif type == DECIMAL:
        return cast_or_null(bare, pa.decimal128(38, 10))
    return cast_or_null(bare, arrow_of(type))


def plain_numbers(texts: pa.Array, type: DataType) -> pa.Array | None:
    """The numbers, where all are plainly such: Arrow alone would take `0x1f` and `inf` too."""
    try:
        found = pc.cast(texts, arrow_of(type))
    except pa.ArrowInvalid:
        return None
    if type == BIGINT:
        return None if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py() else found
    return found if pc.all(pc.is_finite(found)).as_py() is not False else None


def instants(texts: pa.Array) -> pa.Array:
    """ISO 8601 with and without a zone."""
    try:
        return pc.cast(texts, pa.timestamp("us"))
    except pa.ArrowInvalid:
        pass
    zoned = pc.match_substring_regex(texts, r"([zZ]|[+-][0-9]{2}:?[0-9]{2})$")
    without = cast_or_null(pc.if_else(zoned, pa.scalar(None, pa.string()), texts), pa.timestamp("us"))
    within = cast_or_null(pc.if_else(zoned, texts, pa.scalar(None, pa.string())), pa.timestamp("us", "UTC"))
    return pc.coalesce(without, within.cast(pa.timestamp("us")))
