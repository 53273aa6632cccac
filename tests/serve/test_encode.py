"""Rows as bytes: every type that a result can have, in every format."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import orjson
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from server.encode import ArrowStream, Look, csv_header, csv_rows, look_of, rows_inner, rows_lines, schema_of


def one(column: pa.Array, look: Look = Look()) -> object:  # noqa: B008
    """The first value of a column, as a JSON reader gets it."""
    (line,) = rows_lines(pa.table({"v": column.slice(0, 1)}), look).splitlines()
    return json.loads(line)["v"]


def test_timestamps_are_rfc_3339_with_z() -> None:
    at = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    assert one(pa.array([at], pa.timestamp("us", "UTC"))) == "2026-01-31T12:00:00Z"
    assert one(pa.array([at.replace(tzinfo=None, microsecond=5)], pa.timestamp("us"))) == "2026-01-31T12:00:00.000005Z"
    assert one(pa.array([10**18], pa.timestamp("ns"))) == "2001-09-09T01:46:40Z"
    assert one(pa.array([[at.replace(tzinfo=None)]], pa.list_(pa.timestamp("us")))) == ["2026-01-31T12:00:00Z"]


def test_a_time_that_no_calendar_holds_is_still_written() -> None:
    assert one(pa.array([2**62], pa.timestamp("us"))) == str(2**62)


def test_repeated_and_missing_times_stand_where_they_belong() -> None:
    column = pa.array([0, None, 0, 1_000_000], pa.timestamp("us"))
    lines = rows_lines(pa.table({"v": column})).splitlines()
    times = [json.loads(line)["v"] for line in lines]
    assert times == ["1970-01-01T00:00:00Z", None, "1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"]


def test_what_is_no_number_is_null() -> None:
    values = pa.array([float("nan"), float("inf"), 1.5, None])
    assert rows_inner(pa.table({"v": values})) == (b'{"v":null},{"v":null},{"v":1.5},{"v":null}',)


def test_decimals_keep_all_their_digits() -> None:
    table = pa.table({"v": pa.array([Decimal("12345678901234567890.25")], pa.decimal128(38, 2))})
    assert rows_lines(table) == b'{"v":12345678901234567890.25}\n'


def test_large_integers_are_numbers_unless_texts_are_asked_for() -> None:
    column = pa.array([2**53 + 1])
    assert one(column) == 2**53 + 1
    assert one(column, Look(int64_text=True)) == str(2**53 + 1)


def test_durations_are_written_as_mql_writes_them() -> None:
    assert one(pa.array([timedelta(seconds=90)], pa.duration("us"))) == "90s"
    assert one(pa.array([timedelta(days=7)], pa.duration("us"))) == "7d"
    assert one(pa.array([pa.MonthDayNano([1, 2, 3_600_000_000_000])])) == "1mo 2d 1h"


def test_dates_bytes_and_maps() -> None:
    assert one(pa.array([date(2026, 1, 31)])) == "2026-01-31"
    assert one(pa.array([b"\x00\xff"])) == "AP8="
    assert one(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))) == {"a": 1}


def test_a_json_column_is_json_not_a_text_of_it() -> None:
    look = look_of([("v", "JSON")])
    assert one(pa.array(['{"a": [1]}']), look) == {"a": [1]}
    assert one(pa.array(['{"a":\n1}']), look) == {"a": 1}
    assert one(pa.array(["{broken,}"]), look) == "{broken,}"
    assert rows_lines(pa.table({"v": ['{"a":\n1}']}), look).count(b"\n") == 1


def test_rows_come_in_pieces_of_500() -> None:
    pieces = rows_inner(pa.table({"n": list(range(1_200))}))
    sizes = [len(orjson.loads(b"[" + piece + b"]")) for piece in pieces]
    assert sizes == [500, 500, 200]


def test_csv_guards_texts_against_formulas_and_leaves_numbers_alone() -> None:
    table = pa.table({"t": ["=1+1", "-5", "@x", "plain", None], "n": [-5, 1, 2, 3, None]})
    rows = list(csv.reader(io.StringIO(csv_rows(table).decode())))
    assert rows == [["'=1+1", "-5"], ["'-5", "1"], ["'@x", "2"], ["plain", "3"], ["", ""]]
    assert csv_header(["a", "=b"]) == b"a,'=b\r\n"


def test_csv_writes_times_booleans_lists_and_json() -> None:
    table = pa.table(
        {
            "t": pa.array([0], pa.timestamp("us")),
            "b": [True],
            "l": [[1, 2]],
            "j": ['"=x"'],
            "d": [Decimal("1.50")],
        }
    )
    (row,) = csv.reader(io.StringIO(csv_rows(table, Look(json=frozenset({"j"}))).decode()))
    assert row == ["1970-01-01T00:00:00Z", "true", "[1,2]", "'=x", "1.50"]


def test_an_arrow_stream_gives_each_batch_as_it_is_flushed() -> None:
    stream = ArrowStream()
    sent = b""
    for n in (1, 2, 3):
        stream.add([pa.table({"n": [n] * n})])
        sent += stream.drain()
        with pa.ipc.open_stream(sent + b"\xff\xff\xff\xff\x00\x00\x00\x00") as reader:
            assert reader.read_all().num_rows == n * (n + 1) // 2
    stream.end()
    with pa.ipc.open_stream(sent + stream.drain()) as reader:
        assert [batch.num_rows for batch in reader] == [1, 2, 3]


def test_an_empty_result_has_a_schema() -> None:
    schema = schema_of([("n", "BIGINT"), ("s", "STRUCT(a BIGINT)")])
    assert schema.types == [pa.int64(), pa.string()]


@given(st.lists(st.text(), max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back_as_it_was_and_stays_on_its_line(texts: list[str]) -> None:
    table = pa.table({"v": pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.string())})
    lines = rows_lines(table).split(b"\n")[:-1]
    assert [json.loads(line)["v"] for line in lines] == table.column("v").to_pylist()
    assert all(b"\r" not in piece and b"\n" not in piece for piece in rows_inner(table))


@given(st.lists(st.one_of(st.none(), st.floats(), st.integers(-(2**63), 2**63 - 1)), max_size=10))
@settings(max_examples=50, deadline=None)
def test_any_number_is_valid_json(values: list[float | int | None]) -> None:
    floats = pa.array([None if value is None else float(value) for value in values], pa.float64())
    json.loads(b"[" + b",".join(rows_inner(pa.table({"v": floats}))) + b"]", parse_constant=refuse_constant)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")
