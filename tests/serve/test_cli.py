"""The command line, as a shell sees it: rows on standard output, the rest on standard error, an exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.serving import Served, served

from sources.generator import GeneratorSource

ROOT = Path(__file__).parent.parent.parent
EVENTS = ROOT / "examples" / "requests.ndjson"
BY_SERVICE = "SELECT service, count(*) AS n FROM x GROUP BY service ORDER BY n DESC LIMIT 2"
MQL = [sys.executable, "-m", "server.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "COLUMNS": "120"}
LIMIT_S = 60


def run(*arguments: str, cwd: Path, stdin: bytes | Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command; bytes come by a pipe, a path as a redirected file."""
    where = {"cwd": cwd, "env": ENVIRONMENT, "capture_output": True, "timeout": LIMIT_S}
    if isinstance(stdin, Path):
        with stdin.open("rb") as opened:
            return subprocess.run([*MQL, *arguments], stdin=opened, **where)
    if stdin is None:
        return subprocess.run([*MQL, *arguments], stdin=subprocess.DEVNULL, **where)
    return subprocess.run([*MQL, *arguments], input=stdin, **where)


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_in_quotes_a_redirected_file_and_a_pipe_give_the_same(tmp_path: Path) -> None:
    told = [{"service": "api", "n": 406}, {"service": "auth", "n": 72}]
    in_quotes = BY_SERVICE.replace(" x ", f" '{EVENTS}' ")
    assert rows(run("query", in_quotes, cwd=tmp_path)) == told
    assert rows(run("query", BY_SERVICE, cwd=tmp_path, stdin=EVENTS)) == told
    piped = rows(run("query", "SELECT path FROM x WHERE status >= 500", cwd=tmp_path, stdin=EVENTS.read_bytes()))
    assert len(piped) == 16


def test_the_truth_is_told_on_standard_error_and_quiet_keeps_it_back(tmp_path: Path) -> None:
    text = b'{"a": 1}\nnot json\n{"a": 2}\n'
    (tmp_path / "events.ndjson").write_bytes(text)
    done = run("query", "SELECT a FROM 'events.ndjson'", cwd=tmp_path)
    assert rows(done) == [{"a": 1}, {"a": 2}]
    assert done.stderr.decode().startswith("scanned 3 · matched 2 · late 0 · malformed 1 · rows 2")
    assert run("query", "-q", "SELECT a FROM 'events.ndjson'", cwd=tmp_path).stderr == b""


@pytest.mark.parametrize("form", ["json", "csv", "arrow", "parquet", "table"])
def test_each_format_holds_the_same_rows(form: str, tmp_path: Path) -> None:
    done = run("query", BY_SERVICE, "-o", form, cwd=tmp_path, stdin=EVENTS)
    assert done.returncode == 0, done.stderr
    match form:
        case "json":
            assert json.loads(done.stdout) == [{"service": "api", "n": 406}, {"service": "auth", "n": 72}]
        case "csv":
            assert done.stdout == b"service,n\r\napi,406\r\nauth,72\r\n"
        case "arrow":
            assert pa.ipc.open_stream(done.stdout).read_all().column("n").to_pylist() == [406, 72]
        case "parquet":
            assert pq.read_table(io.BytesIO(done.stdout)).column("n").to_pylist() == [406, 72]
        case _:
            assert done.stdout.decode().split() == ["service", "n", "api", "406", "auth", "72"]


def test_a_result_without_rows_is_whole_in_each_format(tmp_path: Path) -> None:
    empty = "SELECT service, status FROM x WHERE status = 1"
    assert run("query", empty, "-o", "json", cwd=tmp_path, stdin=EVENTS).stdout == b"[]\n"
    assert run("query", empty, "-o", "csv", cwd=tmp_path, stdin=EVENTS).stdout == b"service,status\r\n"
    parquet = run("query", empty, "-o", "parquet", cwd=tmp_path, stdin=EVENTS).stdout
    assert pq.read_table(io.BytesIO(parquet)).column_names == ["service", "status"]


