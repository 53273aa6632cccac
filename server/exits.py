"""How a command ends: its exit code, and the few lines that say why. Imports little, for every command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from mql.errors import MqlError
from sources.strict_yaml import ConfigError

OK, FAILED, USAGE, UNREACHABLE, TIMEOUT, INTERRUPTED = 0, 1, 2, 3, 4, 130
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))}
CONTROLS |= {10: "\\n", 13: "\\r", 9: "\\t"}


class Unreachable(Exception):
    """No server answers at that address."""


def clean(text: str) -> str:
    """A text that commands no terminal: control signs are written out."""
    return text.translate(CONTROLS)


def say(text: str) -> None:
    """A message to standard error."""
    print("\n".join(clean(line) for line in text.split("\n")), file=sys.stderr, flush=True)


def guarded(work: Callable[[], int]) -> int:
    """Runs it and gives the exit code; errors are told as their kind wants."""
    try:
        return work()
    except MqlError as error:
        say(str(error))
        return FAILED
    except ConfigError as error:
        say(str(error))
        return USAGE
    except Unreachable as error:
        say(f"{error}\nIs it running? Start one by: mql serve")
        return UNREACHABLE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: what is left goes nowhere
        return OK
    except OSError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
