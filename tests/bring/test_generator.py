"""Made-up events are the same whenever they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mql.exec.clock import ManualClock
from mql.exec.feed import From
from mql.exec.items import Raw, Rows
from sources.generator import GeneratorSource
from sources.nexmark import NexmarkSource
from sources.synthetic import Curve, SyntheticSource

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000


def events(items: Iterable[Raw]) -> dict[int, list[tuple[int, str]]]:
    """Offsets and texts by split."""
    found: dict[int, list[tuple[int, str]]] = {}
    for item in items:
        assert isinstance(item, Rows)
        texts, offsets = (item.table.column(name).to_pylist() for name in ("_raw", "_offset"))
        found.setdefault(item.split, []).extend(zip(offsets, texts, strict=True))
    return found


def sources() -> list[SyntheticSource]:
    clock = ManualClock(NOW)
    return [
        GeneratorSource(rate=50, clock=clock),
        GeneratorSource(rate=50, splits=3, seed=7, rhythm=0, clock=clock),
        *(NexmarkSource("n", stream, rate=200, clock=clock) for stream in ("all", "person", "auction", "bid")),
    ]


@pytest.mark.parametrize("source", sources(), ids=lambda source: f"{source.info.kind}")
def test_two_histories_that_meet_are_one(source: SyntheticSource) -> None:
    end = source.end()
    first, border = ({split: number - back for split, number in end.items()} for back in (3_000, 1_234))
    whole = events(source.history(From(first), end))
    assert whole == {
        split: events(source.history(From(first), border))[split] + events(source.history(From(border), end))[split]
        for split in whole
    }
    parts = [events(source.history(From(first), end, part, 2)) for part in range(2)]
    assert whole == {split: parts[0][split] + parts[1][split] for split in whole}
    assert all(orjson.loads(text) for texts in whole.values() for _, text in texts)


@pytest.mark.parametrize("source", sources(), ids=lambda source: f"{source.info.kind}")
def test_live_goes_on_at_the_end_of_history(source: SyntheticSource) -> None:
    assert isinstance(source.clock, ManualClock)
    seam = source.end()
    reader = source.open(None)
    assert reader.positions == seam
    live: list[Raw] = []
    for _ in range(10):
        source.clock.advance(700_000)
        while found := reader.poll(0, 10_000):
            live += found
    assert events(live) == events(source.history(From(seam), source.end()))
    assert reader.positions == source.end()


@settings(max_examples=100, deadline=None)
@given(us=st.integers(0, 2 * 10**15), rate=st.floats(0.1, 5000), rhythm=st.floats(0, 0.9), start=st.integers(0, 10**15))
def test_the_count_before_a_time_and_the_time_of_an_event_are_inverse(
    us: int, rate: float, rhythm: float, start: int
) -> None:
    curve = Curve(rate, rhythm, start)
    number = curve.count(us)
    assert curve.times(np.array([number]))[0] >= us
    assert number == 0 or curve.times(np.array([number - 1]))[0] < us


def test_a_time_to_begin_with_leaves_no_event_out() -> None:
    source = GeneratorSource(rate=100, clock=ManualClock(NOW))
    since = NOW - 10_000_000
    found = {text for texts in events(source.history(From(time_us=since))).values() for _, text in texts}
    earlier = {text for texts in events(source.history(From(time_us=since - MINUTE))).values() for _, text in texts}
    wanted = {text for text in earlier if orjson.loads(text)["ts"] * 1000 >= since}
    assert wanted <= found


def test_disorder_stays_within_the_lateness() -> None:
    source = GeneratorSource(rate=200, clock=ManualClock(NOW))
    end = source.end()
    for texts in events(source.history(From({split: n - 20_000 for split, n in end.items()}), end)).values():
        stamps = np.array([orjson.loads(text)["ts"] for _, text in texts])
        behind = np.maximum.accumulate(stamps) - stamps
        assert 0 < behind.max() * 1000 < source.info.lateness_us


def test_an_incident_is_seen_where_it_is_said_to_be() -> None:
    source = GeneratorSource(rate=500, clock=ManualClock(NOW))
    one = source.incidents_between(NOW - 10 * MINUTE, NOW - 5 * MINUTE)[0]
    statuses: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    first = source.curve.count(one.start_us)
    last = source.curve.count(one.end_us)
    for item in source.history(From({0: first, 1: first}), {0: last, 1: last}):
        for _, text in events([item])[item.split]:
            event: dict[str, Any] = orjson.loads(text)
            if one.start_us <= event["ts"] * 1000 < one.end_us - 1000:
                hit = (event["country"], event["device"]["type"]) == (one.country, one.device)
                statuses[hit][event["status"]] += 1
    assert 0.5 < statuses[True][503] / statuses[True].total() < 0.7
    assert statuses[False][503] == 0


def test_a_bounded_generator_ends() -> None:
    source = GeneratorSource(events=1_000)
    reader = source.open(None)
    found: list[Raw] = []
    while not reader.ended:
        found += reader.poll(0, 50_000)
    assert sum(len(texts) for texts in events(found).values()) == 1_000
    assert source.info.bounded


def test_nexmark_has_its_proportions_and_its_streams_fit_together() -> None:
    everything = NexmarkSource("all", events=5_000)
    found = [orjson.loads(text) for texts in events(everything.history(From())).values() for _, text in texts]
    assert Counter(event["event_type"] for event in found) == {0: 100, 1: 300, 2: 4_600}
    for kind, stream in enumerate(("person", "auction", "bid")):
        alone = NexmarkSource(stream, stream, events=5_000)
        rows = [orjson.loads(text) for texts in events(alone.history(From())).values() for _, text in texts]
        nested = [event[stream] for event in found if event["event_type"] == kind]
        assert sorted(rows, key=orjson.dumps) == sorted(nested, key=orjson.dumps)
        assert set(rows[0]) == {field.name for field in alone.info.shape.fields}
    people = {event["person"]["id"] for event in found if event["event_type"] == 0}
    auctions = {event["auction"]["id"] for event in found if event["event_type"] == 1}
    assert {event["bid"]["bidder"] for event in found if event["event_type"] == 2} <= people
    assert {event["bid"]["auction"] for event in found if event["event_type"] == 2} <= auctions
