"""One plan by every route: how golden cases and random queries are run and compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from support.random_queries import Stream

from mql.catalog import Catalog, SourceInfo, TimeRule
from mql.exec.afterwards import Afterwards
from mql.exec.backfill import judged_of
from mql.exec.drive import Round, drive, raws_of
from mql.exec.feed import Table
from mql.exec.items import Raw, Rows
from mql.exec.kernel import Kernel
from mql.exec.scan import Decoder
from mql.exec.splits import Splits
from mql.planner.compile import compile_query
from mql.planner.physical import Plan
from mql.schema import Shape

AHEAD_US = 10**18
"""Events of tests lie anywhere in time: none is too far ahead."""


def catalog(
    shape: Shape,
    *,
    bounded: bool,
    lateness_us: int,
    unit: str = "ms",
    names: Sequence[str] = ("events",),
    tables: Sequence[Table] = (),
) -> Catalog:
    """Sources whose time is the property `ts`; one, `events`, where no names are given."""
    info = SourceInfo(
        "",
        shape,
        time=TimeRule(("ts",), unit),
        lateness_us=lateness_us,
        max_ahead_us=AHEAD_US,
        bounded=bounded,
    )
    known = {table.info.name: table.info for table in tables}
    return Catalog({name: replace(info, name=name) for name in names}, tables=known)


def plan_of(text: str, catalog: Catalog, **given: Any) -> Plan:
    return compile_query(text, catalog, **given)


def as_live(text: str) -> str:
    """The query, asked what a live one would have said."""
    return f"{text}{',' if ' settings ' in text.lower() else ' SETTINGS'} late = 'as_live'"


def raws(events: Sequence[tuple[int, int, str]]) -> list[Raw]:
    """Events (split, offset, text), in the order they came, as one raw batch a split."""
    found: list[Raw] = []
    for split in dict.fromkeys(split for split, _, _ in events):
        mine = [(offset, text) for of, offset, text in events if of == split]
        table = pa.record_batch(
            {"_raw": pa.array([text for _, text in mine]), "_offset": pa.array([at for at, _ in mine], pa.int64())}
        )
        found.append(Rows(split, table, AHEAD_US, mine[-1][0] + 1))
    return found


def streamed(
    plan: Plan,
    rounds: Sequence[Round],
    kernel: Kernel,
    tasks: int = 1,
    restart_every: int | None = None,
    then: Sequence[int] = (),
    tables: Sequence[Table] = (),
) -> list[dict[str, Any]]:
    """The rows that a stream ends with: of keyed rows the last revision of each key, less the deleted."""
    rows = {table.info.name: table for table in tables}
    out = drive(
        plan, rounds, kernel, tasks, restart_every=restart_every, then=then, tables=lambda name: rows[name].rows
    )
    return told(plan, out.tables)


def told(plan: Plan, tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    return settled(plan, [row for table in tables for row in table.to_pylist()])


def settled(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What rows come to in the end: all of them, or of each key the last revision, less the deleted."""
    names = [name for name, _ in plan.result.columns]
    if not plan.result.keyed:
        return [{name: row[name] for name in names} for row in rows]
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = last.get(row["_key"])
        assert known is None or row["_revision"] > known["_revision"], "a revision did not grow"
        last[row["_key"]] = row
    return [{name: row[name] for name in names} for row in last.values() if row["_op"] != "delete"]


def batched(plan: Plan, rounds: Sequence[Round], kernel: Kernel, tables: Sequence[Table] = ()) -> list[dict[str, Any]]:
    """The rows of the plan's one statement over all events."""
    session = kernel.session()
    readers = {}
    for number, (name, scan) in enumerate(zip(plan.tables, plan.scans, strict=True)):
        splits = Splits(scan.idle_timeout_us, scan.max_ahead_us)
        decoder = Decoder(session, scan.encoding, scan.time, scan.columns, splits=splits)
        parts = [part for round in rounds if (part := raws_of(plan, number, round))]
        decoded = [decoder.decode(part).table for part in parts] or [decoder.decode([]).table]
        # Stored events can be read once only.
        readers[name] = pa.concat_tables(decoded).to_reader()
    declared = {called: table.rows for table in tables for name, called in plan.lookups if name == table.info.name}
    other = kernel.session()
    rows = session.run(plan.batch, judged_of(plan, session, other, {**readers, **declared}))
    afterwards = Afterwards(plan.after_batch, other)
    found = [*afterwards.take(rows), *afterwards.end()]
    other.close()
    session.close()
    return [row for table in found for row in table.select([name for name, _ in plan.result.columns]).to_pylist()]


def random_rounds(rng: random.Random, stream: Stream) -> list[list[Raw]]:
    """The stream in batches of random size."""
    rounds, at = [], 0
    while at < len(stream.events):
        size = rng.choice((1, 3, 10, 50, 500))
        part = stream.events[at : at + size]
        rounds.append(raws([(event.split, event.offset, event.text) for event in part]))
        at += size
    return rounds
