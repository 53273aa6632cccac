"""From bound expressions to DuckDB's SQL. Everything that gets into a statement is spelled or quoted here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import assert_never

from mql.functions import Function, choose
from mql.planner.expressions import (
    AnyOf,
    Apply,
    Bound,
    Choose,
    Column,
    Constant,
    Convert,
    Element,
    EventMeta,
    Output,
)
from mql.schema import (
    DATE,
    INTERVAL,
    JSON,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    ListOf,
    MapOf,
    Path,
    Scalar,
    StructOf,
)

INTEGER_MAX = 2**31 - 1
_BLIND = frozenset(("is_null", "is_not_null", "json_get"))
"""What gives the same of JSON and of its text."""
_READ_FROM_TEXT = (VARCHAR, TIMESTAMP, DATE, INTERVAL)
_BARE = frozenset(("+", "-", "*", "/", "//", "%", "=", "<>", "<", "<=", ">", ">=", "==", "!=", "in", "between"))


def expression_sql(bound: Bound, column_sql: Callable[[Path], str] | None = None) -> str:
    """The expression as SQL that fails on no input. `column_sql` spells a property; as the decoded batch names it
    where left out."""
    return _Writer(column_sql or (lambda path: quote_identifier(column_name(path)))).write(bound)


def quote_identifier(name: str) -> str:
    return '"' + storable(name).replace('"', '""') + '"'


def quote_string(value: str) -> str:
    """A text as an SQL literal: the one place where a value is quoted."""
    parts = ["'" + part.replace("'", "''") + "'" for part in storable(value, nul=True).split("\0")]
    return parts[0] if len(parts) == 1 else "(" + " || chr(0) || ".join(parts) + ")"


def type_sql(type: DataType) -> str:
    """The type as DuckDB writes it."""
    match type:
        case Scalar(name):
            assert re.fullmatch(r"[A-Z_]+(\(\d+,\d+\))?", name), name
            return "INTEGER" if type == NULL else name
        case ListOf(item):
            return type_sql(item) + "[]"
        case StructOf(fields):
            return "STRUCT(" + ", ".join(f"{quote_identifier(name)} {type_sql(of)}" for name, of in fields) + ")"
        case MapOf(key, value):
            return f"MAP({type_sql(key)}, {type_sql(value)})"
        case _:
            assert_never(type)


def column_name(path: Path) -> str:
    """How the decoded batch names a property: its path as a JSON pointer with capitals marked, `/device/~Id`, since
    DuckDB does not tell names apart that differ in letter case alone; `*` is the whole event."""
    marked = re.sub(r"[A-Z]", lambda capital: "~" + capital[0], json_pointer(path))
    return marked.replace("\0", "~2") or "*"


def json_pointer(path: Path) -> str:
    """The path as DuckDB's JSON functions take it."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)


def constant_sql(constant: Constant, bare: bool = False) -> str:
    """A value as SQL of exactly its type; `bare` where a column beside it settles the type of a small integer."""
    value, type = constant.value, constant.type
    if value is None:
        return "NULL" if type == NULL else f"CAST(NULL AS {type_sql(type)})"
    if isinstance(value, tuple):
        assert isinstance(type, ListOf)
        return f"CAST([{', '.join(constant_sql(item) for item in value)}] AS {type_sql(type)})"
    match type:
        case Scalar("BOOLEAN"):
            return "true" if value else "false"
        case Scalar("BIGINT"):
            assert isinstance(value, int)
            return str(value) if bare and abs(value) <= INTEGER_MAX else f"CAST({value} AS BIGINT)"
        case Scalar("DOUBLE"):
            return _double(float(value))
        case Scalar("TIMESTAMP"):
            return f"make_timestamp({int(value)}::BIGINT)"
        case Scalar("INTERVAL"):
            return f"to_microseconds({int(value)}::BIGINT)"
        case Scalar("DATE"):
            return f"(DATE '1970-01-01' + {int(value)}::INTEGER)"
        case Scalar("VARCHAR"):
            return quote_string(str(value))
        case Scalar("JSON"):
            return f"CAST({quote_string(str(value))} AS JSON)"
        case _:
            assert isinstance(value, Decimal | int | float), constant
            return f"CAST({quote_string(format(Decimal(value), 'f'))} AS {type_sql(type)})"


def decode_template(paths_with_types: Iterable[tuple[Path, DataType]]) -> str:
    """The structure text for `json_transform(_raw, '…')` that decodes these properties as one nested struct; as plain
    JSON where none can be a field of one. Times are decoded as text, see `decode_columns`."""
    tree: dict[str, object] = {}
    for path, type in _layout(paths_with_types).items():
        at = tree
        for name in path[:-1]:
            inner = at.setdefault(name, {})
            assert isinstance(inner, dict)
            at = inner
        at[path[-1]] = _structure(type)
    return json.dumps(tree or "JSON", ensure_ascii=False, separators=(",", ":"))


