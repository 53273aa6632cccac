"""Alerts: what opens and closes while a job runs, each told once when it opens and once when it is over.

A job with ANOMALY tells its episodes by itself: `episode` is the alert's name and `phase` says what becomes of it. A
job without gives a condition: an alert opens with the first row of its kind for which that is true, and is over with
the first for which it is not; rows are of one kind where their labels are equal. What is silenced opens no alert.

Which alerts are open, which were lately over and how far the log was read are one file. So a restart, and rows that
come again, tell nothing twice; only what was under way when the server was killed is sent again, by the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.clock import Clock
from mql.exec.conditions import Condition
from mql.exec.files import replace_file
from mql.exec.items import MIN_US
from server import encode
from server.silences import SILENCED
from server.wording import filled, shown
from sources.sinks.contract import Portion

CLOSED_MAX = 10_000
OPEN_MAX = 10_000
LABELS_MAX = 30
KEEP_S = 1.0
SILENT = "silent"
LOST_TRACK = "it is not known how it went on: {why}"
SINCE = ("since", "window_start", "event_time", "ts", "time")
UNTIL = ("window_end", "window_start", "event_time", "ts", "time")
CLAUSE_TEXTS = ("direction", "episode", "phase", "method", "reason", SILENCED)
"""Texts of the ANOMALY clause that say how it stands, not what it is about: no labels."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert as it stands. `since` and `until` are RFC 3339; `until` is there once it is over."""

    id: str
    job: str
    severity: str
    summary: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    link: str
    since: str
    until: str | None = None
    why: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "firing" if self.until is None else "resolved"


@dataclass(frozen=True, slots=True)
class Wording:
    """How a job's alerts are worded. `labels` None: the texts among its columns."""

    job: str
    link: str
    severity: str = "critical"
    summary: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    json: frozenset[str] = frozenset()

    def labels_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        if self.labels is not None:
            return {name: filled(text, row) for name, text in self.labels.items()}
        said = {name: value for name, value in row.items() if isinstance(value, str) and self._is_label(name)}
        return {label_name(name): shown(value) for name, value in list(said.items())[:LABELS_MAX]}

    def _is_label(self, name: str) -> bool:
        bare = name.removeprefix("anomaly_")
        return not name.startswith("_") and bare not in (*CLAUSE_TEXTS, *SINCE, *UNTIL) and name not in self.json

    def alert(self, id: str, row: Mapping[str, Any], now: str) -> Alert:
        labels = self.labels_of(row)
        values = {**row, "job": self.job}
        summary = filled(self.summary, values) if self.summary is not None else self._plain(labels, row)
        annotations = {name: filled(text, values) for name, text in self.annotations.items()}
        since = first_moment(row, SINCE) or now
        return Alert(id, self.job, self.severity, summary, labels, annotations, self.link, since, row=row)

    def _plain(self, labels: Mapping[str, str], row: Mapping[str, Any]) -> str:
        about = ", ".join(labels.values())
        why = row.get("reason") or row.get("anomaly_reason")
        return ": ".join(part for part in (self.job, about, shown(why) if why else "") if part)


