"""A source's events change their shape while a query runs."""

from __future__ import annotations

from contextlib import closing

from mql.catalog import Catalog, SourceInfo
from mql.exec.clock import SystemClock
from mql.exec.drift import Drift
from mql.exec.engine import Engine
from mql.exec.frames import Warn
from mql.planner.compile import compile_query
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape
from sources.memory import MemorySource

PATIENCE_S = 20.0


def test_only_what_concerns_the_query_is_told_and_once() -> None:
    old = Shape((Field("n", BIGINT), Field("k", VARCHAR)))
    plan = compile_query("select n from events", Catalog({"events": SourceInfo("events", old)}))
    drift = Drift(plan.scan, old)
    assert drift.look(old) is None
    new = Shape((Field("n", DOUBLE), Field("k", BIGINT), Field("m", VARCHAR)), version=2)
    told = drift.look(new)
    assert told is not None
    assert '"n" has values of DOUBLE now' in told
    assert '"k"' not in told
    assert "new properties, unknown to this query: m" in told
    assert drift.look(new) is None
    assert drift.look(Shape(new.fields, version=3)) is None


def test_a_live_query_warns_of_drift_and_goes_on() -> None:
    source = MemorySource("events", [{"n": 1}], bounded=False)
    with closing(Engine([source], workers=1)) as engine:
        running = engine.start("select n from events")
        reader = running.subscribe()
        source.push(0, [{"n": 2}])
        clock = SystemClock()
        until, warnings = clock.monotonic_s() + PATIENCE_S, []
        while not warnings and clock.monotonic_s() < until:
            source.push(0, [{"n": 2.5, "m": 1}])
            reader.wait(0.5)
            warnings = [frame.data for frame in reader.take() if isinstance(frame, Warn)]
        assert warnings[0]["code"] == "shape-drift"
        assert running.columns == (("n", "BIGINT"),)
