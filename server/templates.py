"""Templates: a query with typed parameters and examples of what it answers, as YAML or JSON.

    name: slow-paths
    params:
      service:   {type: string, required: true, description: Name of the service}
      threshold: {type: number, default: 500, min: 0}
    query: |
      SELECT path, count(*) AS slow FROM requests
      WHERE service = $service AND ms > $threshold WINDOW TUMBLING 10s GROUP BY path
    examples:
      - params: {service: api}
        input: [{ts: 0, service: api, path: /play, ms: 900}]
        expect: [{path: /play, slow: 1}]

Everything that is wrong is told at once, with file, line and column. A value never becomes text of the query: it is
checked against its parameter and bound into the tree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mql import syntax
from mql.catalog import Catalog
from mql.errors import MqlError, did_you_mean, place_of
from mql.parser import parse
from mql.planner.compile import compile_query
from mql.planner.constants import duration_us
from mql.planner.standins import params_in
from server.complaints import complaint as told_of
from server.life import Expect, Limits, Positive, Schedule, Sla
from server.sinks import KINDS, AnySink
from sources.strict_yaml import Document, Problem, Where, parse_yaml

NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$"
PARAM_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
TYPES = ("string", "number", "duration", "boolean", "enum", "list", "source", "column")
GUARANTEES = ("at_most_once", "at_least_once", "exactly_once")
LIST_MAX = 1_000
EXAMPLES_MAX = 50
SINKS_MAX = 5
TEXT_TYPES = ("string", "duration", "enum", "source", "column")
BOUNDED_TYPES = ("number", "duration")
Label = Annotated[str, Field(max_length=200)]
ParamName = Annotated[str, Field(pattern=PARAM_NAME)]


class Param(BaseModel):
    """One parameter. Without a default it must be given; `required: true` says so aloud."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["string", "number", "duration", "boolean", "enum", "list", "source", "column"]
    description: str | None = Field(default=None, max_length=1_000)
    help: str | None = Field(default=None, max_length=1_000, description="another word for description")
    required: bool | None = None
    default: Any = Field(default=None, description="taken where no value is given")
    min: float | str | None = Field(default=None, description="of a number, or a duration such as 1s")
    max: float | str | None = Field(default=None, description="of a number, or a duration such as 1h")
    values: tuple[str, ...] | None = Field(default=None, min_length=1, description="of an enum")
    max_items: int | None = Field(default=None, ge=1, le=LIST_MAX, description="of a list")

    @property
    def must_be_given(self) -> bool:
        return "default" not in self.model_fields_set


