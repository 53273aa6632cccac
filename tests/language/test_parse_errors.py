"""Texts that are wrong: every message as a person reads it, and that no text at all does harm.

The texts and their messages stand in tests/golden/parse_errors.txt. `MQL_ACCEPT=1` rewrites the messages; read the
difference like code.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from support.random_text import damaged, random_query

from mql.errors import MqlError, render
from mql.parser import parse

GOLDEN = Path(__file__).parents[1] / "golden" / "parse_errors.txt"
RULE = "-" * 100
SLOW_SECONDS = 0.05


def wrong_texts() -> list[str]:
    """The texts of the golden file: what stands between a rule and the first line that begins with "=> "."""
    blocks = GOLDEN.read_text(encoding="utf-8").split(f"{RULE}\n")[1:]
    return [block.partition("\n=> ")[0] for block in blocks]


def told(text: str) -> str:
    try:
        parse(text)
    except MqlError as error:
        return render(error)
    return "no error at all"


def test_every_mistake_is_told_as_it_was() -> None:
    texts = wrong_texts()
    written = "".join(f"{RULE}\n{text}\n=> {told(text)}\n" for text in texts)
    preface = GOLDEN.read_text(encoding="utf-8").partition(RULE)[0]
    if os.environ.get("MQL_ACCEPT"):
        GOLDEN.write_text(preface + written, encoding="utf-8")
    assert len(texts) >= 50
    assert "no error at all" not in written
    assert written.split("\n") == GOLDEN.read_text(encoding="utf-8").removeprefix(preface).split("\n")


def seconds_to_parse(text: str) -> float:
    start = time.perf_counter()
    told(text)
    return time.perf_counter() - start


def test_no_damaged_text_does_harm() -> None:
    """Nothing but MqlError comes out, and nothing takes long (twice, for a machine that was busy)."""
    parse("select a")
    for seed in range(3_000):
        rng = random.Random(seed)
        if seed % 5:
            text = damaged(rng, random_query(rng, depth=1))
        else:
            text = "".join(
                chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) for _ in range(rng.randrange(80))
            )
        taken = seconds_to_parse(text)
        assert taken < SLOW_SECONDS or min(seconds_to_parse(text) for _ in range(3)) < SLOW_SECONDS, (seed, text)


@pytest.mark.parametrize(
    "text",
    [
        "select " + "a" * 60_000 + " ! b",
        "select a" + " " * 65_000 + "!",
        "select a " + "=" * 65_000,
        "select " + "1" * 65_000 + "x",
        "select " + "1s" * 32_000 + "x",
        "select '" + "''" * 32_000,
        "/*" * 32_000,
        "select a from b where x =~ /" + "\\/" * 30_000,
        "select a from b where x =~ /" + "(" * 60_000 + "/",
        "(" * 65_000,
        "select " + "1," * 32_000,
        "select e" + "['a']" * 5_000,
    ],
    ids=range(12),
)
def test_no_long_text_takes_long(text: str) -> None:
    """An order of magnitude above what they take, and far below what anything quadratic would."""
    assert min(seconds_to_parse(text) for _ in range(3)) < 10 * SLOW_SECONDS
