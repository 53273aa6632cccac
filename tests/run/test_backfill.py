"""Bounded queries: all of it, at the reader's pace, and gone when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from support.reading import await_true, read_all, read_until, rows_of

from mql.catalog import TimeRule
from mql.errors import MqlError
from mql.exec import results
from mql.exec.engine import Engine, Options
from mql.exec.feed import From, Positions
from mql.exec.frames import Ended, Failed, Gap
from mql.exec.items import Raw
from sources.memory import MemorySource

MILLIS = TimeRule(("ts",), "ms")
ROUTES = ["batch", "stream"]


def events(first: int, last: int) -> list[dict[str, object]]:
    return [{"ts": at, "k": at % 7, "v": at} for at in range(first, last)]


class Stubborn(MemorySource):
    """Stored events that do not end by themselves, or that cannot be read."""

    endless = False
    broken = False

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        while True:
            yield from super().history(since, until, part, parts, columns)
            if self.broken:
                raise MqlError("the archive is gone", hint="Bring it back.", code="no-history")
            if not self.endless:
                return


@pytest.fixture
def source() -> Stubborn:
    return Stubborn("stored", events(0, 3000), time=MILLIS, splits=3)


@pytest.fixture
def engine(source: Stubborn) -> Iterator[Engine]:
    made = Engine([source], workers=2)
    yield made
    made.close()


@pytest.mark.parametrize("route", ROUTES)
def test_a_slow_reader_of_a_bounded_query_gets_every_row(
    engine: Engine, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROWS_MAX", 100)
    running = engine.start("SELECT v FROM stored", options=Options(route=route))
    subscription = running.subscribe()
    frames = read_until(subscription, lambda found: any(isinstance(frame, Ended) for frame in found))
    assert sorted(row["v"] for row in rows_of(frames)) == list(range(3000))
    assert not any(isinstance(frame, Gap) for frame in frames)


@pytest.mark.parametrize("route", ROUTES)
def test_an_endless_history_ends_when_it_is_no_longer_wanted(engine: Engine, source: Stubborn, route: str) -> None:
    source.endless = True
    running = engine.start("SELECT count(*) AS n FROM stored", options=Options(route=route))
    await_true(lambda: running.ledger()["events"] > 10_000)
    running.cancel()
    await_true(lambda: not any(thread.name.startswith("mql-history") for thread in threading.enumerate()))
    last = read_all(running.subscribe())[-1]
    assert isinstance(last, Ended)
    assert last.reason == "deleted"


@pytest.mark.parametrize("route", ROUTES)
def test_a_bounded_query_has_its_timeout(engine: Engine, source: Stubborn, route: str) -> None:
    source.endless = True
    options = Options(route=route, timeout_s=0.3)
    last = read_all(engine.start("SELECT count(*) AS n FROM stored", options=options).subscribe())[-1]
    assert isinstance(last, Ended)
    assert last.reason == "timeout"


@pytest.mark.parametrize("route", ROUTES)
def test_history_that_cannot_be_read_fails_the_query(engine: Engine, source: Stubborn, route: str) -> None:
    source.broken = True
    running = engine.start("SELECT count(*) AS n FROM stored", options=Options(route=route))
    last = read_all(running.subscribe())[-1]
    assert isinstance(last, Failed)
    assert (last.data["code"], last.data["detail"]) == ("no-history", "the archive is gone")
    with pytest.raises(MqlError, match="the archive is gone"):
        list(engine.rows("SELECT count(*) AS n FROM stored", options=Options(route=route)))


@pytest.mark.parametrize("route", ROUTES)
def test_since_and_until_bound_event_time(engine: Engine, route: str) -> None:
    text = "SELECT v FROM stored SINCE TIMESTAMP '1970-01-01T00:00:01Z' UNTIL TIMESTAMP '1970-01-01T00:00:02Z'"
    rows = [row["v"] for table in engine.rows(text, options=Options(route=route)) for row in table.to_pylist()]
    assert sorted(rows) == list(range(1000, 2000))


@pytest.mark.parametrize("route", ROUTES)
def test_counts_of_nothing_are_a_row(engine: Engine, route: str) -> None:
    tables = list(engine.rows("SELECT count(*) AS n FROM stored WHERE v < 0", options=Options(route=route)))
    assert [row["n"] for table in tables for row in table.to_pylist()] == [0]
