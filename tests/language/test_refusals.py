"""The page of what is refused is true: each query is refused with the message beside it, and what is refused over a
live stream alone is answered over history. MQL_ACCEPT=1 rewrites the messages."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from mql.catalog import Catalog, SourceInfo, TableInfo, TimeRule
from mql.errors import MqlError
from mql.planner.compile import compile_query
from mql.schema import BIGINT, DOUBLE, VARCHAR, Field, Shape, StructOf

PAGE = Path(__file__).parent.parent.parent / "docs" / "refusals.md"
BLOCK = re.compile(r"^```sql refused\n([^`]*?)\n```\n((?:\n(?:    .*\n)+)?)", re.MULTILINE)
REQUESTS = SourceInfo(
    "requests",
    Shape(
        (
            Field("ts", BIGINT),
            *(Field(name, VARCHAR) for name in ("service", "path", "node", "country", "user_id", "title")),
            Field("status", BIGINT),
            Field("latency_ms", DOUBLE),
            Field("bytes", BIGINT),
            Field("device", StructOf((("id", VARCHAR), ("type", VARCHAR)))),
        )
    ),
    time=TimeRule(("ts",), "ms"),
    history=True,
)
TABLES = {"services": TableInfo("services", Shape((Field("name", VARCHAR), Field("team", VARCHAR))), key=("name",))}
NOW_US = 1_790_000_000_000_000


def told(query: str, *, bounded: bool) -> str | None:
    catalog = Catalog({"requests": replace(REQUESTS, bounded=bounded)}, tables=TABLES)
    try:
        compile_query(query, catalog, now_us=NOW_US)
    except MqlError as error:
        return str(error)
    return None


def test_each_query_is_refused_as_the_page_says() -> None:
    def written(found: re.Match[str]) -> str:
        message = told(found[1], bounded=False)
        assert message is not None, f"not refused: {found[1]}"
        lines = "".join(f"    {line}\n" for line in message.splitlines())
        return f"```sql refused\n{found[1]}\n```\n\n{lines}"

    page = PAGE.read_text("utf-8")
    now = BLOCK.sub(written, page)
    if "MQL_ACCEPT" in os.environ:
        PAGE.write_text(now, "utf-8")
    assert PAGE.read_text("utf-8") == now


def test_only_what_never_ends_is_refused_over_a_stream_alone() -> None:
    live, anywhere = PAGE.read_text("utf-8").split("\n## Anywhere\n")
    for query, _ in BLOCK.findall(live):
        if "REPLAY" not in query:
            assert told(query, bounded=True) is None, f"refused over history, too: {query}"
    for query, _ in BLOCK.findall(anywhere):
        assert told(query, bounded=True) is not None, f"answered over history: {query}"


def test_each_refusal_says_what_to_do() -> None:
    for query, message in BLOCK.findall(PAGE.read_text("utf-8")):
        assert not message.strip().splitlines()[-1].lstrip().startswith("|"), f"no hint: {query}"
