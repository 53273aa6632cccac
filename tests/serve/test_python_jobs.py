"""Python jobs: artifacts that are kept, code that runs in a process of its own, and what becomes of code that fails."""

from __future__ import annotations

import io
import os
import signal
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.killing import call, start, wait_until_up
from support.postgres import free_port
from support.serving import Served, served
from support.waiting import wait_for, wait_for_state

from mql.errors import MqlError
from server.cli import main
from server.programs.manifest import read_artifact
from server.programs.trying import test_artifact as tried
from server.routes import ROUTES
from sources.strict_yaml import ConfigError

FUNNEL = Path(__file__).parents[2] / "examples" / "python-jobs" / "funnel"
JOB = """
name: doubled
entry: own:doubled
query: SELECT id FROM orders
params: {times: {type: number, default: 2}}
output: {id: BIGINT, more: BIGINT}
"""
DOUBLED = """
from mql.sdk import events
from reactivex import operators as ops
def doubled(batches, params):
    print("begun with", params)
    return events(batches).pipe(ops.map(lambda one: {"id": one["id"], "more": one["id"] * params["times"]}))
"""


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def made_of(code: str, job: str = JOB) -> bytes:
    return zipped({"job.yaml": job, "own.py": code})


def put(server: Served, data: bytes, version: str = "1", name: str = "doubled") -> Any:
    return server.send("PUT", f"/v1/artifacts/{name}/{version}", data, {"Content-Type": "application/octet-stream"})


def begin(server: Served, code: str, job: str = JOB, **said: Any) -> None:
    """A job "j" of that code."""
    assert put(server, made_of(code, job)).status == 201
    made = server.post("/v1/artifacts/doubled/jobs", {"name": "j", **said})
    assert made.status == 201, made.body


def rows(server: Served, name: str = "j") -> list[Any]:
    return list(server.get(f"/v1/jobs/{name}/results").json()["rows"])


def logs(server: Served) -> str:
    return "\n".join(line["text"] for line in server.get("/v1/jobs/j/logs?n=1000").json()["lines"])


def process_of(place: str = "own:doubled") -> list[int]:
    """The processes that run an artifact's code."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"child.py" in words and place.encode() in words:
                found.append(int(folder.name))
    return found


def test_an_artifact_is_kept_and_its_jobs_are_jobs_like_others() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        data = made_of(DOUBLED)
        assert put(server, data).status == 201
        assert put(server, data).status == 200
        assert put(server, made_of(DOUBLED + "\n# changed")).json()["code"] == "artifact-exists"
        assert put(server, data, name="other").json()["code"] == "invalid-artifact"
        assert server.post("/v1/artifacts/doubled/jobs", {"params": {"tims": 3}}).status == 422
        made = server.post("/v1/artifacts/doubled/jobs", {"name": "j", "params": {"times": 3}})
        assert made.status == 201, made.body
        wait_for_state(server, "j", "running")
        reader = server.post("/v1/queries", "SELECT more FROM job.j WHERE more > 3", Accept="application/json").json()
        with server.stream("GET", reader["stream_url"]) as stream:
            server.events("orders", {"id": 1}, {"id": 2})
            assert stream.lines(1) == [{"more": 6}]
        assert wait_for(lambda: rows(server)) == [{"id": 1, "more": 3}, {"id": 2, "more": 6}]
        wait_for(lambda: "begun with {'times': 3}" in logs(server))
        told = server.get("/v1/artifacts/doubled/1").json()
        assert (told["jobs"], told["program"]["entry"]) == (["j"], "own:doubled")
        assert server.get("/v1/artifacts").json()["artifacts"][0]["versions"] == ["1"]
        assert server.send("DELETE", "/v1/artifacts/doubled/1").json()["code"] == "artifact-in-use"
        assert server.post("/v1/jobs/j:stop").json()["state"] == "stopped"
        wait_for(lambda: not process_of())
        assert server.post("/v1/jobs/j:start").status == 200
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 5})
        wait_for(lambda: rows(server)[-1] == {"id": 5, "more": 15})
        server.send("DELETE", "/v1/jobs/j")
        assert server.send("DELETE", "/v1/artifacts/doubled/1").status == 204
        assert server.get("/v1/artifacts/doubled/1").status == 404


WRITES = """
import os, pyarrow as pa
def rows():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("zzz", pa.int64())])) as writer:
        writer.write_table(pa.table({{"zzz": [1]}}))
    return sink.getvalue().to_pybytes()
def doubled(batches, params):
    for out in range(3, 20):
        try:
            os.write(out, {})
        except OSError:
            pass
    return batches
