"""Every golden case by every route: one task, four tasks, stopped at every barrier and restored in as many tasks or
others, in one batch."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from support.golden import GOLDEN, Case, all_cases, as_json, read, with_rows, write
from support.random_queries import SHAPE, normal
from support.routes import as_live, batched, catalog, plan_of, raws, streamed

from mql.catalog import Catalog
from mql.exec.items import Raw
from mql.exec.kernel import Kernel

CASES = all_cases()
KERNEL = Kernel()
SCALED = (2, 3, 3, 1, 2)
"""With so many tasks a query goes on from one barrier after the other."""


def rounds_of(case: Case) -> list[dict[str, list[Raw]]]:
    """One event a round, in the order of the case: every event can be the border of a batch."""
    return [{source: raws([(split, at, text)])} for at, (source, split, text) in enumerate(case.events)]


def catalog_of(case: Case, *, bounded: bool) -> Catalog:
    return catalog(
        SHAPE, bounded=bounded, lateness_us=case.lateness_us, unit="s", names=case.sources, tables=case.tables
    )


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the cases spell them: times in UTC, maps as objects."""
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
        case list() if value and all(isinstance(item, tuple) for item in value):
            return {str(key): count for key, count in value}
        case _:
            return value


def compared(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return normal(plain(rows))


def expected(lines: tuple[str, ...]) -> list[tuple[str, ...]]:
    return normal([json.loads(line) for line in lines])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_gives_its_rows_by_every_route(case: Case) -> None:
    rounds = rounds_of(case)
    bounded = plan_of(case.query, catalog_of(case, bounded=True))
    want = expected(case.rows)
    assert compared(batched(bounded, rounds, KERNEL, case.tables)) == want
    for tasks in (1, 4):
        assert compared(streamed(bounded, rounds, KERNEL, tasks, tables=case.tables)) == want
    assert compared(streamed(bounded, rounds, KERNEL, 2, restart_every=1, then=SCALED, tables=case.tables)) == want
    if case.live is None:
        return
    want = expected(case.live)
    live = plan_of(case.query, catalog_of(case, bounded=False))
    judged = plan_of(as_live(case.query), catalog_of(case, bounded=True))
    for tasks in (1, 4):
        assert compared(streamed(live, rounds, KERNEL, tasks, tables=case.tables)) == want
    assert compared(streamed(live, rounds, KERNEL, 2, restart_every=1, then=SCALED, tables=case.tables)) == want
    assert compared(batched(judged, rounds, KERNEL, case.tables)) == want
    assert compared(streamed(judged, rounds, KERNEL, tables=case.tables)) == want


if "MQL_ACCEPT" in os.environ:

    def test_the_rows_are_written_anew() -> None:
        """Not a test but the pen: writes what the batch gives, for the diff to be read like code."""
        for path in sorted(GOLDEN.glob("*.case")):
            cases = []
            for case in read(path):
                bounded = plan_of(case.query, catalog_of(case, bounded=True))
                rows = plain(batched(bounded, rounds_of(case), KERNEL, case.tables))
                cases.append(with_rows(case, [as_json(row) for row in rows]))
            write(path, cases)
