"""Result rows into a table of PostgreSQL: rows with a key in place of the earlier ones, others appended; each once.

The place is a row of a table beside, written in the same transaction; a second writer waits for that row's lock, finds
that the place has moved, and stops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Double,
    Engine,
    MetaData,
    Numeric,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.types import TypeEngine

from sources.sinks.contract import Away, Portion, Refused
from sources.sinks.tables import PLACES, key_of, last_words, quoted, refused_among

ROWS_MAX = 5_000
CONNECT_S = 10
STATEMENT_MS = 60_000
METADATA = MetaData()
PLACE = Table(PLACES, METADATA, Column("sink", Text, primary_key=True), Column("place", BigInteger, nullable=False))


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """`table` may name its schema: `reports.errors`. `key`: the columns that rows are told apart by; `_key` where rows
    have that. The table is made, and gets columns that it lacks, if need be."""

    table: str
    key: tuple[str, ...] = ()


class PostgresSink:
    """`id`: what its place is called. `url`: as SQLAlchemy reads it; it is never told to anybody."""

    rows_max = ROWS_MAX
    whole_frames = False

    def __init__(self, url: str, target: PostgresTarget, id: str) -> None:
        self.url = url
        self.target = target
        self.id = id
        self._engine: Engine | None = None
        self._known: frozenset[str] = frozenset()

    def open(self) -> int:
        with told_as_away():
            options = {"connect_timeout": CONNECT_S, "options": f"-c statement_timeout={STATEMENT_MS} -c timezone=UTC"}
            self._engine = create_engine(
                self.url, pool_size=1, max_overflow=0, connect_args=options, json_serializer=as_json
            )
            METADATA.create_all(self._engine)
            self._known = frozenset()
            with self._engine.begin() as connection:
                return self._place(connection)

    def write(self, portion: Portion) -> None:
        assert self._engine is not None, "it is not open"
        rows, known = portion.rows, self._known
        with told_as_away(), told_as_refused(), self._engine.begin() as connection:
            if self._place(connection, lock=True) != portion.first:
                raise Away("another server has written for this job meanwhile")
            why = self._attempt(connection, rows)
            if why is not None:
                found = refused_among(rows, lambda part: self._attempt(connection, part))
                self._known = known  # what was made for them goes with the transaction
                raise Refused(why, found)
            placed = insert(PLACE).values(sink=self.id, place=portion.end)
            connection.execute(placed.on_conflict_do_update(index_elements=["sink"], set_={"place": portion.end}))

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        """All that it took is written."""

    def told(self) -> Mapping[str, Any]:
        return {"table": self.target.table}

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _place(self, connection: Connection, lock: bool = False) -> int:
        asked = select(PLACE.c.place).where(PLACE.c.sink == self.id)
        found = connection.execute(asked.with_for_update() if lock else asked).scalar()
        return 0 if found is None else int(found)

    def _attempt(self, connection: Connection, rows: pa.Table) -> str | None:
        """Writes the rows, or says why they are refused; then nothing of them is there."""
        key = key_of(rows, self.target.key)
        table = table_of(self.target.table, rows.schema, key)
        if not rows.num_rows:
            return None
        self._make_room(connection, table)
        try:
            with told_as_refused(), connection.begin_nested():
                self._put(connection, rows, table, key)
        except Refused as refused:
            return str(refused)
        return None

    def _put(self, connection: Connection, rows: pa.Table, table: Table, key: tuple[str, ...]) -> None:
        split = last_words(rows, key)
        if split.drop.num_rows:
            for gone in plain_rows(split.drop):
                connection.execute(delete(table).where(and_(*(table.c[name] == value for name, value in gone.items()))))
        if split.put.num_rows:
            said = insert(table)
            if key:
                others = {name: said.excluded[name] for name in rows.column_names if name not in key}
                said = (
                    said.on_conflict_do_update(index_elements=list(key), set_=others)
                    if others
                    else said.on_conflict_do_nothing()
                )
            connection.execute(said, plain_rows(split.put))

    def _make_room(self, connection: Connection, table: Table) -> None:
        """The table, with all of the columns: looked at only when there are new ones."""
        names = frozenset(column.name for column in table.columns)
        if names <= self._known:
            return
        table.create(connection, checkfirst=True)
        there = {column["name"] for column in inspect(connection).get_columns(table.name, table.schema)}
        place = ".".join(quoted(part) for part in (table.schema, table.name) if part)
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                connection.execute(text(f"ALTER TABLE {place} ADD COLUMN {escaped(quoted(column.name))} {kind}"))
        self._known = names


def table_of(name: str, schema: pa.Schema, key: tuple[str, ...]) -> Table:
    home, dot, table = name.rpartition(".")
    columns = [Column(field.name, type_of(field.type), primary_key=field.name in key) for field in schema]
    return Table(table, MetaData(), *columns, schema=home if dot else None)


def type_of(arrow: pa.DataType) -> TypeEngine[Any]:
    types = pa.types
    if types.is_boolean(arrow):
        return Boolean()
    if types.is_uint64(arrow):
        return Numeric()
    if types.is_integer(arrow):
        return BigInteger()
    if types.is_floating(arrow):
        return Double()
    if types.is_decimal(arrow):
        return Numeric()
    if types.is_timestamp(arrow):
        return DateTime(timezone=True)
    if types.is_date(arrow):
        return Date()
    if types.is_nested(arrow):
        return JSONB(none_as_null=True)
    return Text()


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows as PostgreSQL takes them: moments in UTC, and no text with a zero character."""
    columns = {name: plain_column(rows.column(name)) for name in rows.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def plain_column(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        numbers = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
        return [None if us is None or not EARLIEST_US <= us <= LATEST_US else moment(us) for us in numbers]
    return [plain(value) for value in column.to_pylist(maps_as_pydicts="lossy")]


EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999; what is outside of them becomes null."""


def moment(us: int) -> datetime:
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def plain(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case dict():
            return {plain(name): plain(inner) for name, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case _:
            return value


def as_json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


def escaped(sql: str) -> str:
    """A colon is a parameter's mark in SQLAlchemy's texts."""
    return sql.replace(":", "\\:")


@contextlib.contextmanager
def told_as_away() -> Iterator[None]:
    """A database that is away, or that refuses for now, is tried again; what it said is told without the rows."""
    try:
        yield
    except SQLAlchemyError as error:
        raise Away(f"PostgreSQL: {said_in(error)}") from None
    except OSError as error:
        raise Away(f"PostgreSQL: {error}") from None


REFUSALS = ("22", "23", "54")
"""Classes of SQLSTATE: a value that does not fit, a constraint that it violates, a row beyond a limit."""


@contextlib.contextmanager
def told_as_refused() -> Iterator[None]:
    """What no other try would change."""
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state[:2] in REFUSALS or (not state and isinstance(error, DataError)):
            raise Refused(said_in(error)) from None
        raise
    except StatementError as error:  # a value that could not even be written into the statement
        raise Refused(said_in(error)) from None


def said_in(error: SQLAlchemyError) -> str:
    said = str(getattr(error, "orig", None) or error).splitlines()
    return said[0][:300] if said else type(error).__name__
