"""Goes on with a query from the bytes of a snapshot: what the fresh process of a test runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.random_queries import SHAPE
from support.routes import catalog, plan_of, raws

from mql.exec.drive import Driver
from mql.exec.kernel import Kernel

KERNEL = Kernel()


def resume(path: Path) -> list[dict[str, Any]]:
    """The rows that come after the snapshot at `path`.state, of the query and the events in `path`.json."""
    about = json.loads(path.with_suffix(".json").read_text())
    plan = plan_of(about["query"], catalog(SHAPE, bounded=True, lateness_us=about["lateness_us"], unit="s"))
    driver = Driver(plan, KERNEL, 2, restored=path.with_suffix(".state").read_bytes())
    driver.out.ended = about["ended"]
    for split, at, text in about["events"]:
        driver.feed(raws([(split, at, text)]), watermarks=False)
    out = driver.finish()
    driver.close()
    return [row for table in out.tables for row in table.to_pylist()]
