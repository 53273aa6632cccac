"""The store as a server has it: opened when it is first needed, so that a server without templates writes nothing."""

from __future__ import annotations

import threading

from aiohttp import web

from server.settings import Settings
from server.store import Store, default_path, open_store
from server.webhook import Reach


class Keeper:
    """Thread-safe. `open` blocks."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.base_dir / settings.data_dir
        self.reach = Reach(settings.server.webhooks.allowed, settings.server.webhooks.plain)
        self._url = settings.store
        self._store: Store | None = None
        self._guard = threading.Lock()

    @property
    def has_something(self) -> bool:
        """Whether there is a store from before."""
        return self._url is not None or default_path(self.data_dir).exists()

    def open(self) -> Store:
        with self._guard:
            if self._store is None:
                self._store = open_store(self._url, self.data_dir)
            return self._store

    def close(self) -> None:
        with self._guard:
            if self._store is not None:
                self._store.close()
                self._store = None


KEEPER = web.AppKey("keeper", Keeper)
