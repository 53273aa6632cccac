"""A first look over a query's text: strings and brackets closed, bounds kept, comments blanked.

It is cheap, linear and recurses nowhere, so that what comes after it need not fear any text.
"""

from __future__ import annotations

import re

from mql.errors import MqlError, Span

TEXT_BYTES_MAX = 64 * 1024
NESTING_MAX = 64
WORDS_MAX = 6_000

# No group is possessive: before Python 3.11.5 such a group goes wrong where something in it backtracks.

# Whatever may open or close something, or hide a bracket or a quote in it.
_SPECIAL = re.compile(r"""--[^\n]*|/\*|==?~\s*(?=/)|\[\s*(?=["'])|['"`()\[\]{}“”„«»‘’]""")
_STRINGS = {
    "'": re.compile(r"'[^']*+(?:''[^']*+)*'(?!')"),
    '"': re.compile(r'"[^"]*+(?:""[^"]*+)*"(?!")'),
    "`": re.compile(r"`[^`]*+(?:``[^`]*+)*`(?!`)"),
}
_REGEX = re.compile(r"/[^/\\\n]*+(?:\\.[^/\\\n]*+)*/")
_KEY = re.compile(  # as KEY_STEP in the grammar
    r"""\[\s*(?:"[^"\\]*+(?:(?:\\"(?!\s*\])|\\(?!")|\\(?="\s*\])|"")[^"\\]*+)*\""""
    r"""|'[^'\\]*+(?:(?:\\'(?!\s*\])|\\(?!')|\\(?='\s*\])|'')[^'\\]*+)*')\s*\]"""
)
_WORD = re.compile(r"""\w+|'[^']*+'|"[^"]*+"|\[\s*(?:'[^']*+'|"[^"]*+")\s*\]|[^\w\s]""")
_COMMENT_OR_QUOTED = re.compile(r"""'[^']*+'|"[^"]*+"|`[^`]*+`|--[^\n]*|/\*[^*]*+(?:\*(?!/)[^*]*+)*\*/""")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_KINDS = {"'": "string", '"': "string", "`": "name in backticks"}


def blank_comments(text: str) -> str:
    """The text with spaces where its comments stood, so that every offset keeps its meaning.

    Raises MqlError for a text that is too long or too deep, and for what is opened and never closed.
    """
    if _bytes_of(text) > TEXT_BYTES_MAX:
        raise MqlError("the query is longer than 64 KiB", Span(0, 0), "Put long lists of values into a table; join it.")
    blanked: list[str] = []
    opened: list[tuple[str, int]] = []
    kept_to = at = 0
    while special := _SPECIAL.search(text, at):
        start, at, found = special.start(), special.end(), special.group()
        if found[:2] == "--" or found == "/*":
            at = at if found != "/*" else _end_of_comment(text, start)
            blanked += text[kept_to:start], re.sub(r"[^\n]", " ", text[start:at])
            kept_to = at
        elif found[0] == "=":
            at = _end_of(_REGEX, text, at, "regular expression", "A regular expression ends with a slash: /like this/.")
        elif found[0] in _STRINGS:
            at = _end_of(_STRINGS[found], text, start, _KINDS[found], f"Close it with {_named(found)}.")
        elif found[0] == "[" and (key := _KEY.match(text, start)):
            at = key.end()
        elif found[0] in _CLOSING:
            opened.append((found[0], start))
            if len(opened) > NESTING_MAX:
                raise MqlError(f"more than {NESTING_MAX} brackets inside each other", Span(start, start + 1))
            at = start + 1
        elif found in ")]}":
            _close(opened, found, start)
        else:
            _refuse_smart_quote(found, start)
    if opened:
        bracket, start = opened[-1]
        raise MqlError(
            f'"{bracket}" is never closed', Span(start, start + 1), f'Add the missing "{_CLOSING[bracket]}".'
        )
    clean = "".join([*blanked, text[kept_to:]])
    if len(clean) > WORDS_MAX and sum(1 for _ in _WORD.finditer(clean)) > WORDS_MAX:
        raise MqlError(
            f"the query has more than {WORDS_MAX:,} words and signs",
            Span(0, 0),
            "Put long lists of values into a table and join it.",
        )
    return clean


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        at = Span(error.start, error.end)
        raise MqlError("the text holds half a character", at, "Send it as UTF-8.", text=text[: error.start]) from None


def without_comments(text: str) -> str:
    """The same for a text that is still being written: nothing is refused."""
    return _COMMENT_OR_QUOTED.sub(
        lambda found: re.sub(r"[^\n]", " ", found[0]) if found[0][0] in "-/" else found[0], text
    )


def _end_of_comment(text: str, start: int) -> int:
    end = text.find("*/", start + 2)
    if end < 0:
        raise MqlError("the comment is never closed", Span(start, start + 2), 'Close it with "*/".')
    return end + 2


def _end_of(pattern: re.Pattern[str], text: str, start: int, kind: str, hint: str) -> int:
    if found := pattern.match(text, start):
        return found.end()
    line_end = text.find("\n", start)
    if kind == "string" and f"\\{text[start]}" in text[:start]:
        hint = f"A quote inside a string is doubled, not escaped: {text[start]}it{text[start] * 2}s{text[start]}."
    raise MqlError(f"the {kind} is never closed", Span(start, len(text) if line_end < 0 else line_end), hint)


def _close(opened: list[tuple[str, int]], found: str, start: int) -> None:
    if not opened:
        opening = next(bracket for bracket, closing in _CLOSING.items() if closing == found)
        raise MqlError(
            f'"{found}" closes nothing', Span(start, start + 1), f'Take it out, or add the missing "{opening}".'
        )
    bracket, _ = opened.pop()
    if _CLOSING[bracket] != found:
        raise MqlError(
            f'"{found}" does not close "{bracket}"',
            Span(start, start + 1),
            f'Close "{bracket}" with "{_CLOSING[bracket]}" first.',
        )


def _refuse_smart_quote(found: str, start: int) -> None:
    raise MqlError(
        f"{found} is a typographic quote", Span(start, start + 1), "Strings stand in straight quotes: 'like this'."
    )


def _named(quote: str) -> str:
    return {"'": "a single quote (')", '"': 'a double quote (")', "`": "a backtick (`)"}[quote]
