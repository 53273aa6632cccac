"""What the server remembers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from support.postgres import postgres, why_not

from mql.errors import MqlError
from mql.exec.clock import ManualClock
from server.store import METADATA, MIGRATIONS, SCHEMA, Store, open_store
from server.tokens import WHO


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    missing = None if os.environ.get("MQL_TEST_POSTGRES") else why_not()
    if missing is not None:
        pytest.skip(missing)
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install '.[postgres]'")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    found = open_store(url, tmp_path, ManualClock(5_000_000))
    yield found
    METADATA.drop_all(found.engine)
    found.close()


def test_versions_of_a_template_are_kept(store: Store) -> None:
    assert store.put_template("a", "one").version == 1
    assert store.put_template("a", "two").version == 2
    assert store.put_template("a", "two").version == 2
    assert store.put_template("b", "x").version == 1
    assert [(one.name, one.version) for one in store.templates()] == [("a", 2), ("b", 1)]
    first = store.template("a", 1)
    assert first is not None
    assert first.text == "one"
    assert [one.version for one in store.template_versions("a")] == [1, 2]
    store.delete_template("a")
    assert store.template("a") is None
    assert store.put_template("a", "three").version == 3


def test_many_hands_get_a_version_each(store: Store) -> None:
    threads = [threading.Thread(target=store.put_template, args=("a", f"text {at}")) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.version for one in store.template_versions("a")] == [1, 2, 3, 4, 5, 6]


def test_jobs_runs_logs_and_changes(store: Store) -> None:
    store.add_job("j", {"query": "SELECT 1"}, "starting")
    with pytest.raises(MqlError, match="already"):
        store.add_job("j", {}, "starting")
    store.set_state("j", "failed", "why")
    store.change_job("j", {"query": "SELECT 2"})
    found = store.job("j")
    assert found is not None
    assert (found.spec, found.state, found.reason) == ({"query": "SELECT 2"}, "failed", "why")
    first, second = store.begin_run("j"), store.begin_run("j")
    store.end_run(first, "failed", "broken")
    store.end_open_runs("j", "crash")
    assert [(run["id"], run["outcome"]) for run in store.runs("j", 10)] == [(second, "lost"), (first, "failed")]
    for at in range(3):
        store.log("j", "info", f"line {at}")
    assert [line["text"] for line in store.logs("j", 2)] == ["line 1", "line 2"]
    assert [(one["kind"], one["action"]) for one in store.changes()] == [("job", "change"), ("job", "create")]
    store.delete_job("j")
    assert store.jobs() == ()
    assert store.runs("j", 10) == ()


def test_tokens_and_in_whose_name_a_change_was_made(store: Store) -> None:
    WHO.set("ann")
    assert store.add_token("a", "1" * 64, {"scope": "read"}) == 5_000_000
    WHO.set(None)
    with pytest.raises(MqlError, match="already"):
        store.add_token("a", "2" * 64, {})
    assert [(row["name"], row["digest"], row["spec"]) for row in store.tokens()] == [("a", "1" * 64, {"scope": "read"})]
    assert store.delete_token("a")
    assert not store.delete_token("a")
    assert [(one["who"], one["action"]) for one in store.changes(kind="token")] == [(None, "delete"), ("ann", "create")]
    assert len(store.changes(who="ann")) == 1


def test_a_store_of_the_second_version_is_brought_up(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("DROP TABLE tokens"))
        connection.execute(text("ALTER TABLE changes DROP COLUMN who"))
        connection.execute(text("DELETE FROM schema_version WHERE version = 3"))
    store.migrate()
    store.add_token("a", "1" * 64, {})
    assert [one["who"] for one in store.changes()] == [None]


def test_the_schema_is_brought_up_once_and_never_back(store: Store) -> None:
    assert store.schema_version == MIGRATIONS[-1][0]
    store.migrate()
    assert {"changes", "jobs", "logs", "runs", "schema_version", "templates"} <= set(store.tables)
    with store.engine.begin() as connection:
        connection.execute(insert(SCHEMA).values(version=99))
    with pytest.raises(MqlError, match="schema version 99"):
        store.migrate()


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    store = open_store(None, tmp_path)
    store.add_job("j", {"query": "SELECT 1"}, "running")
    store.close()
    again = open_store(None, tmp_path)
    assert [job.name for job in again.jobs()] == ["j"]
    again.close()
