"""The newest malformed events are kept, within bounds; all of them are counted."""

from __future__ import annotations

from mql.exec.deadletters import OVERHEAD_BYTES, DeadLetters, dead_letter


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


def test_a_long_text_is_cut_and_other_bytes_than_utf8_are_shown() -> None:
    assert dead_letter("not UTF-8", 0, 0, 0, b"a\xff" + b"b" * 10_000).text[:8] == "a\\xffbbb"
    assert len(dead_letter("larger than 1 MiB", 0, 0, 0, b"b" * 10_000).text) == 4096
