"""CSV: each event is one record of cells; which column a cell belongs to is declared."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from mql.schema import Field, Shape
from sources.columns import arrow_of
from sources.formats.text import as_texts, without_ends
from sources.formats.typed import typed_texts
from sources.formats.values import Values


class CsvFormat:
    """`columns`: names and types, in the order of the cells.

    An empty cell is null, and so is one that does not have its column's type. A record with too many or too few cells
    is malformed.
    """

    encoding = "columns"

    def __init__(self, columns: Sequence[Field], delimiter: str = ",", quote: str = '"') -> None:
        self.fields = tuple(columns)
        self.shape = Shape(self.fields)
        self._delimiter = delimiter
        self._quote = quote

    def read(self, values: pa.BinaryArray) -> Values:
        records = without_ends(values)
        texts, bad = as_texts(records)
        cells = None if bad else self._all_at_once(records)
        if cells is None:
            return self._one_by_one(texts, bad, len(records))
        return Values(self._typed(cells))

    def _all_at_once(self, records: pa.BinaryArray) -> pa.Table | None:
        """The cells of all records; None where one of them is not plainly a record."""
        if not len(records):
            return None
        body = b"\n".join(records.to_pylist()) + b"\n"
        if body.count(b"\n") != len(records) or b"\n\n" in body or body.startswith(b"\n") or b"\r" in body:
            return None
        names = [field.name for field in self.fields]
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(body),
                read_options=pa_csv.ReadOptions(column_names=names, block_size=len(body) + 1, use_threads=False),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self._delimiter, quote_char=self._quote, newlines_in_values=False
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table if table.num_rows == len(records) else None

    def _one_by_one(self, texts: pa.Array, bad: dict[int, str], count: int) -> Values:
        numbers = [at for at in range(count) if at not in bad]
        columns: list[list[str]] = [[] for _ in self.fields]
        for at, text in zip(numbers, texts.to_pylist(), strict=True):
            why = self._add(text, columns)
            if why is not None:
                bad[at] = why
        table = pa.table([pa.array(column, pa.string()) for column in columns], [one.name for one in self.fields])
        return Values(self._typed(table), dict(sorted(bad.items())))

    def _add(self, text: str, columns: Sequence[list[str]]) -> str | None:
        """Adds a record's cells to their columns, or says why not."""
        try:
            found = list(csv.reader([text], delimiter=self._delimiter, quotechar=self._quote, strict=True))
        except csv.Error as error:
            if "\n" not in text:
                return f"not CSV: {error}"
            try:
                lines = text.splitlines(keepends=True)
                found = list(csv.reader(lines, delimiter=self._delimiter, quotechar=self._quote, strict=True))
            except csv.Error as again:
                return f"not CSV: {again}"
        if found in ([], [[]]):
            return "empty"
        if len(found) != 1:
            return f"{len(found)} records in one event"
        if len(found[0]) != len(columns):
            return f"{len(found[0])} cells instead of {len(columns)}"
        for column, cell in zip(columns, found[0], strict=True):
            column.append(cell)
        return None

    def _typed(self, cells: pa.Table) -> pa.RecordBatch:
        schema = pa.schema([pa.field(field.name, arrow_of(field.type)) for field in self.fields])
        chunks = [cells.column(field.name).combine_chunks() for field in self.fields]
        arrays = [pa.concat_arrays(one.chunks) if isinstance(one, pa.ChunkedArray) else one for one in chunks]
        typed = [typed_texts(one, field.type) for one, field in zip(arrays, self.fields, strict=True)]
        return pa.RecordBatch.from_arrays(typed, schema=schema)
