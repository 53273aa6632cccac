"""The table of sinks: what may be said of each kind, and how it is made.

    sinks:
      - {kind: pagerduty, key_env: MQL_PAGERDUTY_ONCALL, severity: critical, summary: "{service}: {reason}"}
      - {kind: kafka, source: orders, topic: failing-orders, when: "errors > 10"}
      - {kind: parquet, path: failing-orders}

`when` chooses: `always` every row, `anomaly` the episodes of the ANOMALY clause, else a condition over the row.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mql.errors import MqlError
from mql.exec.clock import Clock
from mql.exec.conditions import Condition, check_condition
from mql.exec.engine import Engine
from server.deadletters import DeadLog, DeadLogs
from server.delivery import Delivery
from server.outline import Outline
from server.resultlog import ResultLog
from server.seats import Seat
from server.settings import Bytes, Seconds, Settings
from server.wording import check_names, names_in
from sources.formats.source import origin_of
from sources.sinks.contract import Sink

ALWAYS, ANOMALY = "always", "anomaly"
URL = r"^[A-Za-z]+://[!-~]+$"
NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
PATH = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,5}$"
TOPIC = r"^[A-Za-z0-9._-]{1,249}$"
LABELS_MAX = 30


def is_text(text: str) -> str:
    """Its braces match."""
    try:
        tuple(names_in(text))
    except MqlError as error:
        raise ValueError(f"{error.message}. {error.hint}") from None
    return text


def is_choice(text: str) -> str:
    if text in (ALWAYS, ANOMALY):
        return text
    try:
        check_condition(text)
    except MqlError as error:
        raise ValueError(f"no condition: {error.message}. {error.hint or ''}".strip()) from None
    return text


def variable(prefix: str) -> Any:
    """The name of a variable of the server's environment. The prefix keeps others out of reach."""
    return Field(default=None, pattern=f"^{prefix}[A-Z0-9_]{{1,60}}$", description=f"the variable's name: {prefix}…")


Url = Annotated[str, Field(min_length=8, max_length=2_000, pattern=URL)]
When = Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(is_choice)]
Wordy = Annotated[str, Field(max_length=1_000), AfterValidator(is_text)]
Texts = Annotated[dict[Annotated[str, Field(pattern=NAME)], Wordy], Field(max_length=LABELS_MAX)]
PerMinute = Annotated[float, Field(gt=0, le=60_000)]
Severity = Literal["critical", "error", "warning", "info"]
Columns = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=16)]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a sink is made: for which job, as which of its sinks, and what the operator allows.

    `id` is the same whoever writes for this job, and no other job's.
    """

    job: str
    at: int
    id: str
    home: Path
    outline: Outline
    engine: Engine
    settings: Settings
    clock: Clock
    closing: threading.Event
    letters: DeadLog
    """What it refuses for good."""
    silenced: Callable[[pa.Table], pa.Table]
    """The rows with the column that tells which silence each is under."""
    silence: Callable[[], str | None]
    """What was expected of the job and does not come."""

    @property
    def link(self) -> str:
        server = self.settings.server
        base = server.url or f"http://{server.host}:{server.port}"
        return f"{base.rstrip('/')}/v1/jobs/{self.job}"

    def condition(self, text: str) -> Condition:
        columns = tuple(self.outline.names.items())
        return Condition(text, columns, self.engine.session())


class SinkModel(BaseModel):
    """What all sinks have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    when: When = ALWAYS

    alerts_only: ClassVar[bool] = False
    """It tells alerts, and cannot take rows."""
    aims: ClassVar[tuple[str, ...]] = ()
    """What says where it writes to; all else may change without its beginning anew."""

    @property
    def target(self) -> tuple[Any, ...]:
        return (self.kind, self.tells_alerts, *(getattr(self, name) for name in self.aims))

    @property
    def tells_alerts(self) -> bool:
        return self.alerts_only

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        """MqlError for what could never work, beyond what can be seen without the job."""

    def build(self, site: Site) -> Sink:
        raise NotImplementedError


