"""Queries that differ in literals only share one plan, and give the rows that each of them gives alone.

MQL_FAMILIES sets how many random families are tried, MQL_SEED the first seed; a failure names the seed that repeats it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from support.random_queries import SHAPE, normal, random_query, random_stream
from support.routes import catalog, random_rounds, raws, settled, streamed
from support.siblings import sibling

from mql.errors import MqlError
from mql.exec.drive import Driver, Round
from mql.exec.family import roster_table, shown_of
from mql.exec.items import Roster
from mql.exec.kernel import Kernel
from mql.exec.state import snapshot_from_bytes
from mql.planner.compile import Compiled, compile_forms
from mql.planner.physical import Final
from mql.planner.sharing import QUERY, Sibling, family_plan

FAMILIES = int(os.environ.get("MQL_FAMILIES", "75"))
FIRST = int(os.environ.get("MQL_SEED", "1"))
CHUNK = 25
KERNEL = Kernel()


@pytest.mark.parametrize("first", range(FIRST, FIRST + FAMILIES, CHUNK))
def test_queries_of_a_family_give_the_rows_that_they_give_alone(first: int) -> None:
    tried = 0
    for seed in range(first, min(first + CHUNK, FIRST + FAMILIES)):
        rng = random.Random(seed)
        stream = random_stream(rng, rng.choice((1, 20, 60)))
        known = catalog(SHAPE, bounded=False, lateness_us=stream.lateness_us)
        draw = random_query(rng, stream.lateness_us)
        texts = [draw.text, *(sibling(rng, draw.text) for _ in range(rng.choice((1, 3, 5))))] if draw.live else []
        family = alike([compiled(text, known) for text in texts])
        if len(family) < 2:
            continue
        tried += 1
        rounds = random_rounds(rng, stream)
        tasks, restart = rng.choice((1, 2, 3)), rng.choice((None, None, 1, 3))
        told = together(family, rounds, tasks, restart)
        for number, form in enumerate(family):
            alone = normal(streamed(form.plan, rounds, KERNEL, tasks))
            where = f"seed {seed}, {tasks} tasks, restart every {restart}: {form.plan.text}"
            assert normal(settled(form.plan, told[number])) == alone, where
    assert tried


def alike(forms: Sequence[Compiled | None]) -> list[Compiled]:
    """Those that are of one family with the first; `IN` with a single value is `=`, and so of another."""
    found = [form for form in forms if form is not None and form.sibling is not None]
    return [form for form in found if form.sibling.key == found[0].sibling.key]


def compiled(text: str, known: Any) -> Compiled | None:
    """The forms of a query; None where it is none, as random ones may be."""
    try:
        return compile_forms(text, known)
    except MqlError:
        return None


def together(
    family: Sequence[Compiled], rounds: Sequence[Round], tasks: int, restart_every: int | None
) -> dict[int, list[dict[str, Any]]]:
    """The rows of each query of a family, by its number."""
    siblings = [form.sibling for form in family if form.sibling is not None]
    plan = family_plan(siblings[0].skeleton)
    roster = roster_of(siblings)
    driver = Driver(plan, KERNEL, tasks)
    driver.introduce(roster)
    driver.expect(sorted({raw.split for round in rounds for raw in round}))
    tables: list[pa.Table] = []
    for number, round in enumerate(rounds, 1):
        driver.feed(round)
        if restart_every is not None and number % restart_every == 0:
            data = driver.snapshot(number)
            tables += driver.out.tables
            driver.close()
            driver = Driver(plan, KERNEL, tasks, now_us=driver.now_us, restored=data)
            driver.introduce(roster)
    tables += driver.finish().tables
    driver.close()
    rows: dict[int, list[dict[str, Any]]] = {number: [] for number in range(len(siblings))}
    for table in tables:
        for query, row in zip(table.column(QUERY).to_pylist(), shown_of(table).to_pylist(), strict=True):
            rows[query].append(row)
    for number, one in enumerate(siblings):
        rows[number] = rows[number][: one.limit]
    return rows


def test_what_is_kept_of_queries_that_have_left_goes_once_they_are_many() -> None:
    known = catalog(SHAPE, bounded=False, lateness_us=0, unit="s")
    texts = [f"SELECT k, count(*) AS n FROM events WHERE n = {n} WINDOW 10s GROUP BY k" for n in range(8)]
    siblings = [form.sibling for text in texts if (form := compiled(text, known)) is not None and form.sibling]
    plan = family_plan(siblings[0].skeleton)
    final = next(spec for stage in plan.stages for spec in stage.operators if isinstance(spec, Final))
    driver = Driver(plan, KERNEL)
    driver.introduce(roster_of(siblings))
    driver.expect([0])
    driver.feed(raws([(0, n, f'{{"ts": 1, "k": "a", "n": {n}}}') for n in range(8)]))
    for stay, kept in ((range(7), range(8)), (range(1, 6), range(1, 6)), (range(2, 6), range(1, 6)), ([3], [3])):
        driver.introduce(roster_of(siblings, stay, version=10 - len(stay)))
        tasks = snapshot_from_bytes(driver.snapshot(10 - len(stay))).tasks
        held = [state["rows"] for task in tasks.values() for state in task.values() if "rows" in state]
        assert sorted(number for table in held for number in table.column(final.query).to_pylist()) == list(kept)
    driver.close()


def roster_of(siblings: Sequence[Sibling], stay: Sequence[int] | None = None, version: int = 1) -> Roster:
    numbers = range(len(siblings)) if stay is None else stay
    values = [siblings[number].values for number in numbers]
    return Roster(version, roster_table(siblings[0].skeleton.types, list(numbers), values))
