"""What Prometheus is told: the server's own numbers, and the queries' as the engine tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from mql.exec.engine import Running
from mql.exec.family import Member
from mql.exec.frames import Ended, Failed, Frame, Gap, Meta, Phase, Progress, RowsFrame, Seal, Warn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
QUERIES_MAX = 500  # more are told together only: a label's values must not grow without a bound
SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)


EVENTS: Mapping[type[Frame], str] = {
    Meta: "meta",
    RowsFrame: "rows",
    Progress: "progress",
    Seal: "seal",
    Phase: "phase",
    Gap: "gap",
    Warn: "warn",
    Failed: "error",
    Ended: "end",
}


class Metrics:
    """One server's numbers, in a registry of their own."""

    def __init__(self, queries: Callable[[], Sequence[Running]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = self.counter("mql_http_requests", "Requests answered", "method", "route", "status")
        self.seconds = Histogram(
            "mql_http_request_seconds",
            "Time to the end of an answer; streams are left out",
            ("route",),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.readers = Gauge("mql_readers", "Streams being read", ("format",), registry=self.registry)
        self.frames = self.counter("mql_stream_frames", "Frames sent to readers", "event")
        self.frames_of = {kind: self.frames.labels(name) for kind, name in EVENTS.items()}
        self.rows = self.counter("mql_stream_rows", "Rows sent to readers")
        self.missed = self.counter("mql_stream_missed_rows", "Rows that slow readers missed, as told in gaps")
        self.sent = self.counter("mql_stream_bytes", "Bytes sent to readers, as compressed")
        self.cut = self.counter("mql_stream_cut", "Streams broken off by the server", "why")
        self.events = self.counter("mql_ingested_events", "Events taken in over HTTP", "source")
        self.refused = self.counter("mql_refused", "Requests refused by a limit or a check", "code")
        self.lag = Gauge("mql_loop_delay_seconds", "How late the event loop is", registry=self.registry)
        self.registry.register(Queries(queries))
        self.jobs: Callable[[], Sequence[tuple[str, Mapping[str, Any]]]] = tuple
        self.registry.register(JobNumbers(lambda: self.jobs()))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def count(self, frames: Iterable[tuple[str | None, Frame]]) -> None:
        """Counts frames that go out to one reader, all of a flush at once: this runs for each reader."""
        kinds: dict[type[Frame], int] = {}
        rows = 0
        for _, frame in frames:
            kinds[type(frame)] = kinds.get(type(frame), 0) + 1
            if isinstance(frame, RowsFrame):
                rows += frame.table.num_rows
            elif isinstance(frame, Gap):
                self.missed.inc(number(frame.data.get("rows")) or 0)
        for kind, count in kinds.items():
            self.frames_of[kind].inc(count)
        self.rows.inc(rows)

    def text(self) -> bytes:
        return generate_latest(self.registry)


PER_QUERY = (
    ("rate", "mql_query_rate", "Events a second that the query reads"),
    ("lag_ms", "mql_query_lag_milliseconds", "How far the query is behind its source"),
    ("readers", "mql_query_readers", "Readers of the query"),
    ("rows", "mql_query_rows", "Rows that the query has given"),
    ("dropped", "mql_query_dropped", "Events or rows that were dropped"),
)


class Queries(Collector):
    """The running queries' numbers, asked of the engine when Prometheus asks."""

    def __init__(self, queries: Callable[[], Sequence[Running]]) -> None:
        self.queries = queries

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        running = self.queries()
        states: dict[str, int] = {}
        told = {key: GaugeMetricFamily(name, text, labels=("query",)) for key, name, text in PER_QUERY}
        events = CounterMetricFamily("mql_query_events", "What became of the query's events", labels=("query", "class"))
        for at, query in enumerate(running):
            status = query.status()
            state = str(status.get("state"))
            states[state] = states.get(state, 0) + 1
            if at < QUERIES_MAX:
                add_status(told, query.id, status)
                for kind, count in query.ledger().items():
                    events.add_metric((query.id, kind), count)
        yield from detectors_of(running)
        totals = GaugeMetricFamily("mql_queries", "Queries by state", labels=("state",))
        for state, count in states.items():
            totals.add_metric((state,), count)
        yield totals
        yield from told.values()
        yield events
        yield from sharing_of(running)


def sharing_of(running: Sequence[Running]) -> Iterator[Metric]:
    """How many queries run by plans that they share, since they differ in literals only."""
    members = [query.execution for query in running if isinstance(query.execution, Member) and not query.execution.over]
    shared = GaugeMetricFamily("mql_shared_queries", "Queries that share a plan with others, each with its literals")
    shared.add_metric((), len(members))
    plans = GaugeMetricFamily("mql_shared_plans", "Plans that they share")
    plans.add_metric((), len({id(member.family) for member in members}))
    yield shared
    yield plans


PER_DETECTOR = (
    ("keys", "mql_detector_keys", "Groups that the detector of the query's ANOMALY clause remembers"),
    ("warming", "mql_detector_warming_keys", "Groups that are watched in silence still"),
    ("open", "mql_detector_open_episodes", "Groups in an open episode"),
)
COUNTED_PER_DETECTOR = (
    ("evicted", "mql_detector_evicted_keys", "Groups forgotten: not seen for long, or too many"),
    ("late", "mql_detector_late_rows", "Rows of windows that came after later ones had been judged"),
    ("suppressed", "mql_detector_suppressed_alerts", "Alerts that LIMIT held back"),
)


def detectors_of(running: Sequence[Running]) -> Iterator[Metric]:
    """The numbers of detectors, of queries that have one."""
    told: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        key: GaugeMetricFamily(name, text, labels=("query",)) for key, name, text in PER_DETECTOR
    }
    told |= {key: CounterMetricFamily(name, text, labels=("query",)) for key, name, text in COUNTED_PER_DETECTOR}
    for query in running[:QUERIES_MAX]:
        for key, count in query.detector().items():
            told[key].add_metric((query.id,), count)
    yield from told.values()


PER_JOB = (
    ("freshness_s", "mql_job_freshness_seconds", "How old the event time is up to which the job's rows are whole"),
    ("rows", "mql_job_rows", "Rows that the job has told"),
    ("log_bytes", "mql_job_log_bytes", "What its results take on disk"),
    ("readers", "mql_job_readers", "Readers of its results"),
    ("silent", "mql_job_silent", "1 where what was expected of the job, or of its source, does not come"),
    ("dead_letters", "mql_job_dead_letters", "Dead letters of the job that nobody has sent again or let go of"),
    ("behind", "mql_job_sinks_behind_rows", "Rows that the job's sinks have still to take"),
    ("trouble", "mql_job_trouble", "1 where less comes of it than was to be expected, or a sink cannot send"),
)


class JobNumbers(Collector):
    """The jobs' numbers, asked for when Prometheus asks."""

    def __init__(self, jobs: Callable[[], Sequence[tuple[str, Mapping[str, Any]]]]) -> None:
        self.jobs = jobs

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        told = {key: GaugeMetricFamily(name, text, labels=("job",)) for key, name, text in PER_JOB}
        states: dict[str, int] = {}
        for at, (name, numbers) in enumerate(self.jobs()):
            state = str(numbers["state"])
            states[state] = states.get(state, 0) + 1
            for key, family in told.items() if at < QUERIES_MAX else ():
                is_sign = key in ("silent", "trouble")
                value = float(numbers[key] is not None) if is_sign else number(numbers[key])
                if value is not None:
                    family.add_metric((name,), value)
        totals = GaugeMetricFamily("mql_jobs", "Jobs by state", labels=("state",))
        for state, count in states.items():
            totals.add_metric((state,), count)
        yield totals
        yield from told.values()


def add_status(told: Mapping[str, GaugeMetricFamily], query: str, status: Mapping[str, Any]) -> None:
    for key, family in told.items():
        value = number(status.get(key))
        if value is not None:
            family.add_metric((query,), value)


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
