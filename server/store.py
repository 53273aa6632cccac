"""What the server remembers: templates with their versions, jobs, their runs and logs, silences, and who
changed what.

SQLite in the data directory, or any database that SQLAlchemy speaks to; tested on SQLite and PostgreSQL. Calls block.
Times are microseconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    CursorResult,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from server.tokens import WHO

KEPT_LOGS = 1_000
KEPT_RUNS = 200
KEPT_CHANGES = 100_000
ROWID = BigInteger().with_variant(Integer, "sqlite")
METADATA = MetaData()

TEMPLATES = Table(
    "templates",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("deleted", Boolean, nullable=False, default=False),
    Column("created_us", BigInteger, nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
)
RUNS = Table(
    "runs",
    METADATA,
    Column("id", ROWID, primary_key=True, autoincrement=True),
    Column("job", String(100), nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("outcome", String(20)),
    Column("reason", Text),
    Index("runs_by_job", "job", "id"),
)
LOGS = Table(
    "logs",
    METADATA,
    Column("id", ROWID, primary_key=True, autoincrement=True),
    Column("job", String(100), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("level", String(10), nullable=False),
    Column("text", Text, nullable=False),
    Index("logs_by_job", "job", "id"),
)
CHANGES = Table(
    "changes",
    METADATA,
    Column("id", ROWID, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("name", String(100), nullable=False),
    Column("action", String(20), nullable=False),
    Column("detail", Text, nullable=False),
    Column("who", String(100)),
)
SILENCES = Table(
    "silences",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)
TOKENS = Table(
    "tokens",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("spec", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)
SCHEMA = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))


def add_tokens(connection: Connection) -> None:
    """Tokens, and in whose name a change was made."""
    METADATA.create_all(connection, [TOKENS])
    if "who" not in {column["name"] for column in inspect(connection).get_columns("changes")}:
        connection.execute(text("ALTER TABLE changes ADD COLUMN who VARCHAR(100)"))


MIGRATIONS: tuple[tuple[int, Callable[[Connection], None]], ...] = (
    (1, lambda connection: METADATA.create_all(connection, [TEMPLATES, JOBS, RUNS, LOGS, CHANGES])),
    (2, lambda connection: METADATA.create_all(connection, [SILENCES])),
    (3, add_tokens),
)
"""What each version of the schema adds to the one before."""


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """One version of a template: its text as it was put."""

    name: str
    version: int
    text: str
    created_us: int


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it was asked for (`spec`), and what state it is in, since when (`updated_us`)."""

    name: str
    spec: Mapping[str, Any]
    state: str
    reason: str | None
    created_us: int
    updated_us: int


POOL_S = 120.0


