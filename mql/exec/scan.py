"""The scan: from what a source gave to decoded batches and the events that could not be read.

One DuckDB statement a batch. Lines are cut and rows are placed by numpy (cutting.py), without a loop over events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.catalog import TimeRule
from mql.exec.cutting import (
    Ints,
    Mask,
    Part,
    Placed,
    Unread,
    alike,
    bytes_of,
    cut_chunk,
    cut_rows,
    ints,
    no_time,
    why_not_json,
    without_unread,
)
from mql.exec.deadletters import DeadLetter, dead_letter
from mql.exec.items import ARRIVAL, EARLIER, MIN_US, OFFSET, SPLIT, TIME, Chunk, Raw, Rows
from mql.exec.kernel import Session
from mql.exec.masking import Masking
from mql.exec.prefilter import Prefilter
from mql.exec.splits import Splits
from mql.planner.sql import (
    column_name,
    convert_sql,
    decode_columns,
    decode_template,
    json_pointer,
    quote_identifier,
    quote_string,
    type_sql,
)
from mql.schema import BIGINT, BOOLEAN, DOUBLE, JSON, TIMESTAMP, VARCHAR, DataType, ListOf, Path, PropertyMask, Scalar

FIRST_US = -62_135_596_800_000_000  # year 1
LAST_US = 253_402_300_799_999_999  # year 9999
WARY_BATCHES = 50
"""For so long texts are looked at first, after one of them was no JSON."""
CAREFUL_BATCHES = 50
"""For so long events' times are read as texts, after one of them was no plain number."""
_EMPTY = {"__i": pa.int64()}
JSON_MARK = {b"mql": b"json"}
"""The metadata of a column of texts that are JSON, where the batch's own metadata say `TYPED`."""
TYPED = {b"mql": b"typed"}
"""The metadata of a batch whose texts are texts, but for the columns with `JSON_MARK`; else a text may be JSON."""

