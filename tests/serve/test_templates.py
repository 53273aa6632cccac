"""Templates: what they may say, what is told when they are wrong, and that values never become text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server import templates
from server.templates import BadParams, Template, parse_template, read_template, values_of
from server.trying import test_template as try_examples
from sources.strict_yaml import ConfigError

GOOD = """
name: slow-paths
description: Paths of one service that answer slowly
params:
  service:   {type: string, description: Name of the service}
  field:     {type: column, default: path}
  threshold: {type: number, default: 500, min: 0}
  window:    {type: duration, default: 10s, min: 1s, max: 1h}
  regions:   {type: list, default: [], max_items: 3}
query: |
  SELECT $field AS what, count(*) AS slow, avg(ms) AS ms FROM requests
  WHERE service = $service AND ms > $threshold AND ($regions = [] OR region IN $regions)
  WINDOW TUMBLING $window GROUP BY $field
labels: {team: playback}
examples:
  - params: {service: api}
    input:
      - {ts: 1000, service: api, path: /play, ms: 900, region: eu, host: a}
      - {ts: 1001, service: api, path: /play, ms: 700, region: us, host: b}
      - {ts: 1002, service: api, path: /home, ms: 10, region: eu, host: a}
      - {ts: 1012, service: web, path: /play, ms: 900, region: eu, host: a}
    expect: [{what: /play, slow: 2, ms: 800}]
  - params: {service: api, field: host, threshold: 5, regions: [eu]}
    input:
      - {ts: 1000, service: api, path: /play, ms: 900, region: eu, host: a}
      - {ts: 1001, service: api, path: /play, ms: 700, region: us, host: b}
    expect: [{what: a, slow: 1}]
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_template(text, "t.yaml")
    return str(caught.value).split("\n")


def test_the_templates_that_come_with_it_are_good() -> None:
    root = Path(__file__).parent.parent.parent / "examples"
    alerts = [path for path in sorted(root.glob("*.yaml")) if path.name != "mql.yaml"]
    assert len(alerts) >= 3
    for path in alerts:
        report = try_examples(read_template(path))
        assert report.good, list(report.lines())


def test_examples_hold_by_every_route() -> None:
    report = try_examples(parse_template(GOOD))
    assert report.lines() == []
    assert len(report.tried) == 8


def test_an_example_that_fails_says_what_differs() -> None:
    report = try_examples(parse_template(GOOD.replace("slow: 2", "slow: 3")))
    assert not report.good
    assert 'expected and not there: {"what":"/play","slow":3,"ms":800}' in report.lines()[0]


def test_all_that_is_wrong_is_told_at_once_with_its_place() -> None:
    text = """name: 7 up
params:
  a: {type: strin}
  b: {type: number, minn: 3}
labels: [x]
exmples: []
"""
    told = wrong(text)
    assert [line.split(": ")[0] for line in told] == [
        f"t.yaml:{place}" for place in ("1:1", "1:7", "3:13", "4:27", "5:9", "6:10")
    ]
    assert told[0].endswith("query: is missing")
    assert 'Did you mean "string"?' in told[2]
    assert 'Did you mean "min"?' in told[3]
    assert 'Did you mean "examples"?' in told[5]


def test_a_mistake_in_the_query_has_its_own_line() -> None:
    told = wrong("name: a\nparams:\n  x: {type: number}\nquery: |\n  SELECT *\n  FROM e WHERE a > $y\n")
    assert told[0].startswith("t.yaml:3:6: params.x: the query does not use $x")
    assert told[1].startswith('t.yaml:6:20: query: no parameter "y"')
    assert wrong("name: a\nquery: SELECT FROM e WHERE\n")[0].startswith("t.yaml:2:")


@pytest.mark.parametrize(
    ("param", "said"),
    [
        ("{type: enum}", "an enum needs values"),
        ("{type: string, min: 1}", "a string has no min"),
        ("{type: duration, min: soon}", '"soon" is no duration'),
        ("{type: number, default: 1, max: 0.5}", "must be at most 0.5"),
        ("{type: number, required: true, default: 1}", "what is required has no default"),
        ("{type: boolean, default: 1}", "must be true or false"),
        ("{type: list, default: [1, a]}", "all of one kind"),
    ],
)
def test_settings_suit_their_type(param: str, said: str) -> None:
    assert said in wrong(f"name: a\nparams:\n  x: {param}\nquery: SELECT * FROM e WHERE a = $x\n")[0]


@pytest.mark.parametrize(
    ("given", "name", "said"),
    [
        ({}, "service", "is missing (Name of the service)"),
        ({"service": "api", "thresold": 3}, "thresold", 'Did you mean "threshold"?'),
        ({"service": 3}, "service", "must be a text, not 3"),
        ({"service": "api", "threshold": -1}, "threshold", "must be at least 0"),
        ({"service": "api", "threshold": float("nan")}, "threshold", "must be a number"),
        ({"service": "api", "window": "2h"}, "window", "must be at most 1h"),
        ({"service": "api", "window": "soon"}, "window", "write it like"),
        ({"service": "api", "regions": ["a", "b", "c", "d"]}, "regions", "at most 3 items"),
        ({"service": "api", "field": ""}, "field", "a property's name"),
    ],
)
def test_values_are_checked(given: dict[str, Any], name: str, said: str) -> None:
    with pytest.raises(BadParams) as caught:
        values_of(parse_template(GOOD), given)
    assert said in caught.value.faults[name]


def test_a_value_never_becomes_text() -> None:
    hostile = "api' OR 1 = 1 --"
    text = GOOD.replace("service: api}", f'service: "{hostile}"}}', 1).replace("service: api, path", "service: x, path")
    report = try_examples(parse_template(text.replace("[{what: /play, slow: 2, ms: 800}]", "[]")))
    assert [line for line in report.lines() if line.startswith("example 1")] == []


def test_the_schema_for_editors_knows_every_setting() -> None:
    found = templates.schema()
    assert set(found["properties"]) == {*Template.model_fields, "mql"}
