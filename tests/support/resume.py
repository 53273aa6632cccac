"""Goes on with a query from the bytes of a snapshot: what the fresh process of a test runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.golden import all_cases
from support.random_queries import SHAPE
from support.routes import catalog, plan_of, raws

from mql.exec.drive import Driver
from mql.exec.kernel import Kernel

KERNEL = Kernel()


def resume(path: Path) -> list[dict[str, Any]]:
    """The rows that come after the snapshot at `path`.state, of the query and the events in `path`.json."""
    about = json.loads(path.with_suffix(".json").read_text())
    lateness_us, names = about["lateness_us"], about["names"]
    case = next(case for case in all_cases() if case.id == about["case"])
    among = catalog(SHAPE, bounded=True, lateness_us=lateness_us, unit="s", names=names, tables=case.tables)
    plan = plan_of(about["query"], among)
    driver = Driver(plan, KERNEL, 2, restored=path.with_suffix(".state").read_bytes(), tables=case.table_rows)
    driver.out.ended = about["ended"]
    for source, split, at, text in about["events"]:
        driver.feed({source: raws([(split, at, text)])}, watermarks=False)
    out = driver.finish()
    driver.close()
    return [row for table in out.tables for row in table.to_pylist()]
