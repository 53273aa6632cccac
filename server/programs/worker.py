"""The server's end of a Python job's process: batches in, rows out, and never more than a few of either in between.

The process has bounds of memory and files, an environment and a directory of its own, and goes when this one does. That
keeps a job's mistakes from the server; it is no sandbox: who may upload an artifact may do what the server's user may.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import mql
from mql.errors import MqlError
from mql.learn import parse_type
from server.programs.manifest import Program
from sources.columns import arrow_of

log = logging.getLogger("server")

HEAD = struct.Struct("<cI")
CHILD = Path(__file__).with_name("child.py")
HOME = Path(mql.__file__).parents[1]
UNTAKEN_MAX = 4
"""So many batches may be on their way to the function."""
UNREAD_BYTES = 8 << 20
FRAME_BYTES = 256 << 20
LINES_PER_S, LINES_MAX, LINE_MAX = 20, 200, 500
LEAVE_S = 1.0
STEP_S = 0.05

Say = Callable[[str, str], None]


class Broken(MqlError):
    """The process has failed, hangs or is gone."""

    def __init__(self, what: str) -> None:
        super().__init__(what, hint="Its log has what it said: GET /v1/jobs/{name}/logs.", code="program-failed")


class Worker:
    """One process. All but `ring` and `say`, which are called from threads of its own, is for one thread.

    `place`: a directory of its own, made anew. `ring`: something came. `say`: a line of the process for the job's log.
    """

    def __init__(self, program: Program, artifact: Path, params: Mapping[str, Any], place: Path, say: Say) -> None:
        self.ring: Callable[[], None] = lambda: None
        self.completed = False
        self._program = program
        self._say = say
        self._place = place
        self._schema = pa.schema([(name, arrow_of(parse_type(type))) for name, type in program.columns])
        self._untaken = 0
        self._heard_s = time.monotonic()
        self._failure: str | None = None
        self._rows: deque[pa.Table] = deque()
        self._unread = 0
        self._room = threading.Condition()
        self._is_closing = False
        self._process = self._started(artifact, params)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._log_lines)]
        for thread in self._threads:
            thread.start()

    def _started(self, artifact: Path, params: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        told = {
            "artifact": str(artifact),
            "home": str(HOME),
            "entry": self._program.entry,
            "params": dict(params),
            "memory": self._program.memory,
            "schema": bytes(self._schema.serialize()).hex(),
        }
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)
        process = subprocess.Popen(
            (sys.executable, "-I", str(CHILD), self._program.entry),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._place,
            env=environment(self._place),
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdin is not None
        settings = json.dumps(told).encode()
        with contextlib.suppress(BrokenPipeError):  # it is gone already: who listens to it will say why
            write_all(process.stdin.fileno(), HEAD.pack(b"S", len(settings)) + settings)
        os.set_blocking(process.stdin.fileno(), False)
        return process

    # --- in ---------------------------------------------------------------------------------------------

    def give(self, table: pa.Table, drain: Callable[[], None], told: Callable[[], bool]) -> None:
        """Hands rows over, and waits while too many batches are on their way. `drain`: called while it waits, to take
        what comes back; `told`: whether somebody wants to stop. Raises Broken."""
        for batch in table.combine_chunks().to_batches():
            if self.completed:
                return
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            if self._untaken == 0:
                self._heard_s = time.monotonic()
            with self._room:
                self._untaken += 1
            self._send(b"B", sink.getvalue().to_pybytes(), drain, told)
            while self._untaken >= UNTAKEN_MAX and not (told() or self.completed):
                self._waited(drain)

    def finish(self, drain: Callable[[], None], told: Callable[[], bool]) -> None:
        """Says that no more will come, and waits for what follows. Raises Broken."""
        if not self.completed:
            self._send(b"E", b"", drain, told)
        while not (self.completed or told()):
            self._waited(drain, patience=True)
        drain()

    def _send(self, kind: bytes, payload: bytes, drain: Callable[[], None], told: Callable[[], bool]) -> None:
        assert self._process.stdin is not None
        out = self._process.stdin.fileno()
        rest = memoryview(HEAD.pack(kind, len(payload)) + payload)
        while rest and not told():
            try:
                rest = rest[os.write(out, rest) :]
            except BlockingIOError:
                select.select((), (out,), (), STEP_S)
                drain()
                self.check()
            except BrokenPipeError:
                self._waited(drain)
                if self.completed:
                    return

    def _waited(self, drain: Callable[[], None], *, patience: bool = False) -> None:
        with self._room:
            self._room.wait(STEP_S)
        drain()
        self.check(patience=patience)

    # --- out --------------------------------------------------------------------------------------------

    def take(self) -> list[pa.Table]:
        """The rows that have come."""
        with self._room:
            found, self._unread = list(self._rows), 0
            self._rows.clear()
            self._room.notify_all()
        return found

    def check(self, *, patience: bool = False) -> None:
        """Raises Broken where it has failed, or has been busy with one batch for too long (with `patience`: silent)."""
        if self._failure is not None:
            raise Broken(self._failure)
        limit = self._program.answer_within
        if (self._untaken or patience) and not self.completed and time.monotonic() - self._heard_s > limit:
            raise Broken(f"its process has been busy with one batch for {limit:g} s, and was ended")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while len(head := self._read(HEAD.size)) == HEAD.size:
                kind, length = HEAD.unpack(head)
                if length > FRAME_BYTES:
                    raise ValueError(f"{length} bytes")
                payload = self._read(length)
                if len(payload) < length:
                    break
                self._heard(kind, payload)
        except (ValueError, LookupError, TypeError, OSError, pa.ArrowException) as error:
            if not self._is_closing:
                log.warning("a Python job's process wrote what is no frame: %s", error)
            self._fail("its process wrote what is no frame")
            return
        if not self.completed:
            self._fail(self._end())

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        found = bytearray()
        while len(found) < size and (got := self._process.stdout.read(min(1 << 20, size - len(found)))):
            found += got
        return bytes(found)

    def _heard(self, kind: bytes, payload: bytes) -> None:
        self._heard_s = time.monotonic()
        match kind:
            case b"R":
                with pa.ipc.open_stream(payload) as reader:
                    table = reader.read_all()
                if table.schema != self._schema:
                    raise ValueError("rows of other columns than were declared")
                with self._room:
                    while self._unread > UNREAD_BYTES and not self._is_closing:
                        self._room.wait(STEP_S)
                    self._rows.append(table)
                    self._unread += len(payload)
            case b"A":
                with self._room:
                    if not self._untaken:
                        raise ValueError("more batches were taken than given")
                    self._untaken -= 1
                    self._room.notify_all()
            case b"C":
                self.completed = True
            case b"X":
                said = json.loads(payload)
                error, lines = str(said["error"]), str(said["traceback"]).splitlines()
                for line in lines[-LINES_MAX:]:
                    self._say("error", line[:LINE_MAX])
                self._fail(f"its code failed: {error[:LINE_MAX]}")
            case _:
                raise ValueError("an unknown kind")
        self.ring()

    def _fail(self, what: str) -> None:
        if self._failure is None and not self._is_closing:
            self._failure = what
        with self._room:
            self._room.notify_all()
        self.ring()

    def _end(self) -> str:
        """Why the process is gone."""
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended by itself, with code {code}"

    def _log_lines(self) -> None:
        """What the process prints, as lines of the job's log: so many a second, and then how many more there were."""
        assert self._process.stderr is not None
        second, told, left_out = 0, 0, 0
        with contextlib.suppress(OSError, ValueError), open(self._process.stderr.fileno(), closefd=False) as lines:
            while line := lines.readline(LINE_MAX):
                now = int(time.monotonic())
                if now != second:
                    if left_out:
                        self._say("info", f"… and {left_out} lines more")
                    second, told, left_out = now, 0, 0
                told += 1
                if told <= LINES_PER_S:
                    self._say("info", line.rstrip("\n"))
                else:
                    left_out += 1

    # --- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the process: asked first, killed after a second, with all that it started."""
        self._is_closing = True
        with self._room:
            self._room.notify_all()
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in self._threads:
            thread.join(LEAVE_S)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        shutil.rmtree(self._place, ignore_errors=True)

    @property
    def pid(self) -> int:
        return self._process.pid


def environment(place: Path) -> dict[str, str]:
    """All that the process sees of the server's environment: nothing."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place),
        "TMPDIR": str(place),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def write_all(out: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(out, rest) :]
