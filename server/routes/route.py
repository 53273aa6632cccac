"""What a route is: the table of routes is the server's contents and its OpenAPI document at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from server.guard import Handler
from server.tokens import Scope

JSON = "application/json"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query or the header; `schema` is JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]
    where: str = "query"
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One status that a route answers with. `model` None: no body, or one whose types say all."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    types: Sequence[str] = (JSON,)
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `problems`: the statuses of problem documents beyond those that any route may give."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    answers: Sequence[Answer]
    parameters: Sequence[Parameter] = ()
    body: type[BaseModel] | None = None
    body_types: Sequence[str] = ()
    problems: Sequence[int] = ()
    path_notes: Mapping[str, str] | None = None

    @property
    def scope(self) -> Scope | None:
        """What a token must be good for, where tokens are needed; None: anybody may call."""
        if (self.tag == "page" and self.path != "/") or self.path == "/healthz":
            return None
        if self.tag == "token" or (self.tag in ("source", "table", "artifact") and self.method in ("PUT", "DELETE")):
            return "admin"
        is_asking = self.tag in ("query", "text", "replay") or self.path.endswith((":backtest", ":test"))
        return "read" if self.method == "GET" or is_asking else "write"

    @property
    def operation(self) -> str:
        """The operation's name: the handler's."""
        return str(getattr(self.handler, "__name__", self.path))
