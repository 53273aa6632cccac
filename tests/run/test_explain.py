"""EXPLAIN, in every form, as a query asks for it."""

from __future__ import annotations

from contextlib import closing

import pytest

from mql.errors import MqlError
from mql.exec.engine import Engine
from sources.memory import MemorySource

EVENTS = [{"ts": second, "k": "ab"[second % 2], "n": second} for second in range(100)]
QUERY = "select k, count(*) as c from events where n >= 10 window tumbling 10s group by k order by c desc limit 1"


def told(text: str) -> str:
    with closing(Engine([MemorySource("events", EVENTS)], workers=2)) as engine:
        return "\n".join(line for table in engine.rows(text) for line in table.column("plan").to_pylist())


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("", ["reads      k, n", "gives      window_start TIMESTAMP", "stage 2", "worker"]),
        ("logical", ["group by", "scan events [k, n] since earliest until end"]),
        ("physical", ["-- each batch", "GROUP BY p, k0", "-- when a window closes", "$until"]),
        ("sql", ["WITH kept AS (SELECT * FROM events WHERE", "QUALIFY row_number()"]),
        ("estimate", ["decodes 2 of", "32 of keys"]),
    ],
)
def test_a_form_tells_what_it_is_for(form: str, says: list[str]) -> None:
    text = told(f"explain {form} {QUERY}")
    for said in says:
        assert said in text


def test_analyze_runs_the_query_and_tells_what_became_of_the_events() -> None:
    text = told(f"explain analyze {QUERY}")
    assert "100 events" in text
    assert "in 100, out 90, filtered 10" in text
    assert "sort and cut: in 18, out 9" in text
    assert "ledger     100 events = emitted_from 90, filtered 10" in text


def test_a_wrong_query_is_not_explained() -> None:
    with pytest.raises(MqlError, match="no property"):
        told("explain select m from events")
