"""What went wrong where the grammar could not go on, said in the words of whoever wrote the query.

The grammar knows only which terminals it would have taken. Here those become words, and the mistakes that people
make who know SQL or Mantis, or who mistype, get a sentence that repairs them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection

from mql.errors import MqlError, Span

Accepted = Callable[[int], Collection[str]]

_WORD = re.compile(r"\w+|==[~+]|[=<>!~:|&]{1,3}|\S")
WORD_LENGTH_MAX = 40
LOOKED_BACK_MAX = 8 * 1024  # to look back is to parse once more
_OPERAND = frozenset(
    {"NAME", "TICKED", "STRING", "NUMBER", "TRUTH", "NULL", "PARAM", "SIGN", "NOT", "CASE", "CAST", "EXISTS", "EXTRACT"}
    | {"INTERVAL", "TIMESTAMP", "DATE", "DURATION", "LPAR", "LSQB"}
)
_OPERATORS = frozenset(
    {"OR", "AND", "PIPES", "COMPARISON", "MATCHES", "IS", "IS_DISTINCT", "LIKE", "BETWEEN", "IN", "ADDITIVE"}
    | {"MULTIPLICATIVE", "_CAST_MARK", "_DOT", "KEY_STEP", "PREFIX_STEP", "INDEX_STEP", "ANY_STEP"}
)
_CLAUSES = frozenset(
    {"FROM", "WHERE", "SAMPLE", "WINDOW", "WINDOWS", "FILL", "GROUP_BY", "HAVING", "ANOMALY", "QUALIFY", "ORDER_BY"}
    | {"LIMIT", "EMIT", "LATENESS", "SINCE", "UNTIL", "REPLAY_SPEED", "SETTINGS", "_UNION_ALL", "JOIN"}
)
_AMOUNT = frozenset({"NUMBER", "PARAM", "DURATION", "INTERVAL"})

# Terminals that are no keyword of their own name.
_SPOKEN: dict[str, tuple[str, ...]] = {
    "$END": ("the end of the query",),
    "COMMA": ('","',),
    "LPAR": ('"("',),
    "RPAR": ('")"',),
    "LSQB": ('"["',),
    "RSQB": ('"]"',),
    "LBRACE": ('"{"',),
    "RBRACE": ('"}"',),
    "EQUAL": ('"="',),
    "COLON": ('":"',),
    "STAR": ('"*"',),
    "VBAR": ('"|"',),
    "_DOT": ('"."',),
    "_SEMICOLON": (),
    "_ARROW": ('"=>"',),
    "_CAST_MARK": ('"::"',),
    "NAME": ("a name",),
    "SOURCE_NAME": ("a source",),
    "TICKED": (),
    "WORD": ("a name",),
    "TYPE_NAME": ("a type such as BIGINT",),
    "ALIAS_STAR": (),
    "LIST_OF": (),
    "STRING": ("a string",),
    "NUMBER": ("a number",),
    "DURATION": ("a duration such as 10s",),
    "INTERVAL": (),
    "PARAM": (),
    "PERCENT_VALUE": (),
    "PERCENT": ("a percentage such as 5%",),
    "FACTOR": ("a speed such as 10x",),
    "UNIT": ("a unit such as SECONDS",),
    "REGEX": ("a regular expression such as /abc/",),
    "SIGN": (),
    "NULL": ("NULL",),
    "TRUTH": ("TRUE", "FALSE"),
    "TUMBLING": ("TUMBLING",),
    "EMIT_KIND": ("FINAL", "CHANGES", "EPISODES", "ANOMALIES", "ALL"),
    "DIRECTION_OF_ORDER": ("ASC", "DESC"),
    "NULLS": ("NULLS FIRST", "NULLS LAST"),
    "FRAME_UNIT": ("ROWS", "RANGE"),
    "FRAME_SIDE": ("PRECEDING", "FOLLOWING"),
    "UNBOUNDED": ("UNBOUNDED PRECEDING", "UNBOUNDED FOLLOWING"),
    "WINDOW_COUNT": ("WINDOWS",),
    "REVISIONS": ("WITH REVISIONS",),
    "PERCENT_WORD": ("PERCENT",),
    "IS": ("IS NULL", "IS NOT NULL"),
    "IS_DISTINCT": ("IS DISTINCT FROM",),
    "LIKE": ("LIKE", "ILIKE"),
    "COMPARISON": ('"="',),
    "MATCHES": ('"==~"',),
    "PIPES": ('"||"',),
    "ADDITIVE": ('"+"',),
    "MULTIPLICATIVE": ('"*"',),
    "KEY_STEP": (),
    "PREFIX_STEP": (),
    "INDEX_STEP": (),
    "ANY_STEP": (),
}
_STATEMENTS = frozenset({"insert", "update", "delete", "create", "drop", "alter", "merge", "show", "describe", "copy"})
_RESERVED = frozenset(
    {"select", "from", "where", "having", "join", "on", "as", "and", "or", "not", "case", "when", "then", "else", "in"}
    | {"is", "like", "ilike", "between", "distinct", "null", "true", "false", "group", "order", "union", "limit"}
    | {"window", "sample"}
)
_UNITS = frozenset({"ms", "us", "s", "sec", "m", "min", "h", "hr", "d", "w"})


def explain(text: str, position: int, accepted: Collection[str], accepted_at: Accepted) -> MqlError:
    """The error for a text that the grammar left at `position`, where it would have taken `accepted`.

    `accepted_at` tells what it would have taken at an earlier offset.
    """
    before = text[:position].rstrip()
    found = _WORD.match(text, _skip_blanks(text, position))
    if found is None:
        return _at_the_end(text, before, accepted)
    span = Span(*found.span())
    word = found.group() if span.end - span.start <= WORD_LENGTH_MAX else f"{found.group()[:WORD_LENGTH_MAX]}…"
    if re.search(r"\bfrom\b", before, re.IGNORECASE):
        accepted = set(accepted) - {"FROM"}
    return (
        _misspelt_before(before, accepted_at)
        or _known_mistake(text, before, word, span, accepted)
        or _misspelt(word, span, accepted)
        or _reserved(word, span, accepted)
        or MqlError(f'unexpected "{word}"', span, _expected(accepted))
    )


def words_of(terminal: str) -> tuple[str, ...]:
    """How a terminal of the grammar is called: a keyword in capitals, else what kind of thing it is."""
    return _SPOKEN.get(terminal, (terminal.lstrip("_").replace("_", " "),))


def _skip_blanks(text: str, position: int) -> int:
    return len(text) - len(text[position:].lstrip())


def _last_word(before: str) -> tuple[str, int]:
    """The word that a text without blanks at its end ends with, and where it starts; "" where it ends otherwise."""
    start = len(before)
    while start > 0 and (before[start - 1].isalnum() or before[start - 1] == "_"):
        start -= 1
        if len(before) - start > WORD_LENGTH_MAX:
            return "", len(before)
    return before[start:], start


def _at_the_end(text: str, before: str, accepted: Collection[str]) -> MqlError:
    end = Span(len(text), len(text))
    if not before:
        return MqlError("the query is empty", end, "A query begins with SELECT, such as SELECT * FROM requests.")
    last, _ = _last_word(before)
    if last.lower() in ("and", "or", "not") and "NAME" in accepted:
        return MqlError("the query ends too early", end, f'"{last}" needs a condition after it.')
    return _anomaly_without_on(before) or MqlError("the query ends too early", end, _expected(accepted))


def _known_mistake(text: str, before: str, word: str, span: Span, accepted: Collection[str]) -> MqlError | None:
    """The mistakes that have a sentence of their own, the most telling first."""
    lower = word.lower()
    last = _last_word(before)[0].lower()
    unexpected = f'unexpected "{word}"'
    if before.endswith(";"):
        return MqlError(
            "one text holds one query", Span(span.start, len(text.rstrip())), "Send the second one by itself."
        )
    if not before and lower in _STATEMENTS:
        return MqlError(
            f'there is no "{lower}" here', span, "A query begins with SELECT: events are read, never changed."
        )
    if not before and not _near(word, _keywords(accepted)):
        return MqlError(unexpected, span, "A query begins with SELECT, such as SELECT * FROM requests.")
    if before.endswith(",") and lower in ("from", "where", "group", "order", "window", "limit", "sample"):
        return MqlError(f'nothing stands between "," and "{word}"', span, "Take the comma out, or add what is missing.")
    if last == "select" and lower == "from":
        return MqlError(
            'nothing stands between "select" and "from"', span, "Name columns, or write * for whole events."
        )
    if lower == "select" and before.endswith("("):
        return MqlError(
            "a query in brackets is no value", span, "It may stand after FROM, IN and EXISTS; join it instead."
        )
    if lower in ("union", "intersect", "except") and "_UNION_ALL" in accepted:
        return MqlError(f'"{lower}" is not available', span, "UNION ALL puts the rows of both queries together.")
    if lower == "offset" and re.search(r"\blimit\s+\S+$", before[-WORD_LENGTH_MAX:], re.IGNORECASE):
        return MqlError('"limit" has no "offset"', span, "A stream has no pages; take the first rows with LIMIT alone.")
    if last == "over" and lower in ("partition", "order"):
        return MqlError(
            unexpected, span, "What follows OVER stands in brackets: OVER (PARTITION BY node ORDER BY time)."
        )
    if last == "top" and word.isdigit():
        return MqlError(unexpected, span, f"The first rows are asked for at the end: LIMIT {word}.")
    if lower == "is":
        return MqlError('"is" needs a test', span, "Write IS NULL, IS NOT NULL, IS TRUE or IS DISTINCT FROM.")
    if lower in _UNITS and last.isdigit():
        return MqlError(unexpected, span, f"A short unit is written without a blank: {last}{word}.")
    if (without_on := _anomaly_without_on(before)) is not None:
        return without_on
    return _known_sign(text, before, word, span, accepted) or _missing_comma(before, word, span, accepted)


def _anomaly_without_on(before: str) -> MqlError | None:
    """`ANOMALY cpu USING zscore`, which the grammar takes for the beginning of Mantis' form."""
    found = re.search(r"\banomaly\s+(?!on\b)(\w+)(\s+\S+){0,2}$", before[-4 * WORD_LENGTH_MAX :], re.IGNORECASE)
    if found is None:
        return None
    at = max(0, len(before) - 4 * WORD_LENGTH_MAX)
    span = Span(at + found.start(1), at + found.end(1))
    hint = "Write ANOMALY ON cpu USING zscore; two numbers stand in Mantis' form: anomaly mad cpu 1.0 2.5."
    return MqlError('"on" is missing after "anomaly"', span, hint)


