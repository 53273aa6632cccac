"""A query stopped half-way and gone on from its bytes in another process gives the same rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from support.golden import Case, all_cases
from support.random_queries import SHAPE, normal
from support.routes import catalog, plan_of, raws, settled

from mql.catalog import Catalog
from mql.exec.drive import Driver
from mql.exec.kernel import Kernel

KERNEL = Kernel()
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z$")
GO_ON = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support.resume import resume
print(json.dumps([resume(Path(path)) for path in sys.argv[2:]], default=str))
"""


def test_every_golden_case_goes_on_in_a_fresh_process(tmp_path: Path) -> None:
    """Half of the events here, the other half there; the bytes and the query's text are all that is handed over."""
    cases = all_cases()
    first = []
    for number, case in enumerate(cases):
        plan = plan_of(case.query, catalog_of(case))
        driver = Driver(plan, KERNEL, 2, tables=case.table_rows)
        half = len(case.events) // 2
        for at, (source, split, text) in enumerate(case.events[:half]):
            driver.feed({source: raws([(split, at, text)])}, watermarks=False)
        (tmp_path / f"{number}.state").write_bytes(driver.snapshot(1))
        rest = [[source, split, at + half, text] for at, (source, split, text) in enumerate(case.events[half:])]
        about = {
            "case": case.id,
            "query": case.query,
            "lateness_us": case.lateness_us,
            "names": case.sources,
            "events": rest,
            "ended": driver.out.ended,
        }
        (tmp_path / f"{number}.json").write_text(json.dumps(about))
        first.append(driver.out.tables)
        driver.close()
    paths = [str(tmp_path / str(number)) for number in range(len(cases))]
    support = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", GO_ON, support, *paths], capture_output=True, text=True, check=True)
    for case, before, after in zip(cases, first, json.loads(done.stdout), strict=True):
        plan = plan_of(case.query, catalog_of(case))
        here = json.loads(json.dumps([row for table in before for row in table.to_pylist()], default=str))
        assert normal(settled(plan, [*here, *after])) == spelled(case.rows), case.id


def catalog_of(case: Case) -> Catalog:
    return catalog(SHAPE, bounded=True, lateness_us=case.lateness_us, unit="s", names=case.sources, tables=case.tables)


def spelled(rows: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Expected rows as a process prints them: times without zone, maps as pairs."""
    found = []
    for line in rows:
        row = json.loads(line)
        for name, value in row.items():
            if isinstance(value, str) and INSTANT.match(value):
                row[name] = value.replace("T", " ").removesuffix("Z")
        found.append(
            {
                name: list(value.items()) if isinstance(value, dict) and name == "h" else value
                for name, value in row.items()
            }
        )
    return normal(found)