class Store:
    """The tables. Thread-safe. `url`: of SQLAlchemy's form; use `open_store` for the default place.

    `migrates`: it brings the schema to the newest version; else it is for looking only.
    """

    def __init__(self, url: str, clock: Clock | None = None, *, migrates: bool = True) -> None:
        self.clock = clock or SystemClock()
        # A thousand jobs that start at once stand in line for its few connections.
        self.engine = create_engine(url, pool_pre_ping=True, pool_timeout=POOL_S)
        if make_url(url).get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", set_sqlite)
        try:
            if migrates:
                self.migrate()
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def migrate(self) -> None:
        """Brings the schema to the newest version, in one transaction; refuses one from the future."""
        with self.engine.begin() as connection:
            METADATA.create_all(connection, [SCHEMA])
            found = connection.execute(select(func.max(SCHEMA.c.version))).scalar() or 0
            newest = MIGRATIONS[-1][0]
            if found > newest:
                raise MqlError(
                    f"the store has schema version {found}, this program knows {newest}", hint="Use a newer program."
                )
            for version, step in MIGRATIONS:
                if version > found:
                    step(connection)
                    connection.execute(insert(SCHEMA).values(version=version))

    @property
    def schema_version(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.max(SCHEMA.c.version))).scalar_one())

    @property
    def tables(self) -> Sequence[str]:
        return sorted(inspect(self.engine).get_table_names())

    # --- templates -------------------------------------------------------------------------------------

    def put_template(self, name: str, text: str) -> StoredTemplate:
        """A new version, unless the newest says the same."""
        before = self.template(name)
        if before is not None and before.text == text:
            return before
        for _ in range(10):
            try:
                with self._change("template", name, "put") as (connection, now_us):
                    newest = select(func.max(TEMPLATES.c.version)).where(TEMPLATES.c.name == name)
                    version = (connection.execute(newest).scalar() or 0) + 1
                    row = {"name": name, "version": version, "text": text, "deleted": False, "created_us": now_us}
                    connection.execute(insert(TEMPLATES).values(**row))
                return StoredTemplate(name, version, text, now_us)
            except IntegrityError:
                continue  # somebody else put that version at the same moment
        raise MqlError(f'template "{name}" is being changed by others', hint="Try again.", code="conflict")

    def template(self, name: str, version: int | None = None) -> StoredTemplate | None:
        """The newest version, or that one; None where there is none, or it was deleted since."""
        found = [one for one in self._templates(name) if version is None or one.version == version]
        return found[-1] if found else None

    def template_of_job(self, name: str, version: int | None) -> StoredTemplate | None:
        """That version, also when its template was deleted since: jobs that are made of it go on."""
        if version is None:
            return self.template(name)
        wanted = select(TEMPLATES).where(TEMPLATES.c.name == name, TEMPLATES.c.version == version)
        with self.engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else StoredTemplate(row.name, row.version, row.text, row.created_us)

    def templates(self) -> Sequence[StoredTemplate]:
        """The newest version of each."""
        return tuple({one.name: one for one in self._templates(None)}.values())

    def template_versions(self, name: str) -> Sequence[StoredTemplate]:
        return tuple(self._templates(name))

    def delete_template(self, name: str) -> None:
        """It is no longer listed; its versions are kept, and numbers go on from them."""
        with self._change("template", name, "delete") as (connection, _):
            connection.execute(update(TEMPLATES).where(TEMPLATES.c.name == name).values(deleted=True))

    def _templates(self, name: str | None) -> Iterator[StoredTemplate]:
        wanted = select(TEMPLATES).where(TEMPLATES.c.deleted.is_(False))
        if name is not None:
            wanted = wanted.where(TEMPLATES.c.name == name)
        with self.engine.connect() as connection:
            rows = connection.execute(wanted.order_by(TEMPLATES.c.name, TEMPLATES.c.version)).all()
        for row in rows:
            yield StoredTemplate(row.name, row.version, row.text, row.created_us)

    # --- jobs ------------------------------------------------------------------------------------------

    def add_job(self, name: str, spec: Mapping[str, Any], state: str) -> StoredJob:
        """A new job; MqlError where the name is taken."""
        try:
            with self._change("job", name, "create", spec) as (connection, now_us):
                row = {"name": name, "spec": json.dumps(spec), "state": state, "created_us": now_us}
                connection.execute(insert(JOBS).values(**row, updated_us=now_us, reason=None))
        except IntegrityError:
            raise MqlError(f'there is a job "{name}" already', hint="Take another name.", code="job-exists") from None
        return StoredJob(name, spec, state, None, now_us, now_us)

    def change_job(self, name: str, spec: Mapping[str, Any], action: str = "change") -> None:
        with self._change("job", name, action, spec) as (connection, _):
            connection.execute(update(JOBS).where(JOBS.c.name == name).values(spec=json.dumps(spec)))

    def set_state(self, name: str, state: str, reason: str | None) -> None:
        now_us = self.clock.now_us()
        with self.engine.begin() as connection:
            values = {"state": state, "reason": reason, "updated_us": now_us}
            connection.execute(update(JOBS).where(JOBS.c.name == name).values(**values))

    def job(self, name: str) -> StoredJob | None:
        with self.engine.connect() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.name == name)).one_or_none()
        return None if row is None else job_of(row)

    def jobs(self) -> Sequence[StoredJob]:
        with self.engine.connect() as connection:
            return tuple(job_of(row) for row in connection.execute(select(JOBS).order_by(JOBS.c.name)))

    def delete_job(self, name: str) -> None:
        with self._change("job", name, "delete") as (connection, _):
            for table, column in ((JOBS, JOBS.c.name), (RUNS, RUNS.c.job), (LOGS, LOGS.c.job)):
                connection.execute(delete(table).where(column == name))

    def acted(self, name: str, action: str, detail: Mapping[str, Any] | None = None) -> None:
        """Notes that somebody started, stopped, paused it, or did something with its dead letters."""
        with self._change("job", name, action, detail):
            pass

    # --- silences --------------------------------------------------------------------------------------

    def add_silence(self, name: str, spec: Mapping[str, Any]) -> None:
        """A new silence; MqlError where the name is taken."""
        try:
            with self._change("silence", name, "create", spec) as (connection, now_us):
                row = {"name": name, "spec": json.dumps(spec), "created_us": now_us}
                connection.execute(insert(SILENCES).values(**row))
        except IntegrityError:
            hint = "Take another name."
            raise MqlError(f'there is a silence "{name}" already', hint=hint, code="silence-exists") from None

    def delete_silence(self, name: str) -> None:
        with self._change("silence", name, "delete") as (connection, _):
            connection.execute(delete(SILENCES).where(SILENCES.c.name == name))

    def silences(self) -> Sequence[Mapping[str, Any]]:
        with self.engine.connect() as connection:
            rows = connection.execute(select(SILENCES.c.spec).order_by(SILENCES.c.name)).all()
        return tuple(json.loads(row.spec) for row in rows)

    # --- tokens ----------------------------------------------------------------------------------------

    def add_token(self, name: str, digest: str, spec: Mapping[str, Any]) -> int:
        """A new token; gives when it was made. MqlError where the name is taken."""
        try:
            with self._change("token", name, "create", spec) as (connection, now_us):
                row = {"name": name, "digest": digest, "spec": json.dumps(spec), "created_us": now_us}
                connection.execute(insert(TOKENS).values(**row))
        except IntegrityError:
            hint = "Take another name."
            raise MqlError(f'there is a token "{name}" already', hint=hint, code="token-exists") from None
        return now_us

    def delete_token(self, name: str) -> bool:
        """Whether there was one."""
        if name not in {row["name"] for row in self.tokens()}:
            return False
        with self._change("token", name, "delete") as (connection, _):
            connection.execute(delete(TOKENS).where(TOKENS.c.name == name))
        return True

    def tokens(self) -> Sequence[Mapping[str, Any]]:
        with self.engine.connect() as connection:
            rows = connection.execute(select(TOKENS).order_by(TOKENS.c.name)).mappings().all()
        return tuple({**row, "spec": json.loads(row["spec"])} for row in rows)

    # --- runs and logs ---------------------------------------------------------------------------------

    def begin_run(self, job: str) -> int:
        with self.engine.begin() as connection:
            done = connection.execute(insert(RUNS).values(job=job, started_us=self.clock.now_us()))
            number = key_of(done)
            connection.execute(delete(RUNS).where(RUNS.c.job == job, RUNS.c.id <= number - KEPT_RUNS))
        return number

    def end_run(self, number: int, outcome: str, reason: str | None) -> None:
        with self.engine.begin() as connection:
            values = {"ended_us": self.clock.now_us(), "outcome": outcome, "reason": reason}
            connection.execute(update(RUNS).where(RUNS.c.id == number).values(**values))

    def end_open_runs(self, job: str, reason: str) -> None:
        """Runs that a crash left open."""
        with self.engine.begin() as connection:
            values = {"ended_us": self.clock.now_us(), "outcome": "lost", "reason": reason}
            connection.execute(update(RUNS).where(RUNS.c.job == job, RUNS.c.ended_us.is_(None)).values(**values))

    def runs(self, job: str, n: int) -> Sequence[Mapping[str, Any]]:
        """The newest first."""
        wanted = select(RUNS).where(RUNS.c.job == job).order_by(RUNS.c.id.desc()).limit(n)
        with self.engine.connect() as connection:
            return tuple(dict(row) for row in connection.execute(wanted).mappings())

    def log(self, job: str, level: str, text: str) -> None:
        with self.engine.begin() as connection:
            done = connection.execute(
                insert(LOGS).values(job=job, at_us=self.clock.now_us(), level=level, text=text[:4_000])
            )
            number = key_of(done)
            connection.execute(delete(LOGS).where(LOGS.c.job == job, LOGS.c.id <= number - KEPT_LOGS))

    def logs(self, job: str, n: int) -> Sequence[Mapping[str, Any]]:
        """The newest last."""
        wanted = select(LOGS.c.at_us, LOGS.c.level, LOGS.c.text).where(LOGS.c.job == job)
        with self.engine.connect() as connection:
            rows = connection.execute(wanted.order_by(LOGS.c.id.desc()).limit(n)).mappings().all()
        return tuple(dict(row) for row in reversed(rows))

    def changes(self, n: int = 100, **wanted: str) -> Sequence[Mapping[str, Any]]:
        """Who changed what, the newest first; only those with this kind, name or who."""
        found = select(CHANGES).order_by(CHANGES.c.id.desc()).limit(n)
        for column, value in wanted.items():
            found = found.where(CHANGES.c[column] == value)
        with self.engine.connect() as connection:
            rows = connection.execute(found).mappings().all()
        return tuple({**row, "detail": json.loads(row["detail"])} for row in rows)

    @contextmanager
    def _change(
        self, kind: str, name: str, action: str, detail: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Connection, int]]:
        """A transaction that notes what was changed."""
        now_us = self.clock.now_us()
        with self.engine.begin() as connection:
            yield connection, now_us
            row = {"at_us": now_us, "kind": kind, "name": name, "action": action}
            values = {**row, "detail": json.dumps(detail or {}), "who": WHO.get()}
            number = key_of(connection.execute(insert(CHANGES).values(**values)))
            connection.execute(delete(CHANGES).where(CHANGES.c.id <= number - KEPT_CHANGES))


def open_store(url: str | None, data_dir: Path, clock: Clock | None = None, *, migrates: bool = True) -> Store:
    """The store at a URL; without one, a file in the data directory."""
    if url is not None:
        return Store(url, clock, migrates=migrates)
    data_dir.mkdir(parents=True, exist_ok=True)
    return Store(f"sqlite:///{default_path(data_dir)}", clock, migrates=migrates)


def default_path(data_dir: Path) -> Path:
    return data_dir / "mql.db"


def set_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for a writer; a writer waits for another; what is committed survives a crash."""
    for pragma in ("journal_mode=WAL", "busy_timeout=10000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def key_of(done: CursorResult[Any]) -> int:
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def job_of(row: Any) -> StoredJob:
    return StoredJob(row.name, json.loads(row.spec), row.state, row.reason, row.created_us, row.updated_us)
