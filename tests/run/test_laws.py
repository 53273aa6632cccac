"""Laws that hold whatever the data is: what a query answers with must agree with what others do.

Nothing here knows how a row comes about, so nothing here is wrong in the same way. MQL_SEED sets the first seed,
MQL_LAWS how many.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.random_queries import SHAPE, Stream, normal, random_condition, random_stream
from support.routes import batched, catalog, plan_of, random_rounds, raws, streamed

from mql.exec.items import Raw
from mql.exec.kernel import Kernel

FIRST = int(os.environ.get("MQL_SEED", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("MQL_LAWS", "6")))
KERNEL = Kernel()
Rows = list[dict[str, Any]]
Ask = Callable[[str], Rows]
FOLDS = {"n": sum, "least": min, "most": max, "total": sum}
TOLD = "count(*) AS n, min(x) AS least, max(x) AS most, sum(n) AS total"


def asks(rng: random.Random, stream: Stream, live: bool) -> Ask:
    """A way to ask: by a route, tasks, borders and restarts that chance picks anew for each query."""
    schema = catalog(SHAPE, bounded=not live, lateness_us=stream.lateness_us)

    def ask(text: str) -> Rows:
        plan, rounds = plan_of(text, schema), random_rounds(rng, stream)
        if not live and rng.random() < 0.5:
            return batched(plan, rounds, KERNEL)
        return streamed(plan, rounds, KERNEL, rng.choice((1, 2, 3)), rng.choice((None, 1, 3)))

    return ask


def drawn(seed: int) -> tuple[random.Random, Stream]:
    rng = random.Random(seed)
    return rng, random_stream(rng, rng.choice((1, 30, 150)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_row_is_for_a_condition_or_against_it_or_it_is_null(seed: int) -> None:
    rng, stream = drawn(seed)
    ask, (condition, _) = asks(rng, stream, live=False), random_condition(rng)
    for what, rest in (("k, n, x, ts", ""), (TOLD, " WINDOW TUMBLING 10s GROUP BY k")):
        if rest:
            parts = [
                ask(f"SELECT k, window_start AS w, {what} FROM events WHERE {only}{rest}") for only in thirds(condition)
            ]
            whole = ask(f"SELECT k, window_start AS w, {what} FROM events{rest}")
            assert normal(folded([row for part in parts for row in part], ("k", "w"))) == normal(
                folded(whole, ("k", "w"))
            )
            continue
        parts = [ask(f"SELECT {what} FROM events WHERE {only}") for only in thirds(condition)]
        assert normal([row for part in parts for row in part]) == normal(ask(f"SELECT {what} FROM events"))


def thirds(condition: str) -> tuple[str, str, str]:
    return f"({condition})", f"not ({condition})", f"({condition}) is null"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wide", ["WINDOW TUMBLING 60s", "WINDOW HOPPING 60s EVERY 20s"])
def test_six_windows_of_ten_seconds_are_one_of_sixty(seed: int, wide: str) -> None:
    rng, stream = drawn(seed)
    ask = asks(rng, stream, live=False)
    small = ask(f"SELECT k, window_start AS w, {TOLD} FROM events WINDOW TUMBLING 10s GROUP BY k")
    for row in ask(f"SELECT k, window_start AS w, window_end AS e, {TOLD} FROM events {wide} GROUP BY k"):
        start, end = row["w"], row["e"]
        inside = [{**one, "w": start} for one in small if one["k"] == row["k"] and start <= one["w"] < end]
        del row["e"]
        assert normal(folded(inside, ("k", "w"))) == normal(folded([row], ("k", "w")))


def folded(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> Rows:
    """Rows of the same keys as one; a value that is null in one of them counts for nothing."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    found = []
    for key, members in groups.items():
        values = {name: [one[name] for one in members if one[name] is not None] for name in FOLDS}
        told = {name: fold(values[name]) if values[name] else None for name, fold in FOLDS.items()}
        found.append({**dict(zip(keys, key, strict=True)), **told})
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("live", [True, False], ids=["live", "bounded"])
def test_the_order_of_keys_and_of_columns_means_nothing(seed: int, live: bool) -> None:
    rng, stream = drawn(seed)
    ask, windows = asks(rng, stream, live), rng.choice(("TUMBLING 10s", "HOPPING 20s EVERY 5s", "SESSION 15s"))
    one = ask(f"SELECT k, g, ok, {TOLD} FROM events WINDOW {windows} GROUP BY k, g, ok")
    other = ask(f"SELECT ok, {TOLD}, g, k FROM events WINDOW {windows} GROUP BY g, ok, k")
    names = list(other[0]) if other else []
    assert normal([{name: row[name] for name in names} for row in one]) == normal(other)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_batch_is_as_good_as_many_and_one_task_as_three(seed: int) -> None:
    _, stream = drawn(seed)
    text = f"SELECT k, window_start, {TOLD}, first(n) AS f, last(n) AS l FROM events WINDOW 10s GROUP BY k"
    plan = plan_of(text, catalog(SHAPE, bounded=False, lateness_us=stream.lateness_us))
    every = [(event.split, event.offset, event.text) for event in stream.events]
    whole: list[list[Raw]] = [raws(every)]
    single: list[list[Raw]] = [raws([event]) for event in every]
    told = [normal(streamed(plan, rounds, KERNEL, tasks)) for rounds in (whole, single) for tasks in (1, 3)]
    assert told[0] == told[1] == told[2] == told[3]


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_that_only_one_of_has_a_key_do_not_change_it(seed: int) -> None:
    """A query about one key answers as the query about all of them does for that key."""
    rng, stream = drawn(seed)
    ask = asks(rng, stream, live=True)
    every = ask(f"SELECT g, window_start, {TOLD} FROM events WINDOW 10s GROUP BY g")
    for key in range(4):
        alone = ask(f"SELECT g, window_start, {TOLD} FROM events WHERE g = {key} WINDOW 10s GROUP BY g")
        assert normal(alone) == normal([row for row in every if row["g"] == key])


@pytest.mark.parametrize("seed", SEEDS)
def test_two_halves_side_by_side_are_the_whole(seed: int) -> None:
    rng, stream = drawn(seed)
    ask, (condition, _) = asks(rng, stream, live=False), random_condition(rng)
    other = f"({condition}) IS DISTINCT FROM true"
    both = ask(f"SELECT k, x FROM events WHERE {condition} UNION ALL SELECT k, x FROM events WHERE {other}")
    assert normal(both) == normal(ask("SELECT k, x FROM events"))
