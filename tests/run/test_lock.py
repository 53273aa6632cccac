"""The engine is locked: no statement opens, writes, loads or sets anything, and no query reaches a function that is not
on the list."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mql.aggregates import aggregate_names
from mql.catalog import Catalog, SourceInfo
from mql.errors import MqlError
from mql.exec.kernel import Kernel
from mql.functions import CALLABLE
from mql.planner.compile import compile_query
from mql.schema import BIGINT, VARCHAR, Field, Shape

KERNEL = Kernel()
CATALOG = Catalog({"events": SourceInfo("events", Shape((Field("k", VARCHAR), Field("n", BIGINT))))})
OWN = {"event_time", "arrival_time", "row_id", "split", "offset", "tick", "source"}
HOSTILE = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "COPY (SELECT 1) TO '{out}'",
    "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
    "EXPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "SET temp_directory = '/tmp'",
    "RESET lock_configuration",
    "PRAGMA enable_logging",
    "CALL enable_logging(storage = 'file')",
    "SELECT * FROM read_text('http://127.0.0.1:1/')",
    "CREATE SECRET s (TYPE http)",
    "SELECT * FROM open_in_python",
)


@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_statement_does_nothing(statement: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    open_in_python = pa.table({"x": [1]})
    assert open_in_python.num_rows == 1
    session = KERNEL.session()
    with pytest.raises(Exception, match=r"(?i)disabled|locked|not exist|error|cannot|permission|not supported"):
        session.run(statement.format(out=out), {})
    session.close()
    assert not out.exists()


def test_every_function_of_the_engine_that_is_not_on_the_list_is_refused() -> None:
    session = KERNEL.session()
    names = session.run("SELECT DISTINCT function_name AS name FROM duckdb_functions()", {}).column("name").to_pylist()
    session.close()
    allowed = {*CALLABLE, *aggregate_names(), *OWN}
    unlisted = [name for name in names if name.lower() not in allowed and name.isidentifier()]
    assert len(unlisted) > 400
    for name in unlisted:
        for call in (f"`{name}`", name):
            text = f"select {call}(k) from events" if call == name else f"select {name}() from events"
            with pytest.raises(MqlError):
                compile_query(text, CATALOG)


@pytest.mark.parametrize(
    "text",
    [
        "select k from events where k = '''; drop table x; --'",
        'select k as "a""; select 1; --" from events',
        'select `k"; select 1` from events',
        "select k as 'x'' || read_text(''/etc/passwd'')' from events",
        "select k from events where k like '%''%' or k = '\\'",
    ],
)
def test_texts_and_names_stay_what_they_are(text: str) -> None:
    """Whatever stands in quotes ends up as a value or a name of one SELECT."""
    import duckdb

    try:
        plan = compile_query(text, CATALOG)
    except MqlError:
        return
    assert len(duckdb.extract_statements(plan.batch)) == 1
    session = KERNEL.session()
    events = pa.table(
        {
            "/k": ["a"],
            "/n": pa.array([1], pa.int64()),
            **{name: pa.array([0], pa.int64()) for name in ("__t", "__s", "__o", "__a", "__m")},
        }
    )
    rows = session.run(plan.batch, {"events": events}).to_pylist()
    session.close()
    assert all(row.get("k", "a") in ("a", None) for row in rows)
