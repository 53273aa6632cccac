"""What is wrong with a value that somebody sent or wrote, in words for people instead of the validator's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from mql.errors import did_you_mean

SHOWN_MAX = 60
LISTED_MAX = 12
_NAME = re.compile(r"\^\[A-Za-z_?\]\[A-Za-z0-9(_[.\-]*)\]\{0,(\d+)\}\$")
_KINDS: Mapping[str, str] = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object of names and values",
    "model_type": "must be an object of names and values",
    "model_attributes_type": "must be an object of names and values",
    "datetime_parsing": "must be a moment, such as 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "must be a moment, such as 2026-01-31T12:00:00Z",
    "datetime_type": "must be a moment, such as 2026-01-31T12:00:00Z",
    "finite_number": "must be a finite number",
    "missing": "is missing",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", "must be {} or more"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be {} or less"),
    "less_than": ("lt", "must be less than {}"),
    "string_too_long": ("max_length", "has at most {} characters"),
    "string_too_short": ("min_length", "has at least {} characters"),
    "too_long": ("max_length", "has at most {} entries"),
    "too_short": ("min_length", "has at least {} entries"),
}


def complaint(fault: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """One fault of pydantic's `errors()`. `model`: what the whole was to be, so that near names can be told."""
    kind, context = fault["type"], fault.get("ctx", {})
    match kind:
        case "extra_forbidden":
            name = str(fault["loc"][-1])
            known = list(names_at(model, fault["loc"][:-1]))
            return f'there is no "{name[:SHOWN_MAX]}" here. {did_you_mean(name, known) or listed(known)}'.strip()
        case "union_tag_invalid":
            tag, known = str(context["tag"]), re.findall(r"'([^']*)'", context["expected_tags"])
            name = context["discriminator"].strip("'")
            return f'there is no {name} "{tag[:SHOWN_MAX]}". {did_you_mean(tag, known) or listed(known)}'
        case "union_tag_not_found":
            return f"{context['discriminator'].strip(chr(39))} is missing"
        case "string_pattern_mismatch":
            return f"{shown(fault['input'])} {looks(context['pattern'])}"
        case "literal_error" | "enum":
            return f"{shown(fault['input'])} is none of {context['expected'].replace(' or ', ', ')}"
        case _ if kind in _BOUNDS:
            bound, words = _BOUNDS[kind]
            return words.format(f"{context[bound]:,}" if isinstance(context[bound], int) else context[bound])
        case _ if kind in _KINDS:
            return _KINDS[kind]
        case _:
            message = str(fault["msg"]).removeprefix("Value error, ")
            return message[0].lower() + message[1:]


def looks(pattern: str) -> str:
    """What a text that does not match the pattern is not."""
    name = _NAME.fullmatch(pattern)
    if name is None:
        return f"does not look like {pattern}"
    signs = " ".join(name[1])
    return f"is no name: a letter, then letters, digits and {signs}, {int(name[2]) + 1} characters at most"


def shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def listed(names: Iterable[str]) -> str:
    known = sorted(names)
    if not known:
        return ""
    more = ", …" if len(known) > LISTED_MAX else ""
    return f"Known are {', '.join(known[:LISTED_MAX])}{more}."


def names_at(model: type[BaseModel] | None, location: Iterable[int | str]) -> Iterator[str]:
    """The names that an object at this place may have. Numbers, keys and kinds on the way are passed over."""
    here = [] if model is None else [model]
    for part in location:
        fields = [field for one in here for name, field in one.model_fields.items() if part in (name, field.alias)]
        if fields:
            here = [found for field in fields for found in models_in(field.annotation)]
    for one in here:
        for name, field in one.model_fields.items():
            yield field.alias or name


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def model_called(title: str, below: type[BaseModel] = BaseModel) -> type[BaseModel] | None:
    """The model that a validation error is of."""
    for one in below.__subclasses__():
        if one.__name__ == title:
            return one
        found = model_called(title, one)
        if found is not None:
            return found
    return None