class Alerting(SinkModel):
    """How alerts are worded, where a sink tells alerts."""

    severity: Severity = "critical"
    summary: Wordy | None = Field(default=None, description="a text with {columns} in it")
    labels: Texts | None = Field(default=None, description="the texts among the columns, where left out")
    annotations: Texts = Field(default_factory=dict)
    per_minute: PerMinute | None = Field(default=None, description="at most so many bodies a minute")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        known = {**outline.names, "job": "VARCHAR"}
        texts = [*(self.labels or {}).values(), *self.annotations.values(), self.summary or ""]
        for text in texts:
            check_names(text, known)

    def courier(self, site: Site, per_minute: float | None = None) -> Any:
        from server.webhook import Courier, reach_of

        rate = self.per_minute or per_minute
        bury = site.letters.bury_text
        return Courier(site.id, reach_of(site.settings), site.home, site.clock, site.closing, rate, bury)

    def alerts(self, site: Site, messenger: Any) -> Sink:
        from server.alerts import AlertSink, Wording

        wording = Wording(
            site.job,
            site.link,
            self.severity,
            self.summary,
            self.labels,
            self.annotations,
            frozenset(name for name, type in site.outline.columns if type == "JSON"),
        )
        condition = None if self.when == ANOMALY else site.condition(self.when)
        return AlertSink(
            wording, messenger, site.home / "alerts.json", site.clock, site.silenced, condition, site.id, site.silence
        )

    def check_url(self, url: str, settings: Settings) -> None:
        from server.webhook import Target, check_target, reach_of

        check_target(Target(url), reach_of(settings))


class WebhookModel(Alerting):
    """Rows, or alerts, as JSON to an address, signed with a secret of the server's environment."""

    kind: Literal["webhook"]
    url: Url
    secret_env: str | None = variable("MQL_WEBHOOK_")

    aims = ("url",)

    @property
    def tells_alerts(self) -> bool:
        return self.when == ANOMALY

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        super().check(outline, settings, engine)
        self.check_url(self.url, settings)
        said_by(self.secret_env)

    def build(self, site: Site) -> Sink:
        from server.messengers import ByLetter, as_webhook
        from server.webhook import Target, WebhookSink

        secret = said_by(self.secret_env)
        courier = self.courier(site)
        if not self.tells_alerts:
            return WebhookSink(site.job, Target(self.url, secret), courier)
        write = as_webhook(self.url, secret)
        return self.alerts(site, ByLetter(courier, write, {"url": self.url}, whole_frames=True))


class AlertmanagerModel(Alerting):
    """Alerts to Prometheus' Alertmanager, by its second API; `url` is where it is, without the path."""

    kind: Literal["alertmanager"]
    when: When = ANOMALY
    url: Url
    authorization_env: str | None = variable("MQL_WEBHOOK_")
    repeat: Annotated[Seconds, Field(ge=1, le=3_600)] = 60.0

    alerts_only = True
    aims = ("url",)

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        super().check(outline, settings, engine)
        self.check_url(self.url, settings)
        said_by(self.authorization_env)

    def build(self, site: Site) -> Sink:
        from server.messengers import Alertmanager

        secret = said_by(self.authorization_env)
        headers = {} if secret is None else {"Authorization": secret}
        return self.alerts(site, Alertmanager(self.courier(site), self.url, headers, site.clock, self.repeat))


class SlackModel(Alerting):
    """Alerts to a Slack channel, by an incoming webhook; those that come together are one message."""

    kind: Literal["slack"]
    when: When = ANOMALY
    url: Url | None = None
    url_env: str | None = variable("MQL_WEBHOOK_")

    alerts_only = True
    aims = ("url", "url_env")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        super().check(outline, settings, engine)
        if (self.url is None) == (self.url_env is None):
            raise MqlError("slack needs a url or a url_env", hint="Say one of both.", code="invalid-sink")
        self.check_url(self._where(), settings)

    def build(self, site: Site) -> Sink:
        from server.messengers import ByLetter, as_slack

        url = self._where()
        host = url.split("/")[2]
        return self.alerts(site, ByLetter(self.courier(site, 60), as_slack(url), {"host": host}))

    def _where(self) -> str:
        return self.url or said_by(self.url_env) or ""