def decode_columns(
    paths_with_types: Iterable[tuple[Path, DataType]], struct: str = "j", raw: str = "_raw"
) -> list[tuple[str, str]]:
    """(SQL, column name) of each property, out of the struct that `json_transform` gave by `decode_template` of the
    same paths. None of it fails, whatever the event is."""
    wanted = list(dict.fromkeys(paths_with_types))
    layout = _layout(wanted)
    found = []
    for path, type in wanted:
        held = next((path[:length] for length in range(1, len(path) + 1) if path[:length] in layout), None)
        if held is None:
            sql = _loose(quote_identifier(raw), path, type)
        elif held == path:
            sql = _from_decoded(_steps(quote_identifier(struct), path), type)
        else:
            sql = _inside(_steps(quote_identifier(struct), held), layout[held], path[len(held) :], type)
        found.append((sql, column_name(path)))
    return found


# --- expressions -------------------------------------------------------------------------------------------


class _Writer:
    """Writes one expression. Holds how a property is spelled and how many lambdas are around."""

    def __init__(self, column_sql: Callable[[Path], str]) -> None:
        self.column_sql = column_sql
        self.depth = 0

    def write(self, bound: Bound, bare: bool = False) -> str:
        match bound:
            case Column(path):
                return self.column_sql(path)
            case EventMeta(kind):
                return _META[kind]
            case Constant():
                return constant_sql(bound, bare)
            case Output(name):
                return quote_identifier(name)
            case Element():
                assert self.depth > 0, "an element outside of any list"
                return f"e{self.depth}"
            case Apply():
                return self.apply(bound)
            case Convert(operand, type):
                read = self.write if type in _READ_FROM_TEXT else self.typed
                return convert_sql(read(operand), operand.type, type)
            case Choose(whens, otherwise):
                cases = " ".join(f"WHEN {self.write(when)} THEN {self.write(then)}" for when, then in whens)
                return f"CASE {cases} ELSE {self.write(otherwise)} END"
            case AnyOf(operand, predicate):
                items = self.typed(operand)
                self.depth += 1
                inside = self.write(predicate)
                name = f"e{self.depth}"
                self.depth -= 1
                return f"coalesce(len(list_filter({items}, lambda {name}: {inside})) > 0, false)"
            case _:
                assert_never(bound)

    def typed(self, bound: Bound, bare: bool = False) -> str:
        """The expression where it matters that JSON is JSON: Arrow has no such type, a column of it comes as text."""
        sql = self.write(bound, bare)
        if isinstance(bound, Column | Output) and _holds(JSON, bound.type):
            return f"TRY_CAST({sql} AS {type_sql(bound.type)})"
        return sql

    def apply(self, bound: Apply) -> str:
        if bound.name in ("and", "or"):
            return "(" + f" {bound.name.upper()} ".join(self.write(arg) for arg in bound.args) + ")"
        row = choose(bound.name, tuple(arg.type for arg in bound.args))
        assert row is not None, f"no row for {bound}"
        bare = bound.name in _BARE and not all(isinstance(arg, Constant) for arg in bound.args)
        if bound.name in _BLIND:
            args = [self.write(arg) for arg in bound.args]
        else:
            args = [self.typed(arg, bare) for arg in bound.args]
        sql = _filled(row, bound, args)
        return f"TRY{sql if sql.startswith('(') and sql.endswith(')') else f'({sql})'}" if row.raises else sql


def _filled(row: Function, bound: Apply, args: list[str]) -> str:
    match row.name:
        case "in":
            return f"({args[0]} IN ({', '.join(args[1:])}))"
        case "||" if not row.sql:
            return "(" + " || ".join(args) + ")"
        case "element":
            index = _constant(bound.args[1])
            assert isinstance(index, int)
            return f"list_extract({args[0]}, {index + 1 if index >= 0 else index})"
        case "field":
            return f"struct_extract({args[0]}, {args[1]})"
        case "row":
            return f"json_object({', '.join(args)})"
        case "each_field":
            return f"list_transform({args[0]}, lambda v: struct_extract(v, {args[1]}))"
        case _:
            sure = bound.args and _is_divisor(bound.args[-1])
            template = row.sql.replace("nullif({1}, 0)", "{1}") if sure else row.sql
            return re.sub(r"\{(\d|all)\}", lambda at: ", ".join(args) if at[1] == "all" else args[int(at[1])], template)


def _is_divisor(bound: Bound) -> bool:
    """Whether it is a number known not to be 0."""
    return isinstance(bound, Constant) and isinstance(bound.value, int | float) and bool(bound.value)


def _constant(bound: Bound) -> object:
    assert isinstance(bound, Constant)
    return bound.value


def convert_sql(sql: str, source: DataType, target: DataType) -> str:
    """A cast that gives null where the value has no such form. Text without a zone is UTC."""
    if source == target:
        return sql
    if target == JSON and source != VARCHAR:
        return f"to_json({sql})"
    if source == JSON and target == VARCHAR:
        return f"json_extract_string({sql}, '$')"
    if source == JSON and target in (TIMESTAMP, DATE, INTERVAL):
        return convert_sql(f"json_extract_string({sql}, '$')", VARCHAR, target)
    if source == VARCHAR and target == TIMESTAMP:
        return f"timezone('UTC', TRY_CAST({sql} AS TIMESTAMPTZ))"
    return f"TRY_CAST({sql} AS {type_sql(target)})"


