"""Silences and maintenance windows: when, and about what, nobody is to be woken.

    silences:
      - {name: deploy, jobs: ["errors-*"], starts: "2026-01-31T02:00:00Z", for: 2h, comment: new database}
      - {name: sundays, labels: {team: billing}, every: [sun], at: "03:00", for: 90m, timezone: Europe/Berlin}
      - {name: noisy-box, keys: {host: "edge-4*"}, starts: "2026-01-31T02:00:00Z", ends: "2026-02-07T00:00:00Z"}

All that a silence names must fit: the job, its labels, the row's keys, and the time of the row's window (event time, so
that what is found out late is silenced as well). Episodes go on being found and recorded; their rows bear the name of
the silence in the column `silenced`, and are not sent as alerts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_serializer, model_validator

from mql.errors import MqlError
from mql.exec.clock import Clock
from mql.planner.constants import duration_us
from mql.zones import ZONES

SILENCED = "silenced"
"""The column that tells by which silence a row is silenced; null where by none."""
NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_S = 86_400.0
LOOK_AGAIN_S = 5.0
"""Other servers of the same store may have changed them."""
SILENCES_MAX = 1_000


def length(value: Any) -> Any:
    """`2h`, `90m` or a number of seconds."""
    us = duration_us(value) if isinstance(value, str) else None
    return value if us is None else us / 1e6


def moment(value: Any) -> Any:
    """A time with its zone; a date that YAML has read as one begins at midnight, UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        if not 1900 <= value.year < 3000:
            raise ValueError("a time is of the years from 1900 to 2999")
        return aware(value)
    return value


Moment = Annotated[datetime, BeforeValidator(moment)]
Length = Annotated[float, BeforeValidator(length), Field(gt=0, le=366 * DAY_S)]


