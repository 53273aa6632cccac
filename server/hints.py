"""What the API advises, in the words of the command line: who typed a command is told a command."""

from __future__ import annotations

import re

NAME = r"(\{name\}|[A-Za-z0-9_-][A-Za-z0-9_.-]*[A-Za-z0-9_-]|[A-Za-z0-9_-])"
COMMANDS = (
    (rf"GET /v1/jobs/{NAME}/logs", r"mql job logs \1"),
    (rf"GET /v1/jobs/{NAME}/dead-letters", r"mql job dead-letters \1"),
    (rf"GET /v1/jobs/{NAME}(?![\w/])", r"mql job show \1"),
    (r"GET /v1/jobs(?![\w/])", "mql job list"),
    (rf"GET /v1/templates/{NAME}(?![\w/])", r"mql template show \1"),
    (r"GET /v1/templates(?![\w/])", "mql template list"),
    (r"GET /v1/artifacts(?![\w/])", "mql artifact list"),
    (r"GET /v1/silences(?![\w/])", "mql silence list"),
    (r"GET /v1/tokens(?![\w/])", "mql token list"),
    (r'Say "state": "discard"', "Say --discard"),
    (r"Say state: discard", "Say --discard"),
    (r"Make one with the scope admin first", "mql token new NAME --scope admin makes one"),
    (r"Send a token of this server's: Authorization: Bearer mql_…", "Say one of this server's: export MQL_TOKEN=mql_…"),
)
"""Requests, headers and properties of bodies, each with the command or the option that is the same."""
REQUEST = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) (/v1/\S*[\w}])")


def as_commands(hint: str | None, base: str) -> str | None:
    """The hint with a command for each request in it; for what no command does, one of curl. `base`: the server's
    URL."""
    if hint is None:
        return None
    for request, command in COMMANDS:
        hint = re.sub(request, command, hint)
    hint = hint.replace("{name}", "NAME")
    return REQUEST.sub(lambda found: _by_curl(found[1], f"{base.rstrip('/')}{found[2]}"), hint)


def _by_curl(method: str, url: str) -> str:
    return f"curl {url}" if method == "GET" else f"curl -X {method} {url}"
