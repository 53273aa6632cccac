"""Random queries over random streams, by every route, against a plain DuckDB statement written apart from the planner.

MQL_QUERIES (2,000 by default) and MQL_JOINS set how many, MQL_SEED the first seed; a failure names the seed that
repeats it.
"""

from __future__ import annotations

import os
import random

import pytest
from support.random_compositions import random_composition
from support.random_joins import random_join
from support.random_overs import random_over
from support.random_queries import SHAPE, Draw, Stream, normal, random_query, random_stream
from support.routes import as_live, batched, catalog, plan_of, random_rounds, streamed

from mql.exec.kernel import Kernel

QUERIES = int(os.environ.get("MQL_QUERIES", "2000"))
FIRST = int(os.environ.get("MQL_SEED", "1"))
CHUNK = 50
JOINS = int(os.environ.get("MQL_JOINS", "75"))
JOINS_CHUNK = 25
KERNEL, ORACLE = Kernel(), Kernel()


@pytest.mark.parametrize("first", range(FIRST, FIRST + QUERIES, CHUNK))
def test_random_queries_equal_the_plain_statement(first: int) -> None:
    for seed in range(first, min(first + CHUNK, FIRST + QUERIES)):
        rng = random.Random(seed)
        stream = random_stream(rng, rng.choice((0, 1, 20, 120)))
        draw = (random_composition if rng.random() < 0.1 else random_query)(rng, stream.lateness_us)
        check(seed, rng, stream, draw)


@pytest.mark.parametrize("first", range(FIRST, FIRST + QUERIES // 10, CHUNK))
def test_random_window_functions_equal_the_plain_statement(first: int) -> None:
    for seed in range(first, min(first + CHUNK, FIRST + QUERIES // 10)):
        rng = random.Random(-seed)
        stream = random_stream(rng, rng.choice((0, 1, 20, 120)))
        check(seed, rng, stream, random_over(rng, stream.lateness_us))


@pytest.mark.parametrize("first", range(FIRST, FIRST + JOINS, JOINS_CHUNK))
def test_random_joins_equal_the_plain_statement(first: int) -> None:
    for seed in range(first, min(first + JOINS_CHUNK, FIRST + JOINS)):
        rng = random.Random(seed)
        stream = random_stream(rng, rng.choice((0, 1, 20, 60)))
        check(seed, rng, stream, random_join(rng, stream.lateness_us))


def check(seed: int, rng: random.Random, stream: Stream, draw: Draw) -> None:
    """Bounded and live, streamed by a random number of tasks with random borders and restarts, and batched."""
    rounds = random_rounds(rng, stream)
    events = stream.table()
    session = ORACLE.session()
    want = normal(session.run(draw.sql_bounded, {"events": events}).to_pylist())
    want_live = normal(session.run(draw.sql_live, {"events": events}).to_pylist())
    session.close()
    bounded = plan_of(draw.text, catalog(SHAPE, bounded=True, lateness_us=stream.lateness_us))
    tasks, restart = rng.choice((1, 2, 3)), rng.choice((None, None, 1, 3))
    where = f"seed {seed}, {tasks} tasks, restart every {restart}: {draw.text}"
    assert normal(batched(bounded, rounds, KERNEL)) == want, f"batch, {where}"
    assert normal(streamed(bounded, rounds, KERNEL, tasks, restart)) == want, f"bounded stream, {where}"
    if not draw.live:
        return
    live = plan_of(draw.text, catalog(SHAPE, bounded=False, lateness_us=stream.lateness_us))
    assert normal(streamed(live, rounds, KERNEL, tasks, restart)) == want_live, f"live stream, {where}"
    judged = plan_of(as_live(draw.text), catalog(SHAPE, bounded=True, lateness_us=stream.lateness_us))
    assert normal(batched(judged, rounds, KERNEL)) == want_live, f"batch as live, {where}"
