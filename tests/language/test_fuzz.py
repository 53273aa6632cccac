"""The parser over texts that nobody would write: it says what is wrong, soon, and never falls.

`MQL_FUZZ` says how many texts (`make soak` takes a million), `MQL_SEED` which.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mql.errors import MqlError
from mql.parser import expected_at, parse

COUNT = int(os.environ.get("MQL_FUZZ", "12000"))
SEED = int(os.environ.get("MQL_SEED", "1"))
LIMIT_S = 0.05 if os.environ.get("MQL_FUZZ") else 0.1  # by the clock of a machine that is busy with other tests, twice
HERE = Path(__file__).parent
WORDS = re.findall(r"\w+|[^\w\s]", (HERE.parent.parent / "mql" / "grammar.lark").read_text())
SIGNS = "()[]{},.;:'\"`$@^*+-/%|=<>!? \n\t\\_abz019éß漢\u202e\u0000🦊"


def known_texts() -> list[str]:
    """Queries that mean something, out of the documentation and the golden cases."""
    pages = sorted((HERE.parent.parent / "docs").glob("*.md")) + sorted((HERE.parent / "golden").glob("*.case"))
    found = [line.strip() for page in pages for line in page.read_text().splitlines()]
    return [
        line for line in found if line.lower().startswith(("select", "with", "explain", "from")) and len(line) < 600
    ]


KNOWN = known_texts()


def broken(chance: random.Random) -> str:
    """A query with a few signs or words lost, doubled, swapped or put in."""
    text = chance.choice(KNOWN)
    for _ in range(chance.randint(1, 4)):
        pieces = re.findall(r"\w+|\s+|[^\w\s]", text) if chance.random() < 0.6 else list(text)
        if not pieces:
            return text
        at, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        match chance.randrange(5):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, pieces[other])
            case 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                pieces.insert(at, chance.choice(SIGNS) if chance.random() < 0.5 else f" {chance.choice(WORDS)} ")
            case _:
                pieces = pieces[:at]
        text = "".join(pieces)
    return text


def spliced(chance: random.Random) -> str:
    """The head of one query and the tail of another."""
    head, tail = chance.choice(KNOWN), chance.choice(KNOWN)
    return head[: chance.randrange(len(head) + 1)] + tail[chance.randrange(len(tail) + 1) :]


def of_words(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 60)))


def of_signs(chance: random.Random) -> str:
    return "".join(chance.choices(SIGNS, k=chance.randint(0, 120)))


def dense(chance: random.Random) -> str:
    """Long, with as much to look at in each sign as can be; a query has at most two or three times as many words."""
    piece = chance.choice(
        ["a+1,", "(a),", "f(a),", "not a,", "-a,", "a in (1),", "case when a then b end,", "[a],", "a::x,"]
    )
    return "select " + piece * chance.randint(1, 350) + chance.choice(["a", "a from e", "(", ""])


KINDS: tuple[Callable[[random.Random], str], ...] = (broken, broken, broken, spliced, of_words, of_signs)


def seconds(text: str) -> float:
    """Processor time until the text is a tree, or the reason why not."""
    wrong = None
    began = time.thread_time()
    try:
        parse(text)
    except MqlError as error:
        wrong = error
    taken = time.thread_time() - began
    if wrong is not None:
        assert wrong.message, text
        assert wrong.span is None or 0 <= wrong.span.start <= wrong.span.end <= len(text), (text, wrong.span)
    return taken


@pytest.mark.timeout(0)
def test_any_text_is_a_query_or_has_a_reason_why_not() -> None:
    parse("select 1 from e")
    chance = random.Random(SEED)
    for number in range(COUNT):
        text = chance.choice(KINDS)(chance) if number % 200 else dense(chance)
        taken = seconds(text)
        if taken > LIMIT_S:
            taken = min(seconds(text) for _ in range(5))
        assert taken <= LIMIT_S, f"{taken * 1000:.0f} ms for {text[:300]!r} ({len(text)} signs)"


def test_what_may_come_next_is_told_anywhere() -> None:
    chance = random.Random(SEED)
    for _ in range(300):
        text = chance.choice(KINDS)(chance)
        expected_at(text, chance.randrange(len(text) + 1))
