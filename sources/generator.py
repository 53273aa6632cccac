"""The source `requests` of demonstrations and tests: a service's request events, with a day's rhythm and incidents.

Deterministic (see synthetic.py). An incident is a time in which the requests of one country from one type of device
fail and are slow; `incidents_between` tells them, so that a test or a tutorial knows what is to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mql.catalog import TimeRule
from mql.exec.clock import Clock
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape, StructOf
from sources.settings import DEFAULTS, Settings
from sources.synthetic import Curve, Hashes, Numbers, SyntheticSource, begin_us, below, mixed, unit, zipf

COUNTRIES = ("US", "BR", "IN", "GB", "DE", "MX", "FR", "JP", "CA", "KR", "ES", "IT", "AU", "NL", "PL", "SE")
DEVICES = ("tv", "phone", "web", "tablet", "console")
SERVICES = (
    ("api", ("/play", "/browse", "/search", "/title")),
    ("auth", ("/login", "/token", "/logout")),
    ("playback", ("/manifest", "/license", "/segment", "/heartbeat")),
    ("billing", ("/invoice", "/plan")),
    ("search", ("/query", "/suggest")),
)
ERRORS = ("upstream timeout", "connection reset", "internal error", "overloaded")
NODES = 40
USERS = 100_000
TITLES = 2_000
DISORDER_SHARE = 0.05  # of the events are late by up to DISORDER_US: less than the lateness of a source
DISORDER_US = 3_000_000
INCIDENT_EVERY_US = 300_000_000
INCIDENT_LEAST_US = 60_000_000
INCIDENT_MOST_US = 120_000_000
INCIDENT_FAILING = 0.6
INCIDENT_SLOWER = 6.0

SHAPE = Shape(
    (
        Field("ts", BIGINT, 1.0),
        Field("service", VARCHAR, 1.0, "api"),
        Field("node", VARCHAR, 1.0, "node-07"),
        Field("path", VARCHAR, 1.0, "/play"),
        Field("status", BIGINT, 1.0, "200"),
        Field("latency_ms", DOUBLE, 1.0, "41.7"),
        Field("bytes", BIGINT, 1.0, "5120"),
        Field("country", VARCHAR, 1.0, "US"),
        Field("device", StructOf((("id", VARCHAR), ("type", VARCHAR))), 1.0),
        Field("user_id", VARCHAR, 1.0, "u-42"),
        Field("title", VARCHAR, 1.0, "t-17"),
        Field("error", VARCHAR, 0.02, "upstream timeout"),
    )
)


class GeneratorSource(SyntheticSource):
    """Requests at `rate` a second on average, each about 250 bytes of JSON. `events`: ends after so many. `incidents`:
    now and then something goes wrong."""

    def __init__(
        self,
        name: str = "requests",
        *,
        rate: float = 1_000,
        splits: int = 2,
        seed: int = 1,
        rhythm: float = 0.4,
        incidents: bool = True,
        events: int | None = None,
        start_us: int | None = None,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        curve = Curve(rate, rhythm, begin_us(start_us, events))
        model = Requests(seed, incidents)
        super().__init__(name, model, curve, splits=splits, events=events, settings=settings, clock=clock)
        self.seed = seed
        self.has_incidents = incidents

    def incidents_between(self, since_us: int, until_us: int) -> Sequence[Incident]:
        """What goes wrong in that time."""
        return incidents_between(since_us, until_us, self.seed) if self.has_incidents else ()


@dataclass(frozen=True, slots=True)
class Incident:
    """From `start_us` to `end_us`, 60 % of the requests from this country and type of device get a 503, slowly."""

    start_us: int
    end_us: int
    country: str
    device: str


def incidents_between(since_us: int, until_us: int, seed: int = 1) -> tuple[Incident, ...]:
    """The incidents that touch `[since_us, until_us)`: one in every five minutes, each of one to two minutes."""
    first, last = since_us // INCIDENT_EVERY_US, (until_us - 1) // INCIDENT_EVERY_US
    slots = np.arange(first, last + 1, dtype=np.int64)
    starts, ends, countries, devices = schedule(slots, seed)
    found = [
        Incident(int(start), int(end), COUNTRIES[country], DEVICES[device])
        for start, end, country, device in zip(starts, ends, countries, devices, strict=True)
    ]
    return tuple(one for one in found if one.end_us > since_us and one.start_us < until_us)


def schedule(slots: Numbers, seed: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Start, end, country and device of the incident in each five minutes' slot. It never leaves its slot."""
    lengths = INCIDENT_LEAST_US + below(mixed(slots, seed, 101), INCIDENT_MOST_US - INCIDENT_LEAST_US)
    starts = slots * INCIDENT_EVERY_US + below(mixed(slots, seed, 102), INCIDENT_EVERY_US - INCIDENT_MOST_US)
    return starts, starts + lengths, below(mixed(slots, seed, 103), 6), below(mixed(slots, seed, 104), 3)


