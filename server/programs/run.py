"""One run of a Python job: its query's rows through its process, and what comes back into the job's log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mql.exec.engine import Running
from mql.exec.frames import Ended, Failed, Frame, Gap, Phase, RowsFrame, Warn
from server.job_run import Outcome, Run
from server.programs.manifest import function_params, query_values
from server.programs.worker import Worker
from server.turns import Waits

if TYPE_CHECKING:
    from server.job import Job


class PythonRun(Run):
    """At most once: what the process had in its hands when it ended is lost, and the log says so."""

    def __init__(self, job: Job, adopted: Running | None) -> None:
        super().__init__(job, adopted)
        assert self.spec.artifact is not None
        self.kept = job.jobs.shelf.get(self.spec.artifact, self.spec.artifact_version)
        self.program = self.kept.read().program
        self.worker: Worker | None = None

    def go(self) -> Waits[Outcome]:
        job, spec, program = self.job, self.spec, self.program
        self._begin_anew()
        params = function_params(program, spec.params)
        place = job.jobs.directory(job.name) / "process"
        worker = self.worker = Worker(program, self.kept.path, params, place, job.say)
        try:
            running = job.jobs.engine.start(program.query, query_values(program, spec.params), self._options())
            worker.ring = self.job.ring
            return (yield from self._read(running, None))
        finally:
            worker.close()
            self._drain()
            self.log.commit()

    def _put(self, frames: Sequence[Frame]) -> Waits[Ended | Failed | None]:
        worker = self.worker
        assert worker is not None
        for frame in frames:
            match frame:
                case RowsFrame(table):
                    worker.give(table, self._drain, self._is_told)
                case Gap(data):
                    yield from self._noted("gap", data)
                case Warn(data):
                    yield from self._noted("warn", data)
                case Phase(data):
                    yield from self._noted("phase", data)
                case Ended("done" | "limit" | "timeout"):
                    worker.finish(self._drain, self._is_told)
                    return frame
                case Ended() | Failed():
                    return frame
                case _:
                    pass
        self._drain()
        worker.check()
        return Ended("limit") if worker.completed else None

    def _drain(self) -> None:
        assert self.worker is not None
        for table in self.worker.take():
            for wait_s in self._appended(table):
                time.sleep(wait_s)
            self._count(table.num_rows)
        if self.log.committed != self.log.length:
            self.log.commit()

    def _is_told(self) -> bool:
        return self.job.told is not None
