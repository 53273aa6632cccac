"""Jobs from Kafka to Kafka go on by themselves, and lose and double nothing, whatever happens to brokers and links.

One server and two brokers for all of it. MQL_TEST_BROKER_FAULTS says how many faults are drawn at random behind the
ones by name, MQL_TEST_BROKER_EVENTS how many events come during each: `make soak` asks for more.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import World, world
from support.kafka_broker import BrokerUnavailable

FAULTS = int(os.environ.get("MQL_TEST_BROKER_FAULTS", "0"))
EVENTS = int(os.environ.get("MQL_TEST_BROKER_EVENTS", "2000"))
SEED = int(os.environ.get("MQL_TEST_SEED", "7"))
IDLE_SHARE = 0.6


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    try:
        with world(tmp_path_factory.mktemp("faults")) as made:
            yield made
    except BrokerUnavailable as unavailable:
        pytest.skip(str(unavailable))


def test_brokers_that_are_killed_are_awaited_also_by_a_server_that_starts_meanwhile(jobs: World) -> None:
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        for broker in jobs.brokers:
            broker.kill()
        wait_until_all_say(jobs)
        assert 'mql_job_trouble{job="plain"} 1.0' in metrics(jobs)
        assert "has not answered for" in listed(jobs)
        jobs.restart_server()
        wait_until_all_say(jobs, "trying again")
        assert_it_rests(jobs)
        for broker in jobs.brokers:
            broker.launch()
        for broker in jobs.brokers:
            broker.wait_until_it_answers()
    jobs.check()
    assert_all_is_well(jobs)


def test_brokers_that_do_not_answer_are_awaited(jobs: World) -> None:
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        for broker in jobs.brokers:
            broker.pause()
        wait_until_all_say(jobs)
        for broker in jobs.brokers:
            broker.resume()
    jobs.check()
    assert_all_is_well(jobs)


def test_a_way_that_swallows_what_is_sent(jobs: World) -> None:
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        for link in jobs.links:
            link.swallows = True
        wait_until_all_say(jobs)
        for link in jobs.links:
            link.heal()
    jobs.check()
    assert_all_is_well(jobs)


def test_a_way_that_is_slow_and_breaks_again_and_again(jobs: World) -> None:
    dice = random.Random(SEED)
    with jobs.coming(EVENTS):
        for link in jobs.links:
            link.latency_s, link.bytes_per_s = 0.05, 200_000
        for _ in range(10):
            time.sleep(dice.random() * 0.4)
            dice.choice(jobs.links).cut(0.5, dice)
        for link in jobs.links:
            link.heal()
    jobs.check()
    assert_all_is_well(jobs)


def test_a_leader_that_is_killed_and_comes_back(jobs: World) -> None:
    """The topics, the place of the sinks and their transactions are led by the second broker, then by the first."""
    leader = jobs.brokers[1]
    with jobs.coming(EVENTS):
        wait_until_some_came(jobs)
        leader.kill()
        wait_until_some_came(jobs)
        leader.start()
        jobs.wait_until_it_leads()
        wait_until_some_came(jobs)
    jobs.check()
    assert_all_is_well(jobs)


@pytest.mark.skipif(not FAULTS, reason="MQL_TEST_BROKER_FAULTS says how many; make soak does")
@pytest.mark.timeout(0)
def test_faults_drawn_at_random(jobs: World) -> None:
    dice = random.Random(SEED)
    for number in range(FAULTS):
        fault = dice.choice(RANDOM)
        with jobs.coming(EVENTS):
            time.sleep(dice.random())
            fault(jobs, dice)
        print(f"{number + 1} of {FAULTS}, seed {SEED}, {fault.__name__}: {jobs.check()}", flush=True)


def broker_away(jobs: World, dice: random.Random) -> None:
    gone = dice.sample(jobs.brokers, dice.choice((1, 2)))
    for broker in gone:
        broker.kill()
    time.sleep(dice.random() * 8)
    for broker in gone:
        broker.launch()
    for broker in gone:
        broker.wait_until_it_answers()


def broker_silent(jobs: World, dice: random.Random) -> None:
    broker = dice.choice(jobs.brokers)
    broker.pause()
    time.sleep(dice.random() * 5)
    broker.resume()


def link_swallows(jobs: World, dice: random.Random) -> None:
    link = dice.choice(jobs.links)
    link.swallows = True
    time.sleep(dice.random() * 6)
    link.heal()


def link_breaks(jobs: World, dice: random.Random) -> None:
    for link in jobs.links:
        link.latency_s, link.bytes_per_s = dice.random() * 0.2, 50_000 + dice.random() * 500_000
    for _ in range(dice.randrange(30)):
        time.sleep(dice.random() * 0.3)
        dice.choice(jobs.links).cut(0.5, dice)
    for link in jobs.links:
        link.heal()


def server_killed(jobs: World, dice: random.Random) -> None:
    time.sleep(dice.random())
    jobs.restart_server()


RANDOM: tuple[Callable[[World, random.Random], None], ...] = (
    broker_away,
    broker_silent,
    link_swallows,
    link_breaks,
    server_killed,
)


def wait_until_some_came(jobs: World) -> None:
    before = {name: job["sinks"][0]["sent"] for name, job in jobs.jobs().items()}
    jobs.wait_for(lambda now: all(now[name]["sinks"][0]["sent"] > sent for name, sent in before.items()))


def wait_until_all_say(jobs: World, of_source: str = "has not answered for") -> None:
    """Each job runs and says what is wrong with its source; a sink that has rows to send, what is wrong with it."""

    def said(now: dict[str, Any]) -> bool:
        sinks = [job["sinks"][0] for job in now.values()]
        return (
            all(job["state"] == "running" and of_source in (job["trouble"] or "") for job in now.values())
            and all(sink["behind"] == 0 or sink["trouble"] for sink in sinks)
            and any("Kafka at" in (sink["trouble"] or "") for sink in sinks)
        )

    jobs.wait_for(said)


def assert_all_is_well(jobs: World) -> None:
    """Nothing is left of the trouble, and no job had to begin again."""
    told = jobs.wait_for(
        lambda now: not any(job["trouble"] or job["sinks"][0]["trouble"] for job in now.values()), within_s=20
    )
    assert [(job["state"], job["attempts"]) for job in told.values()] == [("running", 0)] * len(told)
    assert not any(job["sinks"][0]["lost"] for job in told.values())


def assert_it_rests(jobs: World) -> None:
    """No loop spins while there is nothing to be done."""
    began_s, computed_s = time.monotonic(), jobs.cpu_s()
    time.sleep(1)
    share = (jobs.cpu_s() - computed_s) / (time.monotonic() - began_s)
    assert share < IDLE_SHARE, f"{share:.0%} of a core"


def metrics(jobs: World) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{jobs.port}/metrics", timeout=20) as answer:
        return str(answer.read(), "utf-8")


def listed(jobs: World) -> str:
    """What `mql jobs` prints."""
    command = [sys.executable, "-m", "server.cli", "jobs", "--server", f"http://127.0.0.1:{jobs.port}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done.stdout
