"""How alerts are said to each system: a webhook, Alertmanager, Slack, PagerDuty, the server's own output."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from mql.exec.clock import Clock
from mql.exec.files import replace_file
from server import encode
from server.alerts import Alert
from server.webhook import Courier, Letter
from sources.sinks.contract import Portion

GROUP_MAX = 100
SLACK_SHOWN = 20
SUMMARY_MAX = 1_024
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
REPEAT_S = 60.0
EXPIRES = 4
"""An alert at Alertmanager is over by itself after so many repeats that did not come."""

Write = Callable[[Sequence[Alert], str], Iterator[Letter]]
"""Alerts as letters; the text is what their keys begin with."""


class ByLetter:
    """Alerts by HTTP. `write` words them."""

    rows_max = 10_000

    def __init__(self, courier: Courier, write: Write, about: Mapping[str, Any], *, whole_frames: bool = False) -> None:
        self.whole_frames = whole_frames
        self._courier = courier
        self._write = write
        self._about = about

    def open(self) -> None:
        self._courier.open()

    def tell(self, alerts: list[Alert]) -> None:
        for letter in self._write(alerts, self._courier.id):
            self._courier.deliver_or_bury(letter)

    def tell_once(self, alerts: list[Alert]) -> None:
        for letter in self._write(alerts, self._courier.id):
            self._courier.post(letter)

    def remind(self, alerts: list[Alert]) -> None:
        """Most systems remember."""

    def told(self) -> Mapping[str, Any]:
        return {**self._about, "trouble": self._courier.trouble}

    def close(self) -> None:
        self._courier.close()


def key_of(prefix: str, alerts: Sequence[Alert]) -> str:
    """The same for the same turns of the same alerts."""
    return f"{prefix}-" + hashlib.sha256("".join(one.id + one.status for one in alerts).encode()).hexdigest()[:24]


def groups(alerts: Sequence[Alert]) -> Iterator[Sequence[Alert]]:
    for at in range(0, len(alerts), GROUP_MAX):
        yield alerts[at : at + GROUP_MAX]


# --- a webhook -----------------------------------------------------------------------------------------------


def as_webhook(url: str, secret: str | None) -> Write:
    def write(alerts: Sequence[Alert], prefix: str) -> Iterator[Letter]:
        for group in groups(alerts):
            said = [{"status": one.status, **asdict(one)} for one in group]
            body = encode.dumps({"job": group[0].job, "alerts": said})
            yield Letter(url, key_of(prefix, group), body, secret)

    return write


# --- Alertmanager --------------------------------------------------------------------------------------------


class Alertmanager(ByLetter):
    """Its second API. It forgets what is not said again, so open alerts are repeated."""

    def __init__(self, courier: Courier, url: str, headers: Mapping[str, str], clock: Clock, repeat_s: float) -> None:
        super().__init__(courier, self._letters, {"url": url})
        self._url = url.rstrip("/") + "/api/v2/alerts"
        self._headers = headers
        self._clock = clock
        self._repeat_s = repeat_s
        self._due_s = 0.0

    def tell(self, alerts: list[Alert]) -> None:
        super().tell(alerts)
        self._due_s = self._clock.monotonic_s() + self._repeat_s

    def remind(self, alerts: list[Alert]) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._repeat_s
        for letter in self._letters(alerts, f"{self._courier.id}-{self._clock.now_us()}"):
            refused = self._courier.post(letter)
            self._courier.trouble = None if refused is None else refused.why

    def _letters(self, alerts: Sequence[Alert], prefix: str) -> Iterator[Letter]:
        for group in groups(alerts):
            yield Letter(
                self._url,
                key_of(prefix, group),
                encode.dumps([self._said(one) for one in group]),
                headers=self._headers,
            )

    def _said(self, alert: Alert) -> dict[str, Any]:
        """Labels are those that it opened with: by them Alertmanager knows it again."""
        labels = {"alertname": alert.job, "severity": alert.severity, "episode": alert.id, **alert.labels}
        ends = alert.until or encode.moment(self._clock.now_us() + round(EXPIRES * self._repeat_s * 1e6))
        return {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {"summary": alert.summary, **alert.annotations} | ({"why": alert.why} if alert.why else {}),
            "startsAt": alert.since,
            "endsAt": ends,
            "generatorURL": alert.link,
        }


# --- Slack ---------------------------------------------------------------------------------------------------


def as_slack(url: str) -> Write:
    def write(alerts: Sequence[Alert], prefix: str) -> Iterator[Letter]:
        shown = [slack_line(alert) for alert in alerts[:SLACK_SHOWN]]
        if len(alerts) > SLACK_SHOWN:
            shown.append(f"… and {len(alerts) - SLACK_SHOWN} more")
        body = encode.dumps({"text": "\n".join(shown), "unfurl_links": False})
        yield Letter(url, key_of(prefix, alerts), body)

    return write


def slack_line(alert: Alert) -> str:
    """What comes from events is no markup: it cannot mention anybody, nor link anywhere."""
    mark = ":red_circle: *firing*" if alert.until is None else ":large_green_circle: *resolved*"
    lasted = f"since {alert.since}" if alert.until is None else f"{alert.since} to {alert.until}"
    rest = "".join(f"\n> {slack_text(name)}: {slack_text(text)}" for name, text in alert.annotations.items())
    about = f"[{alert.severity}] {slack_text(alert.summary)}"
    return f"{mark} {about} ({lasted}, <{alert.link}|{alert.job}>){rest}"


def slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- PagerDuty -----------------------------------------------------------------------------------------------


def as_pagerduty(url: str, routing_key: str) -> Write:
    """Its Events API, version 2: one event a letter; the alert's id is the key by which it is deduplicated."""

    def write(alerts: Sequence[Alert], prefix: str) -> Iterator[Letter]:
        for alert in alerts:
            said: dict[str, Any] = {
                "routing_key": routing_key,
                "event_action": "trigger" if alert.until is None else "resolve",
                "dedup_key": alert.id,
            }
            if alert.until is None:
                said |= {
                    "client": "MQL",
                    "client_url": alert.link,
                    "links": [{"href": alert.link, "text": f"job {alert.job}"}],
                    "payload": {
                        "summary": alert.summary[:SUMMARY_MAX] or alert.job,
                        "source": alert.job,
                        "severity": alert.severity,
                        "timestamp": alert.since,
                        "custom_details": {**alert.labels, **alert.annotations, "row": alert.row},
                    },
                }
            yield Letter(url, key_of(prefix, [alert]), encode.dumps(said))

    return write


