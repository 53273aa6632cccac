"""Where whole events or rows are told: to those alone who may read all of them."""

from __future__ import annotations

from collections.abc import Iterable

from server.problems import refuse
from server.tokens import own_grant


def check_nothing_hidden(name: str) -> None:
    """Of a source, or of a job's results (`job.name`)."""
    if own_grant().is_limited(name):
        hint = f"SELECT * FROM {name} leaves out what is hidden, and masks what is masked."
        raise refuse(403, "hidden", f'some of the properties of "{name[:80]}" are hidden from you or masked', hint)


def check_may_read_all(sources: Iterable[str]) -> None:
    """Of sources whose events are told as they came."""
    for name in sources:
        if not own_grant().allows(name):
            raise refuse(403, "hidden", "these are events of a source that you may not read")
        check_nothing_hidden(name)
