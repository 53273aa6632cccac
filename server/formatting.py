"""Queries in files, brought into one form; and how a mistake in a file is told."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mql.errors import MqlError, place_of
from mql.formatter import format_query
from mql.parser import parse
from mql.scan import blank_comments

BLANK_OR_COMMENT = re.compile(r"(?:\s+|--[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)*")


def format_files(files: Sequence[Path], only_check: bool) -> int:
    """Formats each file in place; the exit code is 1 where one is wrong, or would change under `only_check`."""
    code = 0
    for file in files:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        try:
            new = formatted(text)
        except MqlError as error:
            print(told(file, text, error), file=sys.stderr)
            code = 1
            continue
        if str(file) == "-" and not only_check:
            sys.stdout.write(new)
        elif new != text:
            print(f"{file}: {'would be' if only_check else 'was'} reformatted", file=sys.stderr)
            code = 1 if only_check else code
            if not only_check:
                file.write_text(new, "utf-8")
    return code


def formatted(text: str) -> str:
    """The query in canonical form, with the comments before and after it; MqlError where one stands inside."""
    try:
        tree = parse(text)
        bare = blank_comments(text)
    except MqlError as error:
        raise error.in_text(text) from None
    head = BLANK_OR_COMMENT.match(text)
    assert head is not None
    end = len(bare.rstrip().removesuffix(";").rstrip())
    if text[head.end() : end] != bare[head.end() : end]:
        raise MqlError("a comment stands inside the query", hint="Formatting would lose it; put it before the query.")
    before, after = head.group().strip(), text[end:].strip().removeprefix(";").strip()
    return "\n".join(part for part in (before, format_query(tree), after) if part) + "\n"


def told(file: Path, text: str, error: MqlError) -> str:
    at = place_of(text, error.span) if error.span is not None else None
    place = f":{at.line}:{at.column}" if at is not None else ""
    return f"{file}{place}: {error.message}" + (f". {error.hint}" if error.hint else "")
