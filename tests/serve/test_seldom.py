"""What a library says over and over is written once a minute; what we say is always written."""

from __future__ import annotations

import logging

from server.seldom import Seldom


def line(name: str, created_s: float, number: int = 1) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.ERROR, "client.py", number, "cannot connect to %s", ("broker",), None)
    record.created = created_s
    return record


def test_one_line_of_a_minute_passes_and_says_how_many_did_not() -> None:
    seldom = Seldom()
    passed = [
        record.getMessage()
        for at in range(0, 130, 10)
        if seldom.filter(record := line("aiokafka.client", 1_000.0 + at))
    ]
    assert passed == [
        "cannot connect to broker",
        "cannot connect to broker (and 5 more like this)",
        "cannot connect to broker (and 5 more like this)",
    ]


def test_other_places_and_our_own_lines_are_not_held() -> None:
    seldom = Seldom()
    assert seldom.filter(line("aiokafka.client", 1.0, number=1))
    assert seldom.filter(line("aiokafka.client", 1.0, number=2))
    assert all(seldom.filter(line("server", 1.0)) for _ in range(3))