class Messenger(Protocol):
    """How alerts are told to one system."""

    rows_max: int
    whole_frames: bool

    def open(self) -> None: ...

    def tell(self, alerts: list[Alert]) -> None:
        """These have opened or are over. Closing where it is to end meanwhile: they are told again later."""
        ...

    def tell_once(self, alerts: list[Alert]) -> None:
        """The same, tried once, though it is to end."""
        ...

    def remind(self, alerts: list[Alert]) -> None:
        """These are open still. Called about once a second."""
        ...

    def told(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class AlertSink:
    """A job's alerts to one system. `condition` None: the episodes of its ANOMALY clause.

    `seed` goes into the names of alerts by a condition: no other job's has one so called.
    """

    def __init__(
        self,
        wording: Wording,
        messenger: Messenger,
        book: Path,
        clock: Clock,
        silenced: Callable[[pa.Table], pa.Table],
        condition: Condition | None = None,
        seed: str = "",
        silence: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.rows_max = messenger.rows_max
        self.whole_frames = messenger.whole_frames
        self._wording = wording
        self._messenger = messenger
        self._path = book
        self._clock = clock
        self._silenced = silenced
        self._condition = condition
        self._seed = seed
        self._silence = silence
        self._book = Book()
        self._due_s = 0.0

    def open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._messenger.open()
        self._book = Book.read(self._path)
        return self._book.place

    def write(self, portion: Portion) -> None:
        book = self._book.copy()
        now = self._now()
        turns = self._episodes if self._condition is None else self._by_condition
        alerts = list(turns(book, portion, now))
        if alerts:
            self._messenger.tell(alerts)
        book.place = portion.end
        self._keep(book, bool(alerts))

    def missed(self, why: str) -> None:
        """Whether an open alert is over may have been said in what was missed: so nobody is to wait for it."""
        if not self._book.open:
            return
        book, now = self._book.copy(), self._now()
        reason = LOST_TRACK.format(why=why)
        self._messenger.tell([replace(alert, until=now, why=reason) for alert in book.open.values()])
        for id in tuple(book.open):
            book.over(id)
        book.kinds.clear()
        self._keep(book, True)

    def _keep(self, book: Book, changed: bool) -> None:
        """Where nothing has opened or is over, the place alone is not worth a sync: the rows may be looked at again."""
        self._book = book
        now_s = self._clock.monotonic_s()
        if changed or now_s >= self._due_s:
            self._due_s = now_s + KEEP_S
            book.write(self._path)

    def idle(self) -> None:
        self._watch()
        if self._book.open:
            self._messenger.remind(list(self._book.open.values()))

    def told(self) -> Mapping[str, Any]:
        return {**self._messenger.told(), "open": len(self._book.open)}

    def close(self) -> None:
        self._messenger.close()

    def leave(self, why: str) -> None:
        """It does not come again: nobody else will say that an alert is over. Tried once, while the sink is open."""
        now, why = self._now(), LOST_TRACK.format(why=why)
        over = [replace(alert, until=now, why=why) for alert in self._book.open.values()]
        if over:
            self._messenger.tell_once(over)

    # --- what becomes of them --------------------------------------------------------------------------

    def _episodes(self, book: Book, portion: Portion, now: str) -> Iterator[Alert]:
        for row in rows_in_episodes(portion.rows):
            id = str(row["episode"])
            if row["phase"] == "close":
                yield from book.ended(id, row, now)
            elif book.is_new(id) and row.get(SILENCED) is None:
                yield book.began(self._wording.alert(id, row, now))

    def _by_condition(self, book: Book, portion: Portion, now: str) -> Iterator[Alert]:
        assert self._condition is not None
        if not portion.rows.num_rows:
            return
        truths = self._condition.holds(portion.rows)
        if not (truths.any() or book.kinds):
            return
        ends = ends_of(portion.rows)
        rows = portion.rows if SILENCED in portion.rows.column_names else self._silenced(portion.rows)
        for at, row in enumerate(encode.rows_of(rows)):
            is_silent = row.pop(SILENCED) is not None
            labels = self._wording.labels_of(row)
            kind = digest(self._seed, *sorted(f"{name}={value}" for name, value in labels.items()))
            end_us = ends[at]
            if end_us is not None and book.has_seen(kind, end_us, row.get("_revision") or 0):
                continue
            open_id = book.kinds.get(kind)
            if truths[at] and open_id is None and not is_silent:
                alert = self._wording.alert(digest(kind, str(portion.first + at)), row, now)
                book.kinds[kind] = alert.id
                yield book.began(alert)
            elif not truths[at] and open_id is not None:
                del book.kinds[kind]
                yield from book.ended(open_id, row, now)

    def _watch(self) -> None:
        """Whether the job, or its source, is silent for longer than was expected of it: an alert like any other."""
        why = self._silence()
        open_id = self._book.kinds.get(SILENT)
        if (why is None) == (open_id is None):
            return
        book, now = self._book.copy(), self._now()
        if why is not None:
            wording = self._wording
            id = digest(SILENT, wording.job, now)
            labels = {"job": wording.job}
            alert = Alert(id, wording.job, wording.severity, f"{wording.job}: {why}", labels, {}, wording.link, now)
            book.kinds[SILENT] = id
            self._messenger.tell([book.began(alert)])
        elif open_id is not None:
            del book.kinds[SILENT]
            self._messenger.tell(list(book.ended(open_id, {}, now)))
        self._keep(book, True)

    def _now(self) -> str:
        return str(encode.moment(self._clock.now_us()))


@dataclass(slots=True)
class Book:
    """What is open, what was lately over, and the place in the log as of which that is so.

    `kinds`: of alerts by a condition, which one is open of each kind of row. `seen`: the last window of each kind (its
    end, and which revision of it).
    """

    place: int = 0
    open: OrderedDict[str, Alert] = field(default_factory=OrderedDict)
    closed: OrderedDict[str, None] = field(default_factory=OrderedDict)
    kinds: dict[str, str] = field(default_factory=dict)
    seen: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)

    @staticmethod
    def read(path: Path) -> Book:
        if not path.exists():
            return Book()
        told = orjson.loads(path.read_bytes())
        alerts = OrderedDict((one["id"], Alert(**one)) for one in told["open"])
        seen = OrderedDict((kind, (end, revision)) for kind, (end, revision) in told["seen"].items())
        return Book(told["place"], alerts, OrderedDict.fromkeys(told["closed"]), told["kinds"], seen)

    def write(self, path: Path) -> None:
        told = {
            "place": self.place,
            "open": [asdict(alert) for alert in self.open.values()],
            "closed": list(self.closed),
            "kinds": self.kinds,
            "seen": self.seen,
        }
        replace_file(path, encode.dumps(told))

    def copy(self) -> Book:
        return Book(
            self.place, OrderedDict(self.open), OrderedDict(self.closed), dict(self.kinds), OrderedDict(self.seen)
        )

    def is_new(self, id: str) -> bool:
        return id not in self.open and id not in self.closed

    def has_seen(self, kind: str, end_us: int, revision: int) -> bool:
        """Whether the row comes again: rows of a kind come in the order of their windows. If not, it is seen now."""
        if (end_us, revision) <= self.seen.get(kind, (MIN_US, 0)):
            return True
        self.seen[kind] = (end_us, revision)
        self.seen.move_to_end(kind)
        while len(self.seen) > CLOSED_MAX:
            self.seen.popitem(last=False)
        return False

    def began(self, alert: Alert) -> Alert:
        self.open[alert.id] = alert
        while len(self.open) > OPEN_MAX:
            self.open.popitem(last=False)
        return alert

    def ended(self, id: str, row: Mapping[str, Any], now: str) -> Iterator[Alert]:
        """The alert as it is over, with what it opened with; nothing where it was never told."""
        alert = self.open.get(id)
        self.over(id)
        if alert is not None:
            reason = row.get("reason")
            yield replace(alert, until=first_moment(row, UNTIL) or now, why=shown(reason) if reason else None, row=row)

    def over(self, id: str) -> None:
        self.open.pop(id, None)
        self.closed[id] = None
        while len(self.closed) > CLOSED_MAX:
            self.closed.popitem(last=False)


def rows_in_episodes(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows that belong to an episode, with `episode` and `phase` by those names."""
    names = {name: f"anomaly_{name}" for name in ("episode", "phase")}
    found = {bare: long if long in rows.column_names else bare for bare, long in names.items()}
    some = rows.filter(pc.is_valid(rows.column(found["episode"])))
    for row in encode.rows_of(some):
        yield {**row, "episode": row[found["episode"]], "phase": row[found["phase"]]}


def ends_of(rows: pa.Table) -> list[int | None]:
    """Where each row's window ends, in microseconds; None of rows without a window."""
    if "window_end" not in rows.column_names or not pa.types.is_timestamp(rows.schema.field("window_end").type):
        return [None] * rows.num_rows
    return list(rows.column("window_end").cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist())


def first_moment(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these columns that holds a moment."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and len(value) >= 20 and value[4] == "-" and value.endswith("Z"):
            return value
    return None


def label_name(name: str) -> str:
    """A column's name as Prometheus takes it."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() or plain[:1] == "_" else f"_{plain}"


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
