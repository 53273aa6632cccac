"""The document says what the server does, and the server does what the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.serving import served

from server import openapi
from server.app import make_app
from server.routes import ROUTES
from server.settings import Limits, Settings

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(openapi.document(ROUTES, "1")).validate()


def test_the_table_and_the_registered_routes_are_the_same() -> None:
    with served() as server:
        app = make_app(server.engine, Settings())
    registered = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert registered == {(route.method, route.path) for route in ROUTES}


def test_each_operation_has_its_own_name() -> None:
    names = [route.operation for route in ROUTES]
    assert len(set(names)) == len(names)


def test_pages_tell_each_route_and_hold_no_scripts() -> None:
    with served() as server:
        pages = {path: server.get(path) for path in ("/", "/docs")}
        assert server.get("/openapi.json").json()["openapi"] == "3.1.0"
    for page in pages.values():
        assert page.status == 200
        assert b"<script" not in page.body
        assert not re.search(rb"(src|href)=['\"]?http", page.body)
    assert all(route.path.encode() in pages["/docs"].body for route in ROUTES)


def test_numbers_for_prometheus() -> None:
    with served() as server:
        server.events("orders", {"id": 1})
        text = server.get("/metrics").body.decode()
        assert server.get("/readyz").json()["ready"]
    assert 'mql_ingested_events_total{source="orders"} 1.0' in text
    assert 'route="/v1/sources/{name}/events"' in text


@pytest.mark.timeout(90)
def test_no_request_that_the_document_allows_or_forbids_breaks_the_server(tmp_path: Path) -> None:
    """Every operation, with valid and with broken data, and links from one to the other. Seeded."""
    told = tmp_path / "report"
    with served(limits=Limits(query_timeout=0.3, replay_wait=0.0)) as server:
        server.events("orders", {"id": 1, "total": 2.5})
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
        command += ["--checks", CHECKS, "--max-time", "25", "-n", "10", "--seed", "1", "--request-timeout", "10"]
        command += ["--no-shrink", "--no-color", "--generation-database", "none", "--warnings", "off"]
        with told.open("wb") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=80, check=False, cwd=tmp_path)
    assert done.returncode == 0, told.read_text("utf-8", "replace")[-4_000:]
