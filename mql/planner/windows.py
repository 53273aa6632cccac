"""Windows in SQL: which pane a row falls in, and which windows a pane belongs to.

A pane is what windows share: its length is the greatest common divisor of size and slide. A row is pre-aggregated
into its pane once, and a window is its panes put together.

    #  hopping 10 s every 4 s: panes of 2 s
    #  panes   |0 |2 |4 |6 |8 |10|12|
    #  window  |--------------|
    #  window        |--------------|
"""

from __future__ import annotations

from math import gcd

from mql.planner.physical import Window

NEVER = -(2**62)
"""The `e` of a row that is late for none of its windows."""


def tumbling(size_us: int, offset_us: int = 0) -> Window:
    return Window("tumbling", size_us, size_us, offset_us % size_us, size_us)


def hopping(size_us: int, slide_us: int, offset_us: int = 0) -> Window:
    if size_us == slide_us:
        return tumbling(size_us, offset_us)
    return Window("hopping", size_us, slide_us, offset_us % slide_us, gcd(size_us, slide_us))


def cumulate(size_us: int, step_us: int, offset_us: int = 0) -> Window:
    """Windows that start every `size_us` and end after each step; the step divides the size."""
    assert size_us % step_us == 0
    return Window("cumulate", size_us, step_us, offset_us % size_us, step_us)


def counted(size: int, slide: int) -> Window:
    return Window("count", size, slide, 0, gcd(size, slide))


def floor_sql(value: str, step: int, offset: int = 0) -> str:
    """The largest `offset + i * step` at or before an integer, below zero too."""
    shifted = f"({value} - {offset})" if offset else value
    return f"({value} - ((({shifted}) % {step}) + {step}) % {step})"


def pane_sql(window: Window, time: str) -> str:
    """The start of the pane that a row of this event time falls in; null where no window holds it."""
    if window.kind == "none":
        return "0::BIGINT"
    pane = floor_sql(time, window.pane, window.offset)
    if window.kind == "hopping" and window.slide > window.size:
        # The windows leave gaps: a row in a gap lies in no window.
        return f"CASE WHEN {time} - {floor_sql(time, window.slide, window.offset)} < {window.size} THEN {pane} END"
    return pane


def has_gaps(window: Window) -> bool:
    return window.kind == "hopping" and window.slide > window.size


def first_end_sql(window: Window, pane: str) -> str:
    """The end of the earliest window that holds a pane."""
    match window.kind:
        case "tumbling" | "cumulate":
            return f"({pane} + {window.pane})"
        case "hopping":
            # Ends lie at offset + size + i * slide; the first one at or after the pane's own end.
            return f"({floor_sql(f'({pane} + {window.pane} - 1)', window.slide, _end_phase(window))} + {window.slide})"
        case kind:
            raise AssertionError(kind)


def last_end_sql(window: Window, pane: str) -> str:
    """The end of the latest window that holds a pane."""
    match window.kind:
        case "tumbling":
            return f"({pane} + {window.size})"
        case "hopping":
            return f"({floor_sql(pane, window.slide, window.offset)} + {window.size})"
        case "cumulate":
            return f"({floor_sql(pane, window.size, window.offset)} + {window.size})"
        case kind:
            raise AssertionError(kind)


def last_end(window: Window, pane: int) -> int:
    """The same, of a number."""
    match window.kind:
        case "tumbling":
            return pane + window.size
        case "hopping":
            return pane - (pane - window.offset) % window.slide + window.size
        case "cumulate":
            return pane - (pane - window.offset) % window.size + window.size
        case kind:
            raise AssertionError(kind)


def ends_sql(window: Window, pane: str) -> str:
    """A list of the ends of all windows that hold a pane."""
    first, last = first_end_sql(window, pane), last_end_sql(window, pane)
    return f"range({first}, {last} + 1, {window.slide})"


def start_sql(window: Window, end: str) -> str:
    """The start of the window that ends here."""
    match window.kind:
        case "tumbling" | "hopping":
            return f"({end} - {window.size})"
        case "cumulate":
            return floor_sql(f"({end} - 1)", window.size, window.offset)
        case kind:
            raise AssertionError(kind)


def end_grid_sql(window: Window, value: str) -> str:
    """The latest window end at or before a value: what `value` is late for, told by one number."""
    return floor_sql(value, window.slide, _end_phase(window))


def _end_phase(window: Window) -> int:
    return (window.offset + window.size) % window.slide
