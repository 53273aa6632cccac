"""One query over the same events by every way in: a file, a Parquet copy, Kafka, posts over HTTP, replayed, streamed,
and from history into the live stream. The rows are the same."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.json as pj
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from support.random_queries import normal

from mql.catalog import TimeRule
from mql.exec.clock import ManualClock, SystemClock
from mql.exec.engine import Engine, Options
from mql.exec.feed import From, Source
from mql.exec.frames import Ended, Failed, Phase, RowsFrame, Seal
from sources.archive import Archive
from sources.file import FileSource
from sources.generator import GeneratorSource
from sources.http import HttpSource
from sources.kafka.settings import KafkaSettings
from sources.kafka.source import KafkaSource
from sources.settings import Settings

if TYPE_CHECKING:
    from support.kafka_fixture import Kafka


QUERY = "select country, count(*) n, p99(latency_ms) from events window tumbling 10s group by country"
START_US = 1_790_000_000_000_000
COUNT = 20_000
SETTINGS = Settings(time=TimeRule(("ts",), "ms"))
PATIENCE_S = 60.0
Row = dict[str, Any]


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Twenty seconds and more of a service's requests, as lines of JSON."""
    clock = ManualClock(START_US + 3_600_000_000)
    with closing(GeneratorSource(rate=500, events=COUNT, start_us=START_US, splits=1, clock=clock)) as source:
        raws = source.history(From())
        texts = [text for raw in raws for text in raw.table.column("_raw").to_pylist()]  # type: ignore[union-attr]
    return [text.encode() for text in texts]


@pytest.fixture(scope="module")
def events(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("same") / "events.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="module")
def want(events: Path) -> list[tuple[str, ...]]:
    return asked(FileSource("events", events, settings=SETTINGS), QUERY)


def asked(source: Source, query: str, route: str = "batch") -> list[tuple[str, ...]]:
    """The rows of a bounded query."""
    with closing(Engine([source], workers=2)) as engine:
        tables = list(engine.rows(query, options=Options(route=route)))
    return compared([row for table in tables for row in table.to_pylist()])


def compared(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return normal([{name: value for name, value in row.items() if not name.startswith("_")} for row in rows])


def test_a_file_in_batch_and_through_the_stages(events: Path, want: list[tuple[str, ...]]) -> None:
    assert len(want) > 20
    assert asked(FileSource("events", events, settings=SETTINGS), QUERY, "stream") == want


def test_a_parquet_copy(events: Path, want: list[tuple[str, ...]], tmp_path: Path) -> None:
    pq.write_table(pj.read_json(events), tmp_path / "events.parquet", row_group_size=3_000)
    for route in ("batch", "stream"):
        assert asked(FileSource("events", tmp_path / "events.parquet", settings=SETTINGS), QUERY, route) == want


def test_kafka(lines: list[bytes], want: list[tuple[str, ...]], kafka: Kafka) -> None:
    topic = f"same-{uuid.uuid4().hex[:8]}"
    asyncio.run(sent(kafka.address, topic, lines))
    source = KafkaSource("events", KafkaSettings(kafka.address, topic), SETTINGS)
    replay = QUERY.replace("window", "since earliest until now window")
    assert asked(source, replay) == want
    source = KafkaSource("events", KafkaSettings(kafka.address, topic), SETTINGS)
    assert asked(source, replay, "stream") == want


async def sent(address: str, topic: str, lines: Sequence[bytes]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 3, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=20)
    await producer.start()
    for number, line in enumerate(lines):
        await producer.send(topic, line, partition=number % 3)
    await producer.stop()


def test_posts_over_http_replayed_from_the_archive(
    lines: list[bytes], want: list[tuple[str, ...]], tmp_path: Path
) -> None:
    with closing(Archive(tmp_path / "archive")) as archive:
        source = HttpSource("events", settings=SETTINGS, archive=archive)
        for at in range(0, len(lines), 700):
            source.put(b"\n".join(lines[at : at + 700]))
        assert asked(source, QUERY.replace("window", "since earliest until now window")) == want


def test_posts_over_http_as_they_come(lines: list[bytes], want: list[tuple[str, ...]]) -> None:
    """Live, every window closes that the watermark passes; a much later event closes them all."""
    source = HttpSource("events", settings=SETTINGS)
    source.put(lines[0])
    with closing(Engine([source], workers=2)) as engine:
        running = engine.start(f"{QUERY} lateness 1m")
        reader = running.subscribe()
        assert reader.wait(PATIENCE_S)
        source.put(b"\n".join(lines))
        source.put(later(lines))
        rows = read_until(reader, want)
    assert compared(rows) == [row for row in want if row[0] >= str(min(row["window_start"] for row in rows))]
    assert len(rows) > len(want) / 2


@pytest.mark.parametrize("half", [0, 1, 9_999, 19_999])
def test_from_history_into_the_live_stream(
    lines: list[bytes], want: list[tuple[str, ...]], tmp_path: Path, half: int
) -> None:
    """What is stored when the query comes is history, what is written after it is live; nothing is lost or doubled."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"".join(line + b"\n" for line in lines[: half + 1]))
    source = FileSource("events", path, follow=True, settings=SETTINGS)
    with closing(Engine([source], workers=2)) as engine:
        reader = engine.start(QUERY.replace("window", "since earliest lateness 1m window")).subscribe()
        until_live(reader)
        with path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines[half + 1 :]))
            file.write(later(lines) + b"\n")
        rows = read_until(reader, want)
    assert compared(rows) == want


def later(lines: Sequence[bytes]) -> bytes:
    """An event two hours on: the watermark passes all windows before it."""
    event = json.loads(lines[-1])
    event["ts"] += 1_800_000
    return json.dumps(event).encode()


def until_live(reader: Any) -> None:
    for frame in frames(reader):
        if isinstance(frame, Phase) and frame.data["phase"] == "live":
            return


def read_until(reader: Any, want: Sequence[tuple[str, ...]]) -> list[Row]:
    """Rows until the last window that is wanted is sealed."""
    rows: list[Row] = []
    for frame in frames(reader):
        match frame:
            case RowsFrame(table):
                rows.extend(table.to_pylist())
            case Seal(data) if rows and str(rows[-1]["window_start"]) == want[-1][0]:
                assert data["rows"] > 0
                return rows
    raise AssertionError


def frames(reader: Any) -> Iterator[Any]:
    clock = SystemClock()
    until = clock.monotonic_s() + PATIENCE_S
    while clock.monotonic_s() < until:
        if reader.wait(0.5):
            for frame in reader.take():
                assert not isinstance(frame, Failed | Ended), frame
                yield frame
    pytest.fail("the rows did not come in time")
