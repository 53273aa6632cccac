"""What went wrong at a place where the grammar could not go on, said in the words of whoever wrote the query."""

from __future__ import annotations

from collections.abc import Collection

from mql.errors import MqlError, Span


def explain(text: str, position: int, accepted: Collection[str]) -> MqlError:
    return MqlError("unexpected", Span(position, position + 1), str(sorted(accepted)))


def words_of(terminal: str) -> list[str]:
    return [terminal]
