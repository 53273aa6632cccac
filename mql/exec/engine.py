"""Everything that runs queries in this process: what the server, the command line and `mql.run` talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from mql.catalog import Catalog
from mql.exec.clock import Clock
from mql.exec.feed import Source
from mql.exec.frames import Frame


@dataclass(frozen=True, slots=True)
class Options:
    """How a query is run.

    `on_lag`: conflate, drop or disconnect (None: by the kind of result). `max_rows`: end after so many.
    `timeout_s`: end after so long. `name`: what listings show. `early_us`: early values every so often where the
    query says no EMIT of its own (the console and the terminal ask for a second). `linger_s`: how long the query outlives its last
    reader. `route`: "auto", "stream" or "batch" for bounded queries.
    """

    on_lag: str | None = None
    max_rows: int | None = None
    timeout_s: float | None = None
    name: str | None = None
    early_us: int | None = None
    linger_s: float = 30.0
    route: str = "auto"


class Subscription(Protocol):
    """One reader's view of a running query: a bounded queue of frames of its own. Thread-safe."""

    def take(self, max_frames: int = 100) -> Sequence[Frame]:
        """What waits now, without blocking. Meta comes first; after Ended or Failed nothing comes."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Blocks until something waits (True) or the time is over."""
        ...

    def on_ready(self, wake: Callable[[], None] | None) -> None:
        """`wake` is called, from a thread of the engine, whenever something new waits."""
        ...

    def close(self) -> None:
        """The reader leaves; what only it used ends after the query's linger."""
        ...


class Running(Protocol):
    """A query that runs (live or bounded), maybe shared by several askers."""

    id: str
    name: str | None
    text: str
    plan_hash: str
    shared_with: Sequence[str]
    columns: Sequence[tuple[str, str]]  # name, type

    def subscribe(self, cursor: str | None = None, on_lag: str | None = None) -> Subscription: ...

    def status(self) -> Mapping[str, Any]:
        """state, started_us, rate, lag_ms, readers, rows, dropped, watermark, workers, trouble."""
        ...

    def ledger(self) -> Mapping[str, int]:
        """events = emitted_from + filtered + late + malformed + sampled + skipped + dropped + in_state."""
        ...

    def late(self, n: int = 100) -> pa.Table: ...

    def explain(self, form: str = "plan") -> str: ...

    def cancel(self, reason: str = "deleted") -> None: ...


class EngineApi(Protocol):
    """What mql.exec.engine.Engine offers. Thread-safe; errors of the user's are MqlError."""

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        workers: int = 2,
        clock: Clock | None = None,
        default: str | None = None,
    ) -> None: ...

    def add_source(self, source: Source) -> None: ...

    def drop_source(self, name: str) -> None: ...

    def source(self, name: str) -> Source: ...

    def catalog(self) -> Catalog: ...

    def validate(self, text: str, params: Mapping[str, Any] | None = None) -> None: ...

    def explain(self, text: str, params: Mapping[str, Any] | None = None, form: str = "plan") -> str: ...

    def start(self, text: str, params: Mapping[str, Any] | None = None, options: Options = Options()) -> Running: ...

    def queries(self) -> Sequence[Running]: ...

    def query(self, id: str) -> Running: ...

    def dead_letters(self, source: str, n: int = 100) -> Sequence[Mapping[str, Any]]:
        """The newest malformed events: reason, split, offset, arrival_us, text (first 4 KiB)."""
        ...

    def rows(
        self, text: str, params: Mapping[str, Any] | None = None, options: Options = Options()
    ) -> Iterator[pa.Table]:
        """The result rows of a query, blocking; a bounded query ends by itself."""
        ...

    def close(self) -> None: ...
