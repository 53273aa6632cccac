"""The newest malformed events are kept, within bounds; all of them are counted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mql.exec.cutting import Unread
from mql.exec.deadletters import LATE_ROWS_MAX, OVERHEAD_BYTES, DeadLetters, LateRows, dead_letter


def test_the_newest_come_first_and_the_oldest_go_first() -> None:
    letters = DeadLetters(count_max=3)
    letters.add([dead_letter("not JSON", 0, offset, 0, b"x") for offset in range(5)])
    assert [letter.offset for letter in letters.newest()] == [4, 3, 2]
    assert [letter.offset for letter in letters.newest(1)] == [4]
    assert letters.total == 5


def test_bytes_are_bounded_too() -> None:
    letters = DeadLetters(bytes_max=2 * (OVERHEAD_BYTES + 10))
    letters.add([dead_letter("not JSON", 0, offset, 0, b"0123456789") for offset in range(5)])
    assert len(letters.newest()) == 2


def test_letters_are_found_by_their_numbers_while_they_are_kept() -> None:
    letters = DeadLetters(count_max=3)
    letters.add([dead_letter("not JSON", 0, 0, 0, b"x")])
    letters.add([dead_letter("not JSON", 0, offset, 0, b"x") for offset in (1, 2)], count=100)
    assert letters.total == 101
    letters.add([dead_letter("not JSON", 0, 3, 0, b"x")])
    assert [one.offset for one in letters.between(0, 101)] == [1, 2]
    assert [one.offset for one in letters.between(2, 102)] == [2, 3]
    assert letters.between(102, 200) == ()


def test_of_a_flood_ever_fewer_letters_are_written_and_all_are_counted() -> None:
    def told(unread: Unread, events: int) -> Unread:
        unread.add(np.arange(events), lambda row: dead_letter("not JSON", 0, row, 0, b"x"))
        return unread

    unread, written, counted = Unread(), list[int](), 0
    for events in (1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 3, 1_000):
        unread = told(unread.next(), events)
        written.append(len(unread.letters))
        counted += unread.count
    assert written == [200, 100, 50, 25, 12, 6, 4, 3, 200]
    assert counted == 8_003


def test_late_rows_are_found_by_their_numbers_across_batches() -> None:
    late = LateRows()
    assert late.between() is None
    for first in (0, 3, 6):
        late.add(pa.table({"n": list(range(first, first + 3))}))
    numbers = late.between(2, 7)
    assert numbers is not None
    assert numbers.column("n").to_pylist() == [2, 3, 4, 5, 6]
    assert late.between(9) is None
    late.add(pa.table({"n": list(range(LATE_ROWS_MAX))}))
    kept = late.between()
    assert kept is not None
    assert (late.total, kept.num_rows) == (LATE_ROWS_MAX + 9, LATE_ROWS_MAX)


def test_a_long_text_is_cut_and_other_bytes_than_utf8_are_shown() -> None:
    assert dead_letter("not UTF-8", 0, 0, 0, b"a\xff" + b"b" * 10_000).text[:8] == "a\\xffbbb"
    assert len(dead_letter("larger than 1 MiB", 0, 0, 0, b"b" * 10_000).text) == 4096
