"""Templates over HTTP and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from support.serving import served

from server.cli import main

TEXT = """
name: big-orders
params:
  least: {type: number, default: 10, min: 0}
query: SELECT id FROM orders WHERE total >= $least
examples:
  - input: [{id: 1, total: 5}, {id: 2, total: 15}]
    expect: [{id: 2}]
"""
YAML = {"Content-Type": "application/yaml"}


def test_a_template_is_kept_with_its_versions() -> None:
    with served() as server:
        first = server.send("PUT", "/v1/templates/big-orders", TEXT.encode(), YAML)
        assert (first.status, first.json()["version"]) == (201, 1)
        server.events("orders", {"id": 1, "amount": 2.5})
        assert server.get("/v1/templates/big-orders").json()["warnings"] == ['no property "total" in source "orders"']
        server.events("orders", {"id": 1, "total": 2.5})
        changed = server.send("PUT", "/v1/templates/big-orders", TEXT.replace("10", "20").encode(), YAML)
        assert (changed.status, changed.json()["versions"], changed.json()["warnings"]) == (200, [1, 2], [])
        assert server.get("/v1/templates/big-orders?version=1").json()["template"]["params"]["least"]["default"] == 10
        assert server.get("/v1/templates").json()["templates"][0]["params"] == ["least"]
        assert server.send("DELETE", "/v1/templates/big-orders").status == 204
        assert server.get("/v1/templates/big-orders").json()["code"] == "unknown-template"


def test_a_template_as_json_and_its_examples() -> None:
    said = {
        "name": "t",
        "params": {"least": {"type": "number"}},
        "query": "SELECT id FROM orders WHERE total >= $least",
        "examples": [{"params": {"least": 10}, "input": [{"id": 1, "total": 15}], "expect": [{"id": 2}]}],
    }
    with served() as server:
        assert server.send("PUT", "/v1/templates/t", said).status == 201
        report = server.post("/v1/templates/t:test").json()
    assert not report["good"]
    assert len(report["tried"]) == 4
    assert "expected and not there" in report["tried"][0]["problem"]


def test_what_is_wrong_is_told_with_its_place() -> None:
    with served() as server:
        wrong = server.send("PUT", "/v1/templates/t", b"name: t\nquery: SELECT $x FROM orders\n", YAML)
        other = server.send("PUT", "/v1/templates/u", b"name: t\nquery: SELECT 1 AS one FROM orders\n", YAML)
    assert wrong.status == 422
    assert (wrong.json()["errors"][0]["line"], wrong.json()["errors"][0]["column"]) == (2, 15)
    assert other.status == 422


def test_the_command_line_checks_tries_and_runs_a_template(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    events = tmp_path / "orders.ndjson"
    events.write_text('{"id": 1, "total": 5}\n{"id": 2, "total": 50}\n')
    good.write_text(TEXT.replace("FROM orders", f"FROM '{events}'"))
    bad.write_text(TEXT.replace("$least", "$lest").replace("{id: 2}]", "{id: 3}]"))
    runner = CliRunner()
    assert runner.invoke(main, ["check", str(good)]).exit_code == 0
    told = runner.invoke(main, ["check", str(bad)])
    assert told.exit_code == 1
    assert f'{bad}:5:45: query: no parameter "lest". Did you mean "least"?' in told.output
    run = runner.invoke(main, ["run", str(good), "-p", "least=40", "-o", "ndjson", "-q"])
    assert (run.exit_code, run.stdout) == (0, '{"id":2}\n')
    refused = runner.invoke(main, ["run", str(good), "-p", "least=-1"])
    assert refused.exit_code != 0
    assert "must be at least 0" in refused.output
    bad.write_text(TEXT.replace("{id: 2}]", "{id: 3}]"))
    failed = runner.invoke(main, ["test", str(bad)])
    assert failed.exit_code == 1
    assert 'expected and not there: {"id":3}' in failed.output
    assert json.loads(runner.invoke(main, ["schema", "template"]).stdout)["title"] == "MQL template"