def test_what_an_event_holds_never_commands_the_terminal(tmp_path: Path) -> None:
    done = run("query", "SELECT a FROM x", "-o", "table", cwd=tmp_path, stdin=b'{"a": "\\u001b[31mred\\n"}\n')
    assert b"\x1b" not in done.stdout
    assert b"\\x1b[31mred\\n" in done.stdout


def test_mistakes_are_drawn_and_have_exit_codes(tmp_path: Path) -> None:
    wrong = run("query", "SELECT staus FROM x", cwd=tmp_path, stdin=EVENTS)
    assert wrong.returncode == 1
    assert wrong.stderr.decode().splitlines()[1:] == [
        "1 | SELECT staus FROM x",
        "  |        ^^^^^",
        'Did you mean "status"?',
    ]
    assert wrong.stdout == b""
    assert run("query", cwd=tmp_path).returncode == 2
    assert run("query", "SELECT 1 FROM x SINCE '-1h'", "--since", "-1h", cwd=tmp_path).returncode == 2
    away = run("query", "SELECT 1 FROM x", "--server", "127.0.0.1:1", cwd=tmp_path)
    assert (away.returncode, away.stdout) == (3, b"")
    assert b"mql serve" in away.stderr


def test_parameters_are_values_and_the_text_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "q.mql").write_text("SELECT $name AS name, a FROM 'e.ndjson' WHERE a = $least -- a comment\n")
    (tmp_path / "e.ndjson").write_text('{"a": 1}\n{"a": 2}\n')
    given = ("-p", "least=2", "-p", "name=' OR 1=1")
    assert rows(run("query", "-f", "q.mql", *given, cwd=tmp_path)) == [{"name": "' OR 1=1", "a": 2}]
    by_stdin = run("query", "-f", "-", *given, cwd=tmp_path, stdin=(tmp_path / "q.mql").read_bytes())
    assert rows(by_stdin) == [{"name": "' OR 1=1", "a": 2}]


def test_since_and_until_are_clauses_even_after_a_comment(tmp_path: Path) -> None:
    bounds = ("--since", "2026-09-21T14:26:00Z", "--until", "2026-09-21T14:28:00Z")
    assert rows(run("query", "SELECT count(*) AS n FROM x -- so many", *bounds, cwd=tmp_path, stdin=EVENTS)) == [
        {"n": 240}
    ]


def test_declared_sources_are_found_beside_the_query(tmp_path: Path) -> None:
    (tmp_path / "mql.yaml").write_text("default: made\nsources:\n  made: {kind: generator, events: 50}\n")
    assert rows(run("query", "SELECT count(*) AS n", cwd=tmp_path)) == [{"n": 50}]
    assert "made" in run("explain", "SELECT count(*) FROM made", cwd=tmp_path).stdout.decode()
    shown = run("tail", "made", "-n", "3", "-e", cwd=tmp_path)
    assert [sorted(row)[:2] for row in rows(shown)] == [["bytes", "country"]] * 3


def test_a_replay_is_a_whole_file_or_none(tmp_path: Path) -> None:
    (tmp_path / "mql.yaml").write_text("sources:\n  made: {kind: generator}\n")
    query = "SELECT service, count(*) AS n FROM made WINDOW 1m GROUP BY service"
    assert run("replay", query, "--since", "-3m", "--out", "x.parquet", cwd=tmp_path).returncode == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows >= 15
    endless = run("replay", query, "--out", "y.parquet", cwd=tmp_path)
    assert endless.returncode == 1
    assert b"--since" in endless.stderr
    assert sorted(path.name for path in tmp_path.glob("*parquet*")) == ["x.parquet"]


