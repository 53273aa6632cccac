"""Queries that differ from a given one in literals only."""

from __future__ import annotations

import random
import re

from support.random_queries import KEYS

NUMBER = r"(?<![\w.'])-?\d+(?:\.\d+)?(?![\w.'])"
COMPARED = re.compile(rf"((?:[<>=]|!=|between|and) )({NUMBER})(?=[ )]|$)(?! (?:seconds|events))")
LISTED = re.compile(r"in \([-\d, ]+\)")
QUOTED = re.compile(r"(= |\+ |like )'((?:[^']|'')*)'")


def sibling(rng: random.Random, text: str) -> str:
    """The same query with other literals, of the same types."""
    head, where, rest = parted(text)
    where = COMPARED.sub(lambda found: found[1] + other_number(rng, found[2]), where)
    where = LISTED.sub(lambda _: f"in ({', '.join(str(rng.randint(-1, 7)) for _ in range(rng.randint(1, 4)))})", where)
    where = QUOTED.sub(lambda found: f"{found[1]}'{other_text(rng, found[1])}'", where)
    rest = re.sub(r"having count\(\*\) > \d+", f"having count(*) > {rng.randint(0, 3)}", rest)
    return head + where + rest


def parted(text: str) -> tuple[str, str, str]:
    """What stands before the condition, the condition, and what follows it."""
    found = re.search(r" where (.*?)(?= group by| having| order by| limit| emit| settings|$)", text)
    if found is None:
        return text, "", ""
    return text[: found.start(1)], found[1], text[found.end(1) :]


def other_number(rng: random.Random, number: str) -> str:
    return rng.choice(("0.5", "1.5", "2.5", "100.25")) if "." in number else str(rng.choice((-5, 0, 1, 2, 3, 7, 100)))


def other_text(rng: random.Random, before: str) -> str:
    if before == "like ":
        return rng.choice(("a%", "b%", "%b", "_", "%"))
    return rng.choice(KEYS).replace("'", "''")
