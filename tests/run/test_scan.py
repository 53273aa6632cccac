"""From what a source gives to decoded batches."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pytest

from mql.catalog import TimeRule
from mql.exec.cutting import DEPTH_MAX, EVENT_BYTES_MAX
from mql.exec.items import Chunk, Raw, Rows
from mql.exec.kernel import Kernel, Session
from mql.exec.scan import Decoded, Decoder
from mql.exec.splits import Splits
from mql.schema import BIGINT, DOUBLE, JSON, TIMESTAMP, VARCHAR, DataType, ListOf, Path

SECOND = 1_000_000
BY_ARRIVAL = TimeRule()
COLUMNS: Sequence[tuple[Path, DataType]] = ((("a",), BIGINT), (("b",), VARCHAR))


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel(threads=1, memory_limit="512MB").session()


def lines(*texts: str, base: int = 0, split: int = 0) -> Chunk:
    return Chunk(split, "".join(text + "\n" for text in texts).encode(), base, arrival_us=7 * SECOND)


def decode(session: Session, *raws: Raw, time: TimeRule = BY_ARRIVAL, columns=COLUMNS, **more) -> Decoded:
    return Decoder(session, "json", time, columns, **more).decode(raws)


def test_lines_become_rows_with_their_place(session: Session) -> None:
    found = decode(session, lines('{"a": 1, "b": "x"}', '{"b": 5}', base=100, split=3))
    assert found.table.to_pylist() == [
        {"__t": 7000000, "__s": 3, "__o": 100, "__a": 7000000, "__m": -(2**62), "/a": 1, "/b": "x"},
        {"__t": 7000000, "__s": 3, "__o": 119, "__a": 7000000, "__m": -(2**62), "/a": None, "/b": "5"},
    ]
    assert (found.seen, found.skipped, found.malformed) == (2, 0, ())


def test_blank_lines_and_carriage_returns_are_no_events(session: Session) -> None:
    found = decode(session, Chunk(0, b'\r\n{"a": 1}\r\n \n\n{"a": 2}', 0, 0), columns=[((), JSON)])
    assert found.table.column("*").to_pylist() == ['{"a": 1}', '{"a": 2}']
    assert found.table.column("__o").to_pylist() == [2, 15]
    assert found.seen == 2


def test_what_is_no_event_is_kept_apart_with_its_reason(session: Session) -> None:
    deep = '{"a":' + "[" * DEPTH_MAX + "]" * DEPTH_MAX + "}"
    braces = json.dumps({"b": "[{" * DEPTH_MAX, "ts": 1})
    data = b'{"ts": 1}\n{"ts"\n5\n{"ts": 1, "b": "\xff"}\n{"a": 1}\n{"ts": "soon"}\nnull\nhello\n'
    data += (
        f'{deep}\n{{"b": "{"x" * EVENT_BYTES_MAX}", "ts": 1}}\n{braces}\n'.encode() + b'{"ts": 2, "b": "\xc3\xa4"}\n'
    )
    found = decode(session, Chunk(2, data, 1000, 5), time=TimeRule(("ts",), "s"))
    assert found.table.column("__t").to_pylist() == [SECOND, SECOND, 2 * SECOND]
    assert found.table.column("/b").to_pylist()[2] == "ä"
    reasons = {letter.offset - 1000: letter.reason for letter in found.malformed}
    assert list(reasons.values()) == [
        "not an object",
        "not UTF-8",
        "not an object",
        "not JSON",
        f"nested deeper than {DEPTH_MAX}",
        "larger than 1 MiB",
        "not JSON",
        'no event time in "ts"',
        'no event time in "ts"',
    ]
    assert all(len(letter.text) <= 4096 and letter.split == 2 for letter in found.malformed)
    assert found.seen == found.table.num_rows + len(found.malformed) == 12


@pytest.mark.parametrize(
    ("unit", "value", "us"),
    [
        ("s", 1700000000, 1700000000_000000),
        ("s", 1700000000.123456, 1700000000_123456),
        ("s", "1700000000.5", 1700000000_500000),
        ("ms", 1700000000123, 1700000000_123000),
        ("us", 1700000000123456, 1700000000_123456),
        ("ns", 1700000000123456789, 1700000000_123456),
        ("iso", "2023-11-14T22:13:20.5Z", 1700000000_500000),
        ("iso", "2023-11-14 23:13:20+01:00", 1700000000_000000),
        ("iso", "2023-11-14T22:13:20", 1700000000_000000),
        ("ms", "2023-11-14T22:13:20Z", 1700000000_000000),
        ("auto", 1700000000, 1700000000_000000),
        ("auto", 1700000000.25, 1700000000_250000),
        ("auto", 1700000000123, 1700000000_123000),
        ("auto", 1700000000123456, 1700000000_123456),
        ("auto", 1700000000123456789, 1700000000_123456),
        ("auto", "1700000000123", 1700000000_123000),
        ("auto", "2023-11-14T22:13:20Z", 1700000000_000000),
        ("iso", 1700000000, None),
        ("s", 1e300, None),
        ("auto", True, None),
        ("auto", "infinity", None),
        ("auto", [1], None),
        ("auto", None, None),
    ],
)
def test_event_times_are_read_in_their_unit(session: Session, unit: str, value: object, us: int | None) -> None:
    event = json.dumps({"t": value})
    shapes: list[list[tuple[Path, DataType]]] = [[], [(("t",), BIGINT)], [(("t",), JSON)], [((), JSON)]]
    for columns in shapes:
        found = decode(session, lines(event), time=TimeRule(("t",), unit), columns=columns)
        assert found.table.column("__t").to_pylist() == ([] if us is None else [us])
        assert len(found.malformed) == (us is None)


def test_the_time_may_lie_inside_of_a_property_that_is_read_whole(session: Session) -> None:
    columns = [(("d",), JSON), (("d", "t"), DOUBLE), (("x",), TIMESTAMP)]
    found = decode(
        session, lines('{"d": {"t": 1.5}, "x": "1970-01-01T00:00:01"}'), time=TimeRule(("d", "t"), "s"), columns=columns
    )
    row = found.table.drop_columns(["/x"]).to_pylist()[0]
    assert (row["__t"], row["/d"], row["/d/t"]) == (1_500_000, '{"t":1.5}', 1.5)


def test_the_time_does_not_change_with_the_type_that_a_query_asks_for(session: Session) -> None:
    event = lines('{"t": 1.75}')
    times = [
        decode(session, event, time=TimeRule(("t",)), columns=[(("t",), of)]).table.column("__t").to_pylist()
        for of in (BIGINT, DOUBLE, VARCHAR, JSON, TIMESTAMP)
    ]
    assert times == [[1_750_000]] * 5


def test_rows_bring_their_time_and_their_envelope(session: Session) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"_offset": [5, 6, 9], "_raw": ['{"a": 1}', "", '{"a": "2"}'], "_time": [1, 2, None], "_key": ["k", "l", None]}
    )
    columns = [(("_key",), VARCHAR), (("a",), BIGINT)]
    found = decode(session, Rows(1, batch, 99, 10), columns=columns, envelope=["_key"])
    assert found.table.select(["__t", "__o", "/_key", "/a"]).to_pylist() == [
        {"__t": 1, "__o": 5, "/_key": "k", "/a": 1},
        {"__t": 99, "__o": 9, "/_key": None, "/a": 2},
    ]
    assert [letter.reason for letter in found.malformed] == ["empty"]


def test_columns_pass_as_they_are(session: Session) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"_offset": [0, 1], "ts": [1, None], "a": [5, 6], "d": [{"id": "x"}, {"id": None}], "l": [["p"], []]}
    )
    columns = [(("a",), BIGINT), (("d", "id"), VARCHAR), (("gone",), DOUBLE), (("l",), ListOf(VARCHAR)), ((), JSON)]
    found = Decoder(session, "columns", TimeRule(("ts",), "ms"), columns).decode([Rows(0, batch, 9, 2)])
    row = found.table.to_pylist()[0]
    assert (row["__t"], row["/a"], row["/d/id"], row["/gone"], row["/l"]) == (1000, 5, "x", None, ["p"])
    assert json.loads(row["*"]) == {"ts": 1, "a": 5, "d": {"id": "x"}, "l": ["p"]}
    assert [letter.reason for letter in found.malformed] == ['no event time in "ts"']


def test_batches_of_several_splits_carry_what_came_earlier_in_their_own(session: Session) -> None:
    splits = Splits(idle_timeout_us=30 * SECOND, max_ahead_us=3600 * SECOND)
    decoder = Decoder(session, "json", TimeRule(("t",), "us"), [], splits=splits)
    found = decoder.decode([lines('{"t": 5}', '{"t": 3}'), lines('{"t": 9}', split=1), lines('{"t": 4}', base=18)])
    none = -(2**62)
    assert found.table.column("__m").to_pylist() == [none, 5, none, 5]
    assert decoder.decode([lines('{"t": 1}', split=1, base=9)]).table.column("__m").to_pylist() == [9]


def test_columns_may_change_between_batches(session: Session) -> None:
    decoder = Decoder(session, "json", TimeRule(), [(("a",), BIGINT)])
    empty = decoder.decode([])
    assert empty.table.schema == decoder.decode([lines('{"a": 1}')]).table.schema
    decoder.widen([(("a",), BIGINT), (("A",), VARCHAR), (("b",), DOUBLE)])
    found = decoder.decode([lines('{"a": 1, "A": "up", "b": 2}')])
    assert found.table.select(["/a", "/~A", "/b"]).to_pylist() == [{"/a": 1, "/~A": "up", "/b": 2.0}]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "auto", "iso"])
def test_times_in_columns_are_read_as_the_same_times_in_texts(session: Session, unit: str) -> None:
    numbers = [1, None, 1700000000, 1700000000123, 1700000000123456, 2**62, -5, 253402300800]
    batch = pa.RecordBatch.from_pydict({"_offset": list(range(8)), "t": pa.array(numbers, pa.int64())})
    columns = Decoder(session, "columns", TimeRule(("t",), unit), []).decode([Rows(0, batch, 0, 8)])
    texts = [json.dumps({"t": number}) for number in numbers]
    batch = pa.RecordBatch.from_pydict({"_offset": list(range(8)), "_raw": texts})
    decoded = decode(session, Rows(0, batch, 0, 8), time=TimeRule(("t",), unit), columns=[])
    assert columns.table.to_pylist() == decoded.table.to_pylist()
    assert [letter.reason for letter in columns.malformed] == [letter.reason for letter in decoded.malformed]


def test_timestamps_in_columns_are_times_whatever_the_unit(session: Session) -> None:
    times = pa.array([1500, None], pa.timestamp("ms", "UTC"))
    batch = pa.RecordBatch.from_pydict({"_offset": [0, 1], "t": times})
    for unit in ("auto", "iso", "ms"):
        found = Decoder(session, "columns", TimeRule(("t",), unit), []).decode([Rows(0, batch, 0, 2)])
        assert found.table.column("__t").to_pylist() == [1_500_000]
        assert len(found.malformed) == 1
