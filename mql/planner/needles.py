"""Bytes that the JSON text of every matching event must hold, derived from WHERE.

They may let through too much, never too little, so they rest on what can be proved of the text alone:

- A text value that equals a constant stands in the event as written, in quotes, unless some of its characters are
  escaped. Letters, digits and most signs can be escaped in one way only, as `\\u00…` (`\\u…` beyond ASCII): that is one
  more needle. What has a shorter escape (quote, backslash, slash, control characters) is cut out of the needle.
- A text property may come from a number, a boolean or a whole object, written anew: numbers change their form (1e2
  becomes 100.0), objects lose their spaces. What could have come about so is no needle.
- Numbers have too many spellings (500, 5e2, 499.9, "500") for a needle.
- A property that may not be null stands in the text by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mql.functions import choose
from mql.planner.expressions import AnyOf, Apply, Bound, Column, Constant, Convert, Element, conjuncts
from mql.planner.physical import Needles
from mql.schema import BOOLEAN, JSON, VARCHAR, ListOf, Path, StructOf

NEEDLES_MAX = 16
_SHORT_ESCAPES = re.compile(r'["\\/\x00-\x1f]')
_STRUCTURE = re.compile(r'["\\/\x00-\x1f\[\]{},:]')
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+|nan|inf|infinity)([eE][-+]?[0-9]+)?", re.IGNORECASE)
_OF_NUMBERS = frozenset("0123456789+-.eEnNaAiIfFtTyY")
"""Characters of numbers as they may be written anew, infinity and nan among them."""
_BEGINNINGS = frozenset("[{+-.0123456789tfnNiI")
"""What a value that is no text may begin with, written as one."""


@dataclass(frozen=True, slots=True)
class _Found:
    """One of `any_of` is in the text. `of_value`: it stands for a value, which is rarer than a name."""

    any_of: frozenset[str]
    of_value: bool

    @property
    def rank(self) -> tuple[bool, int]:
        return self.of_value, min(len(needle) for needle in self.any_of) - len(self.any_of)


def needles(predicate: Bound | None, time_from_event: bool, envelope: frozenset[str] = frozenset()) -> Needles | None:
    """What every event that meets the predicate holds; None where nothing is known for sure.

    `time_from_event`: the query must know the time of all events, and only their text tells it. `envelope`: names of
    properties that come beside the text.
    """
    if predicate is None or time_from_event:
        return None
    found = _Finder(envelope).when_true(predicate)
    if found is None or len(found.any_of) > NEEDLES_MAX:
        return None
    spelled = {*found.any_of, *(_escaped(needle) for needle in found.any_of)}
    bare = {needle for needle in spelled if not any(other != needle and other in needle for other in spelled)}
    return Needles(tuple(sorted(needle.encode() for needle in bare)))


def _escaped(needle: str) -> str:
    """What the text holds where any of the needle's characters is escaped."""
    return "\\u00" if needle.isascii() else "\\u"


