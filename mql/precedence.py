"""Which operators bind tighter: from a flat run of operands and operators to a tree.

From loose to tight: OR; AND; NOT; comparisons, LIKE, BETWEEN, IN and IS; `||` as concatenation; `+ -`; `* / // %`;
a sign. `::` and everything in brackets have been taken care of by the grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from mql.errors import MqlError, Span
from mql.syntax import (
    Between,
    Binary,
    Exists,
    Expression,
    InList,
    InQuery,
    IsDistinct,
    IsNull,
    Like,
    Literal,
    Query,
    Unary,
)

DEPTH_MAX = 64
CHAIN_LEFT_MAX = 16

_COMPARISONS = frozenset({"=", "==", "!=", "<>", "<", "<=", ">", ">=", "==~", "=~", "==+"})
_CONDITION_KINDS = frozenset({"COMPARISON", "MATCHES", "LIKE", "BETWEEN", "IN", "IS", "IS_DISTINCT"})
_TIGHTNESS = {"PIPES": 1, "ADDITIVE": 2, "MULTIPLICATIVE": 3}


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as written. `kind` is its terminal in the grammar; `word` is lower case with single blanks."""

    kind: str
    word: str
    span: Span


@dataclass(frozen=True, slots=True)
class InTail:
    """`[NOT] IN (…)`, all that follows the operand."""

    choices: tuple[Expression, ...] | Query
    negated: bool
    span: Span
    within: tuple[Expression, Expression] | None = None


Item = Expression | Operator | InTail


def arrange(items: Sequence[Item], text: str) -> Expression:
    """The tree that a flat run of operands and operators stands for."""
    if len(items) == 1:
        return _operand(items[0])
    run = _Run(_tell_or_from_concatenation(items), text)
    expression = run.disjunction()
    if run.kind() is not None:
        raise run.comparisons_do_not_chain()
    return expression


class _Run:
    """Reads a run of items from left to right; `at` is the next one."""

    def __init__(self, items: Sequence[Item], text: str) -> None:
        self.items = items
        self.kinds = [*map(_kind, items), None]
        self.text = text
        self.at = 0
        self.depth = 0

    def kind(self) -> str | None:
        """What stands next: an operator's kind, "IN", "operand", or None at the end."""
        return self.kinds[self.at]

    def take(self) -> Item:
        self.at += 1
        return self.items[self.at - 1]

    def operator(self) -> Operator:
        taken = self.take()
        assert isinstance(taken, Operator)
        return taken

    def disjunction(self) -> Expression:
        terms = [self.conjunction()]
        while self.kind() == "OR":
            self.take()
            terms.append(self.conjunction())
        return join_terms("or", terms)

    def conjunction(self) -> Expression:
        terms = [self.negation()]
        while self.kind() == "AND":
            self.take()
            terms.append(self.negation())
        return join_terms("and", terms)

    def negation(self) -> Expression:
        if self.kind() != "NOT":
            return self.comparison()
        word = self.operator()
        self.deeper(word)
        operand = self.negation()
        self.depth -= 1
        return Unary("not", operand, word.span.to(operand.span))

    def comparison(self) -> Expression:
        left = self.arithmetic()
        match self.kind():
            case "COMPARISON" | "MATCHES":
                operator = self.operator()
                right = self.arithmetic()
                return Binary(operator.word, left, right, left.span.to(right.span))
            case "IS_DISTINCT":
                operator = self.operator()
                right = self.arithmetic()
                return IsDistinct(left, right, " not " in operator.word, left.span.to(right.span))
            case "LIKE":
                operator = self.operator()
                right = self.arithmetic()
                negated, ignore_case = operator.word.startswith("not"), operator.word.endswith("ilike")
                return Like(left, right, negated, ignore_case, left.span.to(right.span))
            case "BETWEEN":
                return self.between(left)
            case "IS":
                return self.truth_test(left)
            case "IN":
                tail = self.take()
                assert isinstance(tail, InTail)
                span = left.span.to(tail.span)
                if isinstance(tail.choices, Query):
                    return InQuery(left, tail.choices, tail.negated, tail.within, span)
                return InList(left, tail.choices, tail.negated, span)
            case _:
                return left

    def between(self, left: Expression) -> Expression:
        operator = self.operator()
        low = self.arithmetic()
        if self.kind() != "AND":
            raise MqlError('"between" needs a second bound', operator.span, "Write it as: x BETWEEN 1 AND 10.")
        self.take()
        high = self.arithmetic()
        return Between(left, low, high, operator.word.startswith("not"), left.span.to(high.span))

    def truth_test(self, left: Expression) -> Expression:
        operator = self.operator()
        span = left.span.to(operator.span)
        negated = " not " in operator.word
        if operator.word.endswith("null"):
            return IsNull(left, negated, span)
        truth = operator.word.rsplit(" ", 1)[1]
        return IsDistinct(left, Literal(truth == "true", truth, operator.span), not negated, span)

    def arithmetic(self, loosest: int = 1) -> Expression:
        """Operators that bind at least so tightly, equal ones from left to right."""
        left = self.signed()
        while (tightness := _TIGHTNESS.get(self.kind() or "", 0)) >= loosest:
            operator = self.operator()
            right = self.arithmetic(tightness + 1)
            left = Binary(operator.word, left, right, left.span.to(right.span))
        return left

    def signed(self) -> Expression:
        match self.kind():
            case "SIGN":
                sign = self.operator()
                self.deeper(sign)
                operand = self.signed()
                self.depth -= 1
                return self.with_sign(sign, operand)
            case "NOT":
                word = self.items[self.at]
                assert isinstance(word, Operator)
                self.deeper(word)
                expression = self.negation()
                self.depth -= 1
                return expression
            case "operand":
                return _operand(self.take())
            case _:
                raise self.comparisons_do_not_chain()

    def with_sign(self, sign: Operator, operand: Expression) -> Expression:
        """A minus right before a number belongs to the number."""
        span = sign.span.to(operand.span)
        between = self.text[sign.span.end : operand.span.start]
        if isinstance(operand, Literal) and sign.word == "-" and not between.strip():
            match operand.value:
                case bool() | str() | None:
                    pass
                case number if not operand.text.startswith("-"):
                    return Literal(-number, self.text[span.start : span.end], span)
        return Unary(sign.word, operand, span)

    def deeper(self, operator: Operator) -> None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise MqlError(f"more than {DEPTH_MAX} operators inside each other", operator.span)

    def comparisons_do_not_chain(self) -> MqlError:
        item = self.items[min(self.at, len(self.items) - 1)]
        return MqlError(
            "comparisons do not chain", item.span, "Put AND or OR between the two, or brackets around one of them."
        )


