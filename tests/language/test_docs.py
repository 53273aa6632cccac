"""What the pages about the language say is true: their queries run, and their names are those of the tables."""

from __future__ import annotations

import os
import re
from pathlib import Path

import orjson
import pytest

import mql
from server.docs import PAGE, page

ROOT = Path(__file__).parent.parent.parent
EVENTS = [orjson.loads(line) for line in (ROOT / "examples" / "requests.ndjson").read_bytes().splitlines()]
PARAMS = {"service": "api", "least": 500}
TABLES = {"services": [{"name": "api", "team": "edge"}, {"name": "auth", "team": "identity"}]}
BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    return [query.strip() for query in BLOCK.findall((ROOT / "docs" / "language.md").read_text())]


@pytest.mark.parametrize("query", examples())
def test_a_query_in_the_docs_runs(query: str) -> None:
    result = mql.run(query, EVENTS, PARAMS, tables=TABLES)
    assert result.columns
    assert len(result) > 0, "an example that gives nothing shows nothing"


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.mql")), ids=lambda file: file.name)
def test_an_example_runs(file: Path) -> None:
    assert len(mql.run(file.read_text(), EVENTS, PARAMS)) > 0


def test_the_page_of_functions_is_made_from_the_tables() -> None:
    if "MQL_ACCEPT" in os.environ:
        PAGE.write_text(page(), "utf-8")
    assert PAGE.read_text("utf-8") == page(), "python -m server.docs writes it anew"
