"""What a regular expression of a query may hold: RE2's syntax, which has no look-around and no back-references."""

from __future__ import annotations

import re

from mql.errors import MqlError, Span

_PIECE = re.compile(r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?|\(\?P[=>]|\(\?<?[=!]|\(\?>|[()\]]|[*+?}]\+", re.DOTALL)
_LINEAR = "Regular expressions are RE2's, which never take longer than one pass over the text."


def check_regex(pattern: str, span: Span) -> None:
    """Refuse a pattern that RE2 cannot run, or whose brackets do not match. `span` is where it stands."""
    opened, in_class = 0, False
    for piece in _PIECE.finditer(pattern):
        found = piece.group()
        if in_class:
            in_class = found != "]"
        elif found.startswith("["):
            in_class = True
        elif found in ("(?=", "(?!", "(?<=", "(?<!"):
            raise MqlError(
                "regular expressions here have no look-around", span, f"{_LINEAR} Write two conditions instead."
            )
        elif found == "(?P=" or (found[0] == "\\" and found[1:] in tuple("123456789k")):
            raise MqlError("regular expressions here have no back-references", span, _LINEAR)
        elif found in ("(?>", "*+", "++", "?+", "}+"):
            raise MqlError("regular expressions here have no possessive groups", span, _LINEAR)
        elif found[0] == "(":
            opened += 1
        elif found == ")":
            opened -= 1
            if opened < 0:
                raise MqlError(
                    '")" closes nothing in the regular expression', span, r'A bracket to be found is written "\)".'
                )
    if in_class:
        raise MqlError('"[" is never closed in the regular expression', span, r'A bracket to be found is written "\[".')
    if opened:
        raise MqlError('"(" is never closed in the regular expression', span, r'A bracket to be found is written "\(".')
