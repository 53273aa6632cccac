"""The store as a server has it: opened when it is first needed, so that a server without templates writes nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from mql.exec.clock import Clock, SystemClock
from server.claims import Claim, claim_directory
from server.settings import Settings
from server.silences import Silences
from server.store import Store, default_path, open_store
from server.store_claims import claim_store
from server.tokens import Book, Tokens


class Keeper:
    """Thread-safe. `open` blocks."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.base_dir / settings.data_dir
        self.settings = settings
        self._url = settings.store
        self._declared = settings.silences
        self._store: Store | None = None
        self._claims: tuple[Claim, ...] = ()
        self._claimed = 0
        self._guard = threading.Lock()

    @property
    def has_something(self) -> bool:
        """Whether there is a store from before."""
        return self._url is not None or default_path(self.data_dir).exists()

    def claim(self) -> None:
        """Keeps other servers away from the directory and the store, until `close` has been called as often. MqlError
        where one is there."""
        with self._guard:
            if self._claims:
                self._claimed += 1
                return
            self._claims = (claim_directory(self.data_dir),)
            try:
                store = None if self._url is None else claim_store(self._url)
            except BaseException:
                self._let_go()
                raise
            self._claims += () if store is None else (store,)
            self._claimed = 1

    def has_lost(self) -> bool:
        """Whether another server has taken what was claimed here: its database was away, and that one came first."""
        return not all(claim.is_held() for claim in self._claims)

    def _let_go(self) -> None:
        for claim in self._claims:
            claim.let_go()
        self._claims = ()

    def open(self) -> Store:
        with self._guard:
            if self._store is None:
                self._store = open_store(self._url, self.data_dir)
            return self._store

    def silences(self, clock: Clock | None = None) -> Silences:
        """The silences of the configuration and of the store."""

        def stored() -> Sequence[Mapping[str, Any]]:
            return self.open().silences() if self.has_something else ()

        def add(name: str, spec: Mapping[str, Any]) -> None:
            self.open().add_silence(name, spec)

        def drop(name: str) -> None:
            self.open().delete_silence(name)

        return Silences(self._declared, clock or SystemClock(), stored, add, drop)

    def tokens(self, clock: Clock | None = None) -> Tokens:
        """The tokens of the store."""

        def stored() -> Sequence[Mapping[str, Any]]:
            return self.open().tokens() if self.has_something else ()

        def add(name: str, digest: str, spec: Mapping[str, Any]) -> int:
            return self.open().add_token(name, digest, spec)

        def drop(name: str) -> bool:
            return self.open().delete_token(name)

        return Tokens(Book(stored, add, drop), clock or SystemClock(), self.settings.server.tokens)

    def close(self) -> None:
        with self._guard:
            if self._store is not None:
                self._store.close()
                self._store = None
            self._claimed -= 1
            if self._claimed <= 0:
                self._let_go()


KEEPER = web.AppKey("keeper", Keeper)
TOKENS: web.AppKey[Tokens] = web.AppKey("tokens")
SILENCES: web.AppKey[Silences] = web.AppKey("silences")
