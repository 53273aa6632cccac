"""What runs in a Python job's own process: reads batches from standard input, writes rows to standard output.

Started as a file, alone, by `worker.py`: `python -I child.py ENTRY`. Nothing of the server is imported here. What the
artifact's code prints goes to standard error, and from there into the job's log.

Frames, both ways: a byte for the kind, four bytes for the length, the payload. In: `S` settings (JSON), once; `B` a
batch (an Arrow stream); `E` no more will come. Out: `R` rows (an Arrow stream), `A` the batch was taken, `C` completed,
`X` failed (JSON).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

HEAD = struct.Struct("<cI")
ROWS_AT_ONCE = 1_000
FRAME_BYTES = 16 << 20
PARENT_DIED = 1  # PR_SET_PDEATHSIG
SPARE_BYTES = 512 << 20
"""What an idle process has mapped beside the artifact's memory: Arrow's pools and the stacks of threads."""


def main() -> int:
    _, settings = frame(sys.stdin.buffer)
    told: Mapping[str, Any] = json.loads(settings)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    stay_within(told)
    sys.path[:0] = [told["artifact"], told["home"]]
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    outlet = Outlet(out, pa, pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(told["schema"]))))
    try:
        function = function_of(told["entry"])
        run(function, told["params"], outlet, pa)
    except BaseException as error:
        outlet.fail(error)
        return 1
    return 0


def stay_within(told: Mapping[str, Any]) -> None:
    """Bounds that hold before any of the artifact's code runs. They are bounds, not a sandbox."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    most = told["memory"] + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (told["memory"], told["memory"]))
    with contextlib.suppress(OSError):
        os.nice(5)


def function_of(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{entry} is no function")
    return function  # type: ignore[no-any-return]


def run(function: Callable[..., Any], params: Mapping[str, Any], outlet: Outlet, pa: Any) -> None:
    from reactivex import Observable, Subject

    batches: Subject[Any] = Subject()
    rows = function(batches, params)
    if not isinstance(rows, Observable):
        raise TypeError(f"the function must give an Observable, and gave {type(rows).__name__}")
    over = threading.Event()

    def failed(error: Exception) -> None:
        outlet.fail(error)
        over.set()

    def completed() -> None:
        outlet.complete()
        over.set()

    rows.subscribe(outlet.take, failed, completed)
    for batch in given(sys.stdin.buffer, pa):
        if over.is_set():
            return
        batches.on_next(batch)
        outlet.flush()
        outlet.say(b"A")
    batches.on_completed()
    over.wait()


def given(stream: BinaryIO, pa: Any) -> Iterator[Any]:
    """The batches that come, until the end is said. Where nothing comes any more and nobody said so, the server is
    gone."""
    while True:
        kind, payload = frame(stream)
        if kind == b"E":
            return
        with pa.ipc.open_stream(payload) as reader:
            yield from reader


def frame(stream: BinaryIO) -> tuple[bytes, bytes]:
    kind, length = HEAD.unpack(whole(stream, HEAD.size))
    return kind, whole(stream, length)


def whole(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        os._exit(0)
    return data


class Outlet:
    """Rows of any form, brought to the declared columns. Whatever thread they come from."""

    def __init__(self, out: BinaryIO, pa: Any, schema: Any) -> None:
        self._out = out
        self._pa = pa
        self._schema = schema
        self._names = set(schema.names)
        self._waiting: list[dict[str, Any]] = []
        self._guard = threading.RLock()
        self._main = threading.get_ident()
        self._is_over = False

    def take(self, value: Any) -> None:
        pa = self._pa
        with self._guard:
            if isinstance(value, dict):
                self._waiting.append(value)
            elif isinstance(value, list | tuple) and all(isinstance(row, dict) for row in value):
                self._waiting += value
            elif isinstance(value, pa.RecordBatch | pa.Table):
                self.flush()
                self._tell(value if isinstance(value, pa.Table) else pa.Table.from_batches([value]))
            else:
                raise TypeError(f"rows are dicts, lists of dicts, record batches or tables, not {type(value).__name__}")
            if len(self._waiting) >= ROWS_AT_ONCE or threading.get_ident() != self._main:
                self.flush()

    def flush(self) -> None:
        with self._guard:
            rows, self._waiting = self._waiting, []
            if not rows:
                return
            unknown = sorted({str(name) for row in rows for name in row} - self._names)
            if unknown:
                raise KeyError(f"a row has {', '.join(unknown)[:200]}, which job.yaml does not name under output")
            self._tell(self._pa.Table.from_pylist(rows, self._schema))

    def _tell(self, table: Any) -> None:
        missing = [name for name in self._schema.names if name not in table.column_names]
        if missing:
            raise KeyError(f"a table lacks {', '.join(missing)[:200]}")
        self._write(table.select(self._schema.names).cast(self._schema))

    def _write(self, table: Any) -> None:
        """As frames of some megabytes at most."""
        rows = table.num_rows
        if rows > 1 and table.nbytes > FRAME_BYTES:
            self._write(table.slice(0, rows // 2))
            self._write(table.slice(rows // 2))
        elif rows:
            sink = self._pa.BufferOutputStream()
            with self._pa.ipc.new_stream(sink, self._schema) as writer:
                writer.write_table(table)
            self.say(b"R", sink.getvalue().to_pybytes())

    def complete(self) -> None:
        with self._guard:
            self.flush()
            if not self._is_over:
                self._is_over = True
                self.say(b"C")

    def fail(self, error: BaseException) -> None:
        with self._guard:
            if not self._is_over:
                self._is_over = True
                text = "".join(traceback.format_exception(error))
                said = {"error": f"{type(error).__name__}: {error}"[:2_000], "traceback": text[-8_000:]}
                self.say(b"X", json.dumps(said).encode())

    def say(self, kind: bytes, payload: bytes = b"") -> None:
        with self._guard:
            rest = memoryview(HEAD.pack(kind, len(payload)) + payload)
            while rest:
                rest = rest[self._out.write(rest) :]


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads that the artifact left behind do not hold it
