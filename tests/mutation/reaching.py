"""A plugin of pytest: tells which test reaches which line, and runs those that were chosen, in their order.

`MQL_REACH` names a file to write: for each line of the modules in `MQL_MODULES` the tests that ran it, and how long
each test took. `MQL_CHOSEN` names a file of tests, one a line; nothing else runs, and at the first that fails its name
is put into the same file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


class Reach:
    """Notes what each test reaches; tests that fail are not noted, for they would kill anything."""

    def __init__(self, to: Path, modules: list[str]) -> None:
        self.to = to
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.coverage = coverage.Coverage(data_file=None, include=modules, config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(module).relative_to(Path.cwd())): {
                line: sorted({test for test in tests if test} - self.failed)
                for line, tests in data.contexts_by_lineno(module).items()
            }
            for module in data.measured_files()
        }
        self.to.write_text(json.dumps({"seconds": self.seconds, "failed": sorted(self.failed), "lines": lines}))


class Chosen:
    """Runs the tests of a list in its order."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.order = {name: at for at, name in enumerate(file.read_text().split("\n"))}
        file.write_text("")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if "MQL_REACH" in os.environ:
        modules = os.environ["MQL_MODULES"].split(":")
        config.pluginmanager.register(Reach(Path(os.environ["MQL_REACH"]), modules))
    if "MQL_CHOSEN" in os.environ:
        config.pluginmanager.register(Chosen(Path(os.environ["MQL_CHOSEN"])))
