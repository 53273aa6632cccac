"""How many mutants of windows, watermarks and joins the tests kill: `python tests/mutation/run.py --sample 150`.

A mutant is the code with one small mistake put in: a bound that is off by one, a condition the other way round. One
that no test notices shows what is not tested. A copy of what is committed is made; in it all tests of `parts.toml` run
once, to learn which of them reach which line. Then each mutant is put into the copy and meets the tests that reach its
line: first what killed others of its module, then what killed any, then the fastest, until one fails, or `--seconds`
of tests have passed.
A sample has so many of each module as the module has of all, but at least three, and can be drawn again by its seed.

`equivalent.txt` lists the mutants that no test can kill, with the reason; they are counted apart. What became of each
mutant is added to the file of `--results`; a run that was stopped goes on from it, and with `--again` those mutants are
drawn that are in it, and those that survived are tried anew. Ends with 1 where the share that was killed is below
`--bar`. Needs `pip install cosmic-ray coverage`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from making import Mutant, header, make, meaning, places

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LEAST = 3
"""So many mutants each module gives, if it has them."""
LEARNING_S = 3600
BROKEN = 99
PLUGINS = [word for name in ("reaching", "pytest_timeout", "_hypothesis_pytestplugin") for word in ("-p", name)]
PACKAGES = ("numpy", "scipy.special", "pyarrow.compute", "pyarrow.parquet", "duckdb", "lark", "reactivex", "hypothesis")
"""What takes long to import, and is no part of what is tried."""
KILLED, TIMED_OUT, SURVIVED, EQUIVALENT = OUTCOMES = ("killed", "timed out", "survived", "equivalent")


Killers = defaultdict[str, Counter[str]]
"""How many mutants of each module, and of all, each test has killed."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a mutant, by which test, after how long."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float


def main() -> int:
    asked = arguments()
    for name in PACKAGES:
        importlib.import_module(name)
    parts = tomllib.loads((HERE / "parts.toml").read_text())
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        subprocess.run(("git", "clone", "-q", ROOT, copy), check=True)
        modules = [module for part in asked.parts for module in parts[part]["modules"]]
        known = outcomes(asked.results)
        drawn = drawn_before(copy, known) if asked.again else draw(copy, modules, asked.sample, asked.seed)
        print(f"{len(drawn)} mutants of {len(modules)} modules, seed {asked.seed}", flush=True)
        reach = learn(copy, parts, asked.reach)
        tried = try_all(copy, drawn, reach, known, asked)
    return report(tried, parts, asked.bar)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Share of mutants that the tests kill.")
    parser.add_argument("parts", nargs="*", default=["windows", "watermarks", "joins"])
    parser.add_argument("--sample", type=int, default=150, help="how many mutants (default 150)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant (default 60)")
    parser.add_argument("--bar", type=float, default=0.85, help="the least share that counts as good (default 0.85)")
    parser.add_argument("--reach", type=Path, help="where it is kept which test reaches what; read if it is there")
    parser.add_argument("--results", type=Path, help="where the outcomes are added, one JSON object a line")
    parser.add_argument("--again", action="store_true", help="the mutants of --results, those that survived anew")
    return parser.parse_args()


def draw(root: Path, modules: list[str], sample: int, seed: int) -> list[Mutant]:
    """A sample in the order of the modules."""
    chance = random.Random(seed)
    all_places = {module: places(root, module) for module in modules}
    total = sum(len(found) for found in all_places.values())
    drawn = []
    for found in all_places.values():
        wanted = max(LEAST, round(sample * len(found) / total))
        chance.shuffle(found)
        drawn += islice(distinct(make(root, place) for place in found), wanted)
    return drawn


def distinct(made: Iterable[Mutant | None]) -> Iterator[Mutant]:
    """Without those that are the same program as one before."""
    known = []
    for one in made:
        if one is not None and (does := meaning(one.text)) not in known:
            known.append(does)
            yield one


def outcomes(file: Path | None) -> dict[tuple[str, ...], tuple[str, str]]:
    """What became of each mutant when it was tried last, and by which test, by its name."""
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    return {tuple(one["name"]): (one["outcome"], one["by"]) for one in map(json.loads, lines)}


def drawn_before(root: Path, known: Collection[tuple[str, ...]]) -> list[Mutant]:
    """The mutants of these names, as far as their lines are still there."""
    found: dict[tuple[str, ...], Mutant] = {}
    for path in dict.fromkeys(name[0] for name in known):
        lines = [" ".join(line.split()) for line in (root / path).read_text().split("\n")]
        wanted = {name[2] for name in known if name[0] == path}
        made = (make(root, place) for place in places(root, path) if lines[place.line - 1] in wanted)
        found.update((one.name, one) for one in made if one is not None and one.name in known)
    return list(found.values())


def learn(copy: Path, parts: dict[str, Any], kept: Path | None) -> dict[str, Any]:
    """Which tests reach which line, and how long they take."""
    if kept is None or not kept.exists():
        to = kept or copy.parent / "reach.json"
        modules = [module for part in parts.values() for module in part.get("modules", ())]
        given = {"MQL_REACH": str(to.absolute()), "MQL_MODULES": ":".join(modules)}
        args = (*parts["tests"]["files"], "-k", f"not ({parts['tests']['without']})")
        bounded(lambda: in_copy(copy, args, given), LEARNING_S)
        kept = to
    return dict(json.loads(kept.read_text()))