Columns = tuple[tuple[Path, DataType], ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """`table`: the events that could be read, with `__t __s __o __a __m` and a column per path, in the order they came.

    `seen` = rows of the table + malformed + `skipped` (lines that the prefilter left undecoded).
    `malformed` are letters of those that could not be read, of a bounded number of them; `unreadable` counts all.
    """

    table: pa.Table
    malformed: tuple[DeadLetter, ...]
    seen: int
    skipped: int
    unreadable: int


class Decoder:
    """Decodes what a source gives, for one thread (the session's).

    `envelope`: top-level names that come beside the text (encoding json). `splits` may be shared with other decoders
    of the same source; without it `__m` is MIN_US, as for bounded input. `prefilter` may be set at any batch border.
    """

    def __init__(
        self,
        session: Session,
        encoding: str,
        time: TimeRule,
        columns: Iterable[tuple[Path, DataType]],
        *,
        envelope: Iterable[str] = (),
        splits: Splits | None = None,
        prefilter: Prefilter | None = None,
        masks: tuple[PropertyMask, ...] = (),
    ) -> None:
        assert encoding in ("json", "columns"), encoding
        self.prefilter = prefilter
        self._session = session
        self._encoding = encoding
        self._time = time
        self._envelope = frozenset(envelope)
        self._splits = splits
        self._unread = Unread()
        self.widen(columns, masks)

    @property
    def columns(self) -> Columns:
        return self._columns

    def widen(self, columns: Iterable[tuple[Path, DataType]], masks: tuple[PropertyMask, ...] = ()) -> None:
        """From the next batch on these columns, and no others, are decoded, and these masks put on them."""
        self._columns: Columns = tuple(sorted(dict(columns).items()))
        self.masks = masks
        self._masking = Masking(self._session, masks, self._columns)
        self._json = json_statement(self._columns, self._time, self._envelope)
        self._swift = swift_statement(self._columns, self._time, self._envelope)
        self._careful = 0
        self._wary = 0
        self._nothing: pa.Table | None = None

    def decode(self, raws: Sequence[Raw]) -> Decoded:
        """What the raws hold. Offsets of a split must rise within a call and from call to call."""
        unread = self._unread = self._unread.next()
        parts = [self._part(raw, unread) for raw in raws]
        skipped = sum(part.skipped for part in parts)
        runs = alike([part for part in parts if part.rows])
        found = [self._decoded(run, unread) for run in runs] or [self._empty()]
        table = found[0] if len(found) == 1 else pa.concat_tables(found)
        seen = table.num_rows + unread.count + skipped
        return Decoded(table, tuple(unread.letters), seen, skipped, unread.count)

    def _part(self, raw: Raw, unread: Unread) -> Part:
        match raw:
            case Chunk():
                assert self._encoding == "json"
                return cut_chunk(raw, unread, self.prefilter)
            case Rows() if self._encoding == "json":
                return cut_rows(without_unread(raw, unread), unread, self.prefilter)
            case Rows():
                rows = without_unread(raw, unread)
                return Part(rows.split, rows.arrival_us, ints(rows.table.column("_offset")), None, rows.table)
            case _:
                assert_never(raw)

    def _decoded(self, parts: Sequence[Part], unread: Unread) -> pa.Table:
        given = _joined(parts, self._columns, self._json.names if self._encoding == "json" else None)
        placed = Placed.of(parts)
        found = self._run_json(given) if self._encoding == "json" else self._run_columns(given)
        if TIME in found.columns:
            placed = replace(placed, times=ints(found.columns[TIME]))
        good = found.parsed & found.timed
        if good.all():
            return self._table(found.columns, placed)
        unread.add(np.flatnonzero(~good), lambda row: self._letter(given, found, placed, row))
        kept = {name: column.filter(pa.array(good)) for name, column in found.columns.items()}
        return self._table(kept, placed.only(good))

    def _run_json(self, given: pa.Table) -> _Found:
        """The properties, out of the texts. Where the swift statement is not sure of a time, the other one tells."""
        if self._swift is not None and self._careful == 0:
            found = self._run(self._swift, given)
            if found.timed.all():
                return found
            self._careful = CAREFUL_BATCHES
        self._careful = max(0, self._careful - 1)
        return self._run(self._json, given)

    def _run(self, statement: JsonStatement, given: pa.Table) -> _Found:
        decoded = _in_order(self._session.run(statement.wary if self._wary else statement.sql, {"raw": given}))
        parsed = _mask(decoded.column("__j"))
        self._wary = max(0, self._wary - 1) if parsed.all() else WARY_BATCHES
        timed = _mask(decoded.column("__timed")) if statement.timed else parsed
        columns = {name: decoded.column(name) for name in decoded.column_names if name not in ("__i", "__j", "__timed")}
        return _Found(columns, parsed, timed | ~parsed)

    def _run_columns(self, given: pa.Table) -> _Found:
        """The properties, out of columns: as they are where they have their type, by a statement where not."""
        columns: dict[str, Any] = {}
        asked: list[str] = []
        for path, type in self._columns:
            column = _within(given, path)
            if column is not None and fits(column.type, type):
                columns[column_name(path)] = column
            else:
                asked.append(f"{column_sql(given.schema, path, type)} AS {quote_identifier(column_name(path))}")
        everything = np.ones(given.num_rows, np.bool_)
        timed = everything
        by_hand = None if self._time.path is None else times_of(_within(given, self._time.path), self._time.unit)
        if by_hand is not None:
            columns[TIME], timed = by_hand
        elif self._time.path is not None:
            asked.append(f'{column_sql(given.schema, self._time.path, VARCHAR)} AS "__x"')
        if not asked:
            return _Found(columns, everything, timed)
        sql = f'SELECT "__i", {", ".join(asked)} FROM raw'
        by_sql = self._time.path is not None and by_hand is None
        given = given.rename_columns(distinct_names(given.column_names))
        decoded = _in_order(self._session.run(with_time(sql, self._time.unit) if by_sql else sql, {"raw": given}))
        columns |= {name: decoded.column(name) for name in decoded.column_names if name not in ("__i", "__timed")}
        return _Found(columns, everything, _mask(decoded.column("__timed")) if by_sql else timed)

    def _letter(self, given: pa.Table, found: _Found, placed: Placed, row: int) -> DeadLetter:
        place = (int(placed.splits[row]), int(placed.offsets[row]), int(placed.arrivals[row]))
        if self._encoding == "columns":
            event = {name: value[0] for name, value in given.slice(row, 1).drop_columns(["__i"]).to_pydict().items()}
            return dead_letter(no_time(self._time), *place, repr(event).encode())
        data = bytes_of(given.column("_raw")[row]).rstrip(b"\r\n")
        return dead_letter(no_time(self._time) if found.parsed[row] else why_not_json(data), *place, data)

    def _table(self, columns: Mapping[str, Any], placed: Placed) -> pa.Table:
        names = [column_name(path) for path, _ in self._columns]
        columns = self._masking.put_on(columns)
        place = [placed.times, placed.splits, placed.offsets, placed.arrivals, self._earlier(placed)]
        return pa.table(
            [*(pa.array(one) for one in place), *(columns[name] for name in names)],
            names=[TIME, SPLIT, OFFSET, ARRIVAL, EARLIER, *names],
        )

    def _earlier(self, placed: Placed) -> Ints:
        """`__m`, run by run of rows of one split."""
        count = len(placed.times)
        found = np.full(count, MIN_US, np.int64)
        if self._splits is None:
            return found
        borders = (np.flatnonzero(np.diff(placed.splits)) + 1).tolist()
        for start, end in zip([0, *borders], [*borders, count], strict=True):
            if end > start:
                split = int(placed.splits[start])
                found[start:end] = self._splits.earlier(split, placed.times[start:end], placed.arrivals[start:end])
        return found

    def _empty(self) -> pa.Table:
        """The decoded batch without rows: the same columns in the same types."""
        if self._nothing is None:
            names = [*self._json.names, "__i"]
            given = pa.table({name: pa.array([], _EMPTY.get(name, pa.string())) for name in names})
            if self._encoding == "json":
                columns = self._run_json(given).columns
            else:
                casts = (
                    f"CAST(NULL AS {type_sql(of)}) AS {quote_identifier(column_name(path))}"
                    for path, of in self._columns
                )
                found = self._session.run(f"SELECT {', '.join([*casts, '1'])} FROM raw", {"raw": given})
                columns = {name: found.column(name) for name in found.column_names}
            none = np.empty(0, np.int64)
            self._nothing = self._table(columns, Placed(none, none.astype(np.int32), none, none))
        return self._nothing


# --- statements --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JsonStatement:
    """Decodes texts: `sql` over the table `raw` with the columns `names` and `__i` (the row's number).

    It gives `__i`, `__j` (whether the text is JSON), a column per path and, where the event tells its time (`timed`),
    `__t` and `__timed` (whether it could be read). `wary` gives the same: it costs a sixth more where all texts are
    JSON, and a sixth of the time where one in a thousand is not, for then `try` goes through them one by one.
    """

    sql: str
    wary: str
    names: tuple[str, ...]
    timed: bool


def parsed(structure: str, *, wary: bool = False) -> str:
    """The texts with what is in them as `j`, null where they are no JSON."""
    texts = """SELECT *, rtrim("_raw", chr(13) || chr(10)) AS "__raw" FROM raw"""
    inside = f'try(json_transform("_raw", {structure}))'
    if wary:
        inside = f'CASE WHEN json_valid("_raw") THEN {inside} END'
    return f"SELECT *, {inside} AS j FROM ({texts})"


def json_statement(columns: Columns, time: TimeRule, envelope: frozenset[str]) -> JsonStatement:
    """The time is decoded as text whatever the type it is asked for with, so that no query changes an event's time."""
    beside = {path: type for path, type in columns if path and path[0] in envelope}
    inside = {path: type for path, type in columns if path not in beside}
    decoded, time_text = _time_text(inside, time.path, envelope)
    spelled = {name: sql for sql, name in decode_columns(decoded.items(), raw="__raw")}
    items = []
    for path, type in columns:
        name = column_name(path)
        sql = envelope_sql(path, type) if path in beside else convert_sql(spelled[name], decoded[path], type)
        items.append(f"{sql} AS {quote_identifier(name)}")
    if time.path is not None:
        items.append(f'{time_text or spelled[column_name(time.path)]} AS "__x"')
    structure = quote_string(decode_template(decoded.items()))
    select = "SELECT " + ", ".join(['"__i"', 'j IS NOT NULL AS "__j"', *items])
    sql, wary = (f"{select} FROM ({parsed(structure, wary=one)})" for one in (False, True))
    if time.path is not None:
        sql, wary = with_time(sql, time.unit), with_time(wary, time.unit)
    used = {path[0] for path in (*beside, *([time.path] if time.path else ())) if path[0] in envelope}
    return JsonStatement(sql, wary, ("_raw", *sorted(used)), time.path is not None)


def swift_statement(columns: Columns, time: TimeRule, envelope: frozenset[str]) -> JsonStatement | None:
    """The same for times that are plain numbers, which are decoded as such: texts cost a fifth of all decoding.

    What is not certain to be the time that the text would give is not `__timed`. None where times can't be read so.
    """
    decoded = swift_columns(columns, time, envelope)
    if decoded is None:
        return None
    structure = quote_string(decode_template(decoded.items()))
    first = ('"__i"', 'j IS NOT NULL AS "__j"')
    sql, wary = (
        swift_sql(columns, decoded, time, envelope, first, parsed(structure, wary=one)) for one in (False, True)
    )
    used = {path[0] for path, _ in columns if path and path[0] in envelope}
    return JsonStatement(sql, wary, ("_raw", *sorted(used)), timed=True)


def swift_columns(columns: Columns, time: TimeRule, envelope: frozenset[str]) -> dict[Path, DataType] | None:
    """What is decoded of the text, the time as a number; None where it can't be."""
    at = time.path
    if at is None or at[0] in envelope or time.unit not in (*_FACTORS, "auto"):
        return None
    wanted = dict(columns)
    if any(path and path != at and (at == path[: len(at)] or path == at[: len(path)]) for path in wanted):
        return None
    if wanted.get(at, DOUBLE) not in (BIGINT, DOUBLE):
        return None
    return {**{path: type for path, type in columns if not path or path[0] not in envelope}, at: DOUBLE}


def swift_sql(
    columns: Columns,
    decoded: Mapping[Path, DataType],
    time: TimeRule,
    envelope: frozenset[str],
    first: Sequence[str],
    parsed: str,
) -> str:
    """Over `parsed` with the struct `j` of what is decoded: `first`, a column per path, `__timed` and `__t`."""
    named = swift_named(columns, decoded, time, envelope, first, parsed)
    sure, micros = sure_time(time)
    number = f"CASE WHEN {sure} THEN {micros} ELSE 0 END"
    return f'SELECT * EXCLUDE ("__d"), coalesce({sure}, false) AS "__timed", {number} AS "__t" FROM ({named})'


def swift_named(
    columns: Columns,
    decoded: Mapping[Path, DataType],
    time: TimeRule,
    envelope: frozenset[str],
    first: Sequence[str],
    parsed: str,
) -> str:
    """`first`, a column per path, and `__d`, the time's number."""
    assert time.path is not None
    at = time.path
    spelled = {name: sql for sql, name in decode_columns(decoded.items(), raw="__raw")}
    items = [*first]
    for path, type in columns:
        name = column_name(path)
        sql = envelope_sql(path, type) if path and path[0] in envelope else spelled[name]
        sql = convert_sql(sql, DOUBLE, type) if path == at else sql
        items.append(f"{sql} AS {quote_identifier(name)}")
    items.append(f'{spelled[column_name(at)]} AS "__d"')
    return f"SELECT {', '.join(items)} FROM ({parsed})"


def sure_time(time: TimeRule) -> tuple[str, str]:
    """Whether `__d` is certainly the time that the text would give, and its microseconds where it is.

    It is more than `true` is as a number, whole, and exact as a floating-point number.
    """
    most = 2**53 if time.unit == "auto" else min(LAST_US // _FACTORS[time.unit], 2**53)
    by_size = 'CASE WHEN "__d" < 1e11 THEN 1000000 WHEN "__d" < 1e14 THEN 1000 ELSE 1 END'
    factor = by_size if time.unit == "auto" else str(_FACTORS[time.unit])
    return f'"__d" > 1 AND "__d" < {most} AND "__d" = trunc("__d")', f'CAST("__d" AS BIGINT) * {factor}'


def _time_text(
    inside: Mapping[Path, DataType], at: Path | None, envelope: frozenset[str]
) -> tuple[dict[Path, DataType], str | None]:
    """What to decode, and the SQL of the time's text; None where it is decoded as text at its path."""
    if at is None:
        return dict(inside), None
    if at[0] in envelope:
        return dict(inside), envelope_sql(at, VARCHAR)
    if any(path and (at == path[: len(at)] or path == at[: len(path)]) for path in inside if path != at):
        return dict(inside), f'TRY(json_extract_string("_raw", {quote_string(json_pointer(at))}))'
    if inside.get(at) == JSON:
        decoded = dict(inside)
        return decoded, convert_sql(decode_columns(decoded.items())[list(decoded).index(at)][0], JSON, VARCHAR)
    return {**inside, at: VARCHAR}, None


def with_time(sql: str, unit: str) -> str:
    """The statement with `__t` and `__timed` in place of `__x`, the text of the time."""
    iso = 'epoch_us(TRY_CAST("__x" AS TIMESTAMPTZ))'
    seconds = 'TRY_CAST(round("__d" * 1e6) AS BIGINT)'
    millis = 'TRY_CAST(round("__d" * 1e3) AS BIGINT)'
    micros = 'TRY_CAST("__x" AS BIGINT)'
    nanos = f"{micros} // 1000"
    match unit:
        case "s":
            number = seconds
        case "ms":
            number = millis
        case "us":
            number = micros
        case "ns":
            number = nanos
        case "iso":
            number = "NULL"
        case _:
            number = (
                f'CASE WHEN abs("__d") < 1e11 THEN {seconds} WHEN abs("__d") < 1e14 THEN {millis} '
                f'WHEN abs("__d") < 1e17 THEN {micros} ELSE {nanos} END'
            )
    time = iso if unit == "iso" else f'CASE WHEN "__d" IS NOT NULL THEN {number} ELSE {iso} END'
    number_too = f'SELECT *, TRY_CAST("__x" AS DOUBLE) AS "__d" FROM ({sql})'
    bounded = f'SELECT *, {time} AS "__u" FROM ({number_too})'
    known = f'coalesce("__u" BETWEEN {FIRST_US} AND {LAST_US}, false)'
    return (
        'SELECT * EXCLUDE ("__x", "__d", "__u"), CASE WHEN "__timed" THEN "__u" ELSE 0 END AS "__t" '
        f'FROM (SELECT *, {known} AS "__timed" FROM ({bounded}))'
    )


def envelope_sql(path: Path, type: DataType) -> str:
    """What came beside the event's text."""
    column = quote_identifier(path[0])
    if len(path) == 1:
        return f"TRY_CAST({column} AS {type_sql(type)})"
    found = f"TRY(json_extract({column}, {quote_string(json_pointer(path[1:]))}))"
    return f"nullif({found}, 'null')" if type == JSON else convert_sql(found, JSON, type)


def column_sql(schema: pa.Schema, path: Path, type: DataType) -> str:
    """A property out of columns, in its type; null where there is no such column."""
    if not path:
        told = dict(zip(schema.names, distinct_names(schema.names), strict=True))
        names = {name.lower(): name for name in reversed(schema.names) if not name.startswith("_")}
        packed = ", ".join(
            f"{quote_identifier(name)} := {_as_told(schema.field(name), told[name])}"
            for name in schema.names
            if names.get(name.lower()) == name
        )
        return f"to_json(struct_pack({packed}))"
    at = schema.get_field_index(path[0])
    field = None if at < 0 else schema.field(at)
    sql = quote_identifier(distinct_names(schema.names)[at] if at >= 0 else path[0])
    typed = (schema.metadata or {}).items() >= TYPED.items()
    for depth, name in enumerate(path[1:], 1):
        if field is not None and (pa.types.is_string(field.type) or pa.types.is_map(field.type)):
            text = f"to_json({sql})" if pa.types.is_map(field.type) else sql
            inner = f"TRY(json_extract({text}, {quote_string(json_pointer(path[depth:]))}))"
            return f"nullif({inner}, 'null')" if type == JSON else convert_sql(inner, JSON, type)
        index = field.type.get_field_index(name) if field is not None and pa.types.is_struct(field.type) else -1
        field = field.type.field(index) if field is not None and index >= 0 else None
        sql = f"{sql}[{quote_string(name)}]"
    if field is None:
        return f"CAST(NULL AS {type_sql(type)})"
    is_json = _is_json(field)
    if typed and is_json and type != JSON:
        return convert_sql(f"TRY_CAST({sql} AS JSON)", JSON, type)
    if typed and type == JSON and not is_json:
        return f"nullif(to_json({sql}), 'null')"
    return f"TRY_CAST({sql} AS {type_sql(type)})"


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of columns as the kernel can tell them apart: it does not look at letter case."""
    counts = Counter(name.lower() for name in names)
    return [name if counts[name.lower()] == 1 else f"{name}__{at}" for at, name in enumerate(names)]


def _as_told(field: pa.Field, name: str) -> str:
    """A column as it stands in the whole event, of two that differ in letter case alone the first."""
    sql = quote_identifier(name)
    return f"TRY_CAST({sql} AS JSON)" if _is_json(field) else sql


def _is_json(field: pa.Field) -> bool:
    return pa.types.is_string(field.type) and (field.metadata or {}).items() >= JSON_MARK.items()


def times_of(column: Any, unit: str) -> tuple[pa.Array, Mask] | None:
    """Event times of a column of timestamps, or of numbers of a unit, and which of them are known; None where a
    statement has to tell, by the same rules."""
    if column is None:
        return None
    if pa.types.is_timestamp(column.type):
        column, factor = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), 1
    elif column.type == pa.int64() and unit in _FACTORS:
        factor = _FACTORS[unit]
    else:
        return None
    values = ints(column.fill_null(LAST_US + 1))
    known = (values >= FIRST_US // factor) & (values <= LAST_US // factor)
    return pa.array(np.where(known, values, 0) * factor), known


_FACTORS = {"s": 1_000_000, "ms": 1000, "us": 1}
_CARRIERS: tuple[tuple[DataType, pa.DataType], ...] = (
    (BOOLEAN, pa.bool_()),
    (BIGINT, pa.int64()),
    (DOUBLE, pa.float64()),
    (VARCHAR, pa.string()),
    (TIMESTAMP, pa.timestamp("us")),
)


def fits(arrow: pa.DataType, type: DataType) -> bool:
    """Whether a column may pass as it is."""
    match type:
        case ListOf(item):
            return bool(pa.types.is_list(arrow)) and fits(arrow.value_type, item)
        case Scalar():
            return any(type == of and arrow.equals(carrier) for of, carrier in _CARRIERS)
        case _:
            return False


# --- small things ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What a statement gave: columns by name, and for each row whether its text and its time could be read."""

    columns: Mapping[str, Any]
    parsed: Mask
    timed: Mask


def _joined(parts: Sequence[Part], columns: Columns, names: Sequence[str] | None) -> pa.Table:
    """The rows of all parts as one table without a copy, numbered by `__i`."""
    rows = sum(part.rows for part in parts)
    number = pa.array(np.arange(rows, dtype=np.int64))
    if names is None:
        batches = [part.beside for part in parts if part.beside is not None]
        return pa.Table.from_batches(batches).append_column("__i", number)
    large = any(pa.types.is_large_string(part.texts.type) for part in parts if part.texts is not None)
    texts = [part.texts.cast(pa.large_string()) if large else part.texts for part in parts if part.texts is not None]
    beside = {name: _beside(parts, name) for name in names if name != "_raw"}
    return pa.table({"_raw": pa.chunked_array(texts), **beside, "__i": number})


def _beside(parts: Sequence[Part], name: str) -> pa.ChunkedArray:
    """A column of the envelope; null for parts that come without it."""
    found = [
        part.beside.column(name) if part.beside is not None and name in part.beside.schema.names else None
        for part in parts
    ]
    type = next((column.type for column in found if column is not None), pa.null())
    return pa.chunked_array(
        [pa.nulls(part.rows, type) if one is None else one for part, one in zip(parts, found, strict=True)], type
    )


def _within(table: pa.Table, path: Path) -> pa.ChunkedArray | None:
    """The column at a path of plain structs, as it is; None where there is none."""
    if not path or table.schema.get_field_index(path[0]) < 0:
        return None
    column = table.column(path[0])
    for name in path[1:]:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            return None
        column = pc.struct_field(column, name)
    return column


def _in_order(table: pa.Table) -> pa.Table:
    """The rows in the order in which they were given, which a statement on several threads need not keep."""
    numbers = ints(table.column("__i"))
    if (numbers[1:] > numbers[:-1]).all():
        return table
    return table.take(pa.array(np.argsort(numbers)))


def _mask(column: Any) -> Mask:
    found: Mask = column.to_numpy().astype(np.bool_, copy=False)
    return found
