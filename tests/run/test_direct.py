"""Plain files that the kernel reads by itself: the same rows and the same count of events as by the decoder."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.reading import read_all, rows_of

from mql.catalog import TimeRule
from mql.exec import direct, launching
from mql.exec.engine import Engine, Options
from mql.exec.survey import BLOCK, BYTES_AT_ONCE, Survey, look
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape
from sources.file import FileSource
from sources.settings import Settings

SHAPE = Shape((Field("ts", BIGINT, 1.0), Field("k", VARCHAR, 1.0), Field("v", DOUBLE, 1.0)))
COUNTS = "SELECT k, count(*) AS n, sum(v) AS total, max(v) AS most FROM e WINDOW 10s GROUP BY k"


def line(at: int, **more: object) -> bytes:
    return json.dumps({"ts": 1_700_000_000_000 + at * 7, "k": f"k{at % 5}", "v": at / 4, **more}).encode()


PLAIN = [line(at) for at in range(4000)]
DEEP = b'{"ts":1700000000001,"k":' + b"[" * 600 + b"]" * 600 + b"}"
ODD: dict[str, list[bytes]] = {
    "blank lines": [*PLAIN[:50], b"", b"   ", *PLAIN[50:]],
    "a carriage return": [one + b"\r" for one in PLAIN],
    "a blank in front": [b" " + PLAIN[0], *PLAIN[1:]],
    "not JSON": [*PLAIN, b'{"ts":1700000000000,"k":'],
    "two in a line": [*PLAIN, PLAIN[0] + PLAIN[1]],
    "a list": [b"[1,2]", *PLAIN],
    "no time": [*PLAIN, b'{"k":"k1","v":1}'],
    "a time as a text": [*PLAIN, b'{"ts":"2023-11-14T22:13:20Z","k":"k1","v":1}'],
    "a time that is no whole number": [*PLAIN, b'{"ts":1700000000000.5,"k":"k1","v":1}'],
    "nested too deep": [*PLAIN[:9], DEEP, *PLAIN[9:]],
    "too large": [*PLAIN[:9], line(5, note="x" * 1_100_000), *PLAIN[9:]],
    "not UTF-8": [*PLAIN, b'{"ts":1700000000000,"k":"\xff","v":1}'],
    "a mark of the byte order": [b"\xef\xbb\xbf" + PLAIN[0], *PLAIN[1:]],
}
LIKE_ANY: dict[str, list[bytes]] = {
    "nothing else": PLAIN,
    "other types": [*PLAIN, line(1, v="12.5"), line(2, v="x"), line(3, k=7), line(4, k={"a": 1}), line(5, v=True)],
    "nulls and missing ones": [*PLAIN, line(6, k=None), b'{"ts":1700000000000}'],
    "names twice": [*PLAIN, b'{"v":1,"ts":1700000000000,"v":2,"k":"a","K":"b"}'],
    "escapes": [*PLAIN, b'{"ts":1700000000000,"k":"\\u00e9\\n\\"{","v":1e300}'],
}


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each query was answered directly; of files of any size."""
    told: list[bool] = []
    original: Callable[..., bool] = direct.answered

    def answered(*args: Any) -> bool:
        told.append(original(*args))
        return told[-1]

    monkeypatch.setattr(launching, "answered", answered)
    monkeypatch.setattr(direct, "LEAST_BYTES", 0)
    return told


def asked(paths: list[Path], text: str, route: str) -> tuple[list[dict[str, Any]], dict[str, int], int]:
    """The rows, the ledger and how many dead letters there are."""
    settings = Settings(shape=SHAPE, time=TimeRule(("ts",), "ms"))
    made = Engine([FileSource("e", paths, format="ndjson", settings=settings)], workers=2)
    try:
        running = made.start(text, options=Options(route=route))
        rows = rows_of(read_all(running.subscribe()))
        if rows and "final" in rows[0]:  # what changes is told each second, on a slow machine before the end too
            rows = [row for row in rows if row["final"]]
        return rows, dict(running.ledger()), len(made.dead_letters("e", 1000))
    finally:
        made.close()


