"""Messages as columns."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from aiokafka import ConsumerRecord

from sources.kafka.settings import AS_JSON, Form


def batch_of(
    records: Sequence[ConsumerRecord[bytes, bytes]], columns: Sequence[str], form: Form = AS_JSON
) -> tuple[pa.RecordBatch, int]:
    """The messages as columns, and how many had no value (tombstones, left out)."""
    values = pa.array([one.value for one in records], pa.binary())
    tombstones = int(values.null_count)
    if tombstones:
        records = [one for one in records if one.value is not None]
        values = values.drop_null()
    built: dict[str, pa.Array] = {
        "_raw": texts_of(values) if form.json else values,
        "_offset": pa.array(numbers(records, "offset")),
        "_time": times_of(records),
    }
    for name in columns:
        if name == "_kafka_key" and not form.text_keys:
            built[name] = pa.array([one.key for one in records], pa.binary())
        else:
            built[name] = envelope_column(name, records, built["_time"])
    return pa.RecordBatch.from_pydict(built), tombstones


def texts_of(values: pa.Array) -> pa.Array:
    """JSON is UTF-8. What is not becomes a text that no JSON parser takes and that says why: had the bad bytes
    been replaced in place, `{"a": "\\xff"}` would pass as an event that nobody sent."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([text_of(one) for one in values.to_pylist()], pa.string())


def text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}: {value.decode(errors='backslashreplace')}"


def times_of(records: Sequence[ConsumerRecord[bytes, bytes]]) -> pa.Array:
    """Kafka's milliseconds as microseconds, null where a message has none."""
    ms = numbers(records, "timestamp")
    return pa.array(ms * 1000, mask=ms < 0)


def numbers(records: Sequence[ConsumerRecord[bytes, bytes]], name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.fromiter(map(attrgetter(name), records), np.int64, len(records))


def envelope_column(name: str, records: Sequence[ConsumerRecord[bytes, bytes]], times: pa.Array) -> pa.Array:
    match name:
        case "_kafka_key":
            return pa.array([None if one.key is None else plain(one.key) for one in records], pa.string())
        case "_kafka_headers":
            return pa.array([headers_text(one.headers) for one in records], pa.string())
        case "_kafka_partition":
            return pa.array(numbers(records, "partition"))
        case "_kafka_topic":
            return pa.array([one.topic for one in records], pa.string())
        case "_kafka_timestamp":
            return times.cast(pa.timestamp("us"))
        case _:
            raise AssertionError(f"no such column: {name}")


def headers_text(headers: Sequence[tuple[str, bytes | None]]) -> str:
    """A JSON object of texts; of a name that comes twice the last one counts, as Kafka's own `lastHeader`."""
    return orjson.dumps({name: None if value is None else plain(value) for name, value in headers}).decode()


def plain(value: bytes) -> str:
    """Bytes as text; other bytes than UTF-8 as `\\xff`, so that unlike keys stay unlike."""
    return value.decode(errors="backslashreplace")


def before(records: Sequence[ConsumerRecord[bytes, bytes]], last: int) -> Sequence[ConsumerRecord[bytes, bytes]]:
    """Those with an offset less than `last`."""
    if not records or records[-1].offset < last:
        return records
    return [one for one in records if one.offset < last]