_META = {
    "event_time": 'make_timestamp("__t")',
    "arrival_time": 'make_timestamp("__a")',
    "split": 'CAST("__s" AS BIGINT)',
    "offset": '"__o"',
    "weight": '"__weight"',
    "row_id": """("__s" || '-' || "__o")""",
}


def _double(value: float) -> str:
    if not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    text = repr(value)
    text = text if "e" in text else text + "e0"
    return f"({text})" if value < 0 or text.startswith("-") else text


def storable(text: str, nul: bool = False) -> str:
    """The text as UTF-8 can hold it: half a surrogate pair becomes the replacement character, as does NUL in a name."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text if nul else text.replace("\0", "�")


# --- decoding ----------------------------------------------------------------------------------------------


def _layout(paths_with_types: Iterable[tuple[Path, DataType]]) -> dict[Path, DataType]:
    """The properties that are decoded into the struct: of a path and another inside it the outer one. Left out is what
    DuckDB's structs can not hold: names without a letter, with NUL, or like a sibling's but for letter case."""
    found: dict[Path, DataType] = {}
    spelled: dict[Path, Path] = {}
    for path, type in sorted(dict(paths_with_types).items(), key=lambda pair: pair[0]):
        prefixes = [path[:length] for length in range(1, len(path) + 1)]
        if not path or any(prefix in found for prefix in prefixes):
            continue
        if all(prefix[-1] and "\0" not in prefix[-1] for prefix in prefixes) and all(
            spelled.get(_folded(prefix), prefix) == prefix for prefix in prefixes
        ):
            spelled.update({_folded(prefix): prefix for prefix in prefixes})
            found[path] = type
    return found


def _folded(path: Path) -> Path:
    """The path as DuckDB compares names: without regard to the case of ASCII letters."""
    return tuple(re.sub(r"[A-Z]", lambda capital: capital[0].lower(), name) for name in path)


def _loose(raw: str, path: Path, type: DataType) -> str:
    """A property straight out of the event's text."""
    whole = f"TRY_CAST({raw} AS JSON)"
    if not path:
        return whole
    found = f"nullif(json_extract({whole}, {quote_string(json_pointer(path))}), 'null')"
    return convert_sql(found, JSON, type)


def _structure(type: DataType) -> object:
    match type:
        case ListOf(item):
            return [_structure(item)]
        case StructOf(fields):
            return {name: _structure(of) for name, of in fields}
        case MapOf():
            return "JSON"
        case Scalar():
            return "VARCHAR" if type in (TIMESTAMP, DATE, INTERVAL) else "JSON" if type == NULL else type_sql(type)
        case _:
            assert_never(type)


def _steps(sql: str, path: Path) -> str:
    for name in path:
        sql = f"{sql}[{quote_string(name)}]"
    return sql


def _inside(sql: str, outer: DataType, path: Path, type: DataType) -> str:
    """A property inside another that is decoded whole."""
    if isinstance(outer, StructOf):
        fields = dict(outer.fields)
        assert path[0] in fields, path
        found = _steps(sql, path[:1])
        return found if len(path) == 1 else _inside(found, fields[path[0]], path[1:], type)
    assert outer == JSON, outer
    found = f"nullif(json_extract({sql}, {quote_string(json_pointer(path))}), 'null')"
    return convert_sql(found, JSON, type)


def _from_decoded(sql: str, type: DataType, depth: int = 0) -> str:
    """What was decoded as text or as it came, brought to its type."""
    match type:
        case Scalar("TIMESTAMP" | "DATE" | "INTERVAL"):
            return convert_sql(sql, VARCHAR, type)
        case ListOf(item) if _holds_time(item):
            name = f"v{depth}"
            return f"list_transform({sql}, lambda {name}: {_from_decoded(name, item, depth + 1)})"
        case StructOf(fields) if _holds_time(type):
            inside = ((name, _from_decoded(_steps(sql, (name,)), of, depth)) for name, of in fields)
            packed = ", ".join(f"{quote_identifier(name)} := {part}" for name, part in inside)
            return f"CASE WHEN {sql} IS NOT NULL THEN struct_pack({packed}) END"
        case _:
            return sql


def _holds_time(type: DataType) -> bool:
    return any(_holds(time, type) for time in (TIMESTAMP, DATE, INTERVAL))


def _holds(wanted: Scalar, type: DataType) -> bool:
    """Whether a type is the wanted one or has it inside."""
    match type:
        case ListOf(item):
            return _holds(wanted, item)
        case StructOf(fields):
            return any(_holds(wanted, of) for _, of in fields)
        case MapOf(key, value):
            return _holds(wanted, key) or _holds(wanted, value)
        case Scalar():
            return type == wanted
        case _:
            assert_never(type)
