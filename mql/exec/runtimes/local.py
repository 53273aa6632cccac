"""The runtime on this process's own threads: one a worker, each running its tasks in turns."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from mql.exec.kernel import Kernel, Session
from mql.exec.task import Task

STEPS_MAX = 8
SLICE_S = 0.02
TURNS_OF_ALL = 8
"""One turn in so many goes to the task that has waited longest, whatever its rank: nobody stands still for ever."""
STOP_S = 2.0


class LocalRuntime:
    """N threads. A task belongs to one of them, and waits in its line when it has something to do."""

    def __init__(self, kernel: Kernel, workers: int = 2) -> None:
        assert workers > 0
        self._kernel = kernel
        self._workers = tuple(Worker(number) for number in range(workers))
        self._hosts: dict[int, tuple[Worker, Session]] = {}
        self._guard = threading.Lock()

    @property
    def workers(self) -> int:
        return len(self._workers)

    def session(self) -> Session:
        return self._kernel.session()

    def host(self, task: Task, worker: int, session: Session) -> None:
        home = self._workers[worker]
        with self._guard:
            self._hosts[id(task)] = (home, session)
        home.hosted += 1
        wake = waker(home, task)
        task.wake = wake
        for channel in task.channels:
            channel.on_item = wake
        for channel in task.exchange.channels:
            channel.on_room = wake
        wake()

    def release(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.stop()
        for task in tasks:
            with self._guard:
                found = self._hosts.pop(id(task), None)
            if found is not None:
                home, session = found
                home.hosted -= 1
                home.retire(task, session)

    def load(self) -> Sequence[float]:
        return tuple(float(worker.hosted) for worker in self._workers)

    def close(self) -> None:
        with self._guard:
            hosted = list(self._hosts.values())
        for worker in self._workers:
            worker.stop()
        for _, session in hosted:
            session.interrupt()
        for worker in self._workers:
            worker.thread.join(STOP_S)
        for _, session in hosted:
            session.close()


class Worker:
    """One thread and the lines of its tasks that have something to do, a line for each rank."""

    def __init__(self, number: int) -> None:
        self.hosted = 0
        self._changed = threading.Condition()
        self._lines: dict[int, deque[tuple[int, Task]]] = {}
        self._came = itertools.count()
        self._turns = 0
        self._waiting: set[int] = set()
        self._retired: list[Session] = []
        self._running: Task | None = None
        self._stopping = False
        self.thread = threading.Thread(target=self._run, name=f"mql-worker-{number}", daemon=True)
        self.thread.start()

    def wake(self, task: Task) -> None:
        """Puts a task in the line, unless it is there already."""
        with self._changed:
            if id(task) not in self._waiting and not task.stopped:
                self._waiting.add(id(task))
                self._lines.setdefault(task.rank, deque()).append((next(self._came), task))
                self._changed.notify()

    def retire(self, task: Task, session: Session) -> None:
        """Closes a released task's session, as soon as its statement is over."""
        with self._changed:
            if self._running is task:
                session.interrupt()
            self._retired.append(session)
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._retired and not self._stopping:
                    self._changed.wait()
                retired, self._retired = self._retired, []
                if not self._stopping and self._waiting:
                    self._running = self._next()
                    self._waiting.discard(id(self._running))
                stopping, task = self._stopping, self._running
            for session in retired:
                session.close()
            if stopping:
                return
            if task is not None:
                self._turn(task)

    def _next(self) -> Task:
        """Whose turn it is: the first of the highest rank, and every so often the first of all."""
        self._turns += 1
        waiting = [(rank, line[0][0], line) for rank, line in self._lines.items() if line]
        of_all = self._turns % TURNS_OF_ALL == 0
        _, _, line = min(waiting, key=lambda one: one[1] if of_all else -one[0])
        return line.popleft()[1]

    def _turn(self, task: Task) -> None:
        """Some steps of one task; then it waits in line again, so that all get their turns."""
        until = time.perf_counter() + SLICE_S
        try:
            for _ in range(STEPS_MAX):
                if not task.ready:
                    return
                task.step()
                if time.perf_counter() > until:
                    break
        except Exception as error:  # whatever an operator raises ends its query, and nothing else
            failed = not task.stopped
            task.stop()
            if failed:
                task.on_failure(error)
            return
        if task.ready:
            self.wake(task)


def waker(worker: Worker, task: Task) -> Callable[[], None]:
    return lambda: worker.wake(task)
