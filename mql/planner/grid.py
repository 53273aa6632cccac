"""Windows at fixed times by number: what detectors count them by. Where a window has a zone, as in mql.planner.windows.

# days of Berlin   25 Oct     26 Oct (25 h)    27 Oct
#                 |----------|-----------------|----------|
# number              n             n + 1          n + 2
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from mql.planner.physical import Window
from mql.planner.windows import DAY_US, HOUR_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = round((datetime(2, 1, 1, tzinfo=UTC) - EPOCH) / timedelta(microseconds=1))
LAST_US = round((datetime(9998, 1, 1, tzinfo=UTC) - EPOCH) / timedelta(microseconds=1))
"""Between these, times have a place in the calendar, in any zone."""


def reading_of(zone: ZoneInfo, us: int) -> int:
    """What a zone's clock shows, in microseconds since it showed the beginning of 1970."""
    moment = EPOCH + timedelta(microseconds=min(max(us, FIRST_US), LAST_US))
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return us + offset // timedelta(microseconds=1)


@dataclass(frozen=True)
class Grid:
    """Tumbling, hopping or cumulating windows, these counted by their ends. Times in microseconds."""

    window: Window

    @property
    def steps(self) -> int:
        """How many windows begin together."""
        return self.window.size // self.window.slide if self._cumulates else 1

    def number_at(self, start_us: int, end_us: int) -> int:
        """The number of the window between these; greater for a later one, by one for the next."""
        return self.last_by(end_us) if self._cumulates else self.number_of(start_us)

    def number_of(self, start_us: int) -> int:
        """The number of the window that starts there, where no other does."""
        assert not self._cumulates
        at = reading_of(self._zone, start_us) if self._by_clock else start_us
        return (at - self.window.offset) // self.window.slide

    def last_by(self, us: int) -> int:
        """The number of the last window that ends by then."""
        window = self.window
        if self._cumulates:
            return (us - window.offset) // window.slide - 1
        if not self._by_clock:
            return self.number_of(self._before(us - window.size))
        number = (reading_of(self._zone, us) - window.offset - window.size) // window.slide
        while self.end(number) > us:
            number -= 1
        while self.end(number + 1) <= us:
            number += 1
        return number

    def start(self, number: int) -> int:
        window = self.window
        at = number * window.slide + window.offset
        if self._cumulates:
            return at - number % self.steps * window.slide
        # Of two steps that overlap where a clock is changed by less than a step, the later one is meant: it goes on.
        return self._instant(at) if self._by_clock else self._before(at + window.slide - 1)

    def news(self, number: int) -> int:
        """Where begins what the window before did not have: its start, or of cumulating windows that of its step."""
        return self.end(number) - self.window.slide if self._cumulates else self.start(number)

    def end(self, number: int) -> int:
        window = self.window
        if self._cumulates:
            return (number + 1) * window.slide + window.offset
        if self._by_clock:
            return self._instant(number * window.slide + window.offset + window.size)
        return self.start(number) + window.size

    def stretch(self, number: int) -> float:
        """How many times longer than this one a window usually is: a day of 23 hours is 24/23 of itself."""
        if not self._by_clock:
            return 1.0
        return self.window.size / max(self.end(number) - self.start(number), 1)

    # --- on a clock or on the line of time -------------------------------------------------------------

    @property
    def _cumulates(self) -> bool:
        assert self.window.kind != "cumulate" or self.window.zone is None
        return self.window.kind == "cumulate"

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.window.zone or "UTC")

    @property
    def _by_clock(self) -> bool:
        """Its steps go from one reading of a clock to another."""
        return self.window.zone is not None and self.window.slide > HOUR_US

    def _before(self, us: int) -> int:
        """The last step at or before a moment, where steps always have their full length."""
        at = us if self.window.zone is None else reading_of(self._zone, us)
        return us - (at - self.window.offset) % self.window.slide

    def _instant(self, reading: int) -> int:
        """When the clock first shows this, or jumps over it."""
        low, high = reading - DAY_US, reading + DAY_US
        if not FIRST_US < low < high < LAST_US:
            return reading
        shown = (EPOCH + timedelta(microseconds=reading)).replace(tzinfo=self._zone)
        found = (shown.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
        if reading_of(self._zone, found) == reading:
            return found
        while low < high:
            middle = (low + high) // 2
            if reading_of(self._zone, middle) < reading:
                low = middle + 1
            else:
                high = middle
        return low
