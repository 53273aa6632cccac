"""The kernel: locked on every session, the same answers whether a statement was planned before or not."""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa
import pytest

from mql.exec.kernel import PREPARED_AFTER, PREPARED_MAX, Kernel, Session


@pytest.fixture(scope="module")
def session() -> Session:
    return Kernel(threads=1, memory_limit="512MB").session()


def test_times_without_a_zone_are_utc_wherever_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    sql = "SELECT epoch_us(CAST('1970-01-01T00:00:01' AS TIMESTAMPTZ)) AS us"
    assert Kernel(threads=1).session().run(sql, {}).to_pylist() == [{"us": 1_000_000}]


def test_no_session_sees_the_variables_of_this_process(session: Session) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(duckdb.Error):
        session.run("SELECT * FROM secret", {})
    assert secret.num_rows == 1


@pytest.mark.parametrize("statement", ["SET threads = 2", "SELECT * FROM read_csv('/etc/passwd')", "INSTALL httpfs"])
def test_a_session_is_locked(session: Session, statement: str) -> None:
    with pytest.raises(duckdb.Error):
        session.run(statement, {})


def test_a_statement_that_comes_again_reads_the_new_table(session: Session) -> None:
    sql = "SELECT a + 1 AS b FROM batch"
    for n in range(2 * PREPARED_AFTER):
        assert session.run(sql, {"batch": pa.table({"a": [n, n]})}).column("b").to_pylist() == [n + 1, n + 1]
    assert session.run(sql, {"batch": pa.RecordBatch.from_pydict({"a": [7]})}).column("b").to_pylist() == [8]
    assert session.run(sql, {"batch": pa.table({"a": pa.array([], pa.int64())})}).num_rows == 0


def test_columns_may_change_their_type_and_order(session: Session) -> None:
    sql = "SELECT a FROM batch"
    for _ in range(2 * PREPARED_AFTER):
        assert session.run(sql, {"batch": pa.table({"a": [1]})}).column("a").to_pylist() == [1]
        assert session.run(sql, {"batch": pa.table({"a": ["x"]})}).column("a").to_pylist() == ["x"]
        assert session.run(sql, {"batch": pa.table({"z": [1.5], "a": [True]})}).column("a").to_pylist() == [True]


def test_two_statements_may_read_different_tables_of_one_name(session: Session) -> None:
    for n in range(2 * PREPARED_AFTER):
        assert session.run("SELECT sum(a) AS s FROM t", {"t": pa.table({"a": [n]})}).column("s").to_pylist() == [n]
        assert session.run("SELECT max(b) AS s FROM t", {"t": pa.table({"b": ["x"]})}).column("s").to_pylist() == ["x"]


def test_a_statement_that_failed_can_run_again(session: Session) -> None:
    sql = "SELECT CAST(a AS BIGINT) AS a FROM batch"
    good, bad = pa.table({"a": ["1"]}), pa.table({"a": ["x"]})
    for _ in range(2 * PREPARED_AFTER):
        assert session.run(sql, {"batch": good}).column("a").to_pylist() == [1]
        with pytest.raises(duckdb.Error):
            session.run(sql, {"batch": bad})


def test_only_so_many_statements_are_kept(session: Session) -> None:
    for n in range(2 * PREPARED_MAX):
        for _ in range(PREPARED_AFTER + 1):
            found = session.run(f"SELECT a + {n} AS a FROM batch", {"batch": pa.table({"a": [1]})})
            assert found.column("a").to_pylist() == [n + 1]
    assert len(session._prepared) == PREPARED_MAX


def test_a_running_statement_can_be_interrupted(session: Session) -> None:
    sql = "SELECT count(*) AS n FROM batch a, batch b, batch c, batch d WHERE a.i + b.i + c.i + d.i = -1"
    session.run(sql, {"batch": pa.table({"i": [1]})})
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.wait(0.02):
            session.interrupt()

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        with pytest.raises(duckdb.InterruptException):
            session.run(sql, {"batch": pa.table({"i": list(range(2000))})})
    finally:
        stop.set()
        watcher.join()