@dataclass(frozen=True, slots=True)
class _Finder:
    envelope: frozenset[str]

    def when_true(self, bound: Bound) -> _Found | None:
        """What the text holds where a condition is true."""
        match bound:
            case Apply("and"):
                return _best(self.when_true(part) for part in conjuncts(bound))
            case Apply("or", args):
                return _union([self.when_true(arg) for arg in args if not _never(arg)])
            case Apply("=" | "==", (left, Constant(value))):
                return _best((self.equal(left, value), self.not_null(left) if value is not None else None))
            case Apply("=" | "==", (Constant(value), right)):
                return _best((self.equal(right, value), self.not_null(right) if value is not None else None))
            case Apply("in", (operand, *items)):
                values = [item.value if isinstance(item, Constant) else None for item in items]
                alike = _union([self.equal(operand, value) for value in values])
                return _best((alike, self.not_null(operand)))
            case Apply(name, (operand, Constant(str(value)))) if name in _TEXT_TESTS and operand.type == VARCHAR:
                return _best((self.pieces(operand, *_TEXT_TESTS[name](value)), self.not_null(bound)))
            case Apply("is_not_null", (operand,)):
                return self.not_null(operand)
            case AnyOf(operand, predicate):
                inside = self.when_true(predicate) if self.from_text(operand) else None
                return _best((inside, self.not_null(operand)))
            case _:
                return self.not_null(bound)

    def equal(self, operand: Bound, value: object) -> _Found | None:
        """What the text holds where a text property equals a value."""
        if not isinstance(value, str) or operand.type != VARCHAR or not self.from_text(operand):
            return None
        if value in ("true", "false", "null") or re.fullmatch(r"[0-9]+", value):
            return _value(value)
        if value.startswith(("[", "{")) or _NUMBER.fullmatch(value):
            return None
        return _value(_longest(value, closed=True))

    def pieces(self, operand: Bound, pieces: Iterable[str], begins: bool) -> _Found | None:
        """What the text holds where a text property holds all of the pieces, one after the other, and `begins` with the
        first of them."""
        if not self.from_text(operand):
            return None
        found = []
        for at, piece in enumerate(pieces):
            if at == 0 and begins and piece and piece[0] not in _BEGINNINGS:
                found.append(_longest(piece, closed=False))
            else:
                parts = (part for part in _STRUCTURE.split(piece) if not _OF_NUMBERS.issuperset(part))
                found.append(max(parts, key=len, default=""))
        return _value(max(found, key=len, default=""))

    def not_null(self, bound: Bound) -> _Found | None:
        """What the text holds where a value is not null: the names of the properties that it is made of."""
        return _best(_name(name) for path in self.needed(bound) for name in path)

    def needed(self, bound: Bound) -> frozenset[Path]:
        """The properties that are not null where the value is not null."""
        match bound:
            case Column(path) if path and path[0] not in self.envelope:
                return frozenset((path,))
            case Convert(operand):
                return self.needed(operand)
            case Apply("json_get" | "in", (operand, *_)):
                return self.needed(operand)
            case Apply("is_null" | "is_not_null"):
                return frozenset()
            case Apply(name, args):
                row = choose(name, tuple(arg.type for arg in args))
                strict = row is not None and row.strict
                return frozenset().union(*(self.needed(arg) for arg in args)) if strict else frozenset()
            case _:
                return frozenset()

    def from_text(self, bound: Bound) -> bool:
        """Whether a value is read from the event's text as it stands there."""
        match bound:
            case Column(path, type):
                return path[:1] not in {(name,) for name in self.envelope} and _plain(type)
            case Element(type):
                return _plain(type)
            case Convert(operand, type):
                return operand.type == JSON and type in (VARCHAR, JSON) and self.from_text(operand)
            case Apply("field" | "element" | "json_get" | "json_items" | "each_field" | "each_json", (operand, *_)):
                return _plain(bound.type) and self.from_text(operand)
            case _:
                return False


def _like(pattern: str) -> tuple[list[str], bool]:
    return re.split("[%_]", pattern), not pattern.startswith(("%", "_"))


_TEXT_TESTS: dict[str, Callable[[str], tuple[list[str], bool]]] = {
    "like": _like,
    "contains_text": lambda text: ([text], False),
    "contains": lambda text: ([text], False),
    "starts_with": lambda text: ([text], True),
    "prefix": lambda text: ([text], True),
    "ends_with": lambda text: ([text], False),
    "suffix": lambda text: ([text], False),
}


def _plain(type: object) -> bool:
    """Whether values of a type hold texts as they stood in the event."""
    return type in (VARCHAR, JSON) or isinstance(type, ListOf | StructOf)


def _never(bound: Bound) -> bool:
    return isinstance(bound, Constant) and bound.type == BOOLEAN and not bound.value


def _best(found: Iterable[_Found | None]) -> _Found | None:
    """The one that is likely to be rarest, of several that all hold."""
    return max((one for one in found if one is not None), key=lambda one: one.rank, default=None)


def _union(found: list[_Found | None]) -> _Found | None:
    """What holds where any of them does."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    return _Found(frozenset().union(*(one.any_of for one in known)), all(one.of_value for one in known))


def _value(needle: str) -> _Found | None:
    return _Found(frozenset((needle,)), True) if _is_storable(needle) else None


def _name(name: str) -> _Found | None:
    needle = _longest(name, closed=True)
    return _Found(frozenset((needle,)), False) if _is_storable(needle) else None


def _longest(text: str, closed: bool) -> str:
    """The longest part of a quoted text without a character that has a short escape; `closed`: it ends here, too."""
    parts = _SHORT_ESCAPES.split(text)
    parts[0] = '"' + parts[0]
    parts[-1] += '"' * closed
    return max(parts, key=len)


def _is_storable(needle: str) -> bool:
    """Whether the needle says something, and UTF-8 can hold it."""
    return needle not in ("", '"') and not any("\ud800" <= character <= "\udfff" for character in needle)
