"""What a runtime offers: it hosts tasks, runs those that are ready, and lets them go. Plans look the same to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mql.exec.kernel import Session
from mql.exec.task import Task


class Runtime(Protocol):
    """Thread-safe."""

    @property
    def workers(self) -> int: ...

    def session(self) -> Session:
        """A session for one task. The runtime closes it when the task is released."""
        ...

    def host(self, task: Task, worker: int, session: Session) -> None:
        """Runs the task on that worker from now on, whenever it is ready. What it raises goes to its `on_failure`."""
        ...

    def release(self, tasks: Sequence[Task]) -> None:
        """These tasks are not run again; a statement that runs for one of them is interrupted."""
        ...

    def load(self) -> Sequence[float]:
        """By worker: how many tasks it hosts."""
        ...

    def close(self) -> None: ...
