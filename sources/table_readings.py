"""Where tables come from: rows that are written down, files, an HTTP address, a PostgreSQL database."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mql.learn import learn
from mql.schema import BIGINT, BOOLEAN, DATE, DOUBLE, JSON, TIMESTAMP, VARCHAR, DataType, Field, Shape
from sources.columns import arrow_of, cast_or_null, type_of
from sources.delimited import PLAIN_CSV, CsvForm, batches_of, plan_csv
from sources.tables import Found, Unread

SNIFF_BYTES = 16 << 20
HTTP_BYTES_MAX = 256 << 20
FILE_BYTES_MAX = 1 << 30
CONNECT_S = 10


@dataclass(slots=True)
class WrittenRows:
    """Rows that are at hand, as the declaration itself holds them."""

    said: Sequence[Mapping[str, Any]] | pa.Table
    kind: str = "rows"

    def changed(self) -> bool:
        return False

    def read(self) -> Found:
        return Found(self.said) if isinstance(self.said, pa.Table) else table_of(self.said)


@dataclass(slots=True)
class FileReading:
    """A CSV, Parquet or JSON file (an array, or an object a line); read again when its size or time has changed."""

    path: Path
    format: str = "auto"
    csv: CsvForm = PLAIN_CSV
    kind: str = "file"
    _seen: tuple[int, int] | None = field(default=None, init=False)

    def changed(self) -> bool:
        return self._stat() != self._seen

    def read(self) -> Found:
        try:
            seen = self._stat()
            if seen is not None and seen[0] > FILE_BYTES_MAX:
                raise Unread(f"{self.path} has {seen[0]:,} bytes, and at most {FILE_BYTES_MAX:,} are read")
            found = parsed(self.path.read_bytes(), self._format(), self.csv)
        except OSError as error:
            raise Unread(f"{self.path} can not be read: {error.strerror}") from error
        self._seen = seen
        return found

    def _format(self) -> str:
        if self.format != "auto":
            return self.format
        endings = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
        return endings.get(self.path.suffix.lower(), "json")

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


@dataclass(slots=True)
class HttpReading:
    """What an address answers: CSV, or JSON (an array of objects, or an object a line; `path` leads to an array)."""

    url: str
    format: str = "auto"
    csv: CsvForm = PLAIN_CSV
    path: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    kind: str = "http"
    _tag: str | None = field(default=None, init=False)

    def changed(self) -> bool:
        return True

    def read(self) -> Found:
        request = urllib.request.Request(self.url, headers={"Accept": "application/json, text/csv", **self.headers})
        try:
            with opener().open(request, timeout=self.timeout_s) as answer:
                data = answer.read(HTTP_BYTES_MAX + 1)
                told = answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            raise Unread(f"{self.url} answers {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            raise Unread(f"{self.url} can not be read: {getattr(error, 'reason', error)}") from error
        if len(data) > HTTP_BYTES_MAX:
            raise Unread(f"{self.url} answers with more than {HTTP_BYTES_MAX >> 20} MiB")
        format = self.format if self.format != "auto" else "csv" if "csv" in told else "json"
        return parsed(data, format, self.csv, self.path)


def opener() -> urllib.request.OpenerDirector:
    """Opens http and https, and nothing that a redirect could lead to beside them."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made


@dataclass(slots=True)
class PostgresReading:
    """What a query gives, asked in a transaction that can not write."""

    url: str
    query: str
    timeout_s: float = 60.0
    kind: str = "postgres"

    def changed(self) -> bool:
        return True

    def read(self) -> Found:
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        try:
            engine = sqlalchemy.create_engine(self.url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_S})
            with engine.connect().execution_options(postgresql_readonly=True) as connection:
                connection.execute(sqlalchemy.text(f"SET statement_timeout = {int(self.timeout_s * 1000)}"))
                answer = connection.execute(sqlalchemy.text(self.query))
                names = list(answer.keys())
                rows = answer.fetchall()
        except (SQLAlchemyError, ImportError) as error:
            told = str(getattr(error, "orig", None) or error).strip().splitlines()
            raise Unread(f"the database says: {told[0] if told else error}") from error
        columns = {name: [plain(row[at]) for row in rows] for at, name in enumerate(names)}
        return table_of_columns(columns)


