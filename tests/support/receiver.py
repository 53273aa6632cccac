"""A receiver of posts on a free port of this machine: it answers as it is told, and keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server.settings import Webhooks

LOOPBACK = Webhooks(allowed=("127.0.0.0/8",), plain=True)
"""What an operator says who lets jobs post to this machine."""


class Receiver:
    def __init__(self) -> None:
        self.answers: list[int] = []
        self.refuses: Callable[[bytes], bool] = lambda body: False
        self.taken: list[Any] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.base = ""
        self.url = ""

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


@contextmanager
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = found.answers.pop(0) if found.answers else 400 if found.refuses(body) else 200
            if status < 300:
                found.taken.append(json.loads(body))
            found.paths.append(self.path)
            found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status in (301, 302, 307, 308):
                self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.base = f"http://127.0.0.1:{server.server_address[1]}"
    found.url = f"{found.base}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