class Silence(BaseModel):
    """One silence, from `starts` to `ends` (or `for` so long), or again and again: `every` day, `at` a time, `for` so
    long. `jobs` and the values of `keys` may hold `*` and `?`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(pattern=NAME)
    comment: str = Field(default="", max_length=1_000)
    owner: str | None = Field(default=None, max_length=200)
    jobs: tuple[str, ...] = Field(default=("*",), min_length=1, max_length=100)
    labels: Mapping[str, str] = Field(default_factory=dict, max_length=50)
    keys: Mapping[str, str] = Field(default_factory=dict, max_length=50)
    starts: Moment | None = None
    ends: Moment | None = None
    lasts: Length | None = Field(default=None, alias="for", description="2h, 90m, or seconds")
    every: tuple[Literal["day", "mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(default=(), max_length=7)
    at: str | None = Field(default=None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    timezone: str = "UTC"

    @model_validator(mode="after")
    def fits_together(self) -> Silence:
        if self.timezone not in ZONES:
            raise ValueError(f'no time zone "{self.timezone}"')
        if self.every:
            if self.at is None or self.lasts is None:
                raise ValueError('what comes every day says when and how long: at: "02:00", for: 2h')
            if self.lasts > 7 * DAY_S:
                raise ValueError("what comes again lasts at most a week")
        elif self.at is not None:
            raise ValueError("at goes with every: [day], or [mon, thu]")
        elif self.ends is not None and self.lasts is not None:
            raise ValueError("say ends or for, not both")
        elif self.ends is None and self.lasts is None:
            raise ValueError("say when it ends: ends, or for")
        if self.starts is not None and self.ends is not None and self.ends <= self.starts:
            raise ValueError("it ends before it starts")
        return self

    @field_serializer("starts", "ends")
    def as_text(self, value: datetime | None) -> str | None:
        return None if value is None else text_of(us_of(value))

    def told(self) -> dict[str, Any]:
        """As it is said in YAML and over HTTP."""
        return self.model_dump(mode="json", by_alias=True)

    @cached_property
    def bounds_us(self) -> tuple[int, int]:
        """From when to when it holds at all."""
        first = -(2**62) if self.starts is None else us_of(self.starts)
        if self.every:
            return first, 2**62 if self.ends is None else us_of(self.ends)
        if self.ends is not None:
            return first, us_of(self.ends)
        assert self.lasts is not None
        return first, first + round(self.lasts * 1e6)

    def is_about(self, job: str, labels: Mapping[str, str]) -> bool:
        """Whether it concerns this job at all."""
        return any(fnmatchcase(job, one) for one in self.jobs) and all(
            labels.get(name) == value for name, value in self.labels.items()
        )

    def holds(self, start_us: int, end_us: int) -> bool:
        """Whether it is on at some moment of `[start_us, end_us)`."""
        first, last = self.bounds_us
        if start_us >= last or end_us <= first:
            return False
        if not self.every:
            return True
        return any(begin < end_us and start_us < end for begin, end in self._turns(start_us, end_us))

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the keys that it names, in any spelling of `*`."""
        return all(
            row.get(name) is not None and fnmatchcase(as_text(row[name]), one) for name, one in self.keys.items()
        )

    def _turns(self, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        """Its maintenance windows that may touch that stretch, by the clock on the wall of its zone."""
        assert self.at is not None
        assert self.lasts is not None
        zone = ZoneInfo(self.timezone)
        hour, minute = map(int, self.at.split(":"))
        day = (EPOCH + timedelta(microseconds=start_us)).astimezone(zone).date() - timedelta(
            days=int(self.lasts // DAY_S) + 1
        )
        while (begin := us_of(datetime.combine(day, time(hour, minute), zone))) < end_us:
            if "day" in self.every or DAYS[day.weekday()] in self.every:
                yield begin, begin + round(self.lasts * 1e6)
            day += timedelta(days=1)


def us_of(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def text_of(us: int) -> str:
    return (EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Silences:
    """All silences of a server: those of its file, which only the file changes, and those of the store. Thread-safe.

    `stored` gives the store's silences, `add` and `drop` change them.
    """

    def __init__(
        self,
        declared: Sequence[Silence],
        clock: Clock,
        stored: Callable[[], Sequence[Mapping[str, Any]]],
        add: Callable[[str, Mapping[str, Any]], None],
        drop: Callable[[str], None],
    ) -> None:
        self.declared = {one.name: one for one in declared}
        self.clock = clock
        self._stored = stored
        self._add = add
        self._drop = drop
        self._known: dict[str, Silence] = {}
        self._looked_s: float | None = None
        self._guard = threading.Lock()

    def all(self) -> Sequence[Silence]:
        """By their names; those that are over too, for history is judged as well."""
        with self._guard:
            now_s = self.clock.monotonic_s()
            if self._looked_s is None or now_s - self._looked_s > LOOK_AGAIN_S:
                self._known = {said["name"]: Silence.model_validate(said) for said in self._stored()}
                self._looked_s = now_s
            found = {**self._known, **self.declared}
        return tuple(found[name] for name in sorted(found))

    def create(self, said: Silence) -> Silence:
        """A new one, which starts now where it does not say when; MqlError where its name is taken."""
        now = EPOCH + timedelta(microseconds=self.clock.now_us())
        if said.starts is None and not said.every:
            if said.ends is not None and said.ends <= now:
                raise MqlError("it is over already", hint="Say when it starts, to silence the past.", code="over")
            said = said.model_copy(update={"starts": now})
        known = self.all()
        if any(one.name == said.name for one in known):
            hint = "Take another name, or delete that one."
            raise MqlError(f'there is a silence "{said.name}" already', hint=hint, code="silence-exists")
        if len(known) >= SILENCES_MAX:
            raise MqlError(f"there are {SILENCES_MAX} silences already", hint="Delete some.", code="too-many-silences")
        self._add(said.name, said.told())
        self._look_again()
        return said

    def delete(self, name: str) -> None:
        if name in self.declared:
            hint = "Take it out of mql.yaml, and start the server again."
            raise MqlError(f'silence "{name}" is of the configuration', hint=hint, code="silence-declared")
        if not any(one.name == name for one in self.all()):
            hint = "GET /v1/silences lists them."
            raise MqlError(f'no silence "{name[:80]}"', hint=hint, code="unknown-silence")
        self._drop(name)
        self._look_again()

    def silenced_by(self, job: str, labels: Mapping[str, str], row: Mapping[str, Any]) -> str | None:
        """The name of the silence that keeps this row of the job from alerting; None where there is none.

        The time is that of the row's window (`window_start`, `window_end`); of a row without one it is now.
        """
        start_us, end_us = self._time_of(row)
        for one in self.all():
            if one.is_about(job, labels) and one.fits(row) and one.holds(start_us, end_us):
                return one.name
        return None

    def marked(self, job: str, labels: Mapping[str, str], rows: pa.Table) -> pa.Table:
        """The rows with the column SILENCED, the last one."""
        about = tuple(one for one in self.all() if one.is_about(job, labels))
        found: list[str | None] = [None] * rows.num_rows
        if about and rows.num_rows:
            wanted = {"window_start", "window_end", *(name for one in about for name in one.keys)}
            told = rows.select([name for name in rows.column_names if name in wanted])
            lines = told.to_pylist() if told.num_columns else [{}] * rows.num_rows
            for at, line in enumerate(lines):
                stretch = self._time_of(line)
                found[at] = next((one.name for one in about if one.holds(*stretch) and one.fits(line)), None)
        return rows.append_column(SILENCED, pa.array(found, pa.string()))

    def _time_of(self, row: Mapping[str, Any]) -> tuple[int, int]:
        start, end = row.get("window_start"), row.get("window_end")
        if isinstance(start, datetime) and isinstance(end, datetime):
            return us_of(aware(start)), us_of(aware(end))
        now_us = self.clock.now_us()
        return now_us, now_us + 1

    def _look_again(self) -> None:
        with self._guard:
            self._looked_s = None


def aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
