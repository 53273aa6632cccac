"""What is wrong with a body, in words for people."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from support.serving import served

from server.problems import of_validation
from server.routes.jobs import NewJob
from server.tokens import NewToken

JOB = {"name": "j", "query": "SELECT id FROM orders"}
NO_NAME = "is no name: a letter, then letters, digits and _ . -, 100 characters at most"


@pytest.mark.parametrize(
    ("said", "pointer", "message"),
    [
        ({"guarante": "exactly_once"}, "/guarante", 'there is no "guarante" here. Did you mean "guarantee"?'),
        ({"limits": {"runtme": "1h"}}, "/limits/runtme", 'there is no "runtme" here. Did you mean "runtime"?'),
        ({"name": "err ors/ü"}, "/name", f'"err ors/ü" {NO_NAME}'),
        (
            {"guarantee": "twice"},
            "/guarantee",
            "\"twice\" is none of 'at_most_once', 'at_least_once', 'exactly_once'",
        ),
        ({"labels": {"a": 1}}, "/labels/a", "must be a text"),
        ({"labels": [1]}, "/labels", "must be an object of names and values"),
        ({"workers": 0}, "/workers", "must be 1 or more"),
        ({"workers": 4_000}, "/workers", "must be 64 or less"),
        ({"workers": "many"}, "/workers", "must be a whole number"),
        ({"sinks": {}}, "/sinks", "must be a list"),
        ({"start": "perhaps"}, "/start", "must be true or false"),
        ({"start": "yes"}, "/start", "must be true or false"),
        ({"attempts": "3"}, "/attempts", "must be a whole number"),
        ({"workers": "2"}, "/workers", "must be a whole number"),
        ({"sinks": [{"kind": "nope"}]}, "/sinks/0", 'there is no kind "nope"'),
        ({"query": None}, "/query", "must be a text"),
    ],
)
def test_faults_of_a_job_are_told_in_words(said: dict[str, Any], pointer: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NewJob.model_validate({**JOB, **said})
    found = of_validation(caught.value).more["errors"]
    assert any(one["pointer"] == pointer and one["message"].startswith(message) for one in found), found


def test_what_is_missing_and_what_a_rule_says_are_told_too() -> None:
    with pytest.raises(ValidationError) as missing:
        NewJob.model_validate({})
    assert of_validation(missing.value).detail == "/name: is missing (and 1 more)"
    with pytest.raises(ValidationError) as ruled:
        NewToken.model_validate({"name": "a", "scope": "write", "hide": {"a": ["b"]}})
    assert "are for the scope read" in of_validation(ruled.value).detail
    with pytest.raises(ValidationError) as moment:
        NewToken.model_validate({"name": "a", "expires": "tomorrow"})
    assert of_validation(moment.value).detail.startswith("/expires: must be a moment, such as 2026-01-31T12:00:00Z")


def test_an_action_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with served() as server:
        near = server.post("/v1/jobs/errors:stat")
        assert (near.status, near.json()["code"]) == (404, "no-such-action")
        assert near.json()["hint"] == 'Did you mean "start"?'
        far = server.post("/v1/jobs/errors:explode").json()
        assert far["hint"].startswith("There are ")
        assert "pause, restart, resume, scale, start, stop" in far["hint"]
        wrong = server.send("PUT", "/v1/jobs/errors:start")
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