def _known_sign(text: str, before: str, word: str, span: Span, accepted: Collection[str]) -> MqlError | None:
    """The same for signs."""
    joined = before[len(before.rstrip("=<>!~")) :] if len(before) == span.start else ""
    signs = joined[-3:] + word
    whole = Span(span.end - len(signs), span.end)
    match signs:
        case "&":
            return MqlError('"&" is no operator', whole, "Conditions are joined with AND, or &&.")
        case "|" if "COMPARISON" in accepted:
            return MqlError('"|" is no operator', whole, "Conditions are joined with OR, texts with ||.")
        case "=<" | "=>":
            return MqlError(f'"{signs}" is no comparison', whole, f'Write "{signs[1]}=".')
        case "===" | "!==":
            return MqlError(f'"{signs}" is no comparison', whole, f'Write "{signs[:2]}".')
        case "!=~" | "!~" | "!==~":
            return MqlError(f'"{signs}" is no comparison', whole, "Negate the whole: NOT (a ==~ /re/).")
        case "#" | "//":
            return MqlError(f'unexpected "{word}"', span, "A comment begins with -- or stands between /* and */.")
        case "?" | "@" | "{" | "$" if "NAME" in accepted:
            return MqlError(f'unexpected "{word}"', span, "A parameter is written with a dollar sign: $name.")
        case ":" | "::" if "NAME" in accepted:
            return MqlError(f'unexpected "{word}"', span, "A parameter is written with a dollar sign: $name.")
        case "[" if "KEY_STEP" in accepted:
            inside = re.match(r"\[\s*(\w+)\s*\]", text[span.start :])
            fix = f"['{inside[1]}']" if inside else "['name'], [0], [*] or [^'prefix']"
            return MqlError("this is no step into a property", span, f"Write {fix}.")
        case _:
            pass
    if word[0].isdigit() and "NUMBER" in accepted:
        return MqlError(f'"{word}" is no number', span, "Numbers are written like 10, 2.5 or 1e6; durations like 10s.")
    if word in ")]}" or word == ",":
        return MqlError(f'unexpected "{word}"', span, _expected(accepted))
    return None


