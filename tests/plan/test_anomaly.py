"""The ANOMALY clause as it is bound: what it takes for granted, and what it refuses with which hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mql.catalog import Catalog, SourceInfo, TimeRule
from mql.detectors import METHODS
from mql.errors import MqlError
from mql.parser import parse
from mql.planner.backtesting import episodes_plan
from mql.planner.compile import compile_forms, compile_query
from mql.planner.explain import explain
from mql.planner.logical import Detect, find
from mql.planner.physical import Anomaly, Plan
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape
from sources.generator import SHAPE as GENERATED

PAGE = Path(__file__).parent.parent.parent / "docs" / "anomaly.md"

SHAPE = Shape(
    (
        Field("ts", BIGINT),
        Field("node", VARCHAR),
        Field("cluster", VARCHAR),
        Field("status", BIGINT),
        Field("cpu", DOUBLE),
        Field("method", VARCHAR),
    )
)
CATALOG = Catalog({"r": SourceInfo("r", SHAPE, time=TimeRule(("ts",)))})
COUNTED = (
    "SELECT node, count(*) AS n, count_if(status >= 500) AS errors, avg(cpu) AS cpu FROM r WINDOW 10s GROUP BY node"
)


def plan_of(clause: str, query: str = COUNTED) -> Plan:
    return compile_query(f"{query} {clause}", CATALOG)


def spec_of(clause: str, query: str = COUNTED) -> Anomaly:
    plan = plan_of(clause, query)
    found = plan.stages[-1].operators[0]
    assert isinstance(found, Anomaly)
    assert plan.after_batch == plan.stages[-1].operators
    return found


def test_a_ratio_of_counts_is_judged_as_a_ratio_and_upwards() -> None:
    found = spec_of("ANOMALY ON errors / n")
    assert (found.method, found.direction, found.fills) == ("ratio", "up", False)
    assert spec_of("ANOMALY ON count_if(status >= 500) / count(*)").method == "ratio"
    assert spec_of("ANOMALY ON errors / n DIRECTION BOTH").direction == "both"


def test_anything_else_is_judged_by_auto_in_both_directions() -> None:
    found = spec_of("ANOMALY ON cpu")
    assert (found.method, found.direction, found.fills, found.emit) == ("auto", "both", False, "all")
    assert (found.needed, found.out_of, found.rearm, found.warmup) == (1, 1, 50, 100)
    assert spec_of("ANOMALY ON cpu / n").method == "auto"


def test_counts_and_sums_of_absent_groups_are_0_unless_missing_is_skipped() -> None:
    assert spec_of("ANOMALY ON n").fills
    assert spec_of("ANOMALY ON sum(cpu)").fills
    assert spec_of("ANOMALY ON n + errors").fills
    assert not spec_of("ANOMALY ON n SKIP MISSING").fills
    assert not spec_of("ANOMALY ON max(cpu)").fills


def test_lengths_of_time_are_numbers_of_windows() -> None:
    found = spec_of("ANOMALY ON cpu HISTORY 1 HOUR WARMUP 5 MINUTES FOR 3 OF 5 WINDOWS REARM AFTER 2 MINUTES")
    assert dict(found.parameters)["half_life"] == 360
    assert (found.warmup, found.needed, found.out_of, found.rearm) == (30, 3, 5, 12)
    hopping = "SELECT count(*) AS n FROM r WINDOW HOPPING 60s EVERY 10s"
    assert spec_of("ANOMALY ON n WARMUP 5 MINUTES", hopping).warmup == 30


def test_every_method_can_be_named_with_every_parameter_at_its_default() -> None:
    for method in METHODS:
        on = {"ratio": "errors / n", "count": "n", "siblings": "cpu AMONG 1"}.get(method.takes, "cpu")
        written = ", ".join(
            f"{p.name} => '{p.default}'"
            if p.kind == "text"
            else f"{p.name} => {p.default:.0f}us"
            if p.kind == "length"
            else f"{p.name} => {p.default}"
            for p in method.parameters
            if p.default is not None
        )
        plain = spec_of(f"ANOMALY ON {on} USING {method.name}")
        assert spec_of(f"ANOMALY ON {on} USING {method.name}({written})").parameters == plain.parameters


def test_percents_may_be_written_as_such() -> None:
    assert dict(spec_of("ANOMALY ON n USING des(percent => 20%)").parameters)["percent"] == 20
    assert dict(spec_of("ANOMALY ON n USING des(percent => 20)").parameters)["percent"] == 20
    assert dict(spec_of("ANOMALY ON errors / n USING ratio(fdr => 1%)").parameters)["fdr"] == 0.01


def test_the_columns_are_always_there_and_a_taken_name_is_kept() -> None:
    names = [name for name, _ in plan_of("ANOMALY ON cpu").result.columns]
    assert names[-13:] == [
        "is_anomaly",
        "score",
        "direction",
        "expected",
        "lower",
        "upper",
        "episode",
        "phase",
        "since",
        "duration",
        "method",
        "reason",
        "suppressed",
    ]
    by_method = "SELECT method, count(*) AS n FROM r WINDOW 10s GROUP BY method"
    names = [name for name, _ in plan_of("ANOMALY ON n", by_method).result.columns]
    assert "method" in names
    assert "anomaly_method" in names
    chosen = "SELECT score, node, count(*) AS n FROM r WINDOW 10s GROUP BY node"
    assert [name for name, _ in plan_of("ANOMALY ON n", chosen).result.columns].count("score") == 1


def test_an_episode_is_called_alike_in_history_and_live() -> None:
    keeps = Catalog({"r": SourceInfo("r", SHAPE, time=TimeRule(("ts",)), history=True)})
    specs = [
        compile_query(f"{COUNTED} ANOMALY ON n {bounds}", keeps, now_us=10**15).stages[-1].operators[0]
        for bounds in ("", "SINCE '-1h'", "SINCE '-2h' UNTIL '-1h'")
    ]
    seeds = {spec.seed for spec in specs if isinstance(spec, Anomaly)}
    assert len(seeds) == 1
    assert seeds != {spec_of("ANOMALY ON errors").seed}


def test_explain_tells_the_method_and_what_its_state_takes() -> None:
    compiled = compile_forms(f"{COUNTED} ANOMALY ON errors / n LIMIT 5 PER WINDOW EMIT EPISODES", CATALOG)
    assert isinstance(find(compiled.logical, Detect), Detect)
    assert "detect up in" in explain(compiled, "logical")
    assert "detect by ratio, tell episodes" in explain(compiled, "plan")
    assert "bytes for each group" in explain(compiled, "estimate")


def test_a_clause_is_formatted_and_parsed_alike() -> None:
    from mql.formatter import format_query

    text = (
        f"{COUNTED} ANOMALY ON n USING des(percent => 20) SKIP MISSING DIRECTION DOWN LIMIT 3 PER WINDOW EMIT EPISODES"
    )
    assert parse(format_query(parse(text))) == parse(text)


WRONG = [
    ("ANOMALY ON cpu USING ratio", 'method "ratio" needs a ratio of two counts', "leave"),
    ("ANOMALY ON cpu USING zscroe", 'no method "zscroe"', 'Did you mean "zscore"?'),
    ("ANOMALY ON cpu USING prophet", 'no method "prophet"', "There are: auto"),
    ("ANOMALY ON cpu USING zscore(treshold => 3)", 'method "zscore" has no parameter "treshold"', "threshold"),
    ("ANOMALY ON cpu USING zscore(3)", "parameters of a method are named", "zscore(threshold => …)"),
    ("ANOMALY ON cpu USING zscore(threshold => 0)", '"threshold" can not be 0', "from 0.1 to 1000"),
    ("ANOMALY ON cpu USING zscore(threshold => 2)", "a threshold of 2 needs a LIMIT", "LIMIT 20 PER WINDOW"),
    ("ANOMALY ON cpu HISTORY 1m WARMUP 5m", "HISTORY is shorter than WARMUP", "remembered"),
    ("ANOMALY ON cpu USING seasonal(period => 25s)", "the period is no multiple of the window", "fits into"),
    ("ANOMALY ON cpu USING seasonal(timezone => 'Mars')", 'no time zone "Mars"', "America/New_York"),
    ("ANOMALY ON cpu USING des HISTORY 1h", 'method "des" has no HISTORY', "parameters"),
    ("ANOMALY ON cpu USING count", 'method "count" needs a count', "count(*)"),
    ("ANOMALY ON cpu USING peers", "peers and AMONG go together", "AMONG cluster"),
    ("ANOMALY ON cpu USING zscore AMONG 1", "peers and AMONG go together", "AMONG cluster"),
    ("ANOMALY ON node", "ANOMALY ON needs a number, and this is VARCHAR", "x::DOUBLE"),
    ("ANOMALY ON 3", "ANOMALY ON needs an aggregate", "count(*)"),
    ("ANOMALY ON cpu BY cluster", "BY names other keys than GROUP BY", "Group by"),
    ("ANOMALY ON cpu FOR 5 OF 3 WINDOWS", "5 of 3 windows can not be", "FOR 3 OF 5"),
    ("ANOMALY ON cpu FOR 3 OF 65 WINDOWS", "65 is out of bounds", "from 1 to 64"),
    ("ANOMALY ON cpu RELATIVE TO n", "RELATIVE TO takes the sum of the same count", "OVER ()"),
    ("ANOMALY ON cpu TRANSFORM sqrt", 'no transform "sqrt"', "log"),
    ("ANOMALY ON errors / n TRANSFORM log", 'TRANSFORM does not go with "ratio"', "as they are"),
    ("ANOMALY ON cpu MINIMUM change < 3", "CHANGE is at least something", "CHANGE >= 0.02"),
    ("ANOMALY ON cpu TRANSFORM log MINIMUM CHANGE > 3", "CHANGE and TRANSFORM log do not go together", "condition"),
    ("ANOMALY ON cpu EMIT CHANGES", "ANOMALY judges windows that are final", "EMIT EPISODES"),
    ("EMIT EPISODES", '"EMIT EPISODES" needs an ANOMALY clause', None),
]


@pytest.mark.parametrize(("clause", "message", "hint"), WRONG)
def test_what_does_not_fit_together_is_refused_with_a_hint(clause: str, message: str, hint: str | None) -> None:
    with pytest.raises(MqlError) as raised:
        plan_of(clause)
    assert raised.value.message == message
    assert raised.value.span is not None
    if hint is not None:
        assert hint in str(raised.value.hint)


def test_the_examples_of_the_page_are_right() -> None:
    text = PAGE.read_text()
    requests = Catalog({"requests": SourceInfo("requests", GENERATED, history=True)})
    queries = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert queries
    for query in queries:
        compile_query(query, requests)
    written = re.findall(r"\| `(ANOMALY ON [^`]*|… [^`]*)` \|", text)
    assert len(written) >= 9
    for clause in written:
        what = clause.replace("…", "ANOMALY ON cpu").replace("requests", "n").replace("p99", "p99(cpu)")
        spec_of(what.replace("\\|", "|"))


def test_it_needs_a_window_of_time() -> None:
    for query in ("SELECT count(*) AS n FROM r", "SELECT node, count(*) AS n FROM r WINDOW 10 EVENTS GROUP BY node"):
        with pytest.raises(MqlError, match="ANOMALY needs "):
            plan_of("ANOMALY ON n", query)


def test_what_a_text_says_of_detectors_holds_for_those_of_inner_queries() -> None:
    inner = "SELECT node, count(*) AS n FROM r WINDOW CUMULATE 30s EVERY 10s GROUP BY node ANOMALY ON n"
    text = f"SELECT count(*) AS odd FROM ({inner}) WINDOW 1m SETTINGS max_keys = 7, key_ttl = '1h'"
    compiled = compile_forms(text, CATALOG)
    (judged,) = compiled.plan.judged
    (spec,) = judged.operators
    assert isinstance(spec, Anomaly)
    assert (spec.max_keys, spec.ttl) == (7, 360)
    with pytest.raises(MqlError, match="nothing to be tried") as found:
        episodes_plan(compiled)
    assert found.value.hint == "Try the inner query that has one by itself."