# --- the server's own output ---------------------------------------------------------------------------------


class Said:
    """Alerts as lines of the server's standard output."""

    rows_max = 10_000
    whole_frames = False

    def open(self) -> None:
        """Nothing is to be opened."""

    def tell(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            lasted = f"since {alert.since}" if alert.until is None else f"{alert.since} to {alert.until}"
            say(f"{alert.status.upper()} [{alert.severity}] {alert.summary} ({lasted}) {alert.link}")

    def tell_once(self, alerts: list[Alert]) -> None:
        self.tell(alerts)

    def remind(self, alerts: list[Alert]) -> None:
        """It was said."""

    def told(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing was opened."""


class RowsSaid:
    """Rows as JSON lines of the server's standard output. `state`: the file that holds the place."""

    rows_max = 1_000
    whole_frames = False

    def __init__(self, job: str, state: Path) -> None:
        self.job = job
        self.state = state

    def open(self) -> int:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        return int(self.state.read_text()) if self.state.exists() else 0

    def write(self, portion: Portion) -> None:
        for row in encode.rows_of(portion.rows):
            say(encode.dumps({"job": self.job, "row": row}).decode())
        replace_file(self.state, str(portion.end).encode())

    def missed(self, why: str) -> None:
        """What is gone is told by who drives the sink."""

    def idle(self) -> None:
        """It was said."""

    def told(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing was opened."""


def say(line: str) -> None:
    """One line, whole. Control characters of events do not reach a terminal."""
    sys.stdout.write("".join(letter if letter.isprintable() else "\ufffd" for letter in line) + "\n")
    sys.stdout.flush()


def texts_of(rows: pa.Table) -> list[bytes]:
    """Rows as JSON texts."""
    return [encode.dumps(row) for row in encode.rows_of(rows)]