class Requests:
    """What the requests say."""

    kind = "generator"
    shape = SHAPE
    time = TimeRule(("ts",), "ms")
    bytes_per_event = 260

    def __init__(self, seed: int, incidents: bool = True) -> None:
        self.seed = seed
        self.incidents = incidents

    def keep(self, numbers: Numbers) -> Numbers:
        return numbers

    def texts(self, numbers: Numbers, times_us: Numbers) -> pa.Array:
        stamps = self.stamps(numbers, times_us)
        country = COUNTRY_TABLE[(mixed(numbers, self.seed, 1) >> np.uint64(52)).astype(np.int64)]
        user = zipf(mixed(numbers, self.seed, 2), USERS)
        device_type = DEVICE_TABLE[(mixed(user, self.seed, 3) >> np.uint64(58)).astype(np.int64)]
        route = ROUTE_TABLE[(mixed(numbers, self.seed, 4) >> np.uint64(54)).astype(np.int64)]
        node = below(mixed(numbers, self.seed, 5), NODES)
        title = zipf(mixed(numbers, self.seed, 6), TITLES)
        hit = self.is_hit(stamps, country, device_type)
        status = self.status(numbers, hit)
        latency = self.latency(mixed(numbers, self.seed, 8), hit)
        size = 200 + below(mixed(numbers, self.seed, 9), 20_000)
        error = np.where(status >= 500, 1 + below(mixed(numbers, self.seed, 10), len(ERRORS)), 0)
        return pc.binary_join_element_wise(
            '{"ts":',
            text(stamps // 1000),
            taken(ROUTES, route),
            taken(NODE_TEXTS, node),
            ',"status":',
            text(status),
            ',"latency_ms":',
            text(latency // 10),
            ".",
            text(latency % 10),
            ',"bytes":',
            text(size),
            taken(COUNTRY_TEXTS, country),
            ',"device":{"id":"d-',
            text(user),
            taken(DEVICE_TEXTS, device_type),
            text(user),
            '","title":"t-',
            text(title),
            taken(ERROR_TEXTS, error),
            "",
        )

    def stamps(self, numbers: Numbers, times_us: Numbers) -> Numbers:
        """Event times: a few events come out after others that happened later."""
        bits = mixed(numbers, self.seed, 11)
        delays = below(mixed(numbers, self.seed, 12), DISORDER_US)
        return np.where(unit(bits) < DISORDER_SHARE, times_us - delays, times_us)

    def is_hit(self, stamps: Numbers, country: Numbers, device: Numbers) -> npt.NDArray[np.bool_]:
        """Whether an incident strikes the event."""
        if not self.incidents:
            return np.zeros(len(stamps), np.bool_)
        slots = stamps // INCIDENT_EVERY_US
        first = int(slots.min())
        table = schedule(np.arange(first, int(slots.max()) + 1, dtype=np.int64), self.seed)
        starts, ends, countries, devices = (column[slots - first] for column in table)
        hit: npt.NDArray[np.bool_] = (stamps >= starts) & (stamps < ends) & (country == countries) & (device == devices)
        return hit

    def status(self, numbers: Numbers, hit: npt.NDArray[np.bool_]) -> Numbers:
        chance = unit(mixed(numbers, self.seed, 7))
        usual = np.select([chance < 0.94, chance < 0.97, chance < 0.985, chance < 0.995], [200, 304, 404, 429], 500)
        return np.where(hit & (chance < INCIDENT_FAILING), 503, usual)

    def latency(self, bits: Hashes, hit: npt.NDArray[np.bool_]) -> Numbers:
        """In tenths of a millisecond; log-normal about 40 ms."""
        usual = LATENCIES[(bits >> np.uint64(52)).astype(np.int64)]
        found: Numbers = np.where(hit, usual * INCIDENT_SLOWER, usual).astype(np.int64)
        return found


def text(numbers: Numbers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def taken(texts: pa.Array, at: Numbers) -> pa.Array:
    return texts.take(pa.array(at))


def shares(n: int, size: int) -> Numbers:
    """A table of `size` places in which rank r of n takes about 1 / (r + 1) of the room."""
    weights = 1 / np.arange(1, n + 1)
    bounds = np.cumsum(weights) / weights.sum()
    return np.searchsorted(bounds, (np.arange(size) + 0.5) / size).astype(np.int64)


def quantiles_of_latency(size: int) -> Numbers:
    """Log-normal, median 40 ms, in tenths of a millisecond: the sum of twelve uniforms stands for the normal."""
    normal = unit(np.stack([mixed(np.arange(size), 7, 200 + at) for at in range(12)])).sum(axis=0) - 6
    latencies: Numbers = np.round(400 * np.exp(0.6 * normal)).astype(np.int64)
    return latencies


COUNTRY_TABLE = shares(len(COUNTRIES), 4096)
DEVICE_TABLE = shares(len(DEVICES), 64)
ROUTE_PARTS = tuple((service, path) for service, paths in SERVICES for path in paths)
ROUTE_TABLE = shares(len(ROUTE_PARTS), 1024)
LATENCIES = quantiles_of_latency(4096)
ROUTES = pa.array([f',"service":"{service}","path":"{path}"' for service, path in ROUTE_PARTS])
NODE_TEXTS = pa.array([f',"node":"node-{node:02d}"' for node in range(NODES)])
COUNTRY_TEXTS = pa.array([f',"country":"{country}"' for country in COUNTRIES])
DEVICE_TEXTS = pa.array([f'","type":"{device}"}},"user_id":"u-' for device in DEVICES])
ERROR_TEXTS = pa.array(['"}'] + [f'","error":"{error}"}}' for error in ERRORS])