def test_check_tells_file_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "mql.yaml").write_text("sources:\n  made: {kind: generator}\n")
    (tmp_path / "good.mql").write_text("SELECT status FROM made")
    (tmp_path / "name.mql").write_text("SELECT\n  staus FROM made")
    (tmp_path / "shape.mql").write_text("SELECT status FORM made")
    (tmp_path / "bad.yaml").write_text("sources:\n  a: {kind: kafca}\n")
    done = run("check", ".", cwd=tmp_path)
    assert done.returncode == 1
    assert [line.split(": ")[0] for line in done.stderr.decode().splitlines()] == [
        "bad.yaml:2:13",
        "name.mql:2:3",
        "shape.mql:1:15",
    ]
    assert run("check", "good.mql", "mql.yaml", cwd=tmp_path).returncode == 0


def test_fmt_keeps_comments_or_leaves_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mql").write_text("-- why\nselect a from b where c>1;\n")
    (tmp_path / "b.mql").write_text("select a -- inside\nfrom b")
    assert run("fmt", "--check", "a.mql", cwd=tmp_path).returncode == 1
    assert run("fmt", "a.mql", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.mql").read_text() == "-- why\nSELECT a\nFROM b\nWHERE c > 1\n"
    assert run("fmt", "--check", "a.mql", cwd=tmp_path).returncode == 0
    assert run("fmt", "b.mql", cwd=tmp_path).returncode == 1
    assert (tmp_path / "b.mql").read_text() == "select a -- inside\nfrom b"
    assert run("fmt", "-", cwd=tmp_path, stdin=b"select 1 from b").stdout == b"SELECT 1\nFROM b\n"


def test_rows_of_a_pipe_come_while_it_is_open_and_interrupt_ends_it(tmp_path: Path) -> None:
    command = [*MQL, "query", "SELECT a FROM x"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"a": 1}\n')
        process.stdin.flush()
        assert process.stdout.readline() == b'{"a":1}\n'
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr is not None
        assert b"scanned 1" in process.stderr.read()


def test_help_answers_at_once(tmp_path: Path) -> None:
    shown = run("--help", cwd=tmp_path)
    assert shown.returncode == 0
    loaded = (
        "import sys, server.cli; print(sorted({'duckdb', 'pyarrow', 'aiohttp', 'rich', 'lark'} & set(sys.modules)))"
    )
    alone = subprocess.run([sys.executable, "-c", loaded], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert alone.stdout.strip() == b"[]"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served([GeneratorSource("requests", rate=2000)]) as found:
        yield found


def test_a_server_is_asked_the_same_way(server: Served, tmp_path: Path) -> None:
    there = ("--server", f"http://127.0.0.1:{server.port}")
    query = "SELECT service, status FROM requests"
    assert len(rows(run("query", query, "--limit", "5", *there, cwd=tmp_path))) == 5
    parquet = run("query", query, "--limit", "5", "-o", "parquet", *there, cwd=tmp_path).stdout
    assert pq.read_table(io.BytesIO(parquet)).schema.field("status").type == pa.int64()
    wrong = run("query", "SELECT staus FROM requests", *there, cwd=tmp_path)
    assert wrong.returncode == 1
    assert b'Did you mean "status"?' in wrong.stderr
    assert run("query", "SELECT count(*) FROM requests", "--timeout", "1s", *there, cwd=tmp_path).returncode == 4
    assert len(rows(run("tail", "requests", "-n", "2", "-e", *there, cwd=tmp_path))) == 2
    assert b"requests" in run("explain", query, *there, cwd=tmp_path).stdout
    whole = "SELECT count(*) AS n FROM requests WINDOW 1m"
    assert run("replay", whole, "--since", "-3m", "--out", "x.csv", *there, cwd=tmp_path).returncode == 0
    assert (tmp_path / "x.csv").read_text().startswith("window_start,window_end,n")


def test_a_query_leaves_the_server_with_its_asker(server: Served, tmp_path: Path) -> None:
    command = [*MQL, "query", "SELECT status FROM requests", "--server", f"127.0.0.1:{server.port}"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(LIMIT_S) == 130
    until = time.monotonic() + 10
    while any(not query.execution.over for query in server.engine.queries()):
        assert time.monotonic() < until, "the query outlived its reader"
