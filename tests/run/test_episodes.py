"""Episodes of one key against a plain reference; the keys of a watch: missing, forgotten, saved and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.exec.detectors.auto import Auto
from mql.exec.detectors.counting import Count, Ratio
from mql.exec.detectors.cusum import Cusum
from mql.exec.detectors.episodes import CLOSED, EPISODE_FIELDS, GOES_ON, NOT_OPEN, OPENED, WORSE, Rule
from mql.exec.detectors.frame import Columns, Detector
from mql.exec.detectors.robust_zscore import RobustZScore
from mql.exec.detectors.seasonal import Seasonal
from mql.exec.detectors.watch import Guard, Limits, Rows, Told, Watch
from mql.exec.detectors.zscore import ZScore

LETTERS = {NOT_OPEN: ".", OPENED: "o", GOES_ON: "-", WORSE: "u", CLOSED: "c"}


def phases(rule: Rule, scores: list[float]) -> tuple[str, list[int]]:
    """The phases of one key, a letter a window, and where each episode began."""
    state = Columns(EPISODE_FIELDS)
    state.grow(2)
    at = slice(1, 2)
    found, began = "", []
    for window, score in enumerate(scores):
        now = np.array([score])
        turn = rule.step(state, at, window, now, now >= 1)
        rule.admit(state, at, turn, now, np.array([1], np.int8), np.array([False]))
        found += LETTERS[int(turn.phase[0])]
        if found[-1] == "o":
            began.append(int(state["since"][1]))
    return found, began


def test_an_episode_opens_goes_on_gets_worse_and_closes() -> None:
    #              0  1  2    3  4  5  6  7  8
    scores = [0.0, 1, 1.2, 2, 0, 1, 0, 0, 0]
    assert phases(Rule(rearm=3), scores) == (".o-u----c", [1])


def test_two_of_three_open_it_and_it_began_with_the_first() -> None:
    assert phases(Rule(2, 3, 2), [1, 0, 0, 1, 0, 1, 0, 0]) == (".....o-c", [3])


def test_after_it_closed_the_same_number_of_hits_is_needed_again() -> None:
    assert phases(Rule(2, 2, 1), [1, 1, 0, 1, 1]) == (".oc.o", [0, 3])


@dataclass
class Plain:
    """The rule for one key, as one would write it for a list."""

    rule: Rule

    def phases(self, scores: list[float]) -> tuple[str, list[int]]:
        hits: list[int] = []
        is_open, last, worst = False, -1, 0.0
        found, began = "", []
        for window, score in enumerate(scores):
            if score >= 1:
                hits.append(window)
                last = window
            lately = [hit for hit in hits if hit > window - self.rule.of]
            if not is_open and score >= 1 and len(lately) >= self.rule.needed:
                is_open, worst = True, score
                began.append(lately[0])
                found += "o"
            elif is_open and score < 1 and window - last >= self.rule.rearm:
                is_open, hits = False, []
                found += "c"
            elif is_open and score >= 1.5 * worst and score >= 1:
                worst = score
                found += "u"
            else:
                found += "-" if is_open else "."
        return found, began


@given(
    st.integers(1, 5),
    st.integers(0, 59),
    st.integers(1, 9),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.4, 2.0, 5.0]), max_size=90),
)
@settings(max_examples=150, deadline=None)
def test_episodes_are_what_the_plain_rule_says(needed: int, more: int, rearm: int, scores: list[float]) -> None:
    rule = Rule(needed, needed + more, rearm)
    assert phases(rule, scores) == Plain(rule).phases(scores)


# --- a watch and its keys ----------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], Detector]] = {
    "auto": lambda: Auto(warmup=6),
    "zscore": lambda: ZScore(warmup=6, threshold=2),
    "seasonal": lambda: Seasonal(warmup=6, period_us=8, slots=4, window_us=1),
    "robust_zscore": lambda: RobustZScore(warmup=6, window=9, threshold=2),
    "cusum": lambda: Cusum(warmup=6, threshold=2),
    "count": lambda: Count(warmup=6),
    "ratio": lambda: Ratio(warmup=6),
}


def drawn(seed: int, windows: int, keys: int) -> list[Rows]:
    """Windows in which some keys are missing; now and then one behaves oddly."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(windows):
        there = np.flatnonzero(rng.random(keys) < 0.8)
        rng.shuffle(there)
        of = rng.poisson(50, len(there)).astype(float)
        odd = np.where(rng.random(len(there)) < 0.05, 8.0, 1.0)
        value = np.minimum(rng.poisson(4, len(there)) * odd, of)
        found.append(Rows(number, number, [f"key {key}" for key in there], value, of))
    return found


def lines(told: Told | None, watch: Watch) -> list[tuple[object, ...]]:
    """What a window told, by key: everything that a reader could see."""
    assert told is not None
    return sorted(
        (
            watch.named(int(slot)),
            *(repr(float(part[at])) for part in (told.score, told.expected, told.lower, told.upper)),
            int(told.phase[at]),
            int(told.since[at]) if told.phase[at] else -1,
        )
        for at, slot in enumerate(told.slots)
    )