class PagerDutyModel(Alerting):
    """Alerts to PagerDuty, by its Events API version 2; the routing key is in the server's environment."""

    kind: Literal["pagerduty"]
    when: When = ANOMALY
    key_env: Annotated[str, Field(pattern=r"^MQL_PAGERDUTY_[A-Z0-9_]{1,60}$")]
    url: Url = "https://events.pagerduty.com/v2/enqueue"

    alerts_only = True
    aims = ("url", "key_env")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        super().check(outline, settings, engine)
        self.check_url(self.url, settings)
        said_by(self.key_env)

    def build(self, site: Site) -> Sink:
        from server.messengers import ByLetter, as_pagerduty

        write = as_pagerduty(self.url, said_by(self.key_env) or "")
        return self.alerts(site, ByLetter(self.courier(site, 120), write, {"url": self.url}))


class StdoutModel(Alerting):
    """Rows as JSON, or alerts as sentences, on the server's standard output."""

    kind: Literal["stdout"]

    @property
    def tells_alerts(self) -> bool:
        return self.when == ANOMALY

    def build(self, site: Site) -> Sink:
        from server.messengers import RowsSaid, Said

        return self.alerts(site, Said()) if self.tells_alerts else RowsSaid(site.job, site.home / "sent")


class KafkaModel(SinkModel):
    """Rows as JSON messages, each once for readers of what is committed.

    `source`: a declared Kafka source, whose brokers and credentials are used; else `brokers` that the operator allows.
    """

    kind: Literal["kafka"]
    topic: Annotated[str, Field(pattern=TOPIC)]
    source: str | None = Field(default=None, max_length=128)
    brokers: str | None = Field(default=None, max_length=1_000)
    key: str | None = Field(default=None, max_length=256, description="the column that is a message's key")
    tombstones: bool = Field(default=False, description="a row that deletes is a message without a value")
    compression: Literal["none", "gzip"] = "none"

    aims = ("source", "brokers", "topic")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        self._connection(settings, engine)
        check_columns([self.key] if self.key else [], outline)

    def build(self, site: Site) -> Sink:
        from server.messengers import texts_of
        from sources.sinks.kafka import KafkaSink, KafkaTarget

        compression = None if self.compression == "none" else self.compression
        target = KafkaTarget(self.topic, self.key, self.tombstones, compression)
        kafka = self._connection(site.settings, site.engine)
        site.home.mkdir(parents=True, exist_ok=True)
        return KafkaSink(kafka, target, f"mql-{site.job}-{site.id}", texts_of, site.home / "place")

    def _connection(self, settings: Settings, engine: Engine) -> Any:
        from sources.kafka.settings import KafkaSettings
        from sources.kafka.source import KafkaSource

        if (self.source is None) == (self.brokers is None):
            raise MqlError("kafka needs a source or brokers", hint="Say one of both.", code="invalid-sink")
        if self.brokers is not None:
            if self.brokers not in settings.server.sinks.kafka:
                hint = "The operator allows them by server.sinks.kafka in mql.yaml; or say source: a declared source."
                raise MqlError(f'rows are not sent to "{self.brokers[:80]}"', hint=hint, code="invalid-sink")
            return KafkaSettings(self.brokers, self.topic)
        source = origin_of(engine.source(self.source or ""))
        if not isinstance(source, KafkaSource):
            raise MqlError(f'source "{self.source}" is no Kafka source', hint="Name one that is.", code="invalid-sink")
        return source.kafka


