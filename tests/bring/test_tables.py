"""Tables that streams are joined with: how they are declared, read, and read again."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.postgres import postgres, why_not

from sources.declared_tables import declare_table, load_tables
from sources.strict_yaml import ConfigError, parse_yaml
from sources.tables import DeclaredTable


def read(table: DeclaredTable) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "__n"} for row in table.rows.to_pylist()]


def of(**said: Any) -> DeclaredTable:
    return declare_table("t", {"refresh": "never", **said})


def test_rows_stand_in_the_declaration() -> None:
    table = of(kind="rows", rows=[{"id": 1, "name": "a", "tags": ["x"]}, {"id": 2.5, "Name": "b"}])
    assert read(table) == [
        {"/id": 1.0, "/name": "a", "/tags": ["x"], "/~Name": None},
        {"/id": 2.5, "/name": None, "/tags": None, "/~Name": "b"},
    ]
    assert [str(field.type) for field in table.info.shape.fields] == ["DOUBLE", "VARCHAR", "VARCHAR[]", "VARCHAR"]


def test_of_rows_with_one_key_the_last_counts() -> None:
    table = of(kind="rows", key="id", rows=[{"id": 1, "v": "old"}, {"id": 2, "v": "b"}, {"id": 1, "v": "new"}])
    assert read(table) == [{"/id": 2, "/v": "b"}, {"/id": 1, "/v": "new"}]
    assert table.info.key == ("id",)


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("id,name,since\n1,ann,2026-01-02\n2,,\n")
    table = declare_table("users", {"kind": "csv", "path": "users.csv", "refresh": "never"}, tmp_path)
    assert [str(field.type) for field in table.info.shape.fields] == ["BIGINT", "VARCHAR", "DATE"]
    path.write_text("id,name,more\n3,cat,x\n")
    os.utime(path, ns=(1, 1))
    assert table.refresh()
    assert read(table) == [{"/id": 3, "/name": "cat", "/since": None}]
    path.unlink()
    assert not table.refresh()
    assert "No such file" in (table.trouble or "")
    assert read(table) == [{"/id": 3, "/name": "cat", "/since": None}]


def test_a_table_that_was_never_read_says_why(tmp_path: Path) -> None:
    table = declare_table("users", {"kind": "csv", "path": "users.csv", "refresh": "never"}, tmp_path)
    assert "No such file" in (table.info.trouble or "")
    (tmp_path / "users.csv").write_text("id\n1\n")
    assert table.refresh()
    assert table.info.trouble is None


def test_parquet_and_json_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "d": [{"x": 1}, None]}), tmp_path / "t.parquet")
    (tmp_path / "t.json").write_text('{"id": 1, "d": {"x": 1}}\n{"id": 2}\n')
    for kind in ("parquet", "json"):
        table = declare_table("t", {"kind": kind, "path": f"t.{kind}", "refresh": "never"}, tmp_path)
        assert read(table) == [{"/id": 1, "/d": {"x": 1}}, {"/id": 2, "/d": None}]


@contextmanager
def answering(bodies: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """A server that answers with these bodies by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
                return
            kind, body = bodies.get(self.path, ("text/plain", b""))
            self.send_response(200 if body else 503)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_answers_with_json_or_csv() -> None:
    bodies = {
        "/j": ("application/json", b'{"data": {"items": [{"id": 1, "p": 2}]}}'),
        "/c": ("text/csv", b"id;p\n1;2\n"),
        "/html": ("text/html", b"<html>"),
    }
    with answering(bodies) as url:
        assert read(of(kind="http", url=f"{url}/j", at="data.items")) == [{"/id": 1, "/p": 2}]
        assert read(of(kind="http", url=f"{url}/c")) == [{"/id": 1, "/p": 2}]
        assert "no JSON" in (of(kind="http", url=f"{url}/html").info.trouble or "")
        assert "503" in (of(kind="http", url=f"{url}/gone").info.trouble or "")
        assert "not allowed" in (of(kind="http", url=f"{url}/away").info.trouble or "")
    assert "can not be read" in (of(kind="http", url=f"{url}/j").info.trouble or "")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_database_is_asked_without_the_right_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    at = "'2026-01-01T00:00:00Z'::timestamptz AS at"
    query = f"SELECT 1 AS id, 'a' AS name, 2.5::numeric AS p, '{{\"x\": 1}}'::jsonb AS d, {at}"
    with postgres() as url:
        monkeypatch.setenv("TEST_TABLE_URL", url)
        table = of(
            kind="postgres", url_from="TEST_TABLE_URL", query=f"{query} UNION ALL SELECT 2, NULL, NULL, NULL, NULL"
        )
        assert [row["/id"] for row in read(table)] == [1, 2]
        assert [str(one.type) for one in table.info.shape.fields] == [
            "BIGINT",
            "VARCHAR",
            "DOUBLE",
            "JSON",
            "TIMESTAMP",
        ]
        writing = of(kind="postgres", url=url, query="CREATE TABLE x (a int)")
        assert "read-only" in (writing.info.trouble or "")
    assert "the database says" in (of(kind="postgres", url=url, query="SELECT 1").info.trouble or "")


def test_too_large_a_table_is_refused() -> None:
    table = of(kind="rows", rows=[{"id": at} for at in range(10)], rows_max=5)
    assert "it has 10 rows" in (table.info.trouble or "")
    assert "no column" in (of(kind="rows", rows=[{"id": 1}], key="name").info.trouble or "")


def test_a_table_is_kept_fresh_by_its_own_thread(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id\n1\n")
    table = declare_table("t", {"kind": "csv", "path": "t.csv", "refresh": "1s"}, tmp_path)
    path.write_text("id\n1\n2\n")
    waiting = threading.Event()
    for _ in range(200):
        if table.count == 2:
            break
        waiting.wait(0.05)
    assert table.count == 2
    table.close()


WRONG = """
tables:
  users: {kind: csv}
  prices: {kind: htp, url: x}
  devices: {kind: postgres, url: "mysql://x", query: SELECT 1, refesh: 1m}
  often: {kind: rows, rows: [], refresh: 10ms}
  1x: {kind: rows, rows: []}
"""


def test_all_that_is_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    document = parse_yaml(WRONG, "mql.yaml")
    with pytest.raises(ConfigError) as wrong:
        load_tables(document.value["tables"], tmp_path, document=document)
    assert str(wrong.value).splitlines() == [
        "mql.yaml:3:10: tables.users.path: is missing",
        'mql.yaml:4:18: tables.prices.kind: unknown kind "htp". Did you mean "http"?',
        "mql.yaml:5:34: tables.devices.url: string should match pattern '^postgres(ql)?(\\+psycopg)?://'",
        'mql.yaml:5:72: tables.devices.refesh: unknown setting "refesh". Did you mean "refresh"?',
        "mql.yaml:6:42: tables.often.refresh: a table is read again at most once a second",
        'mql.yaml:7:7: tables.1x: "1x" is no name: letters, digits, _ . - and a letter first',
    ]
    with pytest.raises(ConfigError, match="unknown kind"):
        declare_table("f", {"kind": "csv", "path": "/etc/passwd"}, tmp_path, kinds=("rows",))
