"""Windows by a zone's clock, against the same read off Python's zoneinfo minute by minute."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from mql.exec.kernel import Kernel
from mql.planner import windows
from mql.planner.physical import Window
from mql.zones import ZONES, zone_named

SESSION = Kernel().session()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# A change of the clock in each of these zones: the day before it, in UTC.
CHANGES = (
    ("America/New_York", "2024-03-09"),
    ("America/New_York", "2024-11-02"),
    ("Europe/Berlin", "2025-03-29"),
    ("Europe/Berlin", "2025-10-25"),
    ("America/Havana", "2024-11-02"),  # midnight comes twice
    ("Africa/Cairo", "2024-04-25"),  # midnight is left out
    ("Atlantic/Azores", "2024-10-26"),
    ("Asia/Kolkata", "2024-06-01"),
    ("Pacific/Apia", "2011-12-28"),  # a day is left out
    ("Australia/Adelaide", "2024-04-06"),
)
SIZES = (
    ("tumbling", HOUR, HOUR),
    ("tumbling", 30 * MINUTE, 30 * MINUTE),
    ("tumbling", 2 * HOUR, 2 * HOUR),
    ("tumbling", 6 * HOUR, 6 * HOUR),
    ("tumbling", DAY, DAY),
    ("tumbling", 2 * DAY, 2 * DAY),
    ("hopping", 2 * HOUR, 30 * MINUTE),
    ("hopping", DAY, 6 * HOUR),
    ("hopping", 2 * DAY, DAY),
    ("cumulate", DAY, HOUR),
    ("cumulate", DAY, 6 * HOUR),
    ("cumulate", 2 * DAY, DAY),
    ("cumulate", HOUR, 30 * MINUTE),
)


@cache
def readings(zone: str, day: str) -> tuple[list[int], list[int]]:
    """Every quarter of an hour for eight days: when it is, and what the clock shows."""
    start = int((datetime.fromisoformat(day).replace(tzinfo=UTC) - EPOCH - timedelta(days=3)).total_seconds()) * 10**6
    instants = [start + i * 15 * MINUTE for i in range(8 * 96)]
    local = [(EPOCH + timedelta(microseconds=at)).astimezone(ZoneInfo(zone)).replace(tzinfo=UTC) for at in instants]
    return instants, [round((at - EPOCH).total_seconds()) * 10**6 for at in local]


@cache
def borders(zone: str, day: str, step: int) -> list[int]:
    """When the steps begin. Short ones: whenever the clock shows a whole one; long ones: when it first does."""
    instants, shown = readings(zone, day)
    if step <= HOUR:
        return [at for at, reading in zip(instants, shown, strict=True) if reading % step == 0]
    first: dict[int, int] = {}
    highest = shown[0]
    for at, reading in zip(instants, shown, strict=True):
        for passed in range(highest - highest % step, reading + 1, step):
            if passed not in first and passed > shown[0]:
                first[passed] = at
        highest = max(highest, reading)
    return [first[reading] for reading in sorted(first)]


def expected(kind: str, size: int, step: int, zone: str, day: str, at: int) -> set[tuple[int, int]]:
    """The windows that hold an instant."""
    steps = borders(zone, day, step)
    here = bisect_right(steps, at) - 1
    match kind:
        case "cumulate":
            whole = borders(zone, day, size)
            start, end = whole[bisect_right(whole, at) - 1], whole[bisect_right(whole, at)]
            return {(start, one) for one in steps if at < one <= end}
        case _:
            count = size // step
            starts = range(here - count + 1, here + 1)
            if step > HOUR:
                return {(steps[i], steps[i + count]) for i in starts}
            return {(steps[i], steps[i] + size) for i in starts if steps[i] + size > at}


def found(window: Window, instants: list[int]) -> dict[int, set[tuple[int, int]]]:
    pane = windows.pane_sql(window, "t")
    sql = windows.expanded_sql(window, f"(SELECT t, {pane} AS p FROM asked)")
    late = f"SELECT t, {windows.row_end_sql(window, 't')} AS e, {windows.first_end_sql(window, pane)} AS f FROM asked"
    table = pa.table({"t": pa.array(instants, pa.int64())})
    rows: dict[int, set[tuple[int, int]]] = {}
    for row in SESSION.run(f"SELECT t, ws, we FROM ({sql})", {"asked": table}).to_pylist():
        rows.setdefault(row["t"], set()).add((row["ws"], row["we"]))
    for row in SESSION.run(late, {"asked": table}).to_pylist():
        ends = [end for _, end in rows[row["t"]]]
        assert (row["f"], row["e"]) == (min(ends), max(ends))
    return rows


# The steps of the day that never was in Apia begin six hours apart, not all at once: that pair is left out.
@pytest.mark.parametrize(
    ("zone", "day", "kind", "size", "step"),
    [(*change, *size) for change in CHANGES for size in SIZES if (change[0], size[2]) != ("Pacific/Apia", 6 * HOUR)],
)
def test_windows_are_what_the_clock_shows(zone: str, day: str, kind: str, size: int, step: int) -> None:
    window = (windows.cumulate if kind == "cumulate" else windows.hopping)(size, step, 0, zone)
    instants, _ = readings(zone, day)
    # Each quarter of an hour of three days around the change, at its border and within.
    asked = [at + inside for at in instants[2 * 96 + 48 : 5 * 96] for inside in (0, 7 * MINUTE)]
    rows = found(window, asked)
    for at in asked:
        want = expected(kind, size, step, zone, day, at)
        assert rows[at] == want, (zone, EPOCH + timedelta(microseconds=at))
        for start, end in want:
            assert start <= at < end
            assert windows.may_end_between(window, end - 1, end)


def test_the_engine_knows_every_zone() -> None:
    known = set(SESSION.run("SELECT name FROM pg_timezone_names()", {}).column("name").to_pylist())
    assert known >= ZONES
    assert zone_named("america/new_york") == "America/New_York"
    assert zone_named("Mars/Olympus") is None


def test_a_step_fits_a_clock() -> None:
    assert all(windows.fits_a_clock(step) for step in (10**6, 20 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY))
    assert not any(windows.fits_a_clock(step) for step in (7 * 10**6, 90 * MINUTE, 5 * HOUR, 36 * HOUR))