class Example(BaseModel):
    """Events in, rows out. A row that is expected tells the columns that matter; others are not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: Mapping[str, Any] = Field(default_factory=dict)
    input: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=10_000)
    expect: tuple[dict[str, Any], ...]
    time: str | None = Field(default=None, description="the property of the events that holds their time")


class Template(BaseModel):
    """A query with parameters, and how a job that is made of it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    HAS_CODE: ClassVar[bool] = False
    """Whether there is something beside the query that parameters go to."""

    name: str = Field(pattern=NAME)
    description: str = Field(default="", max_length=10_000)
    params: Mapping[ParamName, Param] = Field(default_factory=dict)
    query: str = Field(min_length=1, max_length=65_536)
    guarantee: Literal["at_most_once", "at_least_once", "exactly_once"] = "at_most_once"
    sinks: tuple[AnySink, ...] = Field(default=(), max_length=SINKS_MAX)
    labels: Mapping[ParamName, Label] = Field(default_factory=dict)
    owner: str | None = Field(default=None, max_length=200)
    sla: Sla | None = Field(default=None, description="how many jobs of it there are to be")
    schedule: Schedule | None = Field(default=None, description="when its jobs are started")
    limits: Limits = Limits()
    expect: Expect = Expect()
    transient: Positive | None = Field(default=None, description="its jobs end so long after their last reader")
    examples: tuple[Example, ...] = Field(default=(), max_length=EXAMPLES_MAX)

    @field_validator("query")
    @classmethod
    def holds_something(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("is empty")
        return query


Kind = TypeVar("Kind", bound=Template)


# --- reading -----------------------------------------------------------------------------------------------


def read_template(path: Path) -> Template:
    """The template in a file; ConfigError tells all that is wrong with it, and where."""
    return parse_template(path.read_bytes(), str(path))


def parse_template(data: bytes | str, file: str | None = None) -> Template:
    """The template that a text says, in YAML or JSON."""
    text = data.decode("utf-8-sig", "replace") if isinstance(data, bytes) else data
    document = parse_yaml(data, file)
    value = document.value
    if isinstance(value, Mapping) and "mql" in value and "query" not in value:
        value = {("query" if name == "mql" else name): inner for name, inner in value.items()}
    return checked(value, Written(document, text), Template)


@lru_cache(maxsize=256)
def kept_template(text: str) -> Template:
    """The template of a text that is in the store: read once for all of its jobs."""
    return parse_template(text)


def template_of(value: Any) -> Template:
    """The template of a value that has no text, such as a JSON body."""
    return checked(value, Written(Document(value), None), Template)


def is_template(value: Any) -> bool:
    """Whether a YAML file is a template rather than a configuration."""
    return isinstance(value, Mapping) and ("query" in value or "mql" in value)


@dataclass(frozen=True, slots=True)
class Written:
    """A template as it stands in its text; None where there is none."""

    document: Document
    text: str | None

    def in_query(self, error: MqlError, query: str) -> Problem:
        """A problem of the query: where the text holds it as it is (`|`), its own line and column."""
        where: Where = ("mql",) if ("mql",) in self.document.places else ("query",)
        said = error.message + (f". {error.hint}" if error.hint else "")
        whole = self.document.problem(where, said)
        if error.span is None or self.text is None or not whole.line:
            return whole
        at = place_of(query, error.span)
        lines = self.text.splitlines()
        head = lines[whole.line - 1][whole.column - 1 :]
        if not head.startswith("|"):
            column = whole.column + at.column - 1 + (head[:1] in "\"'")
            return Problem(whole.line, column, whole.path, said) if at.line == 1 else whole
        body = lines[whole.line :]
        first = next((line for line in body if line.strip()), "")
        indent = len(first) - len(first.lstrip(" "))
        return Problem(whole.line + at.line, indent + at.column, whole.path, said)


def checked(value: Any, written: Written, kind: type[Kind]) -> Kind:
    """The template, or what is more than one, that a value says; ConfigError tells all that is wrong with it."""
    document = written.document
    if not isinstance(value, Mapping):
        raise document.error(document.problem((), "must be a mapping with a name and a query"))
    try:
        template = kind.model_validate(value)
    except ValidationError as error:
        faults = (document.problem(*complaint(one, kind)) for one in error.errors())
        raise document.error(*in_order(faults)) from None
    problems = [document.problem(where, said) for where, said in wrong_params(template)]
    problems += [document.problem(where, said) for where, said in wrong_sla(template)]
    problems += [written.in_query(error, template.query) for error in wrong_query(template)]
    if not problems:
        problems += [document.problem(where, said) for where, said in wrong_examples(template)]
    if problems:
        raise document.error(*in_order(problems))
    return template


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda one: (one.line, one.column))


def complaint(fault: Any, of: type[Template]) -> tuple[Where, str]:
    where: Where = tuple(part for part in fault["loc"] if part != "[key]")
    kind: str | None = None
    if where[:1] == ("sinks",) and len(where) > 2:  # behind the number stands the kind, which is no part of the text
        kind = str(where[2])
        where = where[:2] + where[3:]
    match fault["type"]:
        case "extra_forbidden":
            name = str(where[-1])
            known = names_at(where[:-1], of) if kind is None or len(where) > 3 else KINDS[kind].model_fields
            return where, f'unknown setting "{name}". {did_you_mean(name, known) or ""}'.strip()
        case "missing":
            return where, "is missing"
        case "union_tag_not_found":
            return where, f"a sink needs a kind: {', '.join(KINDS)}"
        case "union_tag_invalid":
            said = str(fault["ctx"]["tag"])[:60]
            hint = did_you_mean(said, KINDS) or f"Known are {', '.join(KINDS)}."
            return (*where, "kind"), f'unknown kind "{said}". {hint}'
        case "string_pattern_mismatch" if kind is not None:
            return where, f'"{str(fault["input"])[:60]}" does not look like {fault["ctx"]["pattern"]}'
        case "string_pattern_mismatch":
            return where, f'"{str(fault["input"])[:60]}" is no name: letters, digits, _ and a letter first'
        case "literal_error":
            said = str(fault["input"])[:60]
            known = TYPES if where[-1] == "type" else GUARANTEES
            if kind is not None or where[0] in LIFE or said in known:
                return where, f'unknown {where[-1]} "{said}". It may be {fault["ctx"]["expected"]}'
            return (
                where,
                f'unknown {where[-1]} "{said}". {did_you_mean(said, known) or "Known are " + ", ".join(known)}',
            )
        case _:
            return where, told_of(fault)


