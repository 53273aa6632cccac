"""MessagePack: each value is turned into the JSON text that says the same, and goes on as one.

Bytes and extensions are base64 text, times are ISO 8601, a NaN is null, as JSON has them.
"""

from __future__ import annotations

import msgpack
import msgspec
import pyarrow as pa

from mql.schema import Shape
from sources.formats.values import Values, reason_of

BUFFER_BYTES_MAX = 1 << 30


class MsgpackFormat:
    """Values that describe themselves: the shape is learned from them."""

    encoding = "json"
    shape = Shape()

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder(ext_hook=lambda code, data: bytes(data)).decode
        self._encode = msgspec.json.Encoder().encode

    def read(self, values: pa.BinaryArray) -> Values:
        encode, decode = self._encode, self._decode
        given = values.to_pylist()
        try:
            texts = [encode(decode(value)) for value in given]
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
            return self._one_by_one(given)
        return Values(texts_batch(texts))

    def _one_by_one(self, values: list[bytes]) -> Values:
        texts: list[bytes] = []
        bad: dict[int, str] = {}
        for at, value in enumerate(values):
            try:
                texts.append(self._encode(self._decode(value)))
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError) as error:
                bad[at] = f"not MessagePack that JSON can say: {reason_of(error)}"
        return Values(texts_batch(texts), bad)


def texts_batch(texts: list[bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"_raw": pa.array(texts, pa.binary()).cast(pa.string())})


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The objects of a stream, and the rest, of which the end has not come. ValueError for what begins none."""
    unpacker = msgpack.Unpacker(max_buffer_size=BUFFER_BYTES_MAX, strict_map_key=False)
    unpacker.feed(data)
    values: list[bytes] = []
    at = 0
    while at < len(data):
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            break
        except (msgpack.UnpackException, ValueError, RecursionError) as error:
            raise ValueError(f"no MessagePack at byte {at}: {error}") from error
        end = unpacker.tell()
        values.append(data[at:end])
        at = end
    return values, data[at:]
