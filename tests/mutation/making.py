"""Makes mutants: a module with one small mistake put in.

Most kinds are Cosmic Ray's, which knows the Python; one is of our own, for what the planner writes is SQL in strings.
Left out are mutants that could change nothing (annotations, which nobody evaluates), those that anything kills (an
addition that becomes a shift), and the decorators of classes. Docstrings stay as they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

KINDS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_FloorDiv|FloorDiv_Mul|Mod_FloorDiv|BitOr_BitAnd|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Lt_LtE|Lt_Gt|LtE_Lt|LtE_GtE|Gt_GtE|Gt_Lt|GtE_Gt|GtE_LtE|Eq_NotEq|NotEq_Eq)"
    r"|ReplaceComparisonOperator_(Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)"
    r"|ReplaceUnaryOperator_Delete_(Not|USub)|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr"
    r"|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer"
    r"|ZeroIterationForLoop)"
)
SWAPS = (
    (r"(?<= )<(?= )", "<="),
    (r"(?<= )<=(?= )", "<"),
    (r"(?<= )>(?= )", ">="),
    (r"(?<= )>=(?= )", ">"),
    (r"(?<= )=(?= )", "<>"),
    (r"(?<= )\+(?= )", "-"),
    (r"(?<= )-(?= )", "+"),
    (r"\bAND\b", "OR"),
    (r"\bOR\b", "AND"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bmin\(", "max("),
    (r"\bmax\(", "min("),
    (r"\bDESC\b", "ASC"),
    (r"\bUNION ALL\b", "UNION"),
)
"""What is put in for what in SQL."""
STATEMENT = re.compile(r"[A-Z]{2,} |[a-z_]+\(|^ ?[<>=+-]|[<>=+-] ?$")
"""What a string that is SQL holds, and no message does."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: the line of `path` that holds it, before and after, and the whole text with it."""

    path: str
    line: int
    inside: str
    before: str
    after: str
    text: str

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What stays the same when lines above it come and go."""
        return self.path, self.inside, self.before, self.after


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mutant could be made: the `at`-th place for this kind in the module."""

    path: str
    kind: str
    at: int
    line: int


class SwapInSql(Operator):  # type: ignore[misc]
    """Changes one word or sign in a string that is SQL."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        for _ in _swaps(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        start, end, put = list(_swaps(node))[index]
        node.value = node.value[:start] + put + node.value[end:]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _swaps(node: Any) -> Iterator[tuple[int, int, str]]:
    if node.type not in ("string", "fstring_string") or node.value.lstrip("rb").startswith('"""'):
        return
    if not STATEMENT.search(node.value.strip("\"'")):
        return
    for pattern, put in SWAPS:
        for found in re.finditer(pattern, node.value):
            yield found.start(), found.end(), put


def places(root: Path, path: str) -> list[Place]:
    """All places of a module where a mutant can be made, by kind and in the order of the text."""
    text = (root / path).read_text()
    passed = list(_passed(text))
    nodes = list(ast_nodes(get_ast(text)))
    found = []
    for kind in _kinds():
        at = -1
        for node in nodes:
            for start, _ in _operator(kind).mutation_positions(node):
                at += 1
                if not any(first <= start < last for first, last in passed):
                    found.append(Place(path, kind, at, start[0]))
    return found


def make(root: Path, place: Place) -> Mutant | None:
    """The mutant of a place; None where the program stays what it is."""
    old = (root / place.path).read_text()
    new = mutate_code(old, _operator(place.kind), place.at)
    if new is None or meaning(new) == meaning(old):
        return None
    lines = zip(old.split("\n"), new.split("\n"), strict=True)
    number, (before, after) = next((at, pair) for at, pair in enumerate(lines, 1) if pair[0] != pair[1])
    return Mutant(place.path, number, _inside(old, number), " ".join(before.split()), " ".join(after.split()), new)


def _kinds() -> list[str]:
    return [*sorted(kind for kind in operator_names() if KINDS.fullmatch(kind)), "sql"]


def _operator(kind: str) -> Operator:
    return SwapInSql() if kind == "sql" else get_operator(kind)()


def meaning(text: str) -> Any:
    """What Python makes of a text: the same for two texts that differ in spelling only."""
    return _steps(compile(text, "", "exec"))


def _steps(code: CodeType) -> Any:
    inner = tuple(_steps(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts)
    return code.co_code, inner, code.co_names, code.co_varnames


def _passed(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where annotations, aliases of types and the decorators of classes reach."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.AnnAssign(annotation=noted) | ast.arg(annotation=ast.expr() as noted):
                yield _span(noted)
            case ast.FunctionDef(returns=ast.expr() as noted):
                yield _span(noted)
            case ast.ClassDef():
                yield from map(_span, node.decorator_list)
            case ast.Assign(targets=[ast.Name()], value=ast.BinOp(op=ast.BitOr()) as noted) if node.col_offset == 0:
                yield _span(noted)


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _inside(text: str, line: int) -> str:
    """The function or class that a line lies in, with those around it."""
    names = [
        (node.lineno, node.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join(name for _, name in sorted(names)) or "-"


def header(text: str, line: int) -> range:
    """The lines of the innermost statement around a line, without the statements inside it."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            last = node.end_lineno if not body else max(node.lineno, _first(body[0]) - 1)
            if last is not None and line <= last:
                found = range(node.lineno, last + 1)
    return found


def _first(node: ast.AST) -> int:
    return node.pattern.lineno if isinstance(node, ast.match_case) else getattr(node, "lineno", 0)
