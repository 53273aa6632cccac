"""The user's errors: what is wrong, where it stands in the text, and what would mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a query's text: character offsets `[start, end)`, counted from 0."""

    start: int
    end: int

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of another."""
        return Span(self.start, max(self.end, other.end))


NOWHERE = Span(0, 0)


class MqlError(Exception):
    """A mistake in a query, a template or a setting that its author can mend.

    `message` is short and lower case, with the thing in double quotes; `hint` is a full sentence that
    tells what to do; `span` is where in `text` it stands. `code` is stable and meant for programs.
    """

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        hint: str | None = None,
        *,
        code: str = "invalid-query",
        text: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.hint = hint
        self.code = code
        self.text = text

    def in_text(self, text: str) -> MqlError:
        """The same error, told of the text it stands in, so that it can draw its line."""
        if self.text is None:
            self.text = text
        return self

    def __str__(self) -> str:
        return render(self)


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, counted from 1, of a span's start, and the column of its end on that line."""

    line: int
    column: int
    end: int


def place_of(text: str, span: Span) -> Place:
    """Where a span stands, as an editor counts it; a span over several lines ends with its first."""
    start = min(span.start, len(text))
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", start)
    if line_end < 0:
        line_end = len(text)
    end = max(start, min(span.end, line_end))
    return Place(text.count("\n", 0, start) + 1, start - line_start + 1, end - line_start + 1)


def render(error: MqlError) -> str:
    """The error as a person reads it: message, the line with its span underlined, the hint."""
    parts = [error.message]
    if error.text is not None and error.span is not None:
        at = place_of(error.text, error.span)
        line = error.text.split("\n")[at.line - 1].replace("\t", " ")
        gutter = str(at.line)
        carets = "^" * max(1, at.end - at.column)
        parts.append(f"{gutter} | {line}")
        parts.append(f"{' ' * len(gutter)} | {' ' * (at.column - 1)}{carets}")
    if error.hint:
        parts.append(error.hint)
    return "\n".join(parts)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody who wrote `name` most likely meant, if one is near enough."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`Did you mean "status"?`, or None where nothing known is near."""
    found = nearest(name, known)
    return f'Did you mean "{found}"?' if found else None