def made(name: str, *, told: int | None = None, ttl: int = 12, steps: int = 1) -> Watch:
    detector = MAKERS[name]()
    limits = Limits(fill=name not in ("ratio", "robust_zscore"), max_gap=5, ttl=ttl, told=told, steps=steps)
    return Watch(detector, Rule(2, 3, 4), limits, Guard())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_a_restart_at_any_window_changes_nothing(name: str, steps: int) -> None:
    windows = drawn(3, 40, 12)
    whole = made(name, told=2, steps=steps)
    want = [lines(whole.step(rows), whole) for rows in windows]
    going = made(name, told=2, steps=steps)
    for at, rows in enumerate(windows):
        assert lines(going.step(rows), going) == want[at]
        saved, number = through_bytes(going.save()), going.number
        going = made(name, told=2, steps=steps)
        going.load(saved, number)


def through_bytes(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


@pytest.mark.parametrize("name", MAKERS)
def test_the_order_of_keys_does_not_matter(name: str) -> None:
    one, other = made(name), made(name)
    rng = np.random.default_rng(4)
    for rows in drawn(4, 30, 10):
        mixed = rng.permutation(len(rows.names))
        assert rows.of is not None
        shuffled = Rows(rows.number, rows.start_us, [rows.names[i] for i in mixed], rows.value[mixed], rows.of[mixed])
        assert lines(one.step(rows), one) == lines(other.step(shuffled), other)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("count", "ratio")])
def test_a_key_that_is_forgotten_changes_nothing_for_the_others(name: str) -> None:
    """For methods that judge each key alone."""
    with_it, without = made(name), made(name)
    for rows in drawn(5, 40, 8):
        odd = ["gone"] if rows.number < 6 else []
        more = Rows(rows.number, rows.start_us, [*rows.names, *odd], np.r_[rows.value, [7.0] * len(odd)])
        fewer = Rows(rows.number, rows.start_us, rows.names, rows.value)
        told = [line for line in lines(with_it.step(more), with_it) if line[0] != "gone"]
        assert told == lines(without.step(fewer), without)
    assert with_it.evicted == 1


def test_an_episode_of_a_key_that_is_forgotten_is_closed() -> None:
    watch = made("zscore", ttl=5)
    for number in range(10):
        watch.step(Rows(number, 0, ["a"], np.array([5.0 + number % 2])))
    for number in (10, 11):
        watch.step(Rows(number, 0, ["a"], np.array([900.0 * number])))
    seen = []
    for number in range(12, 18):
        told = watch.step(Rows(number, 0, [], np.empty(0)))
        assert told is not None
        seen += [(number, LETTERS[int(phase)], told.reason(0)) for phase in told.phase if phase == CLOSED]
    assert len(seen) == 1
    assert not len(watch.keys)
    assert watch.numbers(3) == {"keys": 0, "warming": 0, "open": 0, "evicted": 1, "late": 0}


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("count", "ratio")])
def test_steps_that_come_in_turn_have_the_scores_that_each_has_by_itself(name: str) -> None:
    """For methods that judge each key alone; the keys are there in all windows."""
    rng = np.random.default_rng(6)
    values = rng.normal(100, 5, (40, 3)) + 100 * np.arange(3)
    together = Watch(MAKERS[name](), limits=Limits(fill=False, steps=3))
    alone = [Watch(MAKERS[name](), limits=Limits(fill=False)) for _ in range(3)]
    for number, row in enumerate(values):
        for step, value in enumerate(row):
            one = together.step(Rows(3 * number + step, 0, ["a"], np.array([value])))
            other = alone[step].step(Rows(number, 0, ["a"], np.array([value])))
            assert one is not None
            assert other is not None
            np.testing.assert_array_equal(one.score, other.score)
            np.testing.assert_array_equal(one.expected, other.expected)


def test_of_too_many_keys_the_least_recently_seen_go() -> None:
    watch = Watch(ZScore(), limits=Limits(fill=False, max_keys=2))
    for number, name in enumerate("abca"):
        watch.step(Rows(number, 0, [name], np.array([1.0])))
        watch.forget_more()
    assert {watch.keys[int(slot)] for slot in watch.keys.live()} == {"a", "c"}
    assert watch.evicted == 2


def test_a_late_window_is_counted_and_changes_nothing() -> None:
    watch = made("zscore")
    for number in range(8):
        watch.step(Rows(number, 0, ["a"], np.array([1.0])))
    before = watch.save()
    assert watch.step(Rows(3, 0, ["a", "b"], np.array([99.0, 1.0]))) is None
    assert watch.late == 2
    assert watch.save().equals(before)


def test_after_a_long_gap_a_key_is_watched_in_silence_again() -> None:
    watch = Watch(ZScore(warmup=3), limits=Limits(fill=False, max_gap=5))
    for number in (*range(5), 20):
        told = watch.step(Rows(number, 0, ["a"], np.array([1.0])))
    assert told is not None
    assert np.isnan(told.score).all()


def test_only_the_worst_open_and_the_others_may_later() -> None:
    watch = Watch(ZScore(warmup=3, absolute_floor=1.0), limits=Limits(told=1))
    for number in range(5):
        watch.step(Rows(number, 0, ["a", "b"], np.array([1.0, 1.0])))
    told = watch.step(Rows(5, 0, ["a", "b"], np.array([50.0, 90.0])))
    assert told is not None
    assert [LETTERS[int(phase)] for phase in told.phase] == [".", "o"]
    assert told.suppressed == 1