def both(paths: list[Path], text: str = COUNTS) -> None:
    """By the statement and through the stages."""
    (rows, ledger, letters), (expected, other, of_other) = asked(paths, text, "batch"), asked(paths, text, "stream")
    assert sorted(map(repr, rows)) == sorted(map(repr, expected))
    assert (ledger["events"], ledger["malformed"], letters) == (other["events"], other["malformed"], of_other)


@pytest.mark.parametrize("name", LIKE_ANY)
def test_what_the_kernel_reads_is_what_the_decoder_reads(tmp_path: Path, used: list[bool], name: str) -> None:
    path = tmp_path / "e.ndjson"
    path.write_bytes(b"\n".join(LIKE_ANY[name]) + b"\n")
    both([path])
    assert used == [True]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_line_leaves_everything_to_the_decoder(tmp_path: Path, used: list[bool], name: str) -> None:
    path = tmp_path / "e.ndjson"
    path.write_bytes(b"\n".join(ODD[name]) + b"\n")
    both([path])
    if name != "a carriage return":
        assert used == [False]


def test_several_files_the_last_without_an_end(tmp_path: Path, used: list[bool]) -> None:
    paths = [tmp_path / f"{number}.ndjson" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(b"\n".join(PLAIN[number::3]))
    both(paths)
    assert used == [True]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT k, first(v) AS f, last(v) AS l FROM e WINDOW 10s GROUP BY k",
        "SELECT k, v FROM e",
        "SELECT k, count(*) AS n FROM e WHERE v > 10 WINDOW 10s GROUP BY k",
        "SELECT k, count(*) AS n FROM e SAMPLE 50 PERCENT WINDOW 10s GROUP BY k",
    ],
)
def test_what_asks_for_places_or_counts_is_left_to_the_decoder(tmp_path: Path, used: list[bool], text: str) -> None:
    path = tmp_path / "e.ndjson"
    path.write_bytes(b"\n".join(PLAIN) + b"\n")
    both([path], text)
    assert used == [False]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) AS n FROM e",
        "SELECT k, p99(v) AS p, count(DISTINCT k) AS d FROM e WINDOW 10s GROUP BY k",
        "SELECT k, count(*) AS n, rate(*) AS r FROM e WINDOW HOPPING 10s EVERY 5s GROUP BY k HAVING n > 2 LIMIT 3",
        "SELECT k, count(*) AS n FROM e WINDOW 10s GROUP BY k ANOMALY ON n USING zscore",
    ],
)
def test_aggregates_of_all_kinds(tmp_path: Path, used: list[bool], text: str) -> None:
    path = tmp_path / "e.ndjson"
    path.write_bytes(b"\n".join(PLAIN) + b"\n")
    both([path], text)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_survey_counts_lines_and_sees_long_ones(tmp_path: Path, parts: int) -> None:
    def seen(data: bytes) -> Survey:
        path = tmp_path / "survey"
        path.write_bytes(data)
        survey = Survey()
        for part in range(parts):
            for _ in look(survey, threading.Lock(), [path], part, parts):
                pass
        return survey

    one = b'{"a":' + b"1" * 93 + b"}\n"
    whole = one * (3 * BYTES_AT_ONCE // len(one))
    assert seen(whole).lines == len(whole) // len(one)
    assert seen(whole).plain
    assert seen(whole[:-1]).lines == len(whole) // len(one)
    assert not seen(whole + b"\n").plain
    long = b'{"a":' + b"1" * (3 * BLOCK) + b"}\n"
    for at in (0, BYTES_AT_ONCE // len(one), len(whole) // len(one)):
        assert not seen(whole[: at * len(one)] + long + whole[at * len(one) :]).plain
    assert seen(b"").lines == 0
