"""Many generators that mostly wait, done by a few threads."""

from __future__ import annotations

import random
import threading
import time

from support.reading import await_true

from server.turns import Turn, Turns, Waits


def begun(turns: Turns, life: Waits[None]) -> Turn:
    turn = Turn(turns, life)
    turn.begin()
    return turn


def threads_named(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


def test_each_waits_for_as_long_as_it_says() -> None:
    told: list[tuple[str, int]] = []

    def life(name: str, wait_s: float) -> Waits[None]:
        for at in range(3):
            told.append((name, at))
            yield wait_s

    turns = Turns(2, "test-waits")
    both = [begun(turns, life("slow", 0.3)), begun(turns, life("fast", 0.001))]
    for turn in both:
        turn.join(20.0)
    assert [one for one in told if one[0] == "fast"] == [("fast", 0), ("fast", 1), ("fast", 2)]
    assert told.index(("fast", 2)) < told.index(("slow", 1))
    await_true(lambda: threads_named("test-waits") == 0)


def test_who_is_rung_goes_on_at_once_and_never_twice_at_a_time() -> None:
    inside, steps, wanted = [0], [0], 500
    most = [0]

    def life() -> Waits[None]:
        while steps[0] < wanted:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            steps[0] += 1
            time.sleep(0.0001)
            inside[0] -= 1
            yield 3600.0

    turns = Turns(4, "test-rung")
    turn = begun(turns, life())

    def ring() -> None:
        while not turn.is_over:
            turn.ring()
            time.sleep(0.0002)

    ringing = [threading.Thread(target=ring) for _ in range(3)]
    for thread in ringing:
        thread.start()
    turn.join(60.0)
    for thread in ringing:
        thread.join()
    assert turn.is_over
    assert most == [1]


def test_a_ring_while_it_runs_is_not_lost() -> None:
    entered, may_go_on = threading.Event(), threading.Event()

    def life() -> Waits[None]:
        entered.set()
        may_go_on.wait(20.0)
        yield 3600.0

    turn = begun(Turns(1, "test-lost"), life())
    assert entered.wait(20.0)
    turn.ring()
    may_go_on.set()
    turn.join(20.0)
    assert turn.is_over


def test_a_thousand_need_few_threads_and_all_end() -> None:
    dice = random.Random(1)

    def life(waits: list[float]) -> Waits[None]:
        yield from waits

    turns = Turns(3, "test-many")
    made = [begun(turns, life([dice.random() * 0.05 for _ in range(20)])) for _ in range(1000)]
    assert threads_named("test-many") <= 3
    for turn in made:
        turn.ring()
    for turn in made:
        turn.join(60.0)
    assert all(turn.is_over for turn in made)
    await_true(lambda: threads_named("test-many") == 0)


def test_one_that_fails_takes_nobody_with_it() -> None:
    def fails() -> Waits[None]:
        yield 0.001
        raise RuntimeError("on purpose")

    def goes_on() -> Waits[None]:
        yield 0.05

    turns = Turns(1, "test-fails")
    made = [begun(turns, fails()), begun(turns, goes_on())]
    for turn in made:
        turn.join(20.0)
    assert all(turn.is_over for turn in made)


def test_one_does_not_wait_for_itself() -> None:
    made: list[Turn] = []
    joined: list[bool] = []

    def life() -> Waits[None]:
        yield 0.001
        made[0].join(60.0)
        joined.append(made[0].is_over)

    made.append(Turn(Turns(1, "test-itself"), life()))
    made[0].begin()
    await_true(lambda: joined == [False])