"""
FAILURES: Mapping[str, tuple[str, str]] = {
    "raises": ('def doubled(batches, params):\n    raise ValueError("no luck")', "ValueError: no luck"),
    "raises later": (DOUBLED.replace('one["id"],', '1 / (one["id"] - 1),'), "ZeroDivisionError"),
    "gives something else": ("def doubled(batches, params):\n    return 1", "must give an Observable"),
    "other columns": (DOUBLED.replace('"more"', '"most"'), "most, which job.yaml does not name"),
    "exits": ("import os\ndef doubled(batches, params):\n    os._exit(3)", "ended by itself, with code 3"),
    "too much memory": (
        "def doubled(batches, params):\n    return bytearray(1 << 31)",
        "MemoryError",
    ),
    "no such function": ("def other(batches, params): pass", "has no attribute 'doubled'"),
    "writes what is no frame": (WRITES.format("b'hello there, this is no frame'"), "wrote what is no frame"),
    "fails in no known way": (WRITES.format("b'X' + (2).to_bytes(4, 'little') + b'{}'"), "wrote what is no frame"),
    "takes more than it was given": (WRITES.format("(b'A' + bytes(4)) * 9"), "wrote what is no frame"),
    "other columns in a frame": (
        WRITES.format("b'R' + len(odd := rows()).to_bytes(4, 'little') + odd"),
        "wrote what is no frame",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_code_that_fails_is_a_failed_job_with_its_traceback(name: str) -> None:
    code, said = FAILURES[name]
    with served() as server:
        server.events("orders", {"id": 0})
        begin(server, code, JOB + "memory: 128MiB", restart="never")
        wait_for(lambda: server.events("orders", {"id": 1}) and server.get("/v1/jobs/j").json()["state"] == "failed")
        assert said in server.get("/v1/jobs/j").json()["reason"] + logs(server)
    assert not process_of()


def test_a_process_that_hangs_is_ended_and_the_server_goes_on() -> None:
    hangs = "import time\ndef doubled(batches, params):\n    return batches.pipe(ops.map(lambda one: time.sleep(60)))"
    with served() as server:
        server.events("orders", {"id": 0})
        begin(server, "from reactivex import operators as ops\n" + hangs, JOB + "answer_within: 1", restart="never")
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 1})
        wait_for_state(server, "j", "failed")
        assert "busy with one batch for 1 s" in server.get("/v1/jobs/j").json()["reason"]
    assert not process_of()


def test_a_killed_process_is_begun_anew_and_the_results_say_what_may_be_missing() -> None:
    with served() as server:
        server.events("orders", {"id": 0})
        begin(server, DOUBLED)
        wait_for_state(server, "j", "running")
        server.events("orders", {"id": 1})
        wait_for(lambda: len(rows(server)) == 1)
        os.kill(process_of()[0], signal.SIGKILL)
        wait_for(lambda: "killed by SIGKILL" in logs(server))
        wait_for(lambda: server.events("orders", {"id": 2}) and {"id": 2, "more": 4} in rows(server))
        with server.stream("GET", "/v1/jobs/j/stream", Accept="text/event-stream") as stream:
            assert "began anew" in stream.until("gap")["data"]


def test_large_parameters_and_large_tables_cross() -> None:
    many = "import pyarrow as pa\nfrom reactivex import operators as ops\n" + (
        "def doubled(batches, params):\n"
        "    more = pa.array([len(params['words'])] * 1_500_000)\n"
        "    table = pa.table({'id': pa.array(range(1_500_000)), 'more': more})\n"
        "    return batches.pipe(ops.take(1), ops.map(lambda _: table))"
    )
    job = JOB.replace("params: {times: {type: number, default: 2}}", "params: {words: {type: list}}")
    with served() as server:
        server.events("orders", {"id": 0})
        begin(server, many, job, params={"words": ["x" * 300] * 1_000})
        wait_for_state(server, "j", "running")
        wait_for(lambda: server.events("orders", {"id": 1}) and server.get("/v1/jobs/j").json()["state"] == "completed")
        assert server.get("/v1/jobs/j").json()["results"]["rows"] == 1_500_000
        assert server.get("/v1/jobs/j/results?from=1499999").json()["rows"] == [{"id": 1_499_999, "more": 1_000}]


def test_who_may_do_what_and_what_is_promised() -> None:
    scopes = {(route.method, route.path): route.scope for route in ROUTES}
    one = "/v1/artifacts/{name}/{version}"
    assert (scopes["PUT", one], scopes["DELETE", one], scopes["GET", one]) == ("admin", "admin", "read")
    assert scopes["POST", "/v1/artifacts/{name}/jobs"] == "write"
    with served() as server:
        server.events("orders", {"id": 0})
        assert put(server, made_of(DOUBLED)).status == 201
        refused = server.post("/v1/artifacts/doubled/jobs", {"name": "j", "guarantee": "at_least_once"})
        assert (refused.status, refused.json()["code"]) == (422, "no-guarantee")


def test_what_it_prints_without_end_does_not_fill_the_log() -> None:
    chatty = DOUBLED + "\nfor number in range(20_000): print('line', number)"
    with served() as server:
        server.events("orders", {"id": 0})
        begin(server, chatty)
        wait_for_state(server, "j", "running")
        wait_for(lambda: server.events("orders", {"id": 2}) and rows(server))
        assert 5 < logs(server).count("line ") < 500


def test_it_goes_with_a_server_that_is_killed_and_comes_back_with_it(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "mql.yaml"
    config.write_text(f"server: {{port: {port}}}\nsources:\n  orders: {{kind: http, shape: {{id: BIGINT}}}}\n")
    process = start(tmp_path)
    wait_until_up(port, process)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "job.yaml").write_text(JOB)
    (tmp_path / "own" / "own.py").write_text(DOUBLED)
    at = ["--server", f"http://127.0.0.1:{port}"]
    for command in (["push", str(tmp_path / "own"), "1.0"], ["list"], ["start", "doubled", "--as", "j"]):
        done = CliRunner().invoke(main, ["artifact", *command, *at])
        assert done.exit_code == 0, done.output
    wait_for(lambda: call(port, "GET", "/v1/jobs/j")["state"] == "running")
    assert process_of()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not process_of())
    process = start(tmp_path)
    wait_until_up(port, process)
    wait_for(lambda: call(port, "GET", "/v1/jobs/j")["state"] == "running")
    wait_for(
        lambda: (
            call(port, "POST", "/v1/sources/orders/events", [{"id": 4}])
            and call(port, "GET", "/v1/jobs/j/results")["rows"]
        )
    )
    process.terminate()
    assert process.wait(30) == 0
    wait_for(lambda: not process_of())


def test_the_example_is_good() -> None:
    done = CliRunner().invoke(main, ["artifact", "test", str(FUNNEL)])
    assert done.exit_code == 0, done.output
    assert "2 of 2 good" in done.output


def test_the_guide_s_own_job_is_one() -> None:
    page = (FUNNEL.parents[2] / "docs" / "python-jobs.md").read_text()
    job, code = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("yaml", "python"))
    example = (
        "examples:\n- input: [{ts: 1, user_id: a, path: /play, status: 200}]\n  expect: [{user_id: a, seconds: 0}]\n"
    )
    report = tried(read_artifact(zipped({"job.yaml": job + example, "funnel.py": code})), print)
    assert report.good, report.lines()


def with_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("job.yaml", JOB)
        link = zipfile.ZipInfo("own.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return out.getvalue()


def damaged() -> bytes:
    data = bytearray(made_of(DOUBLED * 20))
    at = data.index(b"own.py") + 12
    data[at : at + 8] = b"\xff" * 8
    return bytes(data)


def squeezed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("job.yaml", JOB)
    return out.getvalue()


def lying() -> bytes:
    """An entry whose head says that it is small."""
    data = bytearray(zipped({"job.yaml": JOB, "own.py": b" " * (3 << 20)}))
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    return bytes(data)


HOSTILE: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"not a zip", "no zip"),
    "half a zip": (lambda: made_of(DOUBLED)[:-30], "no zip"),
    "empty": (lambda: zipped({}), "has no job.yaml"),
    "no module": (lambda: zipped({"job.yaml": JOB}), "there is no own.py"),
    "a way up": (lambda: zipped({"job.yaml": JOB, "../own.py": ""}), "no name for a file"),
    "an absolute name": (lambda: zipped({"job.yaml": JOB, "/own.py": ""}), "no name for a file"),
    "a drive": (lambda: zipped({"job.yaml": JOB, "c:own.py": ""}), "no name for a file"),
    "a link": (with_link, "no plain file"),
    "many entries": (lambda: zipped({f"{n}.py": "" for n in range(101)}), "101 entries"),
    "a bomb": (lambda: zipped({"job.yaml": JOB, "own.py": b"0" * (40 << 20)}), "too many for its size"),
    "damaged": (damaged, "no zip"),
    "another compression": (squeezed, "packed in a way"),
    "a lie about its size": (lying, "no zip|too many"),
    "hides a module": (
        lambda: zipped({"job.yaml": JOB.replace("own:", "mql:"), "mql.py": ""}),
        'may not be called "mql"',
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(name: str) -> None:
    make, said = HOSTILE[name]
    with pytest.raises(MqlError, match=said):
        read_artifact(make())


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (JOB + "entri: x", r'job.yaml:7:8: entri: unknown setting "entri". Did you mean "entry"'),
        (JOB.replace("own:doubled", "doubled"), r"entry: must be module:function"),
        (JOB.replace("more: BIGINT", "more: BIGINTS"), r"output: more: "),
        (JOB + "guarantee: exactly_once", r"guarantee"),
        (JOB.replace("SELECT id", "SELEC id"), r"job.yaml:4:"),
    ],
)
def test_mistakes_in_job_yaml_are_told_with_their_place(job: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_artifact(made_of(DOUBLED, job))
