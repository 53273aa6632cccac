"""From text to the syntax tree. The grammar is in grammar.lark; this is the door to lark.

A text is looked over once (`mql.scan`: bounds, quotes, brackets, comments), parsed by lark's LALR tables, and the parse
tree is folded from its leaves up, without recursion, into the nodes of `mql.syntax` (`mql.building` says which).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, BinaryIO

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken

from mql import mistakes
from mql.building import Builder
from mql.errors import MqlError, Span
from mql.scan import blank_comments, without_comments
from mql.syntax import (
    Query,
)

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"
DEPTH_MAX = 128
_DEEPENING = re.compile(r"[-+*/%|!]|::|\b(?:case|not)\b", re.IGNORECASE)


def parse(text: str) -> Query:
    """The query that a text says. Raises MqlError with the place and a hint where it says none.

    Of a union, the first query holds the others in `union`, and the clauses about the whole result (ORDER BY, LIMIT,
    EMIT, LATENESS, SINCE, UNTIL, REPLAY SPEED, SETTINGS), which are written after the last.
    """
    try:
        clean = blank_comments(text)
        query = _fold(_tree(clean), Builder(clean, text))
        assert isinstance(query, Query)
        if _may_be_deep(clean):
            _refuse_depth(query)
    except MqlError as error:
        raise error.in_text(text) from None
    return query


def expected_at(text: str, offset: int) -> list[str]:
    """What may be written at an offset of a text: keywords in capitals, and "name", "value" and the like, sorted."""
    before = without_comments(text[:offset]).rstrip(_LETTERS)
    return sorted({word for terminal in _accepted_at(before) for word in mistakes.words_of(terminal)})


class Tables:
    """The grammar's tables: built when first asked for, which takes a third of a second, or as they were kept."""

    def __init__(self) -> None:
        self._lark: Lark | None = None

    @property
    def ready(self) -> bool:
        return self._lark is not None

    def get(self) -> Lark:
        if self._lark is None:
            self._lark = Lark.open_from_package("mql", "grammar.lark", parser="lalr", lexer="contextual")
        return self._lark

    def keep(self, file: BinaryIO) -> None:
        """Writes them, for another process with the same grammar, Python and lark."""
        self.get().save(file)

    def use(self, file: BinaryIO) -> None:
        """Takes what `keep` wrote; it is unpickled, so it must come from nobody else."""
        self._lark = Lark.load(file)


TABLES = Tables()


def _tree(clean: str) -> Tree[Token]:
    try:
        return TABLES.get().parse(clean)
    except UnexpectedInput as unexpected:
        at_end = isinstance(unexpected, UnexpectedToken) and unexpected.token.type == "$END"
        position = len(clean) if at_end or unexpected.pos_in_stream is None else unexpected.pos_in_stream
        accepted = _accepted(unexpected.interactive_parser)
        raise mistakes.explain(clean, position, accepted, lambda at: _accepted_at(clean[:at])) from None


def _accepted_at(before: str) -> set[str]:
    """The terminals with which a text so far could go on; none where it is wrong already."""
    cursor = TABLES.get().parse_interactive(before)
    try:
        cursor.exhaust_lexer()
    except UnexpectedInput:
        return set()
    return _accepted(cursor)


def _accepted(cursor: Any) -> set[str]:
    """The terminals with which a parse could go on from where it stands."""
    accepted: set[str] = cursor.accepts()
    return accepted


# Tokens that the parse tree keeps for the sake of its nodes' spans, and that say nothing else.
_ONLY_PLACES = frozenset(
    {"SELECT", "FROM", "WHERE", "SAMPLE", "WINDOW", "WINDOWS", "FILL", "GROUP_BY", "HAVING", "ANOMALY", "QUALIFY"}
    | {"ORDER_BY", "LIMIT", "EMIT", "LATENESS", "SINCE", "UNTIL", "REPLAY_SPEED", "SETTINGS", "WITH", "PER_SECOND"}
    | {"OVER", "FILTER", "CASE", "END", "INTERVAL", "TIMESTAMP", "DATE", "EXISTS", "EXTRACT", "PER_WINDOW", "EVENTS"}
    | {"LPAR", "RPAR", "LSQB", "RSQB", "LBRACE", "RBRACE", "PERCENT_WORD"}
)


@dataclass(slots=True)
class _Folding:
    """A node of the parse tree on the way to its value: its children still to come, and what they became."""

    rule: str
    children: Iterator[Any]
    built: list[Any]
    start: int = -1
    end: int = 0


def _fold(tree: Tree[Token], builder: Builder) -> Any:
    """A parse tree folded from its leaves up: each node by the builder's method of its name."""
    waiting = [_Folding(tree.data, iter(tree.children), [])]
    while True:
        node = waiting[-1]
        for child in node.children:
            if isinstance(child, Tree):
                waiting.append(_Folding(child.data, iter(child.children), []))
                break
            if child is not None:
                node.start = child.start_pos if node.start < 0 else node.start
                node.end = child.end_pos
                if child.type in _ONLY_PLACES:
                    continue
            node.built.append(child)
        else:
            waiting.pop()
            value = getattr(builder, _method(node.rule))(node.built, Span(node.start, node.end))
            if not waiting:
                return value
            above = waiting[-1]
            above.built.append(value)
            above.start = node.start if above.start < 0 else above.start
            above.end = max(above.end, node.end)


def _method(rule: str) -> str:
    return f"{rule}_" if rule in ("from", "with") else rule


def _may_be_deep(clean: str) -> bool:
    """Whether a text holds enough of what makes a tree deep; most need not be walked to be let through."""
    return clean.count("(") + clean.count("[") > DEPTH_MAX // 16 or len(_DEEPENING.findall(clean)) > DEPTH_MAX // 2


def _refuse_depth(query: Query) -> None:
    """Refuse a tree so deep that those who walk it might fall: each level of it is looked at, none recursed into."""
    level: list[Any] = [query]
    for _ in range(DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    span = next((node.span for node in level if hasattr(node, "span")), Span(0, 0))
    raise MqlError(
        f"the expression is more than {DEPTH_MAX} operators deep",
        span,
        "Cut it in parts with WITH, or use a list: x IN (…).",
    )


@cache
def _names_of(kind: type) -> tuple[str, ...]:
    """The fields of a node that nodes may be in."""
    return tuple(field.name for field in fields(kind) if field.name != "span")


def _children(node: Any) -> Iterator[Any]:
    """The nodes below a node, through tuples."""
    for name in _names_of(node.__class__):
        waiting = [getattr(node, name)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, tuple):
                waiting.extend(value)
            elif is_dataclass(value):
                yield value
