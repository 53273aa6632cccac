"""Windows in SQL: which pane a row falls in, and which windows a pane belongs to.

A pane is what windows share: its length is the greatest common divisor of size and slide. A row is pre-aggregated
into its pane once, and a window is its panes put together.

    #  hopping 10 s every 4 s: panes of 2 s
    #  panes   |0 |2 |4 |6 |8 |10|12|
    #  window  |--------------|
    #  window        |--------------|

Panes, starts and ends are instants everywhere. Where a window has a zone, its borders are read off that zone's clock:

- Steps of up to an hour begin when the clock shows a whole step since midnight. They always have their full length:
  the hour that a clock shows twice in the autumn is two windows, a day of 25 hours has 25 of them.
- Longer steps go from one reading of the clock to the next, so that a day begins at midnight, and is 23 or 25 hours
  long where the clock is changed. A reading that comes twice counts when it comes first; one that is left out, at the
  moment when the clock jumps over it.

Several windows at once (WINDOWS) are one window of kind "several": each row stands once for each of them, told apart
by a number, `by`, which is a group key too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from mql.planner.physical import Window
from mql.planner.sql import quote_string

NEVER = -(2**62)
"""The `e` of a row that is late for none of its windows."""
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
BEFORE_ALL_US = 719_162 * DAY_US
"""From the beginning of the year 1 to 1970: no event time lies further back."""
NUMBER = "__w"
"""Which of several windows a row stands for, before rows are grouped."""


def tumbling(size_us: int, offset_us: int, zone: str | None) -> Window:
    return Window("tumbling", size_us, size_us, offset_us % size_us, size_us, zone)


def hopping(size_us: int, slide_us: int, offset_us: int, zone: str | None) -> Window:
    if size_us == slide_us:
        return tumbling(size_us, offset_us, zone)
    return Window("hopping", size_us, slide_us, offset_us % slide_us, gcd(size_us, slide_us), zone)


def cumulate(size_us: int, step_us: int, offset_us: int, zone: str | None) -> Window:
    """Windows that start every `size_us` and end after each step; the step divides the size."""
    assert size_us % step_us == 0
    return Window("cumulate", size_us, step_us, offset_us % size_us, step_us, zone)


def counted(size: int, slide: int) -> Window:
    return Window("count", size, slide, 0, gcd(size, slide))


def session(gap_us: int, most_us: int = 0) -> Window:
    return Window("session", gap_us, gap_us, 0, gap_us, most=most_us)


def sliding(size_us: int) -> Window:
    return Window("sliding", size_us, size_us, 0, size_us)


def several(of: tuple[Window, ...]) -> Window:
    """All of them at once; the column `by` holds the number of a row's window."""
    longest, slide, pane = max(one.size for one in of), min(one.slide for one in of), min(one.pane for one in of)
    return Window("several", longest, slide, 0, pane, None, of, NUMBER)


def fits_a_clock(step_us: int) -> bool:
    """Whether a step can be read off a clock: it divides an hour, is whole hours that divide a day, or whole days."""
    if step_us <= HOUR_US:
        return HOUR_US % step_us == 0
    return step_us % DAY_US == 0 or (step_us % HOUR_US == 0 and DAY_US % step_us == 0)


def floor_sql(value: str, step: int, offset: int = 0) -> str:
    """The largest `offset + i * step` at or before an integer, below zero too."""
    return f"({value} - {_above_sql(value, step, offset)})"