def _missing_comma(before: str, word: str, span: Span, accepted: Collection[str]) -> MqlError | None:
    starts_a_value = word[0].isalnum() or word[0] in "_'\"`$("
    in_a_list = "COMMA" in accepted and ("RPAR" in accepted or "FROM" in accepted)
    if not in_a_list or not starts_a_value or before.endswith("(") or _near(word, _keywords(accepted)):
        return None
    if word.lower() in _RESERVED:
        return None
    return MqlError(f'unexpected "{word}"', span, "Is a comma missing before it?")


def _misspelt_before(before: str, accepted_at: Accepted) -> MqlError | None:
    """A misspelt keyword was taken for a name, and what follows made no sense: `select a form b`."""
    last, start = _last_word(before)
    if not last or last[0].isdigit() or start > LOOKED_BACK_MAX:
        return None
    accepted = accepted_at(start)
    if "NAME" not in accepted and start > 0:
        return None
    return _misspelt(last, Span(start, len(before)), [terminal for terminal in accepted if terminal not in _OPERAND])


def _misspelt(word: str, span: Span, accepted: Collection[str]) -> MqlError | None:
    meant = _near(word, _keywords(accepted))
    return MqlError(f'unexpected "{word}"', span, f'Did you mean "{meant}"?') if meant else None


