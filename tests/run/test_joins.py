"""The join operators by themselves: rows of two sides in random batches, against one plain statement."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from support.random_queries import SHAPE
from support.routes import catalog, plan_of, raws

from mql.errors import MqlError
from mql.exec.drive import Driver
from mql.exec.items import MIN_US, Batch, Item, Watermark
from mql.exec.kernel import Kernel
from mql.exec.operators import build
from mql.planner.expressions import Column
from mql.planner.joins import Meeting, Side, batch_ctes, join_of, side_of
from mql.planner.windows import tumbling
from mql.schema import BIGINT

KERNEL = Kernel()
A, B = ("a", "k"), ("b", "k")
V, W = ("a", "v"), ("b", "w")


def meeting(kind: str, how: str = "interval", before: int = 3, after: int = 2, **more: Any) -> Meeting:
    left = Side(((A, BIGINT), (V, BIGINT)), (Column(A, BIGINT),), "a")
    right = Side(((B, BIGINT), (W, BIGINT)), (Column(B, BIGINT),), "b")
    window = tumbling(5, 0, None) if how == "window" else None
    made = Meeting(kind, how, left, right, (False,), None, before, after, window=window, bytes_max=1 << 30)
    return replace(made, **more)


def rows(name: str, found: Sequence[tuple[int, int | None, int]]) -> pa.Table:
    """Decoded events (time, key, offset)."""
    times = [time for time, _, _ in found]
    return pa.table(
        {
            "/k": pa.array([key for _, key, _ in found], pa.int64()),
            f"/{name}": pa.array([offset * 10 for _, _, offset in found], pa.int64()),
            "__t": pa.array(times, pa.int64()),
            "__s": pa.array([0] * len(found), pa.int32()),
            "__o": pa.array([offset for _, _, offset in found], pa.int64()),
            "__a": pa.array(times, pa.int64()),
            "__m": pa.array([MIN_US] * len(found), pa.int64()),
        }
    )


def random_side(rng: random.Random, count: int) -> list[tuple[int, int | None, int]]:
    """Events in the order they come: no more than 4 behind the newest."""
    found, newest = [], 0
    for offset in range(count):
        newest += rng.choice((0, 0, 1, 1, 2, 6))
        found.append((newest - rng.choice((0, 0, 1, 4)), rng.choice((1, 2, 3, None)), offset))
    return found


def streamed(
    made: Meeting, left: list[Any], right: list[Any], rng: random.Random, restore: bool
) -> list[dict[str, Any]]:
    """The rows of the operators, by random batches; a watermark 5 behind the newer of what both sides have reached."""
    session = KERNEL.session()
    sides = {port: build(side_of(made, port, None), session) for port in ("left", "right")}
    spec = join_of(made)
    operator = build(spec, session)
    waiting = {"left": list(left), "right": list(right)}
    reached = {"left": -100, "right": -100}
    out: list[Item] = []
    while waiting["left"] or waiting["right"]:
        port = rng.choice([port for port, some in waiting.items() if some])
        count = rng.choice((1, 1, 2, 5))
        some, waiting[port] = waiting[port][:count], waiting[port][count:]
        for item in sides[port].on_batch(Batch(rows("v" if port == "left" else "w", some))):
            assert isinstance(item, Batch)
            out.extend(operator.on_batch(item))
        reached[port] = max(reached[port], *(time for time, _, _ in some))
        if not waiting[port]:
            reached[port] = 10**6
        out.extend(operator.on_watermark(min(reached.values()) - 5))
        if restore:
            state = operator.snapshot()
            operator = build(spec, session)
            operator.restore(state)
    out.extend(operator.on_end())
    assert operator.in_state() == 0
    check_times(out)
    tables = [item.table for item in out if isinstance(item, Batch)]
    session.close()
    return settled([row for table in tables for row in table.to_pylist()])


def check_times(out: Sequence[Item]) -> None:
    """No row comes behind a watermark that has passed it."""
    passed = MIN_US
    for item in out:
        match item:
            case Watermark(us):
                passed = max(passed, us)
            case Batch(table) if "_op" not in table.column_names:
                assert min(table.column("__t").to_pylist()) >= passed
            case _:
                pass


def settled(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not found or "_op" not in found[0]:
        return found
    last: dict[str, dict[str, Any]] = {}
    for row in found:
        assert row["_key"] not in last or row["_revision"] > last[row["_key"]]["_revision"]
        last[row["_key"]] = row
    return [row for row in last.values() if row["_op"] == "insert"]


def batched(made: Meeting, left: list[Any], right: list[Any]) -> list[dict[str, Any]]:
    session = KERNEL.session()
    ctes = ", ".join(batch_ctes(made, "e0", "e1", "joined", (None, None)))
    tables = {"e0": rows("v", left).to_reader(), "e1": rows("w", right).to_reader()}
    found: pa.Table = session.run(f"WITH {ctes} SELECT * FROM joined", tables)
    session.close()
    return found.to_pylist()


def compared(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = sorted({name for row in found for name in row} - {"_op", "_revision", "final", "__a"})
    return sorted((tuple(row.get(name) for name in names) for row in found), key=repr)


KINDS = ("inner", "left", "right", "full", "semi", "anti")


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("how", ["interval", "window", "retracts", "nulls"])
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_joins_equal_the_statement(kind: str, how: str, restore: bool) -> None:
    if how == "retracts" and kind in ("semi", "anti"):
        return
    more = {"retracts": how == "retracts", "nulls": (how == "nulls",)}
    made = meeting(kind, "window" if how == "window" else "interval", **more)
    for seed in range(3):
        rng = random.Random(seed)
        left, right = random_side(rng, rng.choice((0, 5, 30))), random_side(rng, 30)
        got = compared(streamed(made, left, right, rng, restore))
        assert got == compared(batched(made, left, right)), f"seed {seed}"


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("kind", ["inner", "left"])
def test_streamed_asof_joins_equal_the_statement(kind: str, restore: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mql.exec.operators.asof_join.AsofJoinOperator.TRIM_ROWS", 5)
    for seed in range(6):
        rng = random.Random(seed)
        made = meeting(kind, "asof", before=rng.choice((1, 8, 1000)), after=0, strict=rng.random() < 0.5)
        left, right = random_side(rng, 30), random_side(rng, rng.choice((0, 30)))
        got = compared(streamed(made, left, right, rng, restore))
        assert got == compared(batched(made, left, right)), f"seed {seed}"


def test_state_is_let_go_of_as_the_watermark_passes() -> None:
    session = KERNEL.session()
    made = meeting("inner")
    operator = build(join_of(made), session)
    side = build(side_of(made, "left", None), session)
    for second in range(0, 100, 10):
        for item in side.on_batch(Batch(rows("v", [(second + at, 1, at) for at in range(10)]))):
            assert isinstance(item, Batch)
            assert list(operator.on_batch(item)) == []
        list(operator.on_watermark(second))
        assert operator.in_state() <= 20
    list(operator.on_watermark(1000))
    assert operator.in_state() == 0
    session.close()


def test_state_that_grows_too_large_ends_the_query() -> None:
    session = KERNEL.session()
    made = meeting("inner", bytes_max=500)
    operator, side = build(join_of(made), session), build(side_of(made, "left", None), session)
    (batch,) = side.on_batch(Batch(rows("v", [(at, 1, at) for at in range(10)])))
    assert isinstance(batch, Batch)
    with pytest.raises(MqlError, match="the join holds") as failed:
        list(operator.on_batch(batch))
    assert "WITHIN" in (failed.value.hint or "")
    session.close()


def test_a_row_without_a_partner_is_told_and_withdrawn_and_each_word_is_the_last_so_far() -> None:
    schema = catalog(SHAPE, bounded=False, lateness_us=0, unit="s", names=("a", "b"))
    driver = Driver(plan_of("SELECT a.n AS n, b.n AS m FROM a LEFT JOIN b ON a.k = b.k", schema), KERNEL)
    driver.feed({"a": raws([(0, 0, '{"ts": 1, "k": "x", "n": 1}')])})
    driver.feed({"b": raws([(0, 0, '{"ts": 2, "k": "x", "n": 5}')])})
    rows = [row for table in driver.out.tables for row in table.to_pylist()]
    driver.close()
    told = [(row["n"], row["m"], row["_op"], row["_revision"], row["final"]) for row in rows]
    assert sorted(told, key=str) == [
        (1, 5, "insert", 0, True),
        (1, None, "delete", 1, True),
        (1, None, "insert", 0, True),
    ]


@pytest.mark.parametrize("how", ["interval", "asof"])
def test_a_row_that_the_watermark_has_passed_is_told_at_its_next_step(how: str) -> None:
    session = KERNEL.session()
    made = meeting("left", how)
    operator, side = build(join_of(made), session), build(side_of(made, "left", None), session)
    list(operator.on_watermark(1000))
    (batch,) = side.on_batch(Batch(rows("v", [(10, 1, 7)])))
    assert isinstance(batch, Batch)
    assert list(operator.on_batch(batch)) == []
    told = [item.table.num_rows for item in operator.on_watermark(1001) if isinstance(item, Batch)]
    assert told == [1]
    session.close()
