"""What became of each event, while everything goes wrong: at every look and in every progress frame the ledger adds up,
and when all is quiet it says what the events themselves say.

MQL_LEDGERS (3 by default) sets how many scenarios, MQL_SEED the first seed.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.waiting import wait_for

from mql.catalog import TimeRule
from mql.exec import exchange, hub
from mql.exec.engine import Engine, Options, Running, Subscription
from mql.exec.feed import From, Reader
from mql.exec.frames import Gap, Progress
from mql.exec.items import Chunk, Raw
from mql.exec.task import Task
from sources.memory import MemorySource

SCENARIOS = int(os.environ.get("MQL_LEDGERS", "3"))
FIRST = int(os.environ.get("MQL_SEED", "1"))
CLASSES = ("emitted_from", "filtered", "late", "malformed", "sampled", "skipped", "dropped", "in_state")
TOLD = ("matched", "filtered", "late", "malformed", "sampled", "skipped")
PLAIN = (
    ("SELECT k, v FROM a WHERE k <> 'no'", lambda event: event["k"] != "no"),
    ("SELECT k, v FROM a WHERE k = 'yes'", lambda event: event["k"] == "yes"),
    ("SELECT k, v FROM a WHERE v >= 50", lambda event: event["v"] >= 50),
    ("SELECT v FROM a", lambda event: True),
)
"""Queries whose every event is either told or filtered, and which."""
OTHERS = (
    "SELECT k, v FROM a SAMPLE 30%",
    "SELECT k, v FROM a WHERE v > 10 SAMPLE 20% BY k",
    "SELECT k, v FROM a SAMPLE 5 PER SECOND",
    "SELECT k, count(*) AS n FROM a WINDOW 10s GROUP BY k",
    "SELECT k, count(*) AS n FROM a WHERE v > 20 WINDOW 10s GROUP BY k EMIT FINAL WITH EARLY 1s",
    "SELECT k, sum(v) AS n FROM a WINDOW HOPPING 10s EVERY 5s GROUP BY k LATENESS 0s",
    "SELECT k, count(*) AS n FROM a WINDOW SESSION 3s GROUP BY k",
    "SELECT k, max(v) AS n FROM a WINDOW 7 EVENTS GROUP BY k",
    "SELECT k, count(*) AS n FROM a GROUP BY k",
    "SELECT DISTINCT k FROM a",
    "SELECT v FROM a ORDER BY v DESC LIMIT 3",
    "SELECT v FROM a WHERE v > 30 LIMIT 40",
    "SELECT k, row_number() OVER (PARTITION BY k ORDER BY event_time()) AS r FROM a",
    "SELECT k, lead(v) OVER (PARTITION BY k ORDER BY event_time()) AS r FROM a WHERE k <> 'no'",
    "SELECT k FROM a UNION ALL SELECT k FROM b WHERE v < 30",
    "SELECT k, count(*) AS n FROM a, b WINDOW 5s GROUP BY k",
    "SELECT x.k, y.v FROM a AS x JOIN b AS y ON x.v = y.v WITHIN 2s",
    "SELECT max(n) AS m FROM (SELECT k, count(*) AS n FROM a WINDOW 5s GROUP BY k) WINDOW 10s",
    "SELECT k, avg(v) AS m FROM a WINDOW 5s GROUP BY k ANOMALY ON avg(v)",
)


class Unsteady(MemorySource):
    """A source that cannot be read now and then, or not opened again at once."""

    def __init__(self, name: str, splits: int) -> None:
        super().__init__(name, bounded=False, splits=splits, time=TimeRule(("ts",), "s"))
        self.dice = random.Random(name)
        self.trouble_share = 0.0

    def give(self, split: int, lines: Sequence[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        chunk = Chunk(split, data, self.ring.end().get(split, 0), self.clock.now_us())
        self.learner.see(chunk)
        self.ring.append(chunk)

    def fails(self) -> bool:
        return self.dice.random() < self.trouble_share

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        if self.fails():
            raise OSError("it is away")
        return UnsteadyReader(self, super().open(start, task, tasks, columns))


class UnsteadyReader:
    """A reader whose polls fail now and then, before they have read anything."""

    def __init__(self, source: Unsteady, inner: Reader) -> None:
        self._source = source
        self._inner = inner

    def poll(self, timeout_s: float, max_bytes: int) -> Sequence[Raw]:
        if self._source.fails():
            raise OSError("the line is cut")
        return self._inner.poll(timeout_s, max_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass
class Asked:
    """A query that is read by somebody, and what is known of it from outside."""

    text: str
    running: Running
    subscription: Subscription
    reads: bool
    from_first: bool
    gaps: int = 0
    newest: Mapping[str, int] = field(default_factory=dict)

    def look(self) -> Mapping[str, int]:
        """Its ledger, which adds up; no class is ever below nothing, and events never become fewer."""
        found = self.running.ledger()
        assert found["events"] == sum(found[kind] for kind in CLASSES), (self.text, found)
        assert min(found.values()) >= 0, (self.text, found)
        for kind in ("events", "malformed", "skipped", "dropped", "late", "sampled"):
            assert found[kind] >= self.newest.get(kind, 0), (self.text, kind, self.newest, found)
        self.newest = found
        return found

    def take(self) -> None:
        """What waits for its reader; each progress frame adds up by itself."""
        for frame in self.subscription.take():
            match frame:
                case Progress(data):
                    assert data["scanned"] == sum(data[kind] for kind in TOLD), (self.text, data)
                    assert min(data[kind] for kind in TOLD) >= 0, (self.text, data)
                case Gap():
                    self.gaps += 1
                case _:
                    pass


class World:
    """Two sources, what they gave, and the queries that are asked of them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.sources = {name: Unsteady(name, self.dice.choice((1, 2, 3))) for name in ("a", "b")}
        for source in self.sources.values():
            source.learner.see(Chunk(0, b'{"ts": 1, "k": "x", "v": 1}\n', 0, 0))
        self.events: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        self.broken = {"a": 0, "b": 0}
        self.engine = Engine(list(self.sources.values()), workers=self.dice.choice((1, 2, 4)))
        self.asked: list[Asked] = []
        self.at_s = 1_000
        self.done = threading.Event()
        self.wrong: list[BaseException] = []

    def ask(self, text: str, *, from_first: bool) -> None:
        options = Options(workers=self.dice.choice((1, 1, 2)), priority=self.dice.choice(("low", "normal", "high")))
        running = self.engine.start(text, options=options)
        self.asked.append(Asked(text, running, running.subscribe(on_lag="drop"), self.dice.random() < 0.8, from_first))

    def give(self, most: int) -> None:
        """Events of about now: in order and not, wanted and not, late ones, broken ones."""
        name = self.dice.choice(("a", "a", "b"))
        source = self.sources[name]
        lines = []
        for _ in range(self.dice.randrange(1, most)):
            roll = self.dice.random()
            if roll < 0.05:
                lines.append(self.dice.choice(("{broken", '{"k": "x"', "7", "nothing")))
                self.broken[name] += 1
                continue
            at_s = self.at_s - (self.dice.randrange(200) if roll < 0.1 else self.dice.randrange(3))
            event = {"ts": at_s, "k": self.dice.choice(("yes", "no", "x", "y")), "v": self.dice.randrange(100)}
            lines.append(json.dumps(event))
            self.events[name].append(event)
        source.give(self.dice.randrange(source.split_count), lines)
        self.at_s += self.dice.choice((0, 0, 1, 3))

    def total(self, *names: str) -> int:
        return sum(len(self.events[name]) + self.broken[name] for name in names)

    @property
    def dropped(self) -> int:
        return sum(asked.newest.get("dropped", 0) for asked in self.asked)

    def looks(self) -> None:
        """Another thread that looks all the time."""
        try:
            while not self.done.is_set():
                for asked in list(self.asked):
                    found = asked.running.ledger()
                    assert found["events"] == sum(found[kind] for kind in CLASSES), (asked.text, found)
                    assert min(found.values()) >= 0, (asked.text, found)
        except BaseException as error:
            self.wrong.append(error)

    def close(self) -> None:
        self.done.set()
        self.engine.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if request.param % 2:  # queries are slow and nobody is waited for: they lose events
        step, dice = Task.step, random.Random(request.param)

        def slowly(task: Task) -> None:
            if dice.random() < 0.05:
                time.sleep(0.2)
            step(task)

        monkeypatch.setattr(Task, "step", slowly)
        monkeypatch.setattr(hub, "PATIENCE_S", 0.0)
        monkeypatch.setattr(hub, "LINGER_MOST_S", 0.0)
        monkeypatch.setattr(exchange, "BATCHES_MAX", 1)
    made = World(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("world", range(FIRST, FIRST + SCENARIOS), indirect=True, ids=lambda seed: f"seed {seed}")
def test_the_ledger_adds_up_whatever_happens(world: World) -> None:
    dice = world.dice
    for text, _ in dice.sample(PLAIN, 3):
        world.ask(text, from_first=True)
    for text in dice.sample(OTHERS, 6):
        world.ask(text, from_first=True)
    value = dice.randrange(100)
    for at in range(dice.choice((0, 6, 12))):  # so many that they share a plan
        world.ask(f"SELECT k, v FROM a WHERE v = {(value + at) % 100}", from_first=False)
    wait_for(lambda: all(one.shares for asked in world.asked for one in hubs_of(asked.running)))
    looking = threading.Thread(target=world.looks)
    looking.start()
    for _ in range(40):
        for source in world.sources.values():
            source.trouble_share = dice.choice((0.0, 0.0, 0.02))
        for _ in range(dice.choice((1, 1, 5))):
            world.give(dice.choice((3, 30, 1_000)))
        if dice.random() < 0.1:
            world.ask(dice.choice(OTHERS), from_first=False)
        if dice.random() < 0.05:
            leaving = dice.choice(world.asked)
            leaving.running.cancel()
            world.asked.remove(leaving)
        for asked in world.asked:
            asked.look()
            if asked.reads:
                asked.take()
        time.sleep(dice.choice((0.0, 0.01)))
    for source in world.sources.values():
        source.trouble_share = 0.0
    all_of_it(world)
    print(f"{world.dropped} events were dropped")
    world.done.set()
    looking.join()
    assert not world.wrong, world.wrong


def hubs_of(running: Running) -> Sequence[Any]:
    execution: Any = running.execution
    return execution.hubs if hasattr(execution, "hubs") else execution.family.core.hubs


def all_of_it(world: World) -> None:
    """Once all is read: each query that was there from the first on knows of all events of its sources, and what became
    of those that are only told or filtered is what their condition says."""
    for asked in world.asked:
        if not asked.from_first or asked.running.status()["state"] != "running":
            continue
        names = [name for name in ("a", "b") if f" {name} " in f"{asked.text.replace(',', ' ')} "]
        total = world.total(*names)
        wait_for(lambda asked=asked, total=total: asked.look()["events"] == total, 60.0)
        found = asked.look()
        broken = sum(world.broken[name] for name in names)
        assert broken - found["skipped"] <= found["malformed"] <= broken, (asked.text, found, broken)
        keeps = dict(PLAIN).get(asked.text)
        if keeps is None:
            continue
        wait_for(lambda asked=asked: asked.look()["in_state"] == 0, 60.0)
        found = asked.look()
        matched = sum(keeps(event) for event in world.events["a"])
        if not found["dropped"]:
            assert found["emitted_from"] == matched, (asked.text, found, matched)
        assert found["emitted_from"] <= matched, (asked.text, found, matched)
        asked.take()
        if not found["dropped"] and not asked.gaps:
            assert asked.running.status()["rows"] == matched, (asked.text, found)
