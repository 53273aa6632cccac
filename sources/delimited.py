"""CSV and its kin: text to typed columns, where a broken row or value never stops the rest."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from mql.schema import Field
from sources.columns import arrow_of, cast_or_null, conform

SNIFF_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How the text is cut. `delimiter` None: told from the first line. `header` False: columns are c0, c1, …"""

    delimiter: str | None = None
    header: bool = True
    quote: str = '"'


PLAIN_CSV = CsvForm()


@dataclass(slots=True)
class CsvPlan:
    """What the head of a file tells: names, types as found, where the rows begin; and what was skipped so far."""

    form: CsvForm
    delimiter: str
    names: tuple[str, ...]
    schema: pa.Schema
    skipped: int = field(default=0)

    def note_broken(self, row: pa_csv.InvalidRow) -> str:
        self.skipped += 1
        return "skip"


def plan_csv(samples: Sequence[bytes], form: CsvForm) -> CsvPlan:
    """Reads names and types from samples of whole lines, of which the first is the head of a file."""
    head_end = record_end(samples[0], form.quote, first=True) if samples else 0
    head = samples[0][:head_end].decode("utf-8", "replace").rstrip("\r\n") if samples else ""
    delimiter = form.delimiter or delimiter_of(head)
    cells = next(csv.reader([head], delimiter=delimiter, quotechar=form.quote), [])
    names = names_of(cells) if form.header else tuple(f"c{at}" for at in range(len(cells)))
    plan = CsvPlan(form, delimiter, names, pa.schema([pa.field(name, pa.string()) for name in names]))
    bodies = [samples[0][head_end if form.header else 0 :], *samples[1:]] if samples else []
    found = [schema for schema in (infer(plan, body) for body in bodies) if schema is not None]
    plan.schema = common_schema(plan.schema, found)
    plan.skipped = 0
    return plan


def delimiter_of(head: str) -> str:
    """The likeliest of the usual delimiters: the one that stands most often in the first line."""
    return max(",\t;|", key=head.count)


def names_of(cells: Sequence[str]) -> tuple[str, ...]:
    """The header's names; empty ones are numbered, doubled ones get a number behind."""
    names: list[str] = []
    for at, cell in enumerate(cells):
        name = cell.strip() or f"c{at}"
        names.append(name if name not in names else f"{name}_{at}")
    return tuple(names)


def infer(plan: CsvPlan, body: bytes) -> pa.Schema | None:
    try:
        return read(plan, body, pa_csv.ConvertOptions(check_utf8=False)).schema
    except pa.ArrowInvalid:
        return None


def common_schema(names: pa.Schema, found: Sequence[pa.Schema]) -> pa.Schema:
    """One type a column that all samples agree on; text where they do not."""
    return pa.schema(
        [pa.field(name, common_type([schema.field(name).type for schema in found])) for name in names.names]
    )


def common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    known = [type for type in types if not pa.types.is_null(type)]
    if not known:
        return pa.string()
    if all(type.equals(known[0]) for type in known):
        return known[0]
    numbers = all(pa.types.is_integer(type) or pa.types.is_floating(type) for type in known)
    return pa.float64() if numbers else pa.string()


def batches_of(plan: CsvPlan, blocks: Iterable[bytes], fields: Sequence[Field]) -> Iterator[pa.RecordBatch]:
    """The rows of one file, given as blocks of whole lines, in the types of `fields`."""
    headless = not plan.form.header
    for records in whole_records(blocks, plan.form.quote):
        body = records
        if not headless:
            body = records[record_end(records, plan.form.quote, first=True) :]
            headless = True
        if body.strip():
            yield from typed(plan, body, fields)


def whole_records(blocks: Iterable[bytes], quote: str) -> Iterator[bytes]:
    """The blocks, cut where a record ends: a line's end may stand inside quotes."""
    rest = b""
    for block in blocks:
        whole = rest + block if rest else block
        cut = record_end(whole, quote)
        rest = whole[cut:]
        if cut:
            yield whole[:cut]
    if rest:
        yield rest


def record_end(data: bytes, quote: str, first: bool = False) -> int:
    """The end of the last (or first) record that ends in the data; 0 (or all) where none does."""
    mark = quote.encode()
    find = data.find if first else data.rfind
    end = find(b"\n") + 1
    while end > 0 and data.count(mark, 0, end) % 2:
        end = data.find(b"\n", end) + 1 if first else data.rfind(b"\n", 0, end - 1) + 1
    return end or (len(data) if first else 0)


def typed(plan: CsvPlan, body: bytes, fields: Sequence[Field]) -> Iterator[pa.RecordBatch]:
    """The rows in their types; where a value does not fit its column, it is null and the rest goes on."""
    wanted = [field for field in fields if field.name in plan.names]
    types = {field.name: wire_type(plan, field) for field in wanted}
    before = plan.skipped
    try:
        table = read(plan, body, pa_csv.ConvertOptions(column_types=types, include_columns=list(types)))
    except pa.ArrowInvalid:
        plan.skipped = before
        table = read_leniently(plan, body, types)
    for batch in table.combine_chunks().to_batches(max_chunksize=65_536):
        yield null_if_empty(conform(batch, fields))


def wire_type(plan: CsvPlan, field: Field) -> pa.DataType:
    """The type to parse as: as found where that comes to the field's type, else the field's own."""
    found = plan.schema.field(field.name).type
    target = arrow_of(field.type)
    same_kind = pa.types.is_timestamp(found) and pa.types.is_timestamp(target)
    return found if same_kind else target


def read(plan: CsvPlan, body: bytes, convert: pa_csv.ConvertOptions) -> pa.Table:
    if not body:
        return pa.schema([(name, pa.null()) for name in plan.names]).empty_table()
    spans_lines = plan.form.quote.encode() in body
    return pa_csv.read_csv(
        pa.BufferReader(body),
        read_options=pa_csv.ReadOptions(column_names=list(plan.names), block_size=max(len(body), 1 << 16)),
        parse_options=pa_csv.ParseOptions(
            delimiter=plan.delimiter,
            quote_char=plan.form.quote,
            newlines_in_values=spans_lines,
            invalid_row_handler=plan.note_broken,
        ),
        convert_options=convert,
    )


def read_leniently(plan: CsvPlan, body: bytes, types: dict[str, pa.DataType]) -> pa.Table:
    """Everything as text first, then value by value what can be had; broken UTF-8 becomes the replacement mark."""
    text = body.decode("utf-8", "replace").encode()
    as_text = pa_csv.ConvertOptions(column_types={name: pa.string() for name in types}, include_columns=list(types))
    try:
        table = read(plan, text, as_text).combine_chunks()
    except pa.ArrowInvalid:
        plan.skipped += body.count(b"\n")
        return pa.schema(list(types.items())).empty_table()
    columns = [cast_or_null(whole(blank_as_null(table.column(name))), type) for name, type in types.items()]
    return pa.Table.from_arrays(columns, list(types))


def whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def blank_as_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def null_if_empty(batch: pa.RecordBatch) -> pa.RecordBatch:
    """An empty cell is null, in text columns too."""
    columns = [
        pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        if pa.types.is_string(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema) if columns else batch
