"""One server on one store, also where several machines share a database: what claims.py is for a directory.

PostgreSQL lends a lock on a number for as long as a connection lasts; a file of SQLite is locked by one beside it.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from mql.errors import MqlError
from mql.exec.clock import Clock
from server.claims import HINT, LOOK_S, Claim, claim_file, in_use

WAIT_S = 5.0
"""PostgreSQL hears of a process that was killed a little later than we do."""
NUMBER = 0x4D514C
"""The first half of the number that is locked; the second half is the schema's."""


def claim_store(url: str, clock: Clock | None = None) -> Claim | None:
    """The store at this URL; None where it is of a kind that has no such locks. MqlError where another has it."""
    place = make_url(url)
    hint = HINT.format("a store of its own (store: in its configuration)")
    match place.get_backend_name():
        case "postgresql":
            return DatabaseClaim(url, hint)
        case "sqlite" if place.database and place.database != ":memory:":
            path = Path(place.database)
            return claim_file(path.with_name(f"{path.name}.lock"), f'the store "{path.resolve()}"', hint, clock)
        case _:
            return None


class DatabaseClaim:
    """An advisory lock of PostgreSQL, held by a connection of its own for as long as that lasts."""

    def __init__(self, url: str, hint: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._connection: Connection | None = None
        store = f'the store "{make_url(url).render_as_string(hide_password=True)}"'
        end_s = time.monotonic() + WAIT_S
        try:
            while (who := self._claim()) is not None:
                if time.monotonic() >= end_s:
                    raise in_use(store, who, hint)
                time.sleep(LOOK_S)
        except SQLAlchemyError as error:
            self.let_go()
            why = str(error.__cause__ or error).splitlines()[0]
            raise MqlError(
                f"{store} cannot be reached: {why}", hint="Is the database up, and is store: right?"
            ) from error
        except BaseException:
            self.let_go()
            raise

    def is_held(self) -> bool:
        """A database that is away has let go of it; whoever comes first when it is back has it."""
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                return True
        except SQLAlchemyError:
            self._forget()
        try:
            return self._claim() is None
        except SQLAlchemyError:
            return True

    def let_go(self) -> None:
        self._forget()
        self._engine.dispose()

    def _forget(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None

    def _claim(self) -> str | None:
        """None when it is ours, else who has it."""
        connection = self._engine.connect()
        try:
            for setting, value in TOLD_TO_POSTGRES:
                connection.execute(text("SELECT set_config(:name, :value, false)"), {"name": setting, "value": value})
            about = f"mql pid {os.getpid()} on {socket.gethostname()}"[:63]
            connection.execute(text("SELECT set_config('application_name', :about, false)"), {"about": about})
            if connection.execute(text(CLAIM), {"number": NUMBER}).scalar_one():
                self._connection = connection
                return None
            found = connection.execute(text(CLAIMED_BY), {"number": NUMBER}).one_or_none()
            return "another server" if found is None else f'"{found[0]}", which connects from {found[1] or "its host"}'
        finally:
            if self._connection is not connection:
                connection.close()


TOLD_TO_POSTGRES = (
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
)
"""So that it notices when the host of a server is gone."""
CLAIM = "SELECT pg_try_advisory_lock(:number, hashtext(current_schema()))"
CLAIMED_BY = """
SELECT a.application_name, host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::bigint = :number
  AND l.objid::bigint = hashtext(current_schema())::bigint & 4294967295
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
