"""YAML as people mean it: `NO` is a text, a key stands once, and every value knows its line.

Of YAML 1.2 the core schema: true/false, null, whole numbers, numbers; everything else is text. Aliases are refused
(they can blow a small file up), and so are doubled keys and big files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 << 10
MAX_DEPTH = 32

Where = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a document. Line and column are counted from 1; 0 where there is no text."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}: " if self.line else ""
        return f"{place}{self.path + ': ' if self.path else ''}{self.message}"


class ConfigError(Exception):
    """Everything that is wrong in a configuration, at once."""

    def __init__(self, problems: tuple[Problem, ...], file: str | None = None) -> None:
        self.problems = problems
        self.file = file
        super().__init__("\n".join(f"{file}:{problem}" if file else str(problem) for problem in problems))


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and where each part of it stands (line, column)."""

    value: Any
    places: Mapping[Where, tuple[int, int]] = field(default_factory=dict)
    file: str | None = None

    def place(self, where: Where) -> tuple[int, int]:
        """Where a value stands; for one that is missing, the nearest thing around it."""
        while where not in self.places and where:
            where = where[:-1]
        return self.places.get(where, (0, 0))

    def problem(self, where: Where, message: str) -> Problem:
        line, column = self.place(where)
        return Problem(line, column, path_text(where), message)

    def error(self, *problems: Problem) -> ConfigError:
        return ConfigError(problems, self.file)


def path_text(where: Where) -> str:
    """`sources.orders.path[0]`, as people write it."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def read_yaml(path: Path) -> Document:
    """Reads a file; ConfigError says what is wrong with it, and where."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError((Problem(0, 0, "", f"cannot be read: {error.strerror}"),), str(path)) from error
    return parse_yaml(data, str(path))


def parse_yaml(data: str | bytes, file: str | None = None) -> Document:
    """A text's value with the place of each part; an empty text is an empty mapping."""
    raw = data.encode() if isinstance(data, str) else data
    if len(raw) > MAX_BYTES:
        raise ConfigError((Problem(0, 0, "", f"is bigger than {MAX_BYTES >> 10} KiB"),), file)
    try:
        node = compose(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError((Problem(0, 0, "", f"is not UTF-8: {error.reason} at byte {error.start}"),), file) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise ConfigError((Problem(line, column, "", str(error.problem or error.context)),), file) from error
    except yaml.reader.ReaderError as error:
        before = raw.decode("utf-8-sig")[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        said = f"a character that YAML does not take: U+{error.character:04X}"
        raise ConfigError((Problem(line, column, "", said),), file) from error
    except yaml.YAMLError as error:
        raise ConfigError((Problem(0, 0, "", str(error).splitlines()[0]),), file) from error
    if node is None:
        return Document({}, {(): (1, 1)}, file)
    places: dict[Where, tuple[int, int]] = {}
    problems: list[Problem] = []
    value = construct(node, (), places, problems)
    if problems:
        raise ConfigError(tuple(problems), file)
    return Document(value, places, file)


class CoreLoader(yaml.SafeLoader):
    """Composes nodes, without aliases."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Scalars are texts for PyYAML: what a plain one means is told below, by YAML 1.2."""
        if kind is yaml.ScalarNode:
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)


NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def compose(text: str) -> yaml.Node | None:
    loader = CoreLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def construct(node: yaml.Node, where: Where, places: dict[Where, tuple[int, int]], problems: list[Problem]) -> Any:
    """The value of a node; notes where it stands, and what is wrong."""
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    places[where] = (line, column)
    if len(where) > MAX_DEPTH:
        problems.append(Problem(line, column, path_text(where), "is nested too deeply"))
        return None
    if isinstance(node, yaml.ScalarNode):
        return scalar(node, where, problems)
    if isinstance(node, yaml.SequenceNode):
        return [construct(item, (*where, at), places, problems) for at, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if key is None:
            problems.append(Problem(*at, path_text(where), "a key must be a text"))
        elif key in found:
            problems.append(Problem(*at, path_text((*where, key)), "stands here twice"))
        else:
            found[key] = construct(value_node, (*where, key), places, problems)
    return found


def scalar(node: yaml.ScalarNode, where: Where, problems: list[Problem]) -> Any:
    text: str = node.value
    if node.tag not in ("tag:yaml.org,2002:str", "!"):
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        problems.append(Problem(*place, path_text(where), f'the tag "{node.tag}" is not allowed'))
        return None
    return plain(text) if node.style is None and node.tag != "!" else text


def plain(text: str) -> Any:
    """A scalar without quotes, by the core schema."""
    if NULL.match(text):
        return None
    if BOOL.match(text):
        return text.lower() == "true"
    if INT.match(text):
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