def _reserved(word: str, span: Span, accepted: Collection[str]) -> MqlError | None:
    if word.lower() not in _RESERVED or not {"NAME", "SOURCE_NAME"} & set(accepted):
        return None
    if "STRING" in accepted and "NOT" in accepted:
        return MqlError(f'unexpected "{word}"', span, _expected(accepted))
    return MqlError(f'"{word}" is a reserved word', span, "As a name it stands in backticks: `" + word + "`.")


def _keywords(accepted: Collection[str]) -> list[str]:
    return sorted({word for terminal in accepted for word in words_of(terminal) if word.isupper() and word.isascii()})


def _near(word: str, keywords: Collection[str]) -> str | None:
    """The keyword or phrase that a mistyped word most likely meant; it is told by its first word."""
    if not 3 <= len(word) <= WORD_LENGTH_MAX or not word.isalpha():
        return None
    by_first = {keyword.split()[0].lower(): keyword for keyword in keywords}
    if word.lower() in by_first:
        phrases = [keyword for keyword in keywords if keyword.split()[0].lower() == word.lower()]
        return phrases[0] if len(phrases) == 1 and " " in phrases[0] else None
    found = difflib.get_close_matches(word.lower(), by_first, n=1, cutoff=0.72)
    return by_first[found[0]] if found else None


def _expected(accepted: Collection[str]) -> str:
    """A sentence that tells what could have stood there."""
    rest = set(accepted)
    told: list[str] = []
    if {"NAME", "STRING", "NOT"} <= rest:
        told.append("a property or a value")
        rest -= _OPERAND
        if "ALIAS_STAR" in rest:
            rest -= {"STAR", "ALIAS_STAR", "DISTINCT"}
    elif {"DURATION", "NUMBER"} <= rest:
        told.append("a duration such as 10s")
        rest -= _AMOUNT
    if "COMPARISON" in rest:
        told.append("an operator")
        rest -= _OPERATORS | {"LPAR"}
    clauses = rest & _CLAUSES
    rest -= clauses
    named = sorted({word for terminal in rest for word in words_of(terminal)}, key=lambda word: (word[0] == '"', word))
    if len(named) > 6 and told:
        named = [word for word in named if not word.isupper()]
    told += [word for word in named if word not in ("the end of the query", "a name")][:8]
    if "NAME" in rest and not clauses:
        told.append("a name")
    if len(clauses) > 2:
        told.append("a clause such as " + _either(_examples(clauses)))
    else:
        told += sorted(word for clause in clauses for word in words_of(clause))
    if not told:
        return "Nothing more is expected here."
    return f"Expected {_either(told)}."


def _examples(clauses: Collection[str]) -> list[str]:
    known = [clause for clause in ("FROM", "WHERE", "WINDOW", "GROUP_BY", "LIMIT", "EMIT") if clause in clauses]
    return [words_of(clause)[0] for clause in known or sorted(clauses)][:3]


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
