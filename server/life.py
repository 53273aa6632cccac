"""What may be said of a job's life: when it runs, what it may use, what is expected of it, how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from server.deadletters import SEGMENT_BYTES
from server.resultlog import Keep
from server.settings import Bytes, Seconds

MOMENT_MAX_US = 250_000_000_000_000_000
Positive = Annotated[Seconds, Field(gt=0, le=366 * 86_400)]


class Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(Said):
    """When a job is started. `policy`: what becomes of a run that is still there; `missed`: what becomes of times at
    which no server ran."""

    cron: str = Field(min_length=1, max_length=200, examples=["0 2 * * *"], description="minute hour day month weekday")
    timezone: str = Field(default="UTC", max_length=64, examples=["Europe/Berlin"])
    policy: Literal["keep_existing", "keep_new"] = "keep_existing"
    missed: Literal["run_once", "skip"] = "run_once"
    enabled: bool = True

    @field_validator("timezone")
    @classmethod
    def is_a_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f'no time zone "{name[:40]}"') from None
        return name

    @model_validator(mode="after")
    def comes_again(self) -> Schedule:
        if len(self.cron.split()) != 5:
            raise ValueError("a schedule has five fields: minute, hour, day, month, weekday")
        if self.next_us(0) is None:
            raise ValueError(f'"{self.cron}" never comes')
        return self

    def next_us(self, after_us: int) -> int | None:
        """The first time after that moment, in microseconds since the epoch; None where there is none."""
        after = datetime.fromtimestamp(min(max(after_us, 0), MOMENT_MAX_US) / 1e6, UTC)
        try:
            found = next(CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))), None)
        except CronSimError as error:
            raise ValueError(f'"{self.cron}" is no schedule: {error}') from None
        return None if found is None else round(found.timestamp() * 1e6)


class Limits(Said):
    """How much a job may use. Over `state` or `entries` it fails and stays so; over `rows_per_s` it is slowed down;
    after `runtime` a run is over."""

    rows_per_s: float | None = Field(default=None, gt=0, le=1e9)
    state: Annotated[Bytes, Field(ge=1_024)] | None = Field(default=None, description="bytes of a checkpoint")
    entries: int | None = Field(default=None, ge=1, description="panes and keys in the state, as of a checkpoint")
    runtime: Positive | None = Field(default=None, description="how long one run lasts at most")


class Expect(Said):
    """The dead man's switch: how long it may be silent before somebody is told; and how much may be unreadable."""

    events: Positive | None = Field(default=None, description="of its source an event at least so often")
    rows: Positive | None = Field(default=None, description="of its own a row at least so often")
    unreadable: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="at most this share of a minute's events could not be read: 0.01 is one in a hundred"
    )


class Sla(Said):
    """How many jobs of a template there are: below `min` more are made, above `max` the oldest are stopped."""

    min: int = Field(default=0, ge=0, le=100)
    max: int = Field(default=100, ge=1, le=1_000)
    restart: Literal["on_failure", "never"] = "on_failure"
    params: Mapping[str, Any] = Field(default_factory=dict, description="of those that are made to keep the minimum")

    @model_validator(mode="after")
    def holds(self) -> Sla:
        if self.min > self.max:
            raise ValueError("min is more than max")
        return self


class KeepLetters(Said):
    """How long a job's dead letters are kept, and how many bytes of each kind, and of each sink's."""

    age: Annotated[Seconds, Field(ge=60)] = 7 * 86_400.0
    bytes: Annotated[Bytes, Field(ge=1 << 20, le=1 << 40)] = 64 << 20

    @property
    def keep(self) -> Keep:
        return Keep(self.age, self.bytes, segment_bytes=min(SEGMENT_BYTES, self.bytes // 4))
