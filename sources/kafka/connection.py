"""Consumers that are connected, how they are let go, and the thread of their event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError

from sources.kafka.settings import KafkaSettings, password_of

T = TypeVar("T")

CLOSE_S = 5.0
NARROWER = 8


async def started(kafka: KafkaSettings, slowness: int = 0, **more: Any) -> AIOKafkaConsumer:
    """A consumer that is connected, holds no partition yet, commits nothing and resets nothing by itself.

    `slowness`: how slow the way has shown to be, in steps. With each it fetches less at once and waits for longer."""
    narrower = NARROWER**slowness
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=kafka.client_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=kafka.isolation_level,
        fetch_max_wait_ms=kafka.fetch_wait_ms,
        fetch_max_bytes=max(1, kafka.fetch_bytes // narrower),
        max_partition_fetch_bytes=max(1, kafka.partition_bytes // narrower),
        request_timeout_ms=round(patience_s(kafka, slowness) * 1000),
        metadata_max_age_ms=round(kafka.metadata_refresh_s * 1000),
        retry_backoff_ms=200,
        security_protocol=kafka.security_protocol,
        ssl_context=tls_of(kafka),
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_plain_username=kafka.username,
        sasl_plain_password=password_of(kafka),
        **more,
    )
    try:
        await consumer.start()
    except BaseException:
        await stopped(consumer)
        raise
    return consumer


def patience_s(kafka: KafkaSettings, slowness: int) -> float:
    """How long a request may take: twice as long with each step."""
    return kafka.request_timeout_s * (1 << slowness)


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Lets a consumer go, whether or not the broker is there to hear it."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await consumer.stop()


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def tls_of(kafka: KafkaSettings) -> ssl.SSLContext | None:
    if not kafka.security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=kafka.ca_file)
    context.check_hostname = kafka.check_hostname
    if kafka.cert_file is not None:
        context.load_cert_chain(kafka.cert_file, kafka.key_file)
    return context


def away(kafka: KafkaSettings, error: BaseException, doing: str) -> str:
    match error:
        case TimeoutError():
            said = "no answer in time"
        case KafkaConnectionError() if "bootstrap" in str(error):  # which lists addresses in Python's own words
            said = "none of the brokers can be reached"
        case _:
            said = str(error) or type(error).__name__
    return f"Kafka at {kafka.bootstrap_servers}, {doing}: {said}"


def no_topic(kafka: KafkaSettings, topic: str) -> str:
    return f'Kafka at {kafka.bootstrap_servers} has no topic "{topic}"'


def now_s() -> float:
    """The loop's own time: seconds that never go back."""
    return asyncio.get_running_loop().time()


class LoopThread:
    """An event loop in a thread of its own; started with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; waits as long as it takes."""
        with self._lock:
            assert not self.closed, "the source is closed"
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self.closed = True
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
