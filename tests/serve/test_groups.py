"""Groups of readers: each row to one of them, at least once, whoever comes, goes or crashes."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from support.serving import served
from support.waiting import wait_for, wait_for_state

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from server.groups import Groups, NoLease
from server.resultlog import ResultLog
from sources.memory import MemorySource


def log_of(home: Path, clock: ManualClock, rows: int) -> ResultLog:
    log = ResultLog(home / "results", clock=clock)
    for first in range(0, rows, 10):
        log.append(pa.table({"n": list(range(first, min(first + 10, rows)))}))
    log.commit()
    return log


def test_readers_that_come_go_and_crash_have_each_row(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, clock = random.Random(seed), ManualClock()
    log = log_of(tmp_path, clock, 500)
    groups = Groups(tmp_path / "groups", log, clock)
    done: list[int] = []
    held: list[tuple[str, list[int]]] = []
    for turn in range(10_000):
        if len(set(done)) == 500:
            break
        match dice.randrange(6):
            case 0 | 1 | 2:
                reader = f"r{dice.randrange(4)}"
                lease, tables = groups.take("g", reader, dice.randrange(1, 25), 10.0, live=False)
                rows = [n for table in tables for n in table.column("n").to_pylist()]
                if lease is not None:
                    assert rows == list(range(lease.first, lease.after))
                    held.append((lease.id, rows))
            case 3 if held:
                id, rows = held.pop(dice.randrange(max(0, len(held) - 4), len(held)))
                with suppress(NoLease):
                    groups.ack("g", id)
                    done += rows
            case 4:
                clock.advance(2_000_000)
            case _ if turn % 50 == 0:
                groups = Groups(tmp_path / "groups", log, clock)
            case _:
                pass
    assert sorted(done) == list(range(500)), "each row was done, and by one reader"
    assert [(one["done"], one["behind"]) for one in groups.told()] == [(500, 0)]


def test_what_is_not_done_in_time_goes_to_who_asks_next(tmp_path: Path) -> None:
    clock = ManualClock()
    groups = Groups(tmp_path / "groups", log_of(tmp_path, clock, 10), clock)
    first, _ = groups.take("g", "a", 10, 5.0, live=False)
    assert first is not None
    assert groups.take("g", "b", 10, 5.0, live=False) == (None, ())
    clock.advance(5_000_000)
    again, _ = groups.take("g", "b", 10, 5.0, live=False)
    assert again is not None
    assert (again.first, again.after) == (0, 10)
    with pytest.raises(MqlError, match="does not hold any more"):
        groups.ack("g", first.id)
    groups.release("g", "b")
    assert groups.told()[0]["readers"] == []
    assert groups.take("g", "c", 10, 5.0, live=False)[0] is not None


def test_groups_over_http() -> None:
    source = MemorySource("events", [{"ts": 1, "n": 1}], bounded=False)
    with served([source]) as server:
        assert server.post("/v1/jobs", {"name": "j", "query": "SELECT n FROM events"}).status == 201
        wait_for_state(server, "j", "running")
        source.push(0, [{"ts": 2, "n": at} for at in range(3)])
        wait_for(lambda: server.get("/v1/jobs/j").json()["results"]["rows"] == 3)
        path = "/v1/jobs/j/groups/g"
        assert server.post(f"{path}:ack", {"lease": "x"}).json()["code"] == "unknown-group"
        one = server.post(f"{path}:take", {"reader": "a", "max_rows": 2}).json()
        other = server.post(f"{path}:take", {"reader": "b"}).json()
        assert (one["rows"], other["rows"]) == ([{"n": 0}, {"n": 1}], [{"n": 2}])
        assert server.post(f"{path}:take", {"reader": "c", "wait": "200ms"}).json()["lease"] is None
        assert server.post(f"{path}:ack", {"lease": other["lease"]}).status == 204
        told = server.get("/v1/jobs/j/groups").json()["groups"][0]
        assert (told["done"], told["behind"], told["under_way"], told["readers"]) == (0, 2, 2, ["a"])
        assert server.post(f"{path}:release", {"reader": "a"}).status == 204
        assert server.post(f"{path}:take", {"reader": "b"}).json()["first"] == 0
        assert server.post("/v1/jobs/j/groups/..g:take", {"reader": "b"}).status == 422
        assert server.send("DELETE", path).status == 204
        assert server.get("/v1/jobs/j/groups").json()["groups"] == []
