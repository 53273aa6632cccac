"""What goes wrong among the generator's requests is found: where, and soon; what does not go wrong is not told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mql.exec.clock import ManualClock
from mql.exec.engine import Engine, Options
from server.demonstration import ALARM
from sources.generator import GeneratorSource, Incident, incidents_between

MINUTE = 60_000_000
WINDOW = 10_000_000
NOW = 1_700_000_000_000_000 // (5 * MINUTE) * 5 * MINUTE
SINCE = NOW - 60 * MINUTE
QUERY = """
    SELECT country, device.type AS device, count(*) AS requests, count_if(status >= 500) AS errors,
           phase, epoch_us(since) AS since_us, epoch_us(window_end) AS told_us, reason
    FROM requests {where}
    GROUP BY country, device.type
    WINDOW 10 SECONDS
    ANOMALY ON errors / requests REARM AFTER 1 MINUTE EMIT EPISODES
    SINCE '-1h' UNTIL NOW
"""


def asked(where: str, route: str) -> list[dict[str, Any]]:
    source = GeneratorSource(rate=150, clock=ManualClock(NOW))
    engine = Engine([source], clock=ManualClock(NOW))
    try:
        text = QUERY.format(where=where)
        return [row for table in engine.rows(text, None, Options(route=route)) for row in table.to_pylist()]
    finally:
        engine.close()


def fits(row: dict[str, Any], incident: Incident) -> bool:
    here = (row["country"], row["device"]) == (incident.country, incident.device)
    return here and incident.start_us - WINDOW < row["since_us"] <= incident.end_us


def test_every_incident_opens_an_episode_within_three_windows_and_nothing_else_does() -> None:
    opened = [row for row in asked("", "batch") if row["phase"] == "open"]
    incidents = [one for one in incidents_between(SINCE, NOW) if SINCE + 6 * MINUTE < one.start_us < NOW - MINUTE]
    assert len(incidents) >= 9
    for incident in incidents:
        found = [row for row in opened if fits(row, incident)]
        assert found, incident
        assert found[0]["told_us"] - incident.start_us <= 3 * WINDOW, incident
    for row in opened:
        assert any(fits(row, incident) for incident in incidents_between(SINCE, NOW)), row


@pytest.mark.parametrize("route", ["batch", "stream"])
def test_an_hour_without_incidents_has_no_episode(route: str) -> None:
    assert asked("WHERE country IN ('FR', 'JP', 'CA', 'KR', 'ES', 'IT', 'AU', 'NL', 'PL', 'SE')", route) == []


def test_live_and_batch_tell_the_same_episodes() -> None:
    def told(route: str) -> list[str]:
        return sorted(repr(row) for row in asked("WHERE country IN ('US', 'BR')", route))

    batch = told("batch")
    assert batch
    assert told("stream") == batch


def alarmed(minutes: int, rate: float, *, incidents: bool) -> list[dict[str, Any]]:
    """What the alert of the demonstration tells of the last minutes."""
    source = GeneratorSource(rate=rate, incidents=incidents, clock=ManualClock(NOW))
    engine = Engine([source], clock=ManualClock(NOW))
    try:
        text = f"{ALARM.replace('WARMUP FROM HISTORY 1h', '')} SINCE '-{minutes}m' UNTIL NOW"
        return [row for table in engine.rows(text) for row in table.to_pylist()]
    finally:
        engine.close()


def test_the_alert_of_the_demonstration_names_the_country_and_the_device_and_ends_after_the_incident() -> None:
    rows = alarmed(20, 800, incidents=True)
    told = [(us_of(row["since"]), us_of(row["window_end"]), row) for row in rows]
    large = ("US", "BR", "IN", "DE")
    incidents = [one for one in incidents_between(NOW - 15 * MINUTE, NOW - 3 * MINUTE) if one.country in large]
    assert len(incidents) >= 2
    for incident in incidents:
        opened = [
            (end_us, row)
            for since_us, end_us, row in told
            if row["phase"] == "open" and incident.start_us - WINDOW < since_us < incident.end_us
        ]
        assert opened, incident
        end_us, row = opened[0]
        assert end_us - incident.start_us <= 3 * WINDOW, incident
        assert row["contributors"][0]["what"] == f"country={incident.country}, device.type={incident.device}"
        closed = [end_us for since_us, end_us, one in told if one["phase"] == "close" and one["since"] == row["since"]]
        assert closed, incident
        assert incident.end_us < closed[0] < incident.end_us + 2 * MINUTE


def test_a_quiet_hour_has_no_alert() -> None:
    assert alarmed(60, 100, incidents=False) == []


def us_of(at: datetime) -> int:
    return round(at.replace(tzinfo=UTC).timestamp() * 1e6)