def try_all(
    copy: Path,
    drawn: list[Mutant],
    reach: dict[str, Any],
    known: Mapping[tuple[str, ...], tuple[str, str]],
    asked: argparse.Namespace,
) -> list[Tried]:
    equivalent = equivalents()
    killers: Killers = defaultdict(Counter)
    for (path, *_), (_, by) in known.items():
        killers[path][by] += 1
        killers[""][by] += 1
    done = []
    for at, mutant in enumerate(drawn, 1):
        if mutant.name in equivalent:
            one = Tried(mutant, EQUIVALENT, "", 0.0)
        elif mutant.name in known and not (asked.again and known[mutant.name][0] == SURVIVED):
            done.append(Tried(mutant, *known[mutant.name], 0.0))
            continue
        else:
            one = attempt(copy, mutant, choose(copy, mutant, reach, killers, asked.seconds), reach)
            killers[mutant.path][one.by] += 1
            killers[""][one.by] += 1
        done.append(one)
        print(f"{at}/{len(drawn)} {one.outcome} {one.seconds:.0f}s {shown(mutant)}", flush=True)
        if asked.results:
            line = {"name": mutant.name, "line": mutant.line, "outcome": one.outcome, "by": one.by}
            with asked.results.open("a") as results:
                results.write(json.dumps(line | {"seconds": round(one.seconds, 1)}) + "\n")
    return done


def choose(copy: Path, mutant: Mutant, reach: dict[str, Any], killers: Killers, most: float) -> list[str]:
    """The tests that reach the mutant's statement; of what runs at import, those that reach the module."""
    lines = reach["lines"].get(mutant.path, {})
    stood = header((copy / mutant.path).read_text(), mutant.line)
    reaching = {test for line in stood for test in lines.get(str(line), ())}
    if not reaching and any(str(line) in lines for line in stood):
        reaching = {test for tests in lines.values() for test in tests}
    seconds = reach["seconds"]
    chosen, left = [], most
    for test in sorted(reaching, key=lambda one: (-killers[mutant.path][one], -killers[""][one], seconds[one], one)):
        chosen.append(test)
        left -= seconds[test]
        if left < 0:
            break
    return chosen


def attempt(copy: Path, mutant: Mutant, tests: list[str], reach: dict[str, Any]) -> Tried:
    """Puts the mutant in, runs the tests, and takes it out again."""
    if not tests:
        return Tried(mutant, SURVIVED, "no test reaches it", 0.0)
    file, chosen = copy / mutant.path, copy.parent / "chosen.txt"
    old = file.read_text()
    chosen.write_text("\n".join(tests))
    file.write_text(mutant.text)
    began = time.monotonic()
    try:
        files = dict.fromkeys(test.split("::")[0] for test in tests)
        expected = sum(reach["seconds"][test] for test in tests)
        code = bounded(lambda: in_copy(copy, (*files, "-x"), {"MQL_CHOSEN": str(chosen)}), 60 + 5 * expected)
    finally:
        file.write_text(old)
    assert code not in (5, BROKEN), f"the chosen tests can not be run: {tests[0]}"
    outcome = TIMED_OUT if code is None else KILLED if code else SURVIVED
    return Tried(mutant, outcome, chosen.read_text() if outcome == KILLED else "", time.monotonic() - began)


def bounded(work: Callable[[], int], seconds: float) -> int | None:
    """What the work comes to in a process that begins with the packages loaded; None where it takes too long."""
    child = os.fork()
    if not child:
        os.setsid()
        try:
            os._exit(work())
        finally:
            os._exit(BROKEN)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def in_copy(copy: Path, args: Iterable[str], given: Mapping[str, str]) -> int:
    """Runs tests of the copy, silently. Chance always falls the same way."""
    os.chdir(copy)
    os.environ.update(given, MQL_QUERIES="30", MQL_LAWS="3", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    sys.path[:0] = [str(copy), str(copy / "tests"), str(HERE)]
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main(["-q", *PLUGINS, "--hypothesis-seed=0", *args]))


def equivalents() -> dict[tuple[str, ...], str]:
    """The mutants of `equivalent.txt`, with the reason."""
    found = {}
    for block in (HERE / "equivalent.txt").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            place, before, after, *reason = lines
            path, inside = place.split(" ")
            found[path, inside, before.removeprefix("- "), after.removeprefix("+ ")] = " ".join(reason)
    return found


def shown(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} {mutant.inside}\n    - {mutant.before}\n    + {mutant.after}"


def report(tried: list[Tried], parts: dict[str, Any], bar: float) -> int:
    """A table with a line for each module and each part, and the survivors below it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in tried:
        part = next(name for name, part in parts.items() if one.mutant.path in part.get("modules", ()))
        for row in (one.mutant.path, f"all of {part}", "all"):
            counts[row][one.outcome] += 1
    print(f"\n{'module':44}{'mutants':>9}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES) + f"{'share':>8}")
    order = sorted(counts, key=lambda row: (row == "all", row.startswith("all of"), row))
    for row in order:
        tally = counts[row]
        figures = "".join(f"{tally[outcome]:12}" for outcome in OUTCOMES)
        print(f"{row:44}{tally.total():9}{figures}{share(tally):8.0%}")
    for one in tried:
        if one.outcome == SURVIVED:
            print(f"\nsurvived: {shown(one.mutant)}" + (f"\n    {one.by}" if one.by else ""))
    return int(share(counts["all"]) < bar)


def share(tally: Counter[str]) -> float:
    """Of the mutants that can be killed, how many were."""
    killed = tally[KILLED] + tally[TIMED_OUT]
    return killed / (killed + tally[SURVIVED]) if killed + tally[SURVIVED] else 1.0


if __name__ == "__main__":
    sys.exit(main())
