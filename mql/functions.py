"""Every scalar function and operator that a query may use: the allow-list, read top to bottom.

A row says what a call takes, what it gives and which SQL computes it. Nothing outside these rows is reachable. What
could cost more than its input is long (repeat, lpad, range, printf), what reads a clock, chance or the outside (now,
random, getenv) is left out on purpose: a replay must give the same rows.

Kinds of argument (`takes`, in order; `...` after the last: one or more of it):
    any                      anything
    boolean integer text timestamp date interval json      a value of that type
    decimal                  BIGINT or DECIMAL
    number                   BIGINT, DECIMAL or DOUBLE
    same                     anything; all of them are brought to one type
    lists                    lists; all of them are brought to one type
    item                     what the list before it holds
    span                     a constant interval longer than nothing
    list, integer[] number[] text[]     a list
    kind!                    a constant of that kind
    regex part zone format jsonpath     a constant text of that form
    group                    a constant number of a group in the regular expression before it
Kinds of result (`gives`): a type's name as above (double, text[] …); `same`: the common type; `first`: the type of the
first argument; `item`: the type of its elements; `same[]`, `item[]` likewise.

In `sql` `{0}` stands for the first argument and `{all}` for all of them, with commas between. No template names an
argument twice (it would be computed twice, and nested calls would double each time): a lambda names it instead.

DuckDB computes an expression that occurs twice once and ahead, even where both stand inside a TRY, and then fails. So
a TRY stands directly around every single step that can fail (`raises`), never around several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mql.errors import MqlError, Span, did_you_mean
from mql.regexes import check_regex
from mql.schema import (
    BIGINT,
    BOOLEAN,
    DATE,
    DECIMAL,
    DOUBLE,
    INTERVAL,
    JSON,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    Scalar,
    StructOf,
)

REGEX_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Function:
    """One way to call a function or operator. Several rows of one name are its overloads, tried in this order.

    `example` is a condition in MQL that holds. `raises`: DuckDB may fail on some input, so the SQL is wrapped in TRY
    and gives null there. `strict`: null where any argument is null. `operator`: not callable by name.
    """

    name: str
    takes: str
    gives: str
    sql: str
    doc: str
    example: str
    raises: bool = False
    strict: bool = True
    operator: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.takes.replace("...", "").split())

    @property
    def arity_min(self) -> int:
        return len(self.kinds)

    @property
    def arity_max(self) -> int | None:
        """None where the last argument may come any number of times."""
        return None if self.takes.endswith("...") else len(self.kinds)

    def kind_of(self, position: int) -> str:
        """The kind of the argument at a position, counted from 0."""
        return self.kinds[min(position, len(self.kinds) - 1)]

    def takes_count(self, count: int) -> bool:
        return self.arity_min <= count and (self.arity_max is None or count <= self.arity_max)


DATE_PARTS = frozenset(
    [
        "microsecond",
        "millisecond",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
        "decade",
        "century",
        "dow",
        "isodow",
        "doy",
        "isoyear",
        "epoch",
    ]
)
TYPES: Mapping[str, DataType] = MappingProxyType(
    {
        "boolean": BOOLEAN,
        "integer": BIGINT,
        "double": DOUBLE,
        "decimal": DECIMAL,
        "text": VARCHAR,
        "timestamp": TIMESTAMP,
        "date": DATE,
        "interval": INTERVAL,
        "json": JSON,
    }
)


def _operator(
    name: str, takes: str, gives: str, sql: str, doc: str, example: str, *, raises: bool = False, strict: bool = True
) -> Function:
    return Function(name, takes, gives, sql, doc, example, raises, strict, operator=True)


def _fails(name: str, takes: str, gives: str, sql: str, doc: str, example: str) -> Function:
    """A function that DuckDB may fail in: null there."""
    return Function(name, takes, gives, sql, doc, example, raises=True)


def _with_nulls(name: str, takes: str, gives: str, sql: str, doc: str, example: str) -> Function:
    """A function that may give a value although an argument is null."""
    return Function(name, takes, gives, sql, doc, example, strict=False)


def _once(argument: str, body: str) -> str:
    """SQL that computes an argument once and names it `v` in its body."""
    return f"list_transform([{argument}], lambda v: {body})[1]"


# A table reads best with a row a line.
# fmt: off

# --- operators ---------------------------------------------------------------------------------------

OPERATORS = (
    _operator("+", "integer integer", "integer", "({0} + {1})", "Sum; null on overflow.", "1 + 2 = 3", raises=True),
    _operator("+", "decimal decimal", "decimal", "TRY_CAST(TRY({0} + {1}) AS DECIMAL(38,10))", "Sum.",
              "1::DECIMAL + 2 = 3", raises=True),
    _operator("+", "number number", "double", "({0} + {1})", "Sum.", "1 + 0.5 = 1.5"),
    _operator("+", "timestamp interval", "timestamp", "({0} + {1})", "Later by an interval.",
              "TIMESTAMP '2026-01-01T00:00:00Z' + 1h = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "interval timestamp", "timestamp", "({0} + {1})", "Later by an interval.",
              "1h + TIMESTAMP '2026-01-01T00:00:00Z' = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "date interval", "timestamp", "({0} + {1})", "Later by an interval.",
              "DATE '2026-01-01' + 1h = TIMESTAMP '2026-01-01T01:00:00Z'", raises=True),
    _operator("+", "date integer", "date", "({0} + TRY_CAST({1} AS INTEGER))", "Later by days.",
              "DATE '2026-01-01' + 1 = DATE '2026-01-02'", raises=True),
    _operator("+", "interval interval", "interval", "({0} + {1})", "Sum.", "1h + 30m = 90m", raises=True),
    _operator("-", "integer integer", "integer", "({0} - {1})", "Difference; null on overflow.", "3 - 2 = 1",
              raises=True),
    _operator("-", "decimal decimal", "decimal", "TRY_CAST(TRY({0} - {1}) AS DECIMAL(38,10))", "Difference.",
              "3::DECIMAL - 2 = 1", raises=True),
    _operator("-", "number number", "double", "({0} - {1})", "Difference.", "1.5 - 1 = 0.5"),
    _operator("-", "timestamp timestamp", "interval", "({0} - {1})", "The time between.",
              "TIMESTAMP '2026-01-01T01:00:00Z' - TIMESTAMP '2026-01-01T00:00:00Z' = 1h", raises=True),
    _operator("-", "timestamp interval", "timestamp", "({0} - {1})", "Earlier by an interval.",
              "TIMESTAMP '2026-01-01T01:00:00Z' - 1h = TIMESTAMP '2026-01-01T00:00:00Z'", raises=True),
    _operator("-", "date date", "integer", "({0} - {1})", "Days between.",
              "DATE '2026-01-03' - DATE '2026-01-01' = 2", raises=True),
    _operator("-", "date interval", "timestamp", "({0} - {1})", "Earlier by an interval.",
              "DATE '2026-01-01' - 1h = TIMESTAMP '2025-12-31T23:00:00Z'", raises=True),
    _operator("-", "date integer", "date", "({0} - TRY_CAST({1} AS INTEGER))", "Earlier by days.",
              "DATE '2026-01-02' - 1 = DATE '2026-01-01'", raises=True),
    _operator("-", "interval interval", "interval", "({0} - {1})", "Difference.", "1h - 30m = 30m", raises=True),
    _operator("*", "integer integer", "integer", "({0} * {1})", "Product; null on overflow.", "2 * 3 = 6",
              raises=True),
    _operator("*", "decimal decimal", "decimal", "TRY_CAST(TRY({0} * {1}) AS DECIMAL(38,10))", "Product.",
              "2::DECIMAL * 3 = 6", raises=True),
    _operator("*", "number number", "double", "({0} * {1})", "Product.", "3 * 1.5 = 4.5"),
    _operator("*", "interval integer", "interval", "({0} * {1})", "An interval so many times.", "30m * 2 = 1h",
              raises=True),
    _operator("*", "integer interval", "interval", "({0} * {1})", "An interval so many times.", "2 * 30m = 1h",
              raises=True),
    _operator("/", "number number", "double", "({0} / nullif({1}, 0))",
              "Quotient as DOUBLE; by zero null.", "7 / 2 = 3.5", strict=False),
    _operator("/", "interval number", "interval", "({0} / nullif({1}, 0))", "A part of an interval.",
              "1h / 2 = 30m", raises=True),
    _operator("//", "integer integer", "integer", "({0} // nullif({1}, 0))",
              "Quotient, cut to an integer; by zero null.", "7 // 2 = 3", raises=True),
    _operator("//", "number number", "integer",
              "TRY_CAST(trunc({0} / nullif({1}, 0)) AS BIGINT)",
              "Quotient, cut to an integer; by zero null.", "7.5 // 2 = 3"),
    _operator("%", "integer integer", "integer", "({0} % nullif({1}, 0))", "Rest of the division; by zero null.",
              "7 % 2 = 1", raises=True),
    _operator("%", "number number", "double", "(CAST({0} AS DOUBLE) % nullif({1}, 0))",
              "Rest of the division; by zero null.", "7.5 % 2 = 1.5", raises=True),
    _operator("negate", "integer", "integer", "(0 - {0})", "`-x`; null on overflow.", "-(1 + 1) = -2", raises=True),
    _operator("negate", "decimal", "decimal", "TRY_CAST(-({0}) AS DECIMAL(38,10))", "`-x`.", "-(1::DECIMAL) = -1",
              raises=True),
    _operator("negate", "number", "double", "(-({0}))", "`-x`.", "-(1.5 + 1) = -2.5"),
    _operator("negate", "interval", "interval", "(-({0}))", "`-x`.", "-(1h) < 1h", raises=True),
    _operator("||", "text...", "text", "", "The texts one after the other; null if any is.",
              "'a' || 'b' = 'ab'"),
    _operator("||", "lists lists", "same", "list_concat({0}, {1})", "The lists one after the other.",
              "len([1] || [2]) = 2", strict=False),
    _operator("=", "alike alike", "boolean", "({0} = {1})", "Equal; null if either is.", "1 = 1"),
    _operator("<>", "alike alike", "boolean", "({0} <> {1})", "Unequal; null if either is.", "1 <> 2"),
    _operator("<", "alike alike", "boolean", "({0} < {1})", "Smaller.", "1 < 2"),
    _operator("<=", "alike alike", "boolean", "({0} <= {1})", "Smaller or equal.", "1 <= 1"),
    _operator(">", "alike alike", "boolean", "({0} > {1})", "Greater; NaN is greater than all other numbers.", "2 > 1"),
    _operator(">=", "alike alike", "boolean", "({0} >= {1})", "Greater or equal.", "1 >= 1"),
    _operator("==", "alike alike", "boolean", "({0} IS NOT DISTINCT FROM {1})", "Equal; null equals only null.",
              "1 == 1.0", strict=False),
    _operator("!=", "alike alike", "boolean", "({0} IS DISTINCT FROM {1})", "Unequal; null equals only null.",
              "1 != null", strict=False),
    _operator("in", "alike alike...", "boolean", "", "Equal to any of them.", "2 IN (1, 2)", strict=False),
    _operator("between", "alike alike alike", "boolean", "({0} BETWEEN {1} AND {2})", "Within both bounds.",
              "abs(-2) BETWEEN 1 AND 3", strict=False),
    _operator("and", "boolean...", "boolean", "", "All of them.", "true AND true", strict=False),
    _operator("or", "boolean...", "boolean", "", "Any of them.", "false OR true", strict=False),
    _operator("not", "boolean", "boolean", "(NOT {0})", "The opposite; null of null.", "NOT false"),
    _operator("is_null", "any", "boolean", "({0} IS NULL)", "Whether there is no value.", "null IS NULL", strict=False),
    _operator("is_not_null", "any", "boolean", "({0} IS NOT NULL)", "Whether there is a value.", "1 IS NOT NULL",
              strict=False),
    _operator("like", "text text", "boolean", "({0} LIKE {1})", "`%` any text, `_` one character.", "'abc' LIKE 'a%'"),
    _operator("ilike", "text text", "boolean", "({0} ILIKE {1})", "LIKE in any letter case.", "'ABC' ILIKE 'a%'"),
    _operator("regex_full", "text regex", "boolean", "regexp_full_match({0}, {1}, 's')",
              "The whole text matches a regular expression.", "'abc' ==~ /a.c/"),
    _operator("regex_part", "text regex", "boolean", "regexp_matches({0}, {1}, 's')",
              "A part of the text matches a regular expression.", "'abc' =~ /b/"),
    _operator("contains_text", "text text", "boolean", "contains({0}, {1})", "The text contains another.",
              "'abc' ==+ 'bc'"),
    _operator("element", "list integer!", "item", "", "`list[0]`: counted from 0, negative from the end.",
              ""),
    _operator("field", "any text!", "any", "", "A field of a struct.", ""),
    _operator("row", "any...", "json", "", "Names and values, in turn, as one JSON object.", "", strict=False),
    _operator("each_field", "list text!", "any", "", "The same field of every struct of a list.", ""),
    _operator("each_json", "json[] text!", "json[]",
              "list_transform({0}, lambda v: nullif(json_extract(v, {1}), 'null'))",
              "The same path in every element of a JSON list.", ""),
    _operator("json_get", "json text!", "json", "nullif(json_extract({0}, {1}), 'null')",
              "What lies at a path in JSON; null where nothing does.",
              "",
              strict=False),
    _operator("json_items", "json", "json[]",
              _once("{0}", "list_concat(json_extract(v, '$[*]'),"
                    " list_filter(json_extract(v, '$.*'), lambda w: w <> 'null'))"),
              "The elements of a JSON list, the values that a JSON object has.", ""),
    _operator("list", "same...", "same[]", "[{all}]", "`[a, b]`.", "len([1, 2]) = 2", strict=False),
    _operator("list", "", "json[]", "CAST([] AS JSON[])", "`[]`.", "len([]) = 0"),
)

# --- texts -------------------------------------------------------------------------------------------

TEXTS = (
    Function("upper", "text", "text", "upper({0})", "Upper case.", "upper('ab') = 'AB'"),
    Function("lower", "text", "text", "lower({0})", "Lower case.", "lower('AB') = 'ab'"),
    Function("length", "text", "integer", "length({0})", "Number of characters.", "length('añ') = 2"),
    Function("length", "list", "integer", "len({0})", "Number of elements.", "length([1, 2]) = 2"),
    Function("len", "text", "integer", "length({0})", "Number of characters.", "len('añ') = 2"),
    Function("len", "list", "integer", "len({0})", "Number of elements.", "len([1, 2]) = 2"),
    Function("strlen", "text", "integer", "strlen({0})", "Number of bytes.", "strlen('añ') = 3"),
    Function("trim", "text", "text", "trim({0})", "Without spaces at both ends.", "trim(' a ') = 'a'"),
    Function("trim", "text text", "text", "trim({0}, {1})", "Without these characters at both ends.",
             "trim('xax', 'x') = 'a'"),
    Function("ltrim", "text", "text", "ltrim({0})", "Without spaces in front.", "ltrim(' a ') = 'a '"),
    Function("ltrim", "text text", "text", "ltrim({0}, {1})", "Without these characters in front.",
             "ltrim('xax', 'x') = 'ax'"),
    Function("rtrim", "text", "text", "rtrim({0})", "Without spaces at the end.", "rtrim(' a ') = ' a'"),
    Function("rtrim", "text text", "text", "rtrim({0}, {1})", "Without these characters at the end.",
             "rtrim('xax', 'x') = 'xa'"),
    _fails("left", "text integer", "text", "left({0}, {1})",
           "The first characters; of a negative number all but so many.", "left('abc', 2) = 'ab'"),
    _fails("right", "text integer", "text", "right({0}, {1})", "The last characters.", "right('abc', 2) = 'bc'"),
    _fails("substring", "text integer", "text", "substring({0}, {1})", "From a position, counted from 1.",
           "substring('abc', 2) = 'bc'"),
    _fails("substring", "text integer integer", "text", "substring({0}, {1}, {2})", "So many from a position.",
           "substring('abc', 2, 1) = 'b'"),
    _fails("substr", "text integer", "text", "substring({0}, {1})", "As substring.", "substr('abc', 2) = 'bc'"),
    _fails("substr", "text integer integer", "text", "substring({0}, {1}, {2})", "As substring.",
           "substr('abc', 2, 1) = 'b'"),
    Function("reverse", "text", "text", "reverse({0})", "Backwards.", "reverse('abc') = 'cba'"),
    Function("replace", "text text text!", "text", "replace({0}, {1}, {2})", "Each of one text by another.",
             "replace('aba', 'a', 'c') = 'cbc'"),
    Function("translate", "text text text", "text", "translate({0}, {1}, {2})", "Character by character.",
             "translate('abc', 'ab', 'xy') = 'xyc'"),
    _with_nulls("concat", "text...", "text", "concat({all})", "One after the other, nulls left out.",
                "concat('a', null, 'b') = 'ab'"),
    _with_nulls("concat_ws", "text text...", "text", "concat_ws({all})", "With a text between, nulls left out.",
                "concat_ws('-', 'a', null, 'b') = 'a-b'"),
    Function("starts_with", "text text", "boolean", "starts_with({0}, {1})", "Whether it begins so.",
             "starts_with('abc', 'ab')"),
    Function("prefix", "text text", "boolean", "prefix({0}, {1})", "Whether it begins so.", "prefix('abc', 'ab')"),
    Function("ends_with", "text text", "boolean", "ends_with({0}, {1})", "Whether it ends so.",
             "ends_with('abc', 'bc')"),
    Function("suffix", "text text", "boolean", "suffix({0}, {1})", "Whether it ends so.", "suffix('abc', 'bc')"),
    Function("contains", "text text", "boolean", "contains({0}, {1})", "Whether it holds a text.",
             "contains('abc', 'b')"),
    Function("contains", "list item", "boolean", "list_contains({0}, {1})", "Whether it holds an element.",
             "contains([1, 2], 2)"),
    Function("strpos", "text text", "integer", "strpos({0}, {1})", "Where a text stands, counted from 1; 0 if nowhere.",
             "strpos('abc', 'b') = 2"),
    Function("instr", "text text", "integer", "instr({0}, {1})", "As strpos.", "instr('abc', 'b') = 2"),
    Function("position", "text text", "integer", "instr({1}, {0})", "As strpos, the part first.",
             "position('b', 'abc') = 2"),
    _fails("split_part", "text text integer", "text", "split_part({0}, {1}, {2})", "One part, counted from 1.",
           "split_part('a-b', '-', 2) = 'b'"),
    Function("string_split", "text text", "text[]", "string_split({0}, {1})", "The parts between a text.",
             "len(string_split('a-b', '-')) = 2"),
    Function("initcap", "text", "text", "array_to_string(list_transform(string_split(lower({0}), ' '),"
             " lambda v: upper(left(v, 1)) || substring(v, 2)), ' ')", "Each word with a capital.",
             "initcap('ab cd') = 'Ab Cd'"),
    Function("strip_accents", "text", "text", "strip_accents({0})", "Without accents.", "strip_accents('ñ') = 'n'"),
    Function("nfc_normalize", "text", "text", "nfc_normalize({0})", "In Unicode's composed form.",
             "nfc_normalize('a') = 'a'"),
    Function("ascii", "text", "integer", "CAST(ascii({0}) AS BIGINT)", "Code point of the first character.",
             "ascii('A') = 65"),
    Function("unicode", "text", "integer", "CAST(unicode({0}) AS BIGINT)", "Code point of the first character.",
             "unicode('A') = 65"),
    _fails("chr", "integer", "text", "chr(TRY_CAST({0} AS INTEGER))", "The character of a code point.",
           "chr(65) = 'A'"),
    Function("levenshtein", "text text", "integer", "levenshtein(left({0}, 256), left({1}, 256))",
             "Edits between the first 256 characters.", "levenshtein('ab', 'ac') = 1"),
    Function("damerau_levenshtein", "text text", "integer", "damerau_levenshtein(left({0}, 256), left({1}, 256))",
             "Edits and exchanges between the first 256 characters.", "damerau_levenshtein('ab', 'ba') = 1"),
    _fails("jaccard", "text text", "double", "jaccard({0}, {1})", "Likeness of the sets of characters, 0 to 1.",
           "jaccard('ab', 'ab') = 1"),
    _fails("jaro_similarity", "text text", "double", "jaro_similarity(left({0}, 256), left({1}, 256))",
           "Likeness of the first 256 characters, 0 to 1.", "jaro_similarity('ab', 'ab') = 1"),
    _fails("jaro_winkler_similarity", "text text", "double", "jaro_winkler_similarity(left({0}, 256), left({1}, 256))",
           "Likeness of the first 256 characters, 0 to 1.", "jaro_winkler_similarity('ab', 'ab') = 1"),
    _fails("url_encode", "text", "text", "url_encode({0})", "With %XX for what a URL may not hold.",
           "url_encode('a b') = 'a%20b'"),
    _fails("url_decode", "text", "text", "url_decode({0})", "With %XX read.", "url_decode('a%20b') = 'a b'"),
    Function("to_base64", "text", "text", "to_base64(encode({0}))", "As base64.", "to_base64('a') = 'YQ=='"),
    _fails("from_base64", "text", "text", "decode(TRY(from_base64({0})))", "The text in base64; null if it is none.",
           "from_base64('YQ==') = 'a'"),
    Function("hex", "text", "text", "hex({0})", "The bytes as hex digits.", "hex('a') = '61'"),
    Function("hex", "integer", "text", "hex({0})", "The number in hex digits.", "hex(255) = 'FF'"),
    Function("bin", "integer", "text", "bin({0})", "The number in binary digits.", "bin(5) = '101'"),
    Function("regexp_escape", "text", "text", "regexp_escape({0})", "A pattern that matches the text itself.",
             "regexp_escape('a.b') != 'a.b'"),
    Function("regexp_matches", "text regex", "boolean", "regexp_matches({0}, {1}, 's')", "Whether a part matches.",
             "regexp_matches('abc', 'b')"),
    Function("regexp_full_match", "text regex", "boolean", "regexp_full_match({0}, {1}, 's')",
             "Whether the whole text matches.", "regexp_full_match('abc', 'a.c')"),
    Function("regexp_extract", "text regex", "text", "regexp_extract({0}, {1}, 0, 's')",
             "The first match; '' where there is none.", "regexp_extract('abc', 'b.') = 'bc'"),
    Function("regexp_extract", "text regex group", "text", "regexp_extract({0}, {1}, {2}::INTEGER, 's')",
             "A group of the first match.", "regexp_extract('abc', 'b(.)', 1) = 'c'"),
    Function("regexp_extract_all", "text regex", "text[]", "regexp_extract_all({0}, {1}, 0, 's')", "All matches.",
             "len(regexp_extract_all('abab', 'a')) = 2"),
    Function("regexp_extract_all", "text regex group", "text[]", "regexp_extract_all({0}, {1}, {2}::INTEGER, 's')",
             "A group of all matches.", "list_at(regexp_extract_all('ab', '(a)b', 1), 0) = 'a'"),
    Function("regexp_replace", "text regex text!", "text", "regexp_replace({0}, {1}, {2}, 's')",
             "The first match by a text; \\1 is its first group.", "regexp_replace('aba', 'a', 'c') = 'cba'"),
    Function("regexp_replace_all", "text regex text!", "text", "regexp_replace({0}, {1}, {2}, 'gs')",
             "Every match by a text.", "regexp_replace_all('aba', 'a', 'c') = 'cbc'"),
    Function("regexp_split_to_array", "text regex", "text[]", "regexp_split_to_array({0}, {1}, 's')",
             "The parts between matches.", "len(regexp_split_to_array('a1b', '[0-9]')) = 2"),
    Function("md5", "text", "text", "md5({0})", "MD5 as hex digits.", "left(md5('a'), 4) = '0cc1'"),
    Function("sha1", "text", "text", "sha1({0})", "SHA-1 as hex digits.", "left(sha1('a'), 4) = '86f7'"),
    Function("sha256", "text", "text", "sha256({0})", "SHA-256 as hex digits.", "left(sha256('a'), 4) = 'ca97'"),
    _fails("bucket", "text integer", "integer",
           "TRY_CAST(md5_number({0}) % nullif(TRY_CAST({1} AS UHUGEINT), 0) AS BIGINT)",
           "Which of so many buckets a text falls into, for ever the same.", "bucket('a', 1) = 0"),
)

# --- numbers -------------------------------------------------------------------------------------------

NUMBERS = (
    _fails("abs", "integer", "integer", "abs({0})", "Without its sign.", "abs(-2) = 2"),
    _fails("abs", "decimal", "first", "abs({0})", "Without its sign.", "abs(-2::DECIMAL) = 2"),
    Function("abs", "number", "double", "abs({0})", "Without its sign.", "abs(-1.5) = 1.5"),
    Function("ceil", "integer", "integer", "({0})", "The next whole number above.", "ceil(2) = 2"),
    Function("ceil", "number", "double", "ceil(CAST({0} AS DOUBLE))", "The next whole number above.", "ceil(1.2) = 2"),
    Function("ceiling", "integer", "integer", "({0})", "As ceil.", "ceiling(2) = 2"),
    Function("ceiling", "number", "double", "ceil(CAST({0} AS DOUBLE))", "As ceil.", "ceiling(1.2) = 2"),
    Function("floor", "integer", "integer", "({0})", "The next whole number below.", "floor(2) = 2"),
    Function("floor", "number", "double", "floor(CAST({0} AS DOUBLE))", "The next whole number below.",
             "floor(1.8) = 1"),
    Function("round", "integer", "integer", "({0})", "The nearest whole number.", "round(2) = 2"),
    Function("round", "number", "double", "round(CAST({0} AS DOUBLE))", "The nearest whole number.", "round(1.5) = 2"),
    _fails("round", "number integer", "double", "round(CAST({0} AS DOUBLE), TRY_CAST({1} AS INTEGER))",
           "To so many digits behind the point.", "round(1.25, 1) = 1.3"),
    Function("trunc", "integer", "integer", "({0})", "Without what is behind the point.", "trunc(2) = 2"),
    Function("trunc", "number", "double", "trunc(CAST({0} AS DOUBLE))", "Without what is behind the point.",
             "trunc(-1.8) = -1"),
    Function("sign", "number", "integer", "CAST(sign({0}) AS BIGINT)", "-1, 0 or 1.", "sign(-5) = -1"),
    _fails("sqrt", "number", "double", "sqrt(CAST({0} AS DOUBLE))", "Square root.", "sqrt(9) = 3"),
    _fails("cbrt", "number", "double", "cbrt(CAST({0} AS DOUBLE))", "Cube root.", "round(cbrt(27), 9) = 3"),
    _fails("exp", "number", "double", "exp(CAST({0} AS DOUBLE))", "e to the power.", "exp(0) = 1"),
    _fails("ln", "number", "double", "ln(CAST({0} AS DOUBLE))", "Natural logarithm.", "ln(1) = 0"),
    _fails("log", "number", "double", "log10(CAST({0} AS DOUBLE))", "Logarithm to base 10.", "log(100) = 2"),
    _fails("log", "number number", "double", "log(CAST({0} AS DOUBLE), CAST({1} AS DOUBLE))",
           "Logarithm of the second to the base of the first.", "round(log(2, 8), 9) = 3"),
    _fails("log10", "number", "double", "log10(CAST({0} AS DOUBLE))", "Logarithm to base 10.", "log10(100) = 2"),
    _fails("log2", "number", "double", "log2(CAST({0} AS DOUBLE))", "Logarithm to base 2.", "log2(8) = 3"),
    _fails("pow", "number number", "double", "pow(CAST({0} AS DOUBLE), CAST({1} AS DOUBLE))", "Power.",
           "pow(2, 3) = 8"),
    _fails("power", "number number", "double", "pow(CAST({0} AS DOUBLE), CAST({1} AS DOUBLE))", "Power.",
           "power(2, 3) = 8"),
    _fails("sin", "number", "double", "sin(CAST({0} AS DOUBLE))", "Sine of radians.", "sin(0) = 0"),
    _fails("cos", "number", "double", "cos(CAST({0} AS DOUBLE))", "Cosine of radians.", "cos(0) = 1"),
    _fails("tan", "number", "double", "tan(CAST({0} AS DOUBLE))", "Tangent of radians.", "tan(0) = 0"),
    _fails("cot", "number", "double", "cot(CAST({0} AS DOUBLE))", "Cotangent of radians.", "round(cot(1), 3) = 0.642"),
    _fails("asin", "number", "double", "asin(CAST({0} AS DOUBLE))", "Arc sine.", "asin(0) = 0"),
    _fails("acos", "number", "double", "acos(CAST({0} AS DOUBLE))", "Arc cosine.", "acos(1) = 0"),
    _fails("atan", "number", "double", "atan(CAST({0} AS DOUBLE))", "Arc tangent.", "atan(0) = 0"),
    _fails("atan2", "number number", "double", "atan2(CAST({0} AS DOUBLE), CAST({1} AS DOUBLE))",
           "Arc tangent of y and x.", "atan2(0, 1) = 0"),
    _fails("sinh", "number", "double", "sinh(CAST({0} AS DOUBLE))", "Hyperbolic sine.", "sinh(0) = 0"),
    _fails("cosh", "number", "double", "cosh(CAST({0} AS DOUBLE))", "Hyperbolic cosine.", "cosh(0) = 1"),
    _fails("tanh", "number", "double", "tanh(CAST({0} AS DOUBLE))", "Hyperbolic tangent.", "tanh(0) = 0"),
    Function("degrees", "number", "double", "degrees(CAST({0} AS DOUBLE))", "From radians.", "degrees(0) = 0"),
    Function("radians", "number", "double", "radians(CAST({0} AS DOUBLE))", "From degrees.", "radians(0) = 0"),
    Function("pi", "", "double", "pi()", "π.", "round(pi(), 2) = 3.14"),
    Function("mod", "integer integer", "integer", "({0} % nullif({1}, 0))", "Rest of the division; by zero null.",
             "mod(7, 2) = 1", raises=True),
    Function("mod", "number number", "double", "(CAST({0} AS DOUBLE) % nullif({1}, 0))",
             "Rest of the division; by zero null.", "mod(7.5, 2) = 1.5", raises=True),
    Function("isnan", "number", "boolean", "isnan(CAST({0} AS DOUBLE))", "Whether it is no number.",
             "NOT isnan(1.5)"),
    Function("isinf", "number", "boolean", "isinf(CAST({0} AS DOUBLE))", "Whether it is infinite.", "NOT isinf(1.5)"),
    Function("isfinite", "number", "boolean", "isfinite(CAST({0} AS DOUBLE))", "Whether it is a common number.",
             "isfinite(1.5)"),
    _fails("gcd", "integer integer", "integer", "gcd({0}, {1})", "Greatest common divisor.", "gcd(6, 4) = 2"),
    _fails("lcm", "integer integer", "integer", "lcm({0}, {1})", "Least common multiple.", "lcm(4, 6) = 12"),
    Function("bit_count", "integer", "integer", "CAST(bit_count({0}) AS BIGINT)", "Bits that are 1.",
             "bit_count(5) = 2"),
    Function("xor", "integer integer", "integer", "xor({0}, {1})", "Bits that differ.", "xor(5, 1) = 4"),
    Function("bits_and", "integer integer", "integer", "({0} & {1})", "Bits that are 1 in both.", "bits_and(5, 4) = 4"),
    Function("bits_or", "integer integer", "integer", "({0} | {1})", "Bits that are 1 in either.", "bits_or(5, 2) = 7"),
    _fails("bits_left", "integer integer", "integer", "({0} << {1})", "Bits moved up.", "bits_left(1, 3) = 8"),
    _fails("bits_right", "integer integer", "integer", "({0} >> {1})", "Bits moved down.", "bits_right(8, 3) = 1"),
    _with_nulls("greatest", "same...", "same", "greatest({all})", "The largest, nulls left out.",
                "greatest(1, null, 2.5) = 2.5"),
    _with_nulls("least", "same...", "same", "least({all})", "The smallest, nulls left out.", "least(1, null, 2.5) = 1"),
    Function("clamp", "same same same", "same", "greatest({1}, least({2}, {0}))", "Kept within two bounds.",
             "clamp(5, 1, 3) = 3"),
)

# --- any type ------------------------------------------------------------------------------------------

CHOICES = (
    _with_nulls("coalesce", "same...", "same", "coalesce({all})", "The first that is not null.",
                "coalesce(null, 1) = 1"),
    _with_nulls("ifnull", "same same", "same", "coalesce({0}, {1})", "The second where the first is null.",
                "ifnull(null, 1) = 1"),
    _with_nulls("nullif", "same same", "same", "nullif({0}, {1})", "Null where both are equal.",
                "nullif(1, 1) IS NULL"),
    _with_nulls("if", "boolean same same", "same", "CASE WHEN {0} THEN {1} ELSE {2} END", "One or the other.",
                "if(true, 1, 2) = 1"),
    _with_nulls("isnull", "any", "boolean", "({0} IS NULL)", "Whether there is no value.", "isnull(null)"),
)

# --- time ----------------------------------------------------------------------------------------------


def _part(name: str, doc: str, example: str) -> Function:
    return Function(name, "timestamp", "integer", name + "({0})", doc, example)


TIMES = (
    Function("date_trunc", "part timestamp", "timestamp", "date_trunc({0}, {1})",
             "The start of the hour, day … in which it lies.",
             "date_trunc('hour', TIMESTAMP '2026-01-01T10:30:00Z') = TIMESTAMP '2026-01-01T10:00:00Z'", raises=True),
    _fails("date_part", "part timestamp", "integer", "TRY_CAST(TRY(date_part({0}, {1})) AS BIGINT)",
           "One part as a number.", "date_part('hour', TIMESTAMP '2026-01-01T10:30:00Z') = 10"),
    _fails("date_diff", "part timestamp timestamp", "integer", "date_diff({0}, {1}, {2})",
           "How many borders of hours, days … lie between.",
           "date_diff('day', TIMESTAMP '2026-01-01T23:00:00Z', TIMESTAMP '2026-01-02T01:00:00Z') = 1"),
    _fails("date_sub", "part timestamp timestamp", "integer", "date_sub({0}, {1}, {2})",
           "How many whole hours, days … lie between.",
           "date_sub('day', TIMESTAMP '2026-01-01T23:00:00Z', TIMESTAMP '2026-01-02T01:00:00Z') = 0"),
    _fails("date_add", "timestamp interval", "timestamp", "({0} + {1})", "Later by an interval.",
           "date_add(TIMESTAMP '2026-01-01T00:00:00Z', 1h) = TIMESTAMP '2026-01-01T01:00:00Z'"),
    _fails("time_bucket", "span timestamp", "timestamp", "time_bucket({0}, {1})",
           "The start of the stretch in which it lies.",
           "time_bucket(15m, TIMESTAMP '2026-01-01T10:20:00Z') = TIMESTAMP '2026-01-01T10:15:00Z'"),
    _part("year", "The year.", "year(TIMESTAMP '2026-03-01T10:20:30Z') = 2026"),
    _part("quarter", "1 to 4.", "quarter(TIMESTAMP '2026-03-01T10:20:30Z') = 1"),
    _part("month", "1 to 12.", "month(TIMESTAMP '2026-03-01T10:20:30Z') = 3"),
    _part("week", "Week of the year by ISO.", "week(TIMESTAMP '2026-03-01T10:20:30Z') = 9"),
    _part("day", "Day of the month.", "day(TIMESTAMP '2026-03-01T10:20:30Z') = 1"),
    _part("hour", "0 to 23.", "hour(TIMESTAMP '2026-03-01T10:20:30Z') = 10"),
    _part("minute", "0 to 59.", "minute(TIMESTAMP '2026-03-01T10:20:30Z') = 20"),
    _part("second", "0 to 59.", "second(TIMESTAMP '2026-03-01T10:20:30Z') = 30"),
    _part("millisecond", "Milliseconds of the minute.", "millisecond(TIMESTAMP '2026-03-01T10:20:30Z') = 30000"),
    _part("microsecond", "Microseconds of the minute.", "microsecond(TIMESTAMP '2026-03-01T10:20:30Z') = 30000000"),
    _part("dayofweek", "0 is Sunday.", "dayofweek(TIMESTAMP '2026-03-01T10:20:30Z') = 0"),
    _part("isodow", "1 is Monday, 7 Sunday.", "isodow(TIMESTAMP '2026-03-01T10:20:30Z') = 7"),
    _part("dayofyear", "1 to 366.", "dayofyear(TIMESTAMP '2026-03-01T10:20:30Z') = 60"),
    Function("dayname", "timestamp", "text", "dayname({0})", "Its name in English.",
             "dayname(TIMESTAMP '2026-03-01T10:20:30Z') = 'Sunday'"),
    Function("monthname", "timestamp", "text", "monthname({0})", "Its name in English.",
             "monthname(TIMESTAMP '2026-03-01T10:20:30Z') = 'March'"),
    _fails("last_day", "timestamp", "date", "last_day({0})", "Last day of the month.",
           "last_day(TIMESTAMP '2026-02-01T10:20:30Z') = DATE '2026-02-28'"),
    _fails("to_date", "timestamp", "date", "CAST({0} AS DATE)", "The day.",
           "to_date(TIMESTAMP '2026-02-01T10:20:30Z') = DATE '2026-02-01'"),
    _fails("epoch", "timestamp", "double", "epoch({0})", "Seconds since 1970.",
           "epoch(TIMESTAMP '1970-01-01T00:00:01Z') = 1"),
    _fails("epoch", "interval", "double", "epoch({0})", "Seconds of an interval.", "epoch(1m) = 60"),
    _fails("epoch_ms", "timestamp", "integer", "epoch_ms({0})", "Milliseconds since 1970.",
           "epoch_ms(TIMESTAMP '1970-01-01T00:00:01Z') = 1000"),
    _fails("epoch_ms", "interval", "integer", "epoch_ms({0})", "Milliseconds of an interval.", "epoch_ms(1s) = 1000"),
    _fails("epoch_us", "timestamp", "integer", "epoch_us({0})", "Microseconds since 1970.",
           "epoch_us(TIMESTAMP '1970-01-01T00:00:01Z') = 1000000"),
    _fails("epoch_us", "interval", "integer", "epoch_us({0})", "Microseconds of an interval.",
           "epoch_us(1s) = 1000000"),
    _fails("to_timestamp", "number", "timestamp",
           "make_timestamp(TRY_CAST(round(CAST({0} AS DOUBLE) * 1000000) AS BIGINT))",
           "The time so many seconds after 1970.", "to_timestamp(1) = TIMESTAMP '1970-01-01T00:00:01Z'"),
    _fails("make_timestamp", "integer", "timestamp", "make_timestamp({0})", "The time so many microseconds after 1970.",
           "make_timestamp(1000000) = TIMESTAMP '1970-01-01T00:00:01Z'"),
    _fails("make_timestamp_ms", "integer", "timestamp", "make_timestamp(TRY({0} * 1000))",
           "The time so many milliseconds after 1970.",
           "make_timestamp_ms(1000) = TIMESTAMP '1970-01-01T00:00:01Z'"),
    _fails("make_date", "integer integer integer", "date", "make_date({0}, {1}, {2})", "The day of year, month, day.",
           "make_date(2026, 1, 2) = DATE '2026-01-02'"),
    _fails("to_milliseconds", "integer", "interval", "to_milliseconds({0})", "So many milliseconds.",
           "to_milliseconds(1000) = 1s"),
    _fails("to_seconds", "integer", "interval", "to_seconds({0})", "So many seconds.", "to_seconds(60) = 1m"),
    _fails("to_minutes", "integer", "interval", "to_minutes({0})", "So many minutes.", "to_minutes(60) = 1h"),
    _fails("to_hours", "integer", "interval", "to_hours({0})", "So many hours.", "to_hours(24) = 1d"),
    _fails("to_days", "integer", "interval", "to_days({0})", "So many days.", "to_days(1) = 1d"),
    _fails("strftime", "timestamp format", "text", "strftime({0}, {1})", "Written by a format.",
           "strftime(TIMESTAMP '2026-03-01T10:20:30Z', '%H:%M') = '10:20'"),
    _fails("strptime", "text format", "timestamp", "try_strptime({0}, {1})", "Read by a format; null if it is not so.",
           "strptime('2026-03-01', '%Y-%m-%d') = TIMESTAMP '2026-03-01T00:00:00Z'"),
    _fails("at_timezone", "timestamp zone", "timestamp", "timezone({1}, TRY(timezone('UTC', {0})))",
           "What the clocks in a zone show at that time.",
           "at_timezone(TIMESTAMP '2026-01-01T12:00:00Z', 'Europe/Berlin') = TIMESTAMP '2026-01-01T13:00:00Z'"),
)

# --- lists -----------------------------------------------------------------------------------------------

LISTS = (
    Function("list_contains", "list item", "boolean", "list_contains({0}, {1})", "Whether it holds an element.",
             "list_contains([1, 2], 2)"),
    Function("list_has_any", "lists lists", "boolean", "list_has_any({0}, {1})", "Whether they share an element.",
             "list_has_any([1, 2], [2, 3])"),
    Function("list_has_all", "lists lists", "boolean", "list_has_all({0}, {1})",
             "Whether the first holds all of the second.", "list_has_all([1, 2], [2])"),
    Function("list_intersect", "lists lists", "same", "list_sort(list_intersect({0}, {1}))",
             "What is in both, sorted.", "len(list_intersect([1, 2], [2, 3])) = 1"),
    Function("list_distinct", "list", "first", "list_sort(list_distinct({0}))", "Each element once, sorted.",
             "len(list_distinct([1, 1, 2])) = 2"),
    Function("list_unique", "list", "integer", "CAST(list_unique({0}) AS BIGINT)", "How many different elements.",
             "list_unique([1, 1, 2]) = 2"),
    Function("list_sort", "list", "first", "list_sort({0})", "In rising order.", "list_at(list_sort([2, 1]), 0) = 1"),
    Function("list_reverse_sort", "list", "first", "list_reverse_sort({0})", "In falling order.",
             "list_at(list_reverse_sort([1, 2]), 0) = 2"),
    Function("list_reverse", "list", "first", "list_reverse({0})", "Backwards.",
             "list_at(list_reverse([1, 2]), 0) = 2"),
    _with_nulls("list_concat", "lists lists", "same", "list_concat({0}, {1})", "One after the other.",
                "len(list_concat([1], [2])) = 2"),
    _fails("list_sum", "integer[]", "integer", "TRY_CAST(TRY(list_sum({0})) AS BIGINT)", "Sum of the elements.",
           "list_sum([1, 2]) = 3"),
    _fails("list_sum", "number[]", "double", "TRY_CAST(TRY(list_sum({0})) AS DOUBLE)", "Sum of the elements.",
           "list_sum([1.5, 2]) = 3.5"),
    _fails("list_avg", "number[]", "double", "TRY_CAST(TRY(list_avg({0})) AS DOUBLE)", "Mean of the elements.",
           "list_avg([1, 2]) = 1.5"),
    Function("list_min", "list", "item", "list_min({0})", "The smallest element.", "list_min([1, 2]) = 1"),
    Function("list_max", "list", "item", "list_max({0})", "The largest element.", "list_max([1, 2]) = 2"),
    _fails("list_at", "list integer", "item",
           "list_extract({0}, " + _once("{1}", "CASE WHEN v >= 0 THEN v + 1 ELSE v END") + ")",
           "As `list[i]`: counted from 0, negative from the end.", "list_at([1, 2], -1) = 2"),
    Function("list_first", "list", "item", "list_extract({0}, 1)", "The first element.", "list_first([1, 2]) = 1"),
    Function("list_last", "list", "item", "list_extract({0}, -1)", "The last element.", "list_last([1, 2]) = 2"),
    Function("array_to_string", "text[] text!", "text", "array_to_string({0}, {1})", "With a text between.",
             "array_to_string(['a', 'b'], '-') = 'a-b'"),
)

# --- JSON ------------------------------------------------------------------------------------------------

JSONS = (
    _fails("json_extract", "json jsonpath", "json", "nullif(json_extract({0}, {1}), 'null')", "What lies at a path.",
           "json_extract('{\"a\": 1}', '$.a')::BIGINT = 1"),
    _fails("json_extract_string", "json jsonpath", "text", "json_extract_string({0}, {1})",
           "What lies at a path, as text.", "json_extract_string('{\"a\": \"b\"}', '$.a') = 'b'"),
    _fails("json_exists", "json jsonpath", "boolean", "json_exists({0}, {1})", "Whether anything lies there.",
           "json_exists('{\"a\": 1}', '$.a')"),
    _fails("json_type", "json", "text", "json_type({0})", "What it is: OBJECT, ARRAY, VARCHAR, BIGINT.",
           "json_type('[]') = 'ARRAY'"),
    _fails("json_array_length", "json", "integer", "TRY_CAST(TRY(json_array_length({0})) AS BIGINT)",
           "Number of elements.", "json_array_length('[1, 2]') = 2"),
    _fails("json_keys", "json", "text[]", "json_keys({0})", "The names in an object.",
           "list_at(json_keys('{\"a\": 1}'), 0) = 'a'"),
    _fails("json_contains", "json json", "boolean", "json_contains({0}, {1})", "Whether one holds the other.",
           "json_contains('[1, 2]', '2')"),
    Function("json_valid", "text", "boolean", "json_valid({0})", "Whether a text is JSON.", "json_valid('{}')"),
    _fails("to_json", "any", "json", "to_json({0})", "The value as JSON.", "to_json(1)::BIGINT = 1"),
)

# --- URLs, user agents, addresses ------------------------------------------------------------------------

_SCHEME = "^[a-zA-Z][a-zA-Z0-9+.-]*:"
_AUTHORITY = "^(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//(?:[^/?#@]*@)?"


def _url(name: str, pattern: str, doc: str, example: str) -> Function:
    """A part of a URL: the first group of a pattern, null where there is none."""
    return Function(name, "text", "text", f"nullif(regexp_extract({{0}}, '{pattern}', 1, 's'), '')", doc, example)


def _agent(name: str, cases: tuple[tuple[str, str], ...], doc: str, example: str) -> Function:
    """What the first pattern that is found in a user agent stands for."""
    whens = " ".join(f"WHEN regexp_matches(v, '{pattern}', 'i') THEN '{value}'" for pattern, value in cases)
    return Function(name, "text", "text", _once("{0}", f"CASE {whens} ELSE 'Other' END"), doc, example)


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = f"(?:{_OCTET}[.]){{3,3}}{_OCTET}"
_IPV6 = "(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{0,4}|(?:[0-9]{1,3}[.]){3,3}[0-9]{1,3})"
_MAPPED = "(?:(?i:::ffff:))?"


def _ipv4(argument: str) -> str:
    """The number of an IPv4 address (also one mapped into IPv6), null where the text is none."""
    parts = f"regexp_extract_all(nullif(regexp_extract({argument}, '^{_MAPPED}({_IPV4})$', 1), ''), '[0-9]+')"
    return (
        f"list_reduce(list_transform({parts}, lambda b: CAST(b AS BIGINT)), lambda hi, lo: hi * 256 + lo, "
        "CAST(0 AS BIGINT))"
    )


_DOTTED = "concat_ws('.', (v >> 24) & 255, (v >> 16) & 255, (v >> 8) & 255, v & 255)"
_IN_CIDR = (
    "list_transform([{'a': " + _ipv4("{0}") + ", 'n': " + _ipv4("regexp_extract({1}, '^[^/]*')") + ", "
    "'bits': TRY_CAST(coalesce(nullif(regexp_extract({1}, '/([0-9]+)$', 1), ''), '32') AS BIGINT)}], lambda v: "
    "CASE WHEN v.bits BETWEEN 0 AND 32 THEN (v.a >> (32 - v.bits)) = (v.n >> (32 - v.bits)) END)[1]"
)

WEB = (
    _url("url_scheme", "^([a-zA-Z][a-zA-Z0-9+.-]*):", "`https`.", "url_scheme('https://a.b/c') = 'https'"),
    _url("url_host", _AUTHORITY + r"(\[[^\]]*\]|[^:/?#]*)", "The host without its port.",
         "url_host('https://a.b:80/c') = 'a.b'"),
    _url("url_path", r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?(?://[^/?#]*)?([^?#]*)", "From the slash to `?`.",
         "url_path('https://a.b/c?d') = '/c'"),
    _url("url_query", r"^[^?#]*\?([^#]*)", "Between `?` and `#`.", "url_query('https://a.b/c?d=1#e') = 'd=1'"),
    _url("url_fragment", "#(.*)$", "Behind `#`.", "url_fragment('https://a.b/c#e') = 'e'"),
    Function("url_port", "text", "integer",
             f"TRY_CAST(nullif(regexp_extract({{0}}, '{_AUTHORITY}(?:\\[[^\\]]*\\]|[^:/?#]*):([0-9]+)', 1), '')"
             " AS BIGINT)",
             "The port as a number.", "url_port('https://a.b:80/c') = 80"),
    _fails("url_param", "text text!", "text",
           "url_decode(nullif(regexp_extract({0}, concat('[?&]', regexp_escape({1}), '=([^&#]*)'), 1), ''))",
           "One parameter of the query part, decoded.", "url_param('/c?d=a%20b', 'd') = 'a b'"),
    _agent("ua_browser", (("bot|crawl|spider|slurp", "Bot"), ("curl|wget|python|java|okhttp|go-http", "Tool"),
                          ("edg(e|a|ios)?/", "Edge"), ("opr/|opera", "Opera"), ("samsungbrowser", "Samsung"),
                          ("firefox|fxios", "Firefox"), ("chrome|crios|chromium", "Chrome"), ("safari", "Safari"),
                          ("msie|trident", "Internet Explorer")),
           "The browser that a user agent claims to be.", "ua_browser('Mozilla/5.0 Firefox/120.0') = 'Firefox'"),
    _agent("ua_os", (("iphone|ipad|ipod", "iOS"), ("android", "Android"), ("windows", "Windows"),
                     ("mac os x|macintosh", "macOS"), ("cros", "ChromeOS"), ("linux|x11", "Linux")),
           "The system that a user agent claims to run on.", "ua_os('Mozilla/5.0 (Windows NT 10.0)') = 'Windows'"),
    _agent("ua_device", (("bot|crawl|spider|slurp", "bot"),
                         ("smart-?tv|appletv|roku|googletv|bravia|tizen|web0s", "tv"),
                         ("ipad|tablet", "tablet"), ("mobi|iphone|ipod", "phone"),
                         ("windows|macintosh|linux|cros|x11", "desktop")),
           "phone, tablet, tv, desktop, bot.", "ua_device('Mozilla/5.0 (iPhone) Mobile') = 'phone'"),
    Function("is_ipv4", "text", "boolean", f"regexp_full_match({{0}}, '{_IPV4}')", "Whether it is an IPv4 address.",
             "is_ipv4('10.0.0.1')"),
    Function("is_ipv6", "text", "boolean", f"regexp_full_match({{0}}, '{_IPV6}')",
             "Whether it is written as an IPv6 address.", "is_ipv6('::1')"),
    Function("ipv4_number", "text", "integer", _ipv4("{0}"), "The address as a number; null if it is none.",
             "ipv4_number('0.0.1.2') = 258"),
    Function("ipv4_text", "integer", "text", _once("{0}", f"CASE WHEN v BETWEEN 0 AND 4294967295 THEN {_DOTTED} END"),
             "The address of a number.", "ipv4_text(258) = '0.0.1.2'"),
    Function("ip_in", "text text!", "boolean", _IN_CIDR, "Whether an IPv4 address lies in a network.",
             "ip_in('10.1.2.3', '10.0.0.0/8')"),
    Function("ip_network", "text integer", "text",
             "list_transform([{'a': " + _ipv4("{0}") + ", 'bits': {1}}],"
             " lambda w: CASE WHEN w.bits BETWEEN 0 AND 32 THEN "
             + _once("((w.a >> (32 - w.bits)) << (32 - w.bits))", f"CASE WHEN v IS NOT NULL THEN {_DOTTED} END")
             + " || '/' || w.bits END)[1]", "The network of so many bits in which an IPv4 address lies.",
             "ip_network('10.1.2.3', 8) = '10.0.0.0/8'"),
    Function("ip_private", "text", "boolean",
             _once(_ipv4("{0}"), "((v >> 24) IN (10, 127) OR (v >> 20) = 2753 OR (v >> 16) IN (49320, 43518))"),
             "Whether an IPv4 address is private, of this machine or of this link.", "ip_private('192.168.0.1')"),
)

SCALARS = TEXTS + NUMBERS + CHOICES + TIMES + LISTS + JSONS + WEB

# fmt: on

FUNCTIONS = OPERATORS + SCALARS


def _by_name(rows: tuple[Function, ...]) -> Mapping[str, tuple[Function, ...]]:
    found: dict[str, tuple[Function, ...]] = {}
    for row in rows:
        found[row.name] = (*found.get(row.name, ()), row)
    return MappingProxyType(found)


OVERLOADS = _by_name(FUNCTIONS)
CALLABLE = frozenset(row.name for row in SCALARS)
"""The names that a call may use."""

# --- which row, and of what type -----------------------------------------------------------------------


def cost(kind: str, type: DataType) -> int | None:
    """How far a type is from a kind of argument: 0 it fits as it is, more it fits once converted, None never."""
    base = kind.rstrip("!")
    if type == NULL or base in ("any", "alike", "same", "item"):
        return 0
    if base == "span":
        return 0 if type == INTERVAL else None
    if base in ("list", "lists"):
        return 0 if isinstance(type, ListOf) else None
    if base.endswith("[]"):
        return cost(base[:-2], type.item) if isinstance(type, ListOf) else None
    if base == "number":
        return 0 if is_number(type) else 1 if type == JSON else None
    if base == "decimal":
        return 0 if type == BIGINT or is_decimal(type) else 3 if type == JSON else None
    wanted = BIGINT if base == "group" else TYPES.get(base, VARCHAR)
    if type == wanted:
        return 0
    if type == JSON:
        return 2 if wanted == BIGINT else 1
    if wanted == TIMESTAMP and type == DATE:
        return 1
    if wanted == JSON and base != kind:
        return None
    return 1 if wanted == JSON and (type == VARCHAR or isinstance(type, ListOf | StructOf)) else None


def is_decimal(type: DataType) -> bool:
    return isinstance(type, Scalar) and type.name.startswith("DECIMAL")


def is_number(type: DataType) -> bool:
    return type in (BIGINT, DOUBLE) or is_decimal(type)


def common_type(types: Iterable[DataType]) -> DataType | None:
    """The type that values of all these types can be brought to without loss of meaning, None where there is none."""
    found: DataType = NULL
    for type in types:
        joined = _joined(found, type)
        if joined is None:
            return None
        found = joined
    return found


def _joined(one: DataType, other: DataType) -> DataType | None:
    if one in (other, NULL) or other == NULL:
        return other if one == NULL else one
    if is_number(one) and is_number(other):
        return DOUBLE if DOUBLE in (one, other) else DECIMAL
    if {one, other} == {TIMESTAMP, DATE}:
        return TIMESTAMP
    if JSON in (one, other):
        return JSON
    if isinstance(one, ListOf) and isinstance(other, ListOf):
        item = _joined(one.item, other.item)
        return None if item is None else ListOf(item)
    return None


def result_type(row: Function, types: tuple[DataType, ...]) -> DataType:
    """The type of a call of this row with arguments of these types."""
    gives = row.gives
    if gives.endswith("[]"):
        return ListOf(_result(gives[:-2], row, types))
    return _result(gives, row, types)


def _result(gives: str, row: Function, types: tuple[DataType, ...]) -> DataType:
    match gives:
        case "first":
            return types[0]
        case "item":
            return types[0].item if isinstance(types[0], ListOf) else NULL
        case "same":
            return common_type(type for at, type in enumerate(types) if row.kind_of(at) in ("same", "lists")) or JSON
        case _:
            return TYPES[gives]


def choose(name: str, types: tuple[DataType, ...]) -> Function | None:
    """The overload that arguments of these types fit best, the first of equals; None where none fits."""
    best: tuple[int, Function] | None = None
    for row in OVERLOADS.get(name, ()):
        if not row.takes_count(len(types)):
            continue
        costs = [cost(row.kind_of(at), type) for at, type in enumerate(types)]
        if None in costs:
            continue
        total = sum(cost for cost in costs if cost is not None)
        if best is None or total < best[0]:
            best = (total, row)
    return best[1] if best else None


# --- constants of a certain form ---------------------------------------------------------------------------

_FORMS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "zone": (r"[A-Za-z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+){0,2}", "Write a time zone as 'Europe/Berlin' or 'UTC'."),
        "format": (r"([^%]|%-?[aAwdbBmyYHIpMSfgnzZjUWcxXGuV%])*", "Write a format as '%Y-%m-%d %H:%M:%S'."),
        "jsonpath": (
            r"""\$(\.([A-Za-z_][A-Za-z0-9_]*|"[^"*]*")|\[(#-)?[0-9]{1,9}\])*|(/[^*]*)?""",
            "Write a path as '$.a.b[0]' or '/a/b/0'.",
        ),
    }
)
CONSTANT_KINDS = frozenset(("regex", "part", "group", "span", *_FORMS))
"""Kinds of argument that take constants alone, beside those marked by `!`."""


