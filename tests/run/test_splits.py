"""How far event time has come, split by split: against a slow reference, and rule by rule."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mql.exec.items import MIN_US
from mql.exec.splits import Splits

IDLE, AHEAD = 30, 100


@dataclass
class Reference:
    """The same, one row after the other."""

    reached: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    spoken: set[int] = field(default_factory=set)
    idle: set[int] = field(default_factory=set)
    front: int = MIN_US

    def expect(self, split: int, now: int) -> None:
        if split not in self.heard:
            self.heard[split], self.reached[split] = now, MIN_US

    def row(self, split: int, time: int, arrival: int) -> int:
        if split not in self.heard or split in self.idle:
            self.reached[split] = max(self.reached.get(split, MIN_US), self.front)
        self.idle.discard(split)
        self.spoken.add(split)
        self.heard[split] = max(self.heard.get(split, arrival), arrival)
        earlier = self.reached[split]
        if time <= arrival + AHEAD:
            self.reached[split] = max(earlier, time)
        return earlier

    def frontier(self, now: int) -> int:
        self.idle |= {split for split, heard in self.heard.items() if now - heard >= IDLE}
        active = [split for split in self.heard if split not in self.idle]
        found = MIN_US
        if active:
            found = min(self.reached[split] for split in active)
        elif known := [split for split in self.spoken if self.reached[split] > MIN_US]:
            last = max(self.heard[split] for split in known)
            start = min(self.reached[split] for split in known if self.heard[split] == last)
            found = start + max(0, now - last - IDLE)
        self.front = max(self.front, found)
        return self.front


STEPS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.sampled_from(["expect", "frontier", "rows", "rows", "rows", "save"]),
        st.integers(0, 2),
        st.lists(st.integers(-150, 250), max_size=6),
        st.integers(0, 6),
    ),
    max_size=40,
)


@given(STEPS)
def test_it_is_what_one_row_after_the_other_gives(steps: list[tuple[int, str, int, list[int], int]]) -> None:
    splits, reference, now = Splits(IDLE, AHEAD), Reference(), 0
    for passed, kind, split, ages, cut in steps:
        now += passed
        match kind:
            case "expect":
                splits.expect([split], now)
                reference.expect(split, now)
            case "frontier":
                assert splits.frontier(now) == reference.frontier(now)
            case "save":
                restored = Splits(IDLE, AHEAD)
                restored.restore(splits.snapshot(), now)
                splits = restored
                reference.heard = {split: max(heard, now) for split, heard in reference.heard.items()}
            case _:
                times = np.array([now + age for age in ages], np.int64)
                expected = [reference.row(split, int(time), now) for time in times]
                found = [*splits.earlier(split, times[:cut], now), *splits.earlier(split, times[cut:], now)]
                assert found == expected


def frontier_after(splits: Splits, now: int, **times: int) -> int:
    for name, time in times.items():
        splits.earlier(int(name[1:]), np.array([time]), now)
    return splits.frontier(now)


def test_the_smallest_split_counts_and_one_that_has_not_spoken_is_waited_for() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.expect([0, 1], 0)
    assert frontier_after(splits, 1, s0=50) == MIN_US
    assert frontier_after(splits, 2, s1=20) == 20
    assert frontier_after(splits, 3, s1=70) == 50


def test_a_silent_split_is_left_out_and_late_when_it_returns() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.expect([0, 1], 0)
    assert frontier_after(splits, 0, s0=5, s1=10) == 5
    assert frontier_after(splits, 29, s1=40) == 5
    assert splits.frontier(30) == 40
    assert splits.earlier(0, np.array([7, 60]), 31).tolist() == [40, 40]
    assert splits.frontier(31) == 40
    assert splits.earlier(1, np.array([9]), 31).tolist() == [40]


def test_the_clock_goes_on_when_all_are_silent_and_the_frontier_never_goes_back() -> None:
    splits = Splits(IDLE, AHEAD)
    assert frontier_after(splits, 100, s0=90) == 90
    assert [splits.frontier(now) for now in (129, 130, 135, 170)] == [90, 90, 95, 130]
    assert frontier_after(splits, 171, s0=110) == 130


def test_nothing_is_known_before_anybody_spoke() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.expect([0], 0)
    assert splits.frontier(1000) == MIN_US


def test_a_time_too_far_ahead_moves_nothing() -> None:
    splits = Splits(IDLE, AHEAD)
    assert splits.earlier(0, np.array([1, 5000, 2, 101, 3]), 1).tolist() == [MIN_US, 1, 1, 2, 101]
    assert splits.frontier(1) == 101


def test_a_split_that_said_nothing_to_be_believed_has_told_no_time() -> None:
    splits = Splits(IDLE, AHEAD)
    assert frontier_after(splits, 1, s0=5000) == MIN_US
    assert splits.frontier(10 * IDLE) == MIN_US


def test_a_split_that_somebody_else_reads_is_not_waited_for() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.expect([0, 1], 0)
    assert frontier_after(splits, 0, s0=5) == MIN_US
    splits.forget([1])
    assert splits.frontier(0) == 5


def test_a_pause_of_ours_is_no_silence_of_theirs() -> None:
    splits = Splits(IDLE, AHEAD)
    assert frontier_after(splits, 0, s0=5, s1=8) == 5
    restored = Splits(IDLE, AHEAD)
    restored.restore(splits.snapshot(), 10_000)
    assert restored.frontier(10_001) == 5
    assert restored.earlier(1, np.array([1]), 10_001).tolist() == [8]


def test_who_cannot_be_heard_is_not_left_out() -> None:
    splits = Splits(IDLE, AHEAD)
    assert frontier_after(splits, 0, s0=0) == 0
    for now in range(0, 10 * IDLE, IDLE // 2):
        splits.excuse([0, 7], now)
        assert splits.frontier(now) == 0
    assert splits.frontier(11 * IDLE) > 0


def test_while_nobody_listens_nobody_is_silent() -> None:
    splits = Splits(IDLE, AHEAD)
    assert frontier_after(splits, 0, s0=0) == 0
    splits.not_heard([0, 7], 9 * IDLE, 10 * IDLE)
    assert splits.frontier(10 * IDLE - 1) == 0
    splits.not_heard([0], 100 * IDLE, 10 * IDLE)  # no later than now
    assert splits.frontier(11 * IDLE + 1) > 0


def test_a_split_that_speaks_again_is_waited_for_again() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.earlier(0, np.array([10]), 10)
    splits.earlier(1, np.array([10]), 10)
    splits.earlier(1, np.array([50]), 50)
    assert splits.frontier(50) == 50  # the first has been left out
    splits.earlier(0, np.array([51]), 51)
    splits.earlier(1, np.array([60]), 60)
    assert splits.frontier(60) == 51


def test_silent_are_those_that_have_never_spoken_for_so_long() -> None:
    splits = Splits(IDLE, AHEAD)
    splits.expect([0, 1], 0)
    assert not splits.silent(IDLE - 1)
    assert splits.silent(IDLE)
    splits.earlier(0, np.array([40]), 40)
    assert not splits.silent(40 + IDLE)
