"""The session's Kafka: `pytest_plugins = ["support.kafka_fixture"]` gives the fixtures `kafka` and `broker`."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from support.kafka_broker import Broker, BrokerUnavailable, answers

OTHERS_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Kafka:
    """Where the broker is; the last three are None where it is one of the user's (MQL_TEST_KAFKA)."""

    address: str
    sasl_address: str | None = None
    tls_address: str | None = None
    ca_file: str | None = None


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker for the whole session, never stopped meanwhile; tests keep apart by the names of their topics.

    Under pytest-xdist the first worker to ask starts it for all and closes it when no other uses it any more.
    """
    running = os.environ.get("MQL_TEST_KAFKA")
    if running:
        assert answers(running), f"MQL_TEST_KAFKA={running} does not answer"
        yield Kafka(running)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        yield from shared(tmp_path_factory.getbasetemp().parent / "kafka.json")
    else:
        with started() as broker:
            yield described(broker)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of the test's own, to be stopped, killed and started as the test likes."""
    with started() as own:
        yield own


@contextmanager
def started() -> Iterator[Broker]:
    try:
        broker = Broker()
    except BrokerUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with broker:
        yield broker


def described(broker: Broker) -> Kafka:
    return Kafka(broker.address, broker.sasl_address, broker.tls_address, broker.ca_file)


def shared(path: Path) -> Iterator[Kafka]:
    """The file holds the address and how many workers use it. Who made the broker waits for the others to leave."""
    with ExitStack() as own:
        with locked(path):
            owner = not path.exists()
            if owner:
                path.write_text(json.dumps({"kafka": asdict(described(own.enter_context(started()))), "users": 0}))
            kafka = Kafka(**count(path, +1)["kafka"])
        yield kafka
        with locked(path):
            left = count(path, -1)["users"]
        deadline = time.monotonic() + OTHERS_TIMEOUT_S
        while owner and left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = json.loads(path.read_text())["users"]


def count(path: Path, more: int) -> dict[str, Any]:
    """One user more or less; written whole, so that the owner may read without the lock."""
    state: dict[str, Any] = json.loads(path.read_text())
    state["users"] += more
    new = path.with_suffix(".new")
    new.write_text(json.dumps(state))
    new.replace(path)
    return state


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
