"""Tables as they are declared: the `tables:` of mql.yaml, and what is put to the API.

    tables:
      users: {kind: csv, path: users.csv, key: id, refresh: 1m}
      prices: {kind: http, url: "https://example.com/prices.json", refresh: 5m}
      devices:
        kind: postgres
        url_from: DEVICES_DB
        query: SELECT id, owner, site FROM devices
        key: id
      tiers: {kind: rows, rows: [{code: 1, name: free}, {code: 2, name: paid}]}

Everything that is wrong is told at once, each with its path and, where there is a text, its line and column.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from mql.catalog import SECOND_US
from mql.errors import did_you_mean
from mql.exec.clock import Clock
from mql.schema import Field as Property
from mql.schema import Shape
from sources.declared import (
    NAME,
    CsvModel,
    Duration,
    House,
    Size,
    Strict,
    Wrong,
    complaint,
    one_or_many,
    property_path,
    shape_fields,
)
from sources.strict_yaml import ConfigError, Document, Problem, Where
from sources.table_readings import FileReading, HttpReading, PostgresReading, WrittenRows
from sources.tables import BYTES_MAX, ROWS_MAX, DeclaredTable, Reading, TableSettings

__all__ = ["TABLE_KINDS", "declare_table", "load_tables", "wrong_tables"]

REFRESH_LEAST_US = SECOND_US
WRITTEN_MAX = 10_000


def load_tables(
    config: Mapping[str, Any],
    base_dir: Path,
    *,
    document: Document | None = None,
    where: Where = ("tables",),
    clock: Clock | None = None,
) -> list[DeclaredTable]:
    """The tables of a `tables:` mapping, read for the first time. ConfigError tells all that is wrong with it; a table
    that can not be read now is no such thing: its `trouble` says why, and it is tried again."""
    told = document or Document(config)
    problems = wrong_tables(config, told, where)
    if problems:
        raise told.error(*problems)
    house = House(base_dir, base_dir, clock)
    return [checked(name, mapping, None).table(name, house) for name, mapping in config.items()]


def wrong_tables(config: Mapping[str, Any], told: Document, where: Where = ("tables",)) -> list[Problem]:
    """All that is wrong with a `tables:` mapping, in the order of the text. Nothing is read for it."""
    problems: list[Problem] = []
    for name, mapping in config.items():
        try:
            checked(name, mapping, None)
        except Wrong as wrong:
            problems += [told.problem((*where, name, *inner), message) for inner, message in wrong.complaints]
    return sorted(problems, key=lambda one: (one.line, one.column))


def declare_table(
    name: str,
    mapping: Mapping[str, Any],
    base_dir: Path = Path(),
    *,
    clock: Clock | None = None,
    kinds: Collection[str] | None = None,
) -> DeclaredTable:
    """One table. `kinds`: those that may be declared here (None: all); ConfigError for any other, and as above."""
    try:
        model = checked(name, mapping, kinds)
    except Wrong as wrong:
        raise ConfigError(
            tuple(Document(mapping).problem(inner, message) for inner, message in wrong.complaints)
        ) from wrong
    return model.table(name, House(base_dir, base_dir, clock))


def checked(name: Any, mapping: Any, kinds: Collection[str] | None) -> TableModel:
    if not isinstance(name, str) or not NAME.match(name):
        raise Wrong(((), f'"{name}" is no name: letters, digits, _ . - and a letter first'))
    if not isinstance(mapping, Mapping):
        raise Wrong(((), "must be a mapping with a kind"))
    kind = mapping.get("kind")
    known = [one for one in TABLE_KINDS if kinds is None or one in kinds]
    if kind not in known:
        said = "a table needs a kind" if kind is None else f'unknown kind "{kind}"'
        hint = did_you_mean(str(kind), known) or (
            f"Known are {', '.join(known)}." if known else "None may be declared."
        )
        raise Wrong((("kind",), f"{said}. {hint}"))
    model = TABLE_KINDS[kind]
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        raise Wrong(*(complaint(model, one) for one in error.errors())) from error


# --- what each kind says -----------------------------------------------------------------------------


def refreshing_us(value: Any) -> Any:
    return 0 if value in (False, "never") else value


class TableModel(Strict):
    """What every table may say. `refresh: never` reads it once."""

    kind: str
    description: str | None = None
    key: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
    shape: Annotated[tuple[Property, ...] | None, BeforeValidator(shape_fields)] = None
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 0
    rows_max: Annotated[int, Field(ge=1, le=100_000_000)] = ROWS_MAX
    bytes_max: Size = BYTES_MAX

    @field_validator("refresh")
    @classmethod
    def not_too_often(cls, refresh: int) -> int:
        if 0 < refresh < REFRESH_LEAST_US:
            raise ValueError("a table is read again at most once a second")
        return refresh

    def table(self, name: str, house: House) -> DeclaredTable:
        shape = None if self.shape is None else Shape(self.shape)
        settings = TableSettings(self.key, self.refresh, shape, self.rows_max, self.bytes_max)
        return DeclaredTable(name, self.reading(house), settings, house.clock)

    def reading(self, house: House) -> Reading:
        raise AssertionError(f"the kind {self.kind} reads no table")


class RowsModel(TableModel):
    rows: Annotated[list[dict[str, Any]], Field(max_length=WRITTEN_MAX)]

    def reading(self, house: House) -> Reading:
        return WrittenRows(self.rows)


class CsvTableModel(TableModel):
    path: Annotated[str, Field(min_length=1)]
    csv: CsvModel = CsvModel()
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 10 * SECOND_US

    def reading(self, house: House) -> Reading:
        return FileReading(house.base_dir / self.path, "csv", self.csv.form(), "csv")


class ParquetTableModel(TableModel):
    path: Annotated[str, Field(min_length=1)]
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 10 * SECOND_US

    def reading(self, house: House) -> Reading:
        return FileReading(house.base_dir / self.path, "parquet", kind="parquet")


class JsonTableModel(TableModel):
    path: Annotated[str, Field(min_length=1)]
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 10 * SECOND_US

    def reading(self, house: House) -> Reading:
        return FileReading(house.base_dir / self.path, "json", kind="json")


class HttpTableModel(TableModel):
    """`at`: where in a JSON answer the array of rows is. `headers_from`: headers whose values are environment
    variables' (tokens do not belong into a file)."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    format: Literal["auto", "json", "csv", "parquet"] = "auto"
    csv: CsvModel = CsvModel()
    at: Annotated[tuple[str, ...], BeforeValidator(property_path)] = ()
    headers: Mapping[str, str] = Field(default_factory=dict)
    headers_from: Mapping[str, str] = Field(default_factory=dict)
    timeout: Duration = 30 * SECOND_US
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 300 * SECOND_US

    def reading(self, house: House) -> Reading:
        headers = {**self.headers, **{name: variable(of) for name, of in self.headers_from.items()}}
        return HttpReading(self.url, self.format, self.csv.form(), self.at, headers, self.timeout / 1e6)


class PostgresTableModel(TableModel):
    """`url_from`: the environment variable that holds the database's URL."""

    url: Annotated[str, Field(pattern=r"^postgres(ql)?(\+psycopg)?://")] | None = None
    url_from: str | None = None
    query: Annotated[str, Field(min_length=1)]
    timeout: Duration = 60 * SECOND_US
    refresh: Annotated[Duration, BeforeValidator(refreshing_us)] = 300 * SECOND_US

    def reading(self, house: House) -> Reading:
        url = self.url or variable(self.url_from or "")
        rest = url.split("://", 1)[-1]
        return PostgresReading(f"postgresql+psycopg://{rest}", self.query, self.timeout / 1e6)


def variable(name: str) -> str:
    """An environment variable; empty where it is not set, which the reading then complains about."""
    return os.environ.get(name, "")


TABLE_KINDS: Mapping[str, type[TableModel]] = {
    "rows": RowsModel,
    "csv": CsvTableModel,
    "parquet": ParquetTableModel,
    "json": JsonTableModel,
    "http": HttpTableModel,
    "postgres": PostgresTableModel,
}