LIFE: Mapping[str, type[BaseModel]] = {"sla": Sla, "schedule": Schedule, "limits": Limits, "expect": Expect}


def names_at(where: Where, of: type[Template]) -> Iterable[str]:
    match where:
        case ():
            return [*of.model_fields, "mql"]
        case ("params", _):
            return Param.model_fields
        case (("sla" | "schedule" | "limits" | "expect") as part,):
            return LIFE[part].model_fields
        case _:
            return Example.model_fields


def wrong_params(template: Template) -> Iterator[tuple[Where, str]]:
    """Settings that do not suit their parameter's type, and values that do not fit."""
    used = names_used(template)
    for name, param in template.params.items():
        where: Where = ("params", name)
        if used is not None and name not in used and not template.HAS_CODE:
            yield where, f"the query does not use ${name}"
        if param.type == "enum" and param.values is None:
            yield where, "an enum needs values: [a, b]"
        if param.values is not None and param.type not in ("enum", "list"):
            yield (*where, "values"), f"a {param.type} has no values; make it an enum"
        if param.max_items is not None and param.type != "list":
            yield (*where, "max_items"), f"a {param.type} has no items"
        if param.required and not param.must_be_given:
            yield (*where, "default"), "what is required has no default"
        if param.required is False and param.must_be_given:
            yield (*where, "required"), "what is not required needs a default"
        for bound in ("min", "max"):
            said = getattr(param, bound)
            if said is None:
                continue
            if param.type not in BOUNDED_TYPES:
                yield (*where, bound), f"a {param.type} has no {bound}"
            elif limit_of(param, said) is None:
                yield (*where, bound), f'"{said}" is no {param.type}'
        if not param.must_be_given and param.default is not None:
            fault = misfit(param, param.default)
            if fault is not None:
                yield (*where, "default"), fault


def wrong_sla(template: Template) -> Iterator[tuple[Where, str]]:
    """Jobs that are made by themselves need all of their parameters."""
    if template.sla is None or template.sla.min == 0:
        return
    for name, said in misfits(template, template.sla.params):
        yield ("sla", "params", name), said


def names_used(template: Template) -> set[str] | None:
    """The parameters that the query names; None where it does not parse."""
    try:
        return {param.name for param in params_in(parse(template.query))}
    except MqlError:
        return None


def wrong_query(template: Template) -> Iterator[MqlError]:
    try:
        tree = parse(template.query)
    except MqlError as error:
        yield error
        return
    told: set[str] = set()
    for param in params_in(tree):
        if param.name not in template.params and param.name not in told:
            told.add(param.name)
            hint = did_you_mean(param.name, template.params) or f"Declare it under params: {param.name}."
            yield MqlError(f'no parameter "{param.name}"', param.span, hint, code="unknown-parameter")


def wrong_examples(template: Template) -> Iterator[tuple[Where, str]]:
    for at, example in enumerate(template.examples):
        for name, said in misfits(template, example.params):
            yield ("examples", at, "params", name), said


# --- values ------------------------------------------------------------------------------------------------


class BadParams(MqlError):
    """Values that do not fit the parameters; `faults` has all of them, by name."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {said}" for name, said in faults.items()), code="invalid-params")
        self.faults = faults

    def at(self, place: int) -> BadParams:
        """The same, of the params at this place of a list, counted from 0."""
        return BadParams({f"{place}/{name}": said for name, said in self.faults.items()})


def values_of(template: Template, given: Mapping[str, Any]) -> dict[str, object]:
    """What is bound into the query: the given values and the defaults, typed. BadParams tells all that is wrong."""
    faults = dict(misfits(template, given))
    if faults:
        raise BadParams(faults)
    said = {name: given.get(name, param.default) for name, param in template.params.items()}
    return {name: typed(template.params[name], value) for name, value in said.items()}


def said_as_text(template: Template, texts: Mapping[str, str]) -> dict[str, Any]:
    """Values that were written as texts (`-p threshold=5`), as their parameters' types read them."""
    return {
        name: text if name in template.params and template.params[name].type in TEXT_TYPES else as_json(text)
        for name, text in texts.items()
    }


