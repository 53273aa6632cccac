"""How many mutants of a part of the engine its tests kill: `python tests/mutation/run.py windows --sample 120`.

A mutant is the code with one small mistake put in: a bound that is off by one, a condition the other way round. One
that no test notices shows what is not tested. The mutants are made by Cosmic Ray (`pip install cosmic-ray`), in a copy
of what is committed; a part is a file `PART.toml` here, which names the modules and the tests. A sample is drawn with a
seed, so that it can be drawn again. Prints each survivor as a change, and the share that was killed; ends with 1 where
that is below `--bar`.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DONE = "SELECT test_outcome FROM work_results WHERE worker_outcome IN ('NORMAL', 'TIMEOUT')"
SURVIVORS = """
    SELECT module_path, start_pos_row, operator_name, diff FROM work_results JOIN mutation_specs USING (job_id)
    WHERE worker_outcome = 'NORMAL' AND test_outcome = 'SURVIVED' ORDER BY 1, 2"""
WAITING = "SELECT job_id FROM work_items WHERE job_id NOT IN (SELECT job_id FROM work_results) ORDER BY 1"


def main() -> int:
    asked = arguments()
    with tempfile.TemporaryDirectory() as place:
        copy, session = Path(place) / "copy", Path(place) / "session.sqlite"
        subprocess.run(("git", "clone", "-q", ROOT, copy), check=True)
        config = copy / "tests" / "mutation" / f"{asked.part}.toml"
        cosmic_ray(copy, "cosmic-ray", "init", config, session)
        cosmic_ray(copy, "cr-filter-operators", session, config)
        drawn, of = draw(session, asked.sample, asked.seed)
        print(f"{asked.part}: {drawn} of {of} mutants, seed {asked.seed}", flush=True)
        cosmic_ray(copy, "cosmic-ray", "exec", config, session)
        return report(session, asked.bar)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Share of mutants that the tests kill.")
    parser.add_argument("part", choices=sorted(one.stem for one in HERE.glob("*.toml")))
    parser.add_argument("--sample", type=int, default=100, help="how many mutants (default 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bar", type=float, default=0.8, help="the least share that counts as good (default 0.8)")
    return parser.parse_args()


def cosmic_ray(copy: Path, *command: str | Path) -> None:
    beside = Path(sys.executable).parent
    env = os.environ | {
        "PYTHONPATH": f"{copy}:{copy / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{beside}:{os.environ['PATH']}",
        "MQL_QUERIES": "30",
    }
    subprocess.run((beside / command[0], *command[1:]), cwd=copy, env=env, check=True)


def draw(session: Path, sample: int, seed: int) -> tuple[int, int]:
    """Leaves a sample of the mutants in the session; how many, of how many."""
    with sqlite3.connect(session) as db:
        waiting = sorted(
            db.execute(
                f"SELECT job_id, module_path, operator_name, occurrence FROM mutation_specs WHERE job_id IN ({WAITING})"
            ),
            key=lambda one: one[1:],
        )
        kept = {one[0] for one in random.Random(seed).sample(waiting, min(sample, len(waiting)))}
        gone = [(one[0],) for one in waiting if one[0] not in kept]
        db.executemany("DELETE FROM mutation_specs WHERE job_id = ?", gone)
        db.executemany("DELETE FROM work_items WHERE job_id = ?", gone)
    return len(kept), len(waiting)


def report(session: Path, bar: float) -> int:
    with sqlite3.connect(session) as db:
        outcomes = [one for (one,) in db.execute(DONE)]
        survivors = db.execute(SURVIVORS).fetchall()
    for path, row, operator, diff in survivors:
        print(f"\nsurvived: {path}:{row} {operator}\n{diff}")
    killed = sum(outcome != "SURVIVED" for outcome in outcomes)
    share = killed / len(outcomes) if outcomes else 0.0
    print(f"\nkilled {killed} of {len(outcomes)}: {share:.0%} (bar {bar:.0%})")
    return int(share < bar)


if __name__ == "__main__":
    sys.exit(main())
