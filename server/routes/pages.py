"""Pages for people: how to begin, and what each route does. No scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

from aiohttp import web

from server.routes.queries import json_answer
from server.routes.route import HTML, JSON, Answer, Route
from server.shared import shared_of

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
code, pre { font: 14px/1.45 ui-monospace, monospace; background: #f3f5f8; border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: .8em 1em; overflow-x: auto; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .2rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }
.method { display: inline-block; min-width: 4.2em; font-weight: 600; color: #27598f; }
@media (prefers-color-scheme: dark) {
  body { background: #14181e; color: #dde3ea; } code, pre { background: #1f2630; } a, .method { color: #86b7ee; }
}
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI 3.1 document of this server."""
    return json_answer(shared_of(request).document)


async def docs(request: web.Request) -> web.Response:
    """Every route on one page."""
    return page("The API", docs_of(shared_of(request).document))


async def landing(request: web.Request) -> web.Response:
    """How to ask the first question."""
    shared = shared_of(request)
    catalog = await shared.call(shared.engine.catalog)
    base = f"http://{request.headers.get('Host', 'localhost')}"
    return page("MQL", landing_of(base, sorted(catalog.sources), catalog.default))


def landing_of(base: str, names: list[str], default: str | None) -> str:
    """The first page: what can be asked by curl here and now."""
    name = default or (names[0] if names else "requests")
    there_are = ", ".join(f"<code>{escape(each)}</code>" for each in names) or "none yet"
    commands = [
        ("Ask, and read the rows as they come", f"curl -N {base}/v1/queries -d 'SELECT * FROM {name} LIMIT 5'"),
        (
            "Count by the second",
            f"curl -N {base}/v1/queries -d 'SELECT count(*) AS n FROM {name} WINDOW TUMBLING 1s'",
        ),
        (
            "The same as server-sent events, with progress",
            f"curl -N -H 'Accept: text/event-stream' {base}/v1/queries -d 'SELECT * FROM {name}'",
        ),
        ("What its events look like", f"curl {base}/v1/sources/{name}/shape"),
        (
            "Declare a source and send events to it",
            f"curl -X PUT {base}/v1/sources/orders -H 'Content-Type: application/json' -d '{{\"kind\": \"http\"}}'\n"
            f"curl {base}/v1/sources/orders/events -H 'Content-Type: application/x-ndjson' "
            '--data-binary \'{"id": 1, "total": 9.5}\'',
        ),
        ("What is wrong with a text", f"curl {base}/v1/queries:validate -d 'SELECT FROM {name}'"),
        ("Who is asking what", f"curl {base}/v1/queries"),
    ]
    told = "".join(f"<h3>{escape(title)}</h3><pre>{escape(command)}</pre>" for title, command in commands)
    return (
        "<h1>Ask questions of live event streams</h1>"
        f"<p>Sources here: {there_are}. Every route is at <a href='/docs'>/docs</a>, "
        "for programs at <a href='/openapi.json'>/openapi.json</a>.</p>" + told
    )


def docs_of(document: Mapping[str, Any]) -> str:
    """The document as a page: each operation with its parameters, bodies and answers."""
    parts = ["<h1>The API</h1>", f"<p>{escape(document['info']['description'])}</p>"]
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"<h2>{escape(tag.capitalize())}</h2>")
            parts.append(operation_of(method, path, operation))
    return "".join(parts)


def operation_of(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = [(each["name"], each["in"], each["description"]) for each in operation["parameters"]]
    kinds = operation.get("requestBody", {}).get("content", {})
    if kinds:
        rows.append(("body", "body", ", ".join(kinds)))
    for status, answer in operation["responses"].items():
        if status < "400":
            rows.append((status, "answer", f"{answer['description']} {', '.join(answer.get('content', {}))}"))
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(where)}</td><td>{escape(text)}</td></tr>"
        for name, where, text in rows
    )
    head = f"<h3><span class='method'>{method.upper()}</span> <code>{escape(path)}</code></h3>"
    return f"{head}<p>{escape(operation['summary'])}.</p><table>{cells}</table>"


def page(title: str, body: str) -> web.Response:
    text = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>{body}</body></html>"
    )
    headers = {"Content-Security-Policy": POLICY, "Content-Type": f"{HTML}; charset=utf-8"}
    return web.Response(body=text.encode(), headers=headers)


ROUTES = (
    Route("GET", "/openapi.json", openapi, "This document", "page", (Answer(200, "OpenAPI 3.1.", types=(JSON,)),)),
    Route("GET", "/docs", docs, "Every route on one page", "page", (Answer(200, "A page.", types=(HTML,)),)),
    Route("GET", "/", landing, "How to begin", "page", (Answer(200, "A page.", types=(HTML,)),)),
)