def as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def misfits(template: Template, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the given values: unknown, missing, or not what their parameter takes."""
    for name, value in given.items():
        param = template.params.get(name)
        if param is None:
            hint = did_you_mean(name, template.params) or f"There are {', '.join(template.params) or 'none'}."
            yield name, f"unknown parameter. {hint}"
            continue
        fault = misfit(param, value)
        if fault is not None:
            yield name, fault
    for name, param in template.params.items():
        if param.must_be_given and name not in given:
            yield name, f"is missing ({param.description or param.help or param.type})"


def misfit(param: Param, value: Any) -> str | None:
    """Why the parameter does not take the value; None where it does."""
    match param.type:
        case "string" | "source" if not isinstance(value, str):
            return f"must be a text, not {shown(value)}"
        case "column":
            return None if is_column(value) else f"must be a property's name, not {shown(value)}"
        case "boolean" if not isinstance(value, bool):
            return f"must be true or false, not {shown(value)}"
        case "enum":
            known = param.values or ()
            if value not in known:
                hint = did_you_mean(str(value), known) or ""
                return f"must be one of {', '.join(known)}, not {shown(value)}. {hint}".strip()
        case "list":
            return wrong_list(param, value)
        case "number" | "duration":
            number = limit_of(param, value)
            if number is None:
                example = "; write it like 250ms, 10s, 5m" if param.type == "duration" else ""
                return f"must be a {param.type}, not {shown(value)}{example}"
            least, most = limit_of(param, param.min), limit_of(param, param.max)
            if least is not None and number < least:
                return f"must be at least {shown_bound(param.min)}, not {shown(value)}"
            if most is not None and number > most:
                return f"must be at most {shown_bound(param.max)}, not {shown(value)}"
        case _:
            pass
    return None


def wrong_list(param: Param, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return f"must be a list, not {shown(value)}"
    most = param.max_items or LIST_MAX
    if len(value) > most:
        return f"must have at most {most} items, not {len(value)}"
    kinds = {float if is_number(item) else type(item) for item in value}
    if kinds - {str, float, bool} or len(kinds) > 1:
        return "must hold texts, numbers or truths, all of one kind"
    if param.values is not None and any(item not in param.values for item in value):
        return f"may hold {', '.join(param.values)} only"
    return None


def limit_of(param: Param, value: Any) -> float | None:
    """A number, or a duration in microseconds; a bare number is seconds there. None where it is neither."""
    if param.type == "number":
        return value if is_number(value) else None
    if is_number(value):
        return float(value) * 1e6
    return duration_us(value) if isinstance(value, str) else None


def typed(param: Param, value: Any) -> object:
    """The value as the planner takes it."""
    if value is None:
        return None
    match param.type:
        case "duration":
            return timedelta(microseconds=round(limit_of(param, value) or 0))
        case "column":
            first, *others = str(value).split(".")
            return syntax.Property((syntax.Key(first), *(syntax.Key(name, "dot") for name in others)))
        case "list":
            return tuple(value)
        case _:
            return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_column(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and all(part.strip() for part in value.split("."))


def shown_bound(bound: float | str | None) -> str:
    return f"{bound:.15g}" if isinstance(bound, float) else str(bound)


def shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def check_against(template: Template, catalog: Catalog) -> None:
    """Compiles the query where its parameters can all be told (by defaults or the first example). MqlError if wrong."""
    given = template.examples[0].params if template.examples else {}
    if not any(True for _ in misfits(template, given)):
        compile_query(template.query, catalog, values_of(template, given))


def schema() -> dict[str, Any]:
    """The JSON Schema of a template, for editors."""
    found = Template.model_json_schema()
    found["properties"]["mql"] = {"type": "string", "description": "another word for query"}
    found["required"] = ["name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "MQL template"}