def plain(value: Any) -> Any:
    """A database's value as JSON would have it, or as a time or a decimal."""
    match value:
        case UUID():
            return str(value)
        case timedelta():
            return round(value.total_seconds() * 1e6)
        case memoryview() | bytes():
            return bytes(value).hex()
        case _:
            return value


# --- what was read -------------------------------------------------------------------------------------------


def parsed(data: bytes, format: str, csv: CsvForm, path: Sequence[str] = ()) -> Found:
    match format:
        case "csv":
            return Found(csv_table(data, csv))
        case "parquet":
            try:
                return Found(pq.read_table(pa.BufferReader(data)))
            except (pa.ArrowInvalid, OSError) as error:
                raise Unread(f"it is no Parquet: {error}") from error
        case _:
            return table_of(json_rows(data, path))


def csv_table(data: bytes, form: CsvForm) -> pa.Table:
    plan = plan_csv([data[:SNIFF_BYTES]], form)
    if not plan.names:
        raise Unread("it is empty")
    fields = [Field(name, type_of(plan.schema.field(name).type)) for name in plan.names]
    batches = list(batches_of(plan, [data], fields))
    return pa.Table.from_batches(batches) if batches else schema_of(fields).empty_table()


def json_rows(data: bytes, path: Sequence[str]) -> list[Any]:
    """The objects of an array or of lines; `path` leads from the top to the array."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            found = [orjson.loads(line) for line in data.splitlines() if line.strip()]
        except orjson.JSONDecodeError as error:
            raise Unread(f"it is no JSON: {error}") from error
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict) and not path:
        found = [found]
    if not isinstance(found, list):
        where = f' at "{".".join(path)}"' if path else ""
        raise Unread(f"there is no array of objects{where}")
    return found


def table_of(rows: Sequence[Any]) -> Found:
    """Objects as a table, with the types that the shape of events would have; what is no object is left out."""
    objects = [row for row in rows if isinstance(row, Mapping)]
    shape = learn(objects)
    arrays = {one.name: column_of([row.get(one.name) for row in objects], one.type) for one in shape.fields}
    return Found(pa.table(arrays), Shape(tuple(Field(one.name, one.type) for one in shape.fields)))


def table_of_columns(columns: Mapping[str, list[Any]]) -> Found:
    """Columns of Python values as a table, in the types that hold all of them."""
    fields = tuple(Field(name, type_of_values(values)) for name, values in columns.items())
    return Found(pa.table({one.name: column_of(columns[one.name], one.type) for one in fields}), Shape(fields))


def type_of_values(values: Iterable[Any]) -> DataType:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return BOOLEAN
    if kinds == {int}:
        return BIGINT
    if kinds and kinds <= {int, float, Decimal}:
        return DOUBLE
    if kinds == {datetime}:
        return TIMESTAMP
    if kinds == {date}:
        return DATE
    return JSON if kinds & {dict, list} else VARCHAR


def column_of(values: Sequence[Any], type: DataType) -> pa.Array:
    """The values in a type's Arrow form; what does not fit is null."""
    target = arrow_of(type)
    if type == JSON:
        return pa.array([None if value is None else orjson.dumps(value).decode() for value in values], pa.string())
    if type == VARCHAR:
        return pa.array([None if value is None else text_of(value) for value in values], pa.string())
    if type == DOUBLE:
        values = [float(value) if isinstance(value, Decimal) else value for value in values]
    try:
        return pa.array(values, target)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return cast_or_null(pa.array([None if value is None else text_of(value) for value in values]), target)


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode().strip('"')


def schema_of(fields: Sequence[Field]) -> pa.Schema:
    return pa.schema([pa.field(one.name, arrow_of(one.type)) for one in fields])