class ParquetModel(SinkModel):
    """Rows as Parquet files below the server's directory for sinks, by hour; each row once."""

    kind: Literal["parquet"]
    path: Annotated[str, Field(pattern=PATH)]
    by: Literal["hour", "day", "none"] = "hour"
    time: str | None = Field(default=None, max_length=256, description="the column that decides the hour")
    roll_bytes: Annotated[Bytes, Field(ge=1 << 10)] = 128 << 20
    roll_every: Annotated[Seconds, Field(ge=0.05, le=86_400)] = 60.0
    compression: Literal["zstd", "snappy", "none"] = "zstd"

    aims = ("path",)

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        check_columns([self.time] if self.time else [], outline)
        if self.time is not None and outline.names[self.time] != "TIMESTAMP":
            hint = "Name a column with moments, such as window_start."
            raise MqlError(f'column "{self.time}" is no TIMESTAMP', hint=hint, code="invalid-sink")

    def build(self, site: Site) -> Sink:
        from sources.sinks.parquet import Layout, ParquetSink

        layout = Layout(self.by, self.time, self.roll_bytes, self.roll_every, self.compression)
        name = f"{site.job}-{site.id}"
        return ParquetSink(below(site.settings, self.path), name, layout, site.home / "place.json", site.clock)


class DuckDbModel(SinkModel):
    """Rows into a table of a DuckDB file below the server's directory for sinks; each row once, by key in place."""

    kind: Literal["duckdb"]
    path: Annotated[str, Field(pattern=PATH)]
    table: Annotated[str, Field(pattern=NAME)]
    key: Columns = ()

    aims = ("path", "table", "key")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        check_columns(self.key, outline)

    def build(self, site: Site) -> Sink:
        from sources.sinks.duck import DuckSink, DuckTarget

        return DuckSink(below(site.settings, self.path), DuckTarget(self.table, self.key), f"{site.job}-{site.id}")


class PostgresModel(SinkModel):
    """Rows into a table of PostgreSQL; each row once, by key in place. The URL is in the server's environment."""

    kind: Literal["postgres"]
    url_env: Annotated[str, Field(pattern=r"^MQL_POSTGRES_[A-Z0-9_]{1,60}$")]
    table: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$")]
    key: Columns = ()

    aims = ("url_env", "table", "key")

    def check(self, outline: Outline, settings: Settings, engine: Engine) -> None:
        check_columns(self.key, outline)
        url = said_by(self.url_env) or ""
        if not re.match(r"^postgresql(\+psycopg)?://", url):
            hint = "Write it as postgresql://user:password@host/database."
            raise MqlError(f"{self.url_env} holds no address of PostgreSQL", hint=hint, code="invalid-sink")

    def build(self, site: Site) -> Sink:
        from sources.sinks.postgres import PostgresSink, PostgresTarget

        url = re.sub(r"^postgresql(\+psycopg)?://", "postgresql+psycopg://", said_by(self.url_env) or "")
        return PostgresSink(url, PostgresTarget(self.table, self.key), f"{site.job}-{site.id}")


AnySink = Annotated[
    WebhookModel
    | AlertmanagerModel
    | SlackModel
    | PagerDutyModel
    | StdoutModel
    | KafkaModel
    | ParquetModel
    | DuckDbModel
    | PostgresModel,
    Field(discriminator="kind"),
]
KINDS: Mapping[str, type[SinkModel]] = {
    "webhook": WebhookModel,
    "alertmanager": AlertmanagerModel,
    "slack": SlackModel,
    "pagerduty": PagerDutyModel,
    "stdout": StdoutModel,
    "kafka": KafkaModel,
    "parquet": ParquetModel,
    "duckdb": DuckDbModel,
    "postgres": PostgresModel,
}
"""The table that names the sinks."""


# --- what they share -----------------------------------------------------------------------------------------


def said_by(name: str | None) -> str | None:
    """What a variable of the environment says. MqlError where it is not there: nothing is sent unsigned by accident."""
    if name is None:
        return None
    value = os.environ.get(name)
    if not value:
        hint = "The operator sets it before the server starts."
        raise MqlError(f"the server has no {name} in its environment", hint=hint, code="invalid-sink")
    return value


