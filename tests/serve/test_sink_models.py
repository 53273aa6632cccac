"""What may be said of sinks: the documentation's examples are taken, and what is wrong is told with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from server.settings import read_settings
from server.sinks import KINDS, AnySink, below
from server.templates import parse_template, schema
from sources.strict_yaml import ConfigError, parse_yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sinks.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HEAD = "name: t\nquery: SELECT * FROM requests\nsinks:\n"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("sinks:")])
def test_an_example_of_the_page_is_taken(block: str) -> None:
    sinks = parse_yaml(block).value["sinks"]
    assert len(TypeAdapter(tuple[AnySink, ...]).validate_python(sinks)) > 0


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("server:")])
def test_what_the_operator_may_say_is_taken(block: str) -> None:
    assert read_settings(block).server.sinks.kinds == ("slack", "kafka", "parquet")


def test_the_page_has_every_kind() -> None:
    for kind in KINDS:
        assert f"kind: {kind}" in PAGE, kind


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("{kind: webhok, url: x}", '4:12: sinks[0].kind: unknown kind "webhok". Did you mean "webhook"?'),
        ("{url: x}", "4:5: sinks[0]: a sink needs a kind: webhook, alertmanager"),
        ("{kind: slack, urll: x}", '4:25: sinks[0].urll: unknown setting "urll". Did you mean "url"?'),
        ("{kind: pagerduty}", "4:5: sinks[0].key_env: is missing"),
        ("{kind: pagerduty, key_env: PATH}", '4:32: sinks[0].key_env: "PATH" does not look like'),
        ("{kind: stdout, severity: bad}", '4:30: sinks[0].severity: unknown severity "bad". It may be'),
        ("{kind: stdout, when: errors >}", "4:26: sinks[0].when: no condition: unexpected"),
        ("{kind: stdout, when: '1), (2'}", "4:26: sinks[0].when: no condition: a condition is one expression"),
        ('{kind: stdout, summary: "{a"}', '4:29: sinks[0].summary: a single "{" in "{a"'),
        ('{kind: stdout, annotations: {a: "}"}}', '4:37: sinks[0].annotations.a: a single "}" in "}"'),
        ("{kind: parquet, path: ../x}", '4:27: sinks[0].path: "../x" does not look like'),
        ("{kind: parquet, path: /etc/x}", '4:27: sinks[0].path: "/etc/x" does not look like'),
        ("{kind: duckdb, path: a, table: 'a; b'}", '4:36: sinks[0].table: "a; b" does not look like'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_column(sink: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template(f"{HEAD}  - {sink}\n", "t.yaml")
    assert f"t.yaml:{said}" in str(caught.value)


def test_editors_are_told_all_kinds() -> None:
    text = str(schema())
    for kind in KINDS:
        assert f"'{kind}'" in text, kind


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    settings = read_settings("").model_copy(update={"base_dir": tmp_path})
    home = tmp_path / ".mql" / "sinks"
    home.mkdir(parents=True)
    (home / "out").symlink_to(tmp_path)
    assert below(settings, "a/b") == home / "a" / "b"
    with pytest.raises(Exception, match="leads out of the directory"):
        below(settings, "out/x")


def test_the_example_of_the_readme_is_a_template() -> None:
    found = parse_template((ROOT / "examples" / "incidents.yaml").read_bytes())
    assert [sink.kind for sink in found.sinks] == ["stdout"]
