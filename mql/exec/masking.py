"""Masks put on decoded columns: what is behind them has never seen the values.

A hash is keyed: whoever does not know the server's secret can neither go back nor try out values. The same value has
the same hash in every query, live and over history, so masked values can be counted, grouped by and joined on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from mql.exec.kernel import Session
from mql.planner.sql import column_name
from mql.schema import DataType, Path, PropertyMask

HASH = "left(sha256($secret || sha256($secret || v)), 16)"
"""64 bits: of ten million values two have the same hash once in 370,000 times."""
PARTIAL = "CASE WHEN length(v) >= 8 THEN '***' || right(v, 4) ELSE '***' END"


class Masking:
    """Puts masks on the columns that a decoder gives, which are of the types that the masks make."""

    def __init__(
        self, session: Session, masks: Iterable[PropertyMask], columns: Iterable[tuple[Path, DataType]]
    ) -> None:
        self._session = session
        self._on = [
            (column_name(path), mask.path[len(path) :], mask.kind)
            for path, _ in columns
            for mask in masks
            if mask.path[: len(path)] == path
        ]

    def put_on(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._on:
            return columns
        found = dict(columns)
        for name, inside, kind in self._on:
            column = found[name]
            whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            found[name] = self._within(whole, inside, kind)
        return found

    def _within(self, values: pa.Array, path: Path, kind: str) -> pa.Array:
        if not path:
            return self._masked(values, kind)
        names = [field.name for field in values.type]
        inner = [self._within(part, path[1:], kind) if name == path[0] else part for name, part in parts_of(values)]
        return pa.StructArray.from_arrays(inner, names, mask=values.is_null())

    def _masked(self, values: pa.Array, kind: str) -> pa.Array:
        """Each value that occurs is masked once."""
        if kind == "null":
            return pa.nulls(len(values), values.type)
        known = values.cast(pa.string()).dictionary_encode()
        sql, params = (HASH, {"secret": self._session.secret()}) if kind == "hash" else (PARTIAL, {})
        given = pa.table({"i": range(len(known.dictionary)), "v": known.dictionary})
        masked = self._session.run(f"SELECT i, {sql} AS v FROM given ORDER BY i", {"given": given}, params)
        return masked.column("v").combine_chunks().cast(values.type).take(known.indices)


def parts_of(values: pa.StructArray) -> list[tuple[str, pa.Array]]:
    return list(zip((field.name for field in values.type), values.flatten(), strict=True))
