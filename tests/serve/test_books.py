"""A job's ledger over its runs: what goes back with a checkpoint, and what a state takes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from server.books import CLASSES, Books, before_run

NOBODY = pa.table({})


def counted(**counts: int) -> dict[str, int]:
    """A ledger with these counts, which adds up."""
    return {"events": sum(counts.values()), **dict.fromkeys(CLASSES, 0), **counts}


def adds_up(ledger: Mapping[str, int]) -> bool:
    return ledger["events"] == sum(ledger[kind] for kind in CLASSES)


def test_what_was_counted_since_the_last_checkpoint_is_taken_back(tmp_path: Path) -> None:
    books = Books(tmp_path, keeps_checkpoints=True)
    books.go_back({})
    books.begin(0)
    books.checkpointed = books.as_of(counted(emitted_from=5, in_state=3))
    books.keep(counted(emitted_from=9, filtered=4), lambda n: NOBODY, at_end=True)
    assert books.total(None) == counted(emitted_from=5, in_state=3)
    books.begin(3)
    total = books.total(counted(emitted_from=3, filtered=4, in_state=2))
    assert total == counted(emitted_from=8, filtered=4, in_state=2)


def test_what_a_state_does_not_go_on_with_is_dropped(tmp_path: Path) -> None:
    books = Books(tmp_path, keeps_checkpoints=True)
    books.go_back(counted(emitted_from=5, in_state=3))
    books.discard()
    books.begin(0)
    assert books.total(counted(filtered=1)) == counted(emitted_from=5, dropped=3, filtered=1)


def test_another_query_may_hold_fewer_events_or_more() -> None:
    before = counted(emitted_from=5, in_state=3)
    assert before_run(before, 2) == counted(emitted_from=5, dropped=1)
    assert before_run(before, 4) == counted(emitted_from=4)
    assert adds_up(before_run({}, 0))


def test_without_a_guarantee_counts_go_on_from_where_they_were_written_last(tmp_path: Path) -> None:
    books = Books(tmp_path, keeps_checkpoints=False)
    books.begin(0)
    books.keep(counted(emitted_from=2, in_state=1), lambda n: NOBODY, at_end=False)
    again = Books(tmp_path, keeps_checkpoints=False)  # as after a crash
    assert again.total(None) == counted(emitted_from=2, dropped=1)
    again.begin(0)
    assert again.total(counted(emitted_from=4)) == counted(emitted_from=6, dropped=1)