def check_constant(kind: str, value: object, span: Span) -> None:
    """Refuses a constant that has not the form its place wants, before DuckDB would."""
    text = str(value)
    match kind:
        case "regex":
            if len(text.encode("utf-8", "replace")) > REGEX_BYTES_MAX or "\0" in text:
                hint = f"At most {REGEX_BYTES_MAX} bytes are allowed, and no NUL."
                raise MqlError("the regular expression is too long", span, hint)
            check_regex(text, span)
        case "part" if text.lower() not in DATE_PARTS:
            raise MqlError(
                f'no part of a time "{text}"', span, did_you_mean(text, DATE_PARTS) or "Write 'hour', 'day' …"
            )
        case "span" if isinstance(value, int) and value <= 0:
            raise MqlError("the interval must be longer than nothing", span)
        case "zone" | "format" | "jsonpath" if not re.fullmatch(_FORMS[kind][0], text, re.DOTALL):
            raise MqlError(f'no {_SPOKEN[kind]} "{text}"', span, _FORMS[kind][1])
        case _:
            return


_SPOKEN = {"zone": "time zone", "format": "time format", "jsonpath": "JSON path"}


def groups_of(pattern: str) -> int:
    """How many groups a regular expression has."""
    outside = re.sub(r"\[\^?\]?[^\]]*\]", "", re.sub(r"\\.", "", pattern, flags=re.DOTALL))
    return len(re.findall(r"\((?!\?)|\(\?P?<", outside))