def floor_time_sql(time: str, step: int, offset: int = 0) -> str:
    """The same for an event time, at a third of the price: none lies before the year 1."""
    above = -(-BEFORE_ALL_US // step) * step - offset
    return f"(({time} + {above}) // {step} * {step} - {above})"


def longest(window: Window) -> int:
    """The number of the longest of several windows: every row lies in one of its kind."""
    return max(range(len(window.of)), key=lambda number: window.of[number].size)


# --- panes and windows -----------------------------------------------------------------------------------


def numbered_sql(window: Window, table: str) -> str:
    """The rows of a table, once for each of several windows."""
    if window.kind != "several":
        return table
    return f'(SELECT *, unnest(range({len(window.of)})) AS "{NUMBER}" FROM {table})'


def pane_sql(window: Window, time: str) -> str:
    """The start of the pane that a row of this event time falls in; null where no window holds it."""
    match window.kind:
        case "none":
            return "0::BIGINT"
        case "several":
            return _each(window, NUMBER, lambda one: pane_sql(one, time))
    if window.zone is None:
        pane = floor_time_sql(time, window.pane, window.offset)
    else:
        pane = _instant(window, _floor(window, _reading(window, time), window.pane, window.offset))
    if has_gaps(window):
        # The windows leave gaps: a row in a gap lies in no window.
        return f"CASE WHEN {time} - {floor_sql(time, window.slide, window.offset)} < {window.size} THEN {pane} END"
    return pane


def has_gaps(window: Window) -> bool:
    return any(one.kind == "hopping" and one.slide > one.size for one in (window, *window.of))


def first_end_sql(window: Window, pane: str, by: str = NUMBER) -> str:
    """The end of the earliest window that holds a pane."""
    if window.kind == "several":
        return _each(window, by, lambda one: first_end_sql(one, pane))
    return _instant(window, _first_end(window, _pane_reading(window, pane)))


def last_end_sql(window: Window, pane: str, by: str = NUMBER) -> str:
    """The end of the latest window that holds a pane."""
    if window.kind == "several":
        return _each(window, by, lambda one: last_end_sql(one, pane))
    return _instant(window, _last_end(window, _pane_reading(window, pane)))


def row_end_sql(window: Window, time: str) -> str:
    """The end of the latest window that holds a row of this event time, before it is told apart by windows."""
    if window.kind == "several":
        return f"greatest({', '.join(row_end_sql(one, time) for one in window.of)})"
    return last_end_sql(window, pane_sql(window, time))


def expanded_sql(window: Window, table: str) -> str:
    """The rows of a table of panes (`p`) once per window that holds them, with its start `ws` and end `we`."""
    match window.kind:
        case "none":
            return f"SELECT *, 0::BIGINT AS ws, 0::BIGINT AS we FROM {table}"
        case "several":
            each = (
                expanded_sql(one, f'(SELECT * FROM {table} WHERE "{window.by}" = {number})')
                for number, one in enumerate(window.of)
            )
            return " UNION ALL BY NAME ".join(each)
        case "tumbling":
            return f"SELECT *, p AS ws, {last_end_sql(window, 'p')} AS we FROM {table}"
    reading = _pane_reading(window, "p")
    first, last, step = _first_end(window, reading), _last_end(window, reading), window.slide
    ends = f"range({first}, {last} + 1, {step})"
    if _by_clock_days(window):
        # A clock that is changed by less than the step leaves a last one that is shorter.
        ends = f"list_transform(range({first}, {last} + {step}, {step}), lambda x: least(x, {last}))"
    inside = f"SELECT *, {_start(window, 'we')} AS ws FROM (SELECT *, unnest({ends}) AS we FROM {table})"
    if not _by_clock(window):
        return inside
    return f"SELECT * REPLACE ({_instant(window, 'ws')} AS ws, {_instant(window, 'we')} AS we) FROM ({inside})"


def end_grid_sql(window: Window, value: str) -> str:
    """A value at or before this one that no window's end lies between: what a row is late for, told by few numbers."""
    if window.kind == "several":
        return _each(window, NUMBER, lambda one: end_grid_sql(one, value))
    return value if window.zone is not None else floor_sql(value, window.slide, _end_phase(window))


def may_end_between(window: Window, since_us: int, until_us: int) -> bool:
    """Whether a window may end after `since_us` and at or before `until_us`."""
    if window.kind == "several":
        return any(may_end_between(one, since_us, until_us) for one in window.of)
    if window.zone is not None:
        # All zones have been a multiple of a quarter of an hour from UTC since 1973, and of a second before.
        step, phase = gcd(window.slide, HOUR_US // 4 if since_us > 3 * 365 * DAY_US else SECOND_US), window.offset
    else:
        step, phase = window.slide, _end_phase(window)
    return (until_us - phase) // step > (since_us - phase) // step


def may_have_ended(window: Window, pane: int, until_us: int) -> bool:
    """Whether a window that holds this pane may have ended at or before `until_us`."""
    shorter = HOUR_US if any(_by_clock(one) for one in (window, *window.of)) else 0
    return pane + window.pane - shorter <= until_us


def ends_after_sql(window: Window, end: str, until: str, by: str = NUMBER) -> str:
    """A list of the ends of windows after one that is an end itself, up to `until`."""
    if window.kind == "several":
        return _each(window, by, lambda one: ends_after_sql(one, end, until))
    if not _by_clock(window):
        return f"range({end} + {window.slide}, {until} + 1, {window.slide})"
    reading = _end_reading(window, end)
    readings = f"range({reading} + {window.slide}, {_reading(window, until)} + {window.slide}, {window.slide})"
    instants = f"list_transform({readings}, lambda x: {_instant(window, 'x')})"
    return f"list_distinct(list_filter({instants}, lambda x: x > {end} AND x <= {until}))"


def start_sql(window: Window, end: str, by: str = NUMBER) -> str:
    """The start of the window that ends here."""
    if window.kind == "several":
        return _each(window, by, lambda one: start_sql(one, end))
    return _instant(window, _start(window, _end_reading(window, end)))


# --- on a clock or on the line of time --------------------------------------------------------------------


def _by_clock(window: Window) -> bool:
    """Its steps go from one reading of a clock to another."""
    return window.zone is not None and window.slide > HOUR_US


def _by_clock_days(window: Window) -> bool:
    """It starts at a reading of a clock and grows by steps of time."""
    return window.kind == "cumulate" and window.zone is not None and window.slide <= HOUR_US < window.size


def _reading(window: Window, instant: str) -> str:
    """The numbers that a window counts in: what its clock shows, where it goes by one."""
    return clock_sql(window.zone, instant) if window.zone is not None and _by_clock(window) else instant


def _instant(window: Window, reading: str) -> str:
    return instant_sql(window.zone, reading) if window.zone is not None and _by_clock(window) else reading


def _pane_reading(window: Window, pane: str) -> str:
    """What the clock shows at a pane's start, or the step that it jumped over then."""
    return floor_sql(_reading(window, pane), window.pane, window.offset) if _by_clock(window) else pane


def _end_reading(window: Window, end: str) -> str:
    """What the clock shows at a window's end, or the step that it jumped over then."""
    return floor_sql(_reading(window, end), window.slide, _end_phase(window)) if _by_clock(window) else end


def _floor(window: Window, value: str, step: int, phase: int) -> str:
    """The last step at or before a value."""
    if window.zone is None or _by_clock(window):
        return floor_sql(value, step, phase)
    return f"({value} - {_above_sql(clock_sql(window.zone, value), step, phase)})"


def _first_end(window: Window, pane: str) -> str:
    match window.kind:
        case "tumbling" | "cumulate":
            end = f"({pane} + {window.pane})"
            return f"least({end}, {_latest_end(window, pane)})" if _by_clock_days(window) else end
        case "hopping":
            # Ends lie at offset + size + i * slide; the first one at or after the pane's own end.
            last_in_pane = f"({pane} + {window.pane} - 1)"
            return f"({_floor(window, last_in_pane, window.slide, _end_phase(window))} + {window.slide})"
        case kind:
            raise AssertionError(kind)


def _last_end(window: Window, pane: str) -> str:
    return _first_end(window, pane) if window.single else _latest_end(window, pane)


def _latest_end(window: Window, pane: str) -> str:
    match window.kind:
        case "tumbling":
            return f"({pane} + {window.size})"
        case "hopping":
            return f"({_floor(window, pane, window.slide, window.offset)} + {window.size})"
        case "cumulate":
            if not _by_clock_days(window):
                return f"({_floor(window, pane, window.size, window.offset)} + {window.size})"
            assert window.zone is not None
            start = floor_sql(clock_sql(window.zone, pane), window.size, window.offset)
            return instant_sql(window.zone, f"({start} + {window.size})")
        case kind:
            raise AssertionError(kind)


def _start(window: Window, end: str) -> str:
    match window.kind:
        case "tumbling" | "hopping":
            return f"({end} - {window.size})"
        case "cumulate":
            if not _by_clock_days(window):
                return _floor(window, f"({end} - 1)", window.size, window.offset)
            assert window.zone is not None
            return instant_sql(
                window.zone, floor_sql(clock_sql(window.zone, f"({end} - 1)"), window.size, window.offset)
            )
        case kind:
            raise AssertionError(kind)


def _end_phase(window: Window) -> int:
    return (window.offset + window.size) % window.slide


def _above_sql(value: str, step: int, offset: int) -> str:
    """How far an integer lies above the step before it."""
    shifted = f"({value} - {offset})" if offset else value
    return f"((({shifted}) % {step}) + {step}) % {step}"


def _each(window: Window, by: str, sql: Callable[[Window], str]) -> str:
    """For each of several windows its own."""
    cases = " ".join(f"WHEN {number} THEN {sql(one)}" for number, one in enumerate(window.of))
    return f'CASE "{by}" {cases} END'


def clock_sql(zone: str, instant: str) -> str:
    """What a zone's clock shows, in microseconds since it showed the beginning of 1970."""
    return f"epoch_us(timezone({quote_string(zone)}, make_timestamp({instant})::TIMESTAMPTZ))"


def instant_sql(zone: str, reading: str) -> str:
    """When a zone's clock first shows this, or jumps over it. DuckDB gives the last time where there are two; a whole
    hour that comes twice does so an hour apart."""
    last = f"epoch_us(timezone({quote_string(zone)}, make_timestamp({reading})))"
    before = f"({last} - {HOUR_US})"
    return f"CASE WHEN {clock_sql(zone, before)} = {reading} THEN {before} ELSE {last} END"