def join_terms(word: str, terms: Sequence[Expression]) -> Expression:
    """Terms joined by `and` or `or`; brackets around terms of the same kind make no difference.

    A long chain becomes a balanced tree, so that nobody who walks it goes deep.
    """
    flat = [part for term in terms for part in flatten(word, term)]
    return _balanced(word, flat)


def flatten(word: str, expression: Expression) -> list[Expression]:
    """The terms of a chain of `and` or of `or`, from left to right."""
    found: list[Expression] = []
    waiting = [expression]
    while waiting:
        match waiting.pop():
            case Binary(op, left, right) if op == word:
                waiting += right, left
            case term:
                found.append(term)
    return found


def _balanced(word: str, terms: Sequence[Expression]) -> Expression:
    if len(terms) > CHAIN_LEFT_MAX:
        middle = len(terms) // 2
        return _both(word, _balanced(word, terms[:middle]), _balanced(word, terms[middle:]))
    return reduce(lambda left, right: _both(word, left, right), terms)


def _both(word: str, left: Expression, right: Expression) -> Expression:
    return Binary(word, left, right, left.span.to(right.span))


def is_condition(expression: Expression) -> bool:
    """Whether an expression is written as a condition: a comparison, a test, or several joined."""
    match expression:
        case Binary(op):
            return op in _COMPARISONS or op in ("and", "or")
        case Unary("not"):
            return True
        case Like() | Between() | InList() | InQuery() | Exists() | IsNull() | IsDistinct():
            return True
        case _:
            return False


def _tell_or_from_concatenation(items: Sequence[Item]) -> Sequence[Item]:
    """`||` between two conditions is OR, as in Mantis: made so here, before anything is built."""
    pipes = [at for at, item in enumerate(items) if isinstance(item, Operator) and item.kind == "PIPES"]
    if not pipes:
        return items
    stretches, in_bounds = _stretches(items)
    told = list(items)
    for at in set(pipes) - in_bounds:
        before, after = stretches[at - 1], stretches[at + 1]
        if (before.condition and after.condition) or before.ends_closed or after.starts_closed:
            told[at] = Operator("OR", "or", items[at].span)
    return told


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What stands between two AND, OR or `||`.

    `condition`: it is one as a whole. `ends_closed`, `starts_closed`: nothing can be concatenated there, for it ends
    with a finished test, or begins with NOT, or is nothing but a condition in brackets.
    """

    condition: bool
    ends_closed: bool
    starts_closed: bool


def _kind(item: Item) -> str:
    match item:
        case Operator(kind=kind):
            return kind
        case InTail():
            return "IN"
        case _:
            return "operand"


def _stretches(items: Sequence[Item]) -> tuple[list[_Stretch], set[int]]:
    """For each item the stretch it stands in; and which `||` stand between BETWEEN and its AND, where nothing joins."""
    found: list[_Stretch] = []
    in_bounds: set[int] = set()
    start, bounds_open = 0, 0
    for at, item in enumerate(items):
        kind = _kind(item)
        bounds_open += kind == "BETWEEN"
        if kind == "PIPES" and bounds_open:
            in_bounds.add(at)
        elif kind == "AND" and bounds_open:
            bounds_open -= 1
        elif kind in ("AND", "OR", "PIPES"):
            found += [_stretch(items[start:at])] * (at - start) + [_stretch(())]
            start = at + 1
    return found + [_stretch(items[start:])] * (len(items) - start), in_bounds


def _stretch(items: Sequence[Item]) -> _Stretch:
    if not items:
        return _Stretch(False, False, False)
    kinds = [_kind(item) for item in items]
    first = items[0]
    alone = len(items) == 1 and not isinstance(first, Operator | InTail) and is_condition(first)
    condition = alone or kinds[0] == "NOT" or any(kind in _CONDITION_KINDS for kind in kinds)
    return _Stretch(condition, alone or kinds[-1] in ("IN", "IS"), alone or kinds[0] == "NOT")


def _operand(item: Item) -> Expression:
    assert not isinstance(item, Operator | InTail), "the grammar puts an operand here"
    return item
