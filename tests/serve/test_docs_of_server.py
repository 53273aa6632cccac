"""What the pages about the server and its sources say is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.routes import ROUTES
from server.settings import settings_of
from sources.declared import KINDS, load_sources
from sources.strict_yaml import parse_yaml

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_of_the_api_names_every_route() -> None:
    text = (DOCS / "api.md").read_text()
    missing = [f"{route.method} {route.path}" for route in ROUTES if f"`{route.method} {route.path}`" not in text]
    assert not missing


def examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (DOCS / "sources.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("text", examples(), ids=lambda text: text.split("\n")[1].strip()[:40])
def test_a_configuration_in_the_docs_is_accepted(text: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "lake").mkdir()
    for name in ("logs/one.ndjson", "a.csv", "b.csv"):
        (tmp_path / name).write_text('{"a": 1}\n' if name.endswith("json") else "a;b\n1;2\n")
    document = parse_yaml(text)
    settings = settings_of(document, tmp_path)
    # Parquet files and standard input are the test runner's own business.
    declared = {
        name: mapping
        for name, mapping in settings.sources.items()
        if mapping["kind"] != "stdin" and not str(mapping.get("path")).endswith(".parquet")
    }
    for source in load_sources(declared, tmp_path, document=document, data_dir=tmp_path / "data"):
        source.close()


def test_every_kind_of_source_has_its_example() -> None:
    told = "\n".join(examples())
    assert [kind for kind in KINDS if f"kind: {kind}" not in told] == []