def below(settings: Settings, path: str) -> Path:
    """A path in the server's directory for sinks; nothing outside of it can be named, by a link neither."""
    root = settings.base_dir / (settings.server.sinks.directory or settings.data_dir / "sinks")
    found = (root / path).resolve()
    if not found.is_relative_to(root.resolve()):
        raise MqlError(f'"{path}" leads out of the directory for sinks', code="invalid-sink")
    return found


def check_columns(names: Any, outline: Outline) -> None:
    for name in names:
        check_names(f"{{{name}}}", outline.names)


def check_sinks(sinks: tuple[Any, ...], outline: Outline, settings: Settings, engine: Engine) -> None:
    """MqlError for the first sink that could never work, with its number."""
    for at, sink in enumerate(sinks):
        try:
            check_when(sink, outline, engine)
            if sink.kind not in settings.server.sinks.kinds:
                hint = "The operator allows it by server.sinks.kinds in mql.yaml."
                raise MqlError(f'sinks of the kind "{sink.kind}" are not allowed here', hint=hint)
            sink.check(outline, settings, engine)
        except MqlError as error:
            raise MqlError(f"sinks[{at}]: {error.message}", hint=error.hint, code="invalid-sink") from None


def check_when(sink: SinkModel, outline: Outline, engine: Engine) -> None:
    if sink.when == ALWAYS:
        if sink.alerts_only:
            hint = "Say when: anomaly, or a condition such as when: errors > 10."
            raise MqlError(f"{sink.kind} is told alerts, not rows", hint=hint)
        return
    if sink.when != ANOMALY:
        Condition(sink.when, tuple(outline.names.items()), engine.session())
        return
    if outline.episodes is None:
        hint = "Add ANOMALY to the query, or say a condition such as when: errors > 10."
        raise MqlError("the query has no ANOMALY clause", hint=hint)
    if outline.episodes == "anomalies":
        hint = "Say EMIT EPISODES (or leave EMIT out)."
        raise MqlError("EMIT ANOMALIES never tells that an episode is over", hint=hint)
    for name in ("episode", "phase"):
        if not {name, f"anomaly_{name}"} & set(outline.names):
            raise MqlError(f'the rows have no column "{name}"', hint="Do not give it another name in SELECT.")


def deliveries(
    sinks: tuple[Any, ...],
    seats: Sequence[Seat],
    kept: Mapping[int, Delivery],
    job: str,
    results: ResultLog,
    home: Path,
    outline: Outline,
    engine: Engine,
    settings: Settings,
    clock: Clock,
    dead: DeadLogs,
    say: Callable[[str, str], None],
    silenced: Callable[[pa.Table], pa.Table],
    silence: Callable[[], str | None],
) -> Iterator[Delivery]:
    """A job's sinks, each with what drives it: `kept` by their seats, the others not started yet."""
    for seat, sink in zip(seats, sinks, strict=True):
        at = seat.number
        if at in kept:
            yield kept[at]
            continue
        closing = threading.Event()
        there = home / str(at)
        letters = dead.of_sink(str(at))
        calls = (closing, letters, silenced, silence)
        site = Site(job, at, f"{results.id}-{at}", there, outline, engine, settings, clock, *calls)
        about = {"kind": sink.kind} | ({} if sink.when == ALWAYS else {"when": sink.when})
        chooses = not sink.tells_alerts and sink.when != ALWAYS
        only = choice(sink.when, site) if chooses else None
        yield Delivery(job, results, sink.build(site), about, closing, say, letters, only, seat)


def choice(when: str, site: Site) -> Condition:
    """Rows of episodes, or those for which a condition is true."""
    if when != ANOMALY:
        return site.condition(when)
    name = "episode" if "episode" in site.outline.names else "anomaly_episode"
    return site.condition(f"`{name}` IS NOT NULL")
