"""How soon live queries answer, and what a hundred of them cost, through the real server over HTTP.

    python bench/live.py [first | delay | hundred]...

first: from POST to the first row, of a hundred ad-hoc filters, and of a hundred windowed aggregates that tell early
values. delay: from an event's arrival to its row at the client, at 20,000 events a second. hundred: 100 live queries
of mixed shapes on one source at that rate: processor time of the server, how far it lags, what it drops.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import aiohttp
import numpy as np
from serving import Served, client, frames, served

RATE = 20_000
POSTS = 100
DELAY_S = 12.0
HUNDRED_S = 20.0
SETTLE_S = 5.0
SOURCES = {"requests": {"kind": "generator", "rate": RATE, "rhythm": 0}}
LISTED = 50  # streams in one request


async def main(parts: Sequence[str]) -> None:
    print(f"{RATE:,} events/s; {os.cpu_count()} cores, load of the machine before: {os.getloadavg()[0]:.1f}")
    for part in parts:
        with served(SOURCES) as server:
            async with client() as session:
                await asyncio.sleep(1.0)
                await PARTS[part](server, session)


# --- the first row ---------------------------------------------------------------------------------------------


async def first(server: Served, session: aiohttp.ClientSession) -> None:
    print(f"\n{'first row after POST, ms':<44}{'median':>8}{'p95':>8}{'max':>8}")
    for name, text in (("a filter", FILTER), ("a window's early value", EARLY)):
        taken = []
        for number in range(POSTS):
            taken.append(await first_row(server, session, text(number)))
            await asyncio.sleep(0.02)
        print(f"{name:<44}{spread(taken)}")


def FILTER(number: int) -> str:  # noqa: N802 - a text with a hole
    return f"SELECT path, latency_ms FROM requests WHERE status >= 500 AND user_id != 'nobody-{number}'"


def EARLY(number: int) -> str:  # noqa: N802
    return (
        f"SELECT service, count(*) AS n, avg(latency_ms) AS mean FROM requests WHERE bytes > {number} "
        f"WINDOW TUMBLING 10s GROUP BY service EMIT FINAL WITH EARLY 1s"
    )


async def first_row(server: Served, session: aiohttp.ClientSession, text: str) -> float:
    """Milliseconds from sending the query to having its first row."""
    started = time.perf_counter()
    headers = {"Accept": "text/event-stream"}
    async with session.post(f"{server.url}/v1/queries", json={"query": text}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for name, _ in frames(answer):
            if name == "rows":
                return (time.perf_counter() - started) * 1000
    raise AssertionError("the stream ended without a row")


# --- from event to reader ----------------------------------------------------------------------------------------


async def delay(server: Served, session: aiohttp.ClientSession) -> None:
    text = "SELECT arrival_time() AS at, path FROM requests WHERE status >= 500"
    taken: list[float] = []
    headers = {"Accept": "text/event-stream"}
    cpu, began = server.cpu_s, time.perf_counter()
    async with session.post(f"{server.url}/v1/queries?ints=1", json={"query": text}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for name, data in frames(answer):
            if time.perf_counter() - began > DELAY_S:
                break
            if name == "rows" and time.perf_counter() - began > 1.0:
                now = time.time()
                taken += [(now - seconds_of(row["at"])) * 1000 for row in json.loads(data)]
    used = (server.cpu_s - cpu) / (time.perf_counter() - began)
    print(f"\n{'from event to reader, ms':<44}{'median':>8}{'p99':>8}{'max':>8}{'rows':>8}{'cores':>8}")
    low, high = np.percentile(taken, (50, 99))
    print(f"{'a filter':<44}{low:>8.0f}{high:>8.0f}{max(taken):>8.0f}{len(taken):>8}{used:>8.2f}")


def seconds_of(text: str) -> float:
    """A time of the result, as seconds since the epoch."""
    return float(np.datetime64(text.rstrip("Z"), "us").astype(np.int64)) / 1e6


# --- a hundred queries -------------------------------------------------------------------------------------------


async def hundred(server: Served, session: aiohttp.ClientSession) -> None:
    texts = mixed()
    assert len(set(texts)) == len(texts) == 100
    began = time.perf_counter()
    ids = [await server.start(session, text) for text in texts]
    print(f"\n100 queries started in {time.perf_counter() - began:.1f} s")
    counts = [0] * 2
    readers = [
        asyncio.create_task(read(server, session, ids[at : at + LISTED], counts)) for at in range(0, 100, LISTED)
    ]
    await asyncio.sleep(SETTLE_S)
    print(f"{'seconds':>8}{'cores':>8}{'lag ms':>9}{'worst':>9}{'dropped':>9}{'rows/s':>9}{'MiB':>7}")
    began = time.perf_counter()
    cpu, at, rows = server.cpu_s, began, counts[0]
    while at - began < HUNDRED_S:
        await asyncio.sleep(HUNDRED_S / 5)
        now = time.perf_counter()
        status = [query["status"] for query in await server.queries(session)]
        assert all(one["state"] == "running" for one in status), status
        lags = [one["lag_ms"] or 0.0 for one in status]
        dropped = sum(one["dropped"] for one in status)
        print(
            f"{now - began:>8.0f}{(server.cpu_s - cpu) / (now - at):>8.2f}{statistics.median(lags):>9.0f}"
            f"{max(lags):>9.0f}{dropped:>9}{(counts[0] - rows) / (now - at):>9.0f}{server.memory_mib:>7.0f}",
            flush=True,
        )
        cpu, at, rows = server.cpu_s, now, counts[0]
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def read(server: Served, session: aiohttp.ClientSession, ids: Sequence[str], counts: list[int]) -> None:
    """Reads so many queries in one stream and counts their rows."""
    asked = "&".join(f"q={id}" for id in ids)
    async with session.get(f"{server.url}/v1/stream?{asked}", headers={"Accept": "text/event-stream"}) as answer:
        async for name, data in frames(answer):
            if name == "rows":
                counts[0] += data.count("{")


def mixed() -> list[str]:
    """A hundred queries that differ in more than their literals: filters, groups, windows, aggregates."""
    conditions = (
        "status >= 500",
        "country = 'US' AND status >= 500",
        "latency_ms > 900 AND service = 'api'",
        "path LIKE '/pl%' AND status = 503",
        "bytes > 20000 AND country IN ('DE', 'FR')",
        "error IS NOT NULL",
        "e['device']['type'] = 'tv' AND status != 200",
        "node = 'node-07' AND latency_ms > 500",
        "title = 't-17'",
        "user_id = 'u-42'",
    )
    selected = ("path, status", "service, node, latency_ms")
    found = [f"SELECT {items} FROM requests WHERE {where}" for where in conditions for items in selected]
    keys = ("service", "country", "path", "node", "status", "e['device']['type']", "service, status", "country, path")
    values = (
        "count(*) AS n",
        "count(*) AS n, avg(latency_ms) AS mean",
        "sum(bytes) AS bytes, max(latency_ms) AS worst",
        "count_if(status >= 500) AS errors, count(*) AS n",
        "min(latency_ms) AS best, stddev(latency_ms) AS spread",
    )
    windows = (
        "WINDOW TUMBLING 1s",
        "WINDOW TUMBLING 5s",
        "WINDOW TUMBLING 10s",
        "WINDOW TUMBLING 1m",
        "WINDOW HOPPING 10s EVERY 2s",
        "WINDOW HOPPING 1m EVERY 10s",
        "WINDOW CUMULATE 1m EVERY 10s",
    )
    filters = ("", "WHERE status >= 400 ", "WHERE country = 'US' ", "WHERE service != 'auth' ")
    number = 0
    while len(found) < 90:
        key, value = keys[number % len(keys)], values[number % len(values)]
        window, where = windows[number % len(windows)], filters[number % len(filters)]
        early = " EMIT FINAL WITH EARLY 1s" if number % 3 == 0 else ""
        found.append(f"SELECT {key}, {value} FROM requests {where}{window} GROUP BY {key}{early}")
        number += 1
    found += [f"SELECT {key}, {values[1]} FROM requests GROUP BY {key} EMIT CHANGES EVERY 1s" for key in keys[:6]]
    return [*found, *(f"SELECT {value} FROM requests EMIT EVERY 2s" for value in values[:4])]


def spread(taken: Sequence[float]) -> str:
    return f"{statistics.median(taken):>8.0f}{np.percentile(taken, 95):>8.0f}{max(taken):>8.0f}"


PARTS: dict[str, Callable[[Served, aiohttp.ClientSession], object]] = {
    "first": first,
    "delay": delay,
    "hundred": hundred,
}

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or list(PARTS)))
