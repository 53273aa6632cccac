"""`mql demo`: a server with made-up events, and what to try on it."""

from __future__ import annotations

import asyncio
import signal

from mql.exec.engine import Engine
from server.app import make_app, open_door
from server.settings import Server, Settings
from sources.generator import GeneratorSource
from sources.nexmark import NexmarkSource

REQUESTS, BIDS = "requests", "bids"
ALARM = """SELECT count(*) AS requests, count_if(status >= 500) AS errors, phase, contributors, reason
    FROM requests WINDOW 10s
    ANOMALY ON errors / requests USING ratio(fdr => 0.01%, phi => 10000, min_effect => 1.2, half_life => 360)
      WARMUP FROM HISTORY 1h REARM AFTER 1m EXPLAIN BY country, device.type TOP 1 EMIT EPISODES"""


def run_demo(port: int, rate: float) -> int:
    """Serves until Ctrl+C."""
    settings = Settings(server=Server(port=port), default=REQUESTS)
    sources = (GeneratorSource(REQUESTS, rate=rate), NexmarkSource(BIDS, "bid", rate=rate))
    engine = Engine(sources, workers=settings.server.workers, default=REQUESTS)
    try:
        asyncio.run(serve_demo(engine, settings))
    finally:
        engine.close()
    return 0


async def serve_demo(engine: Engine, settings: Settings) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with open_door(make_app(engine, settings)) as door:
        print(welcome(f"http://{settings.server.host}:{door.port}"), flush=True)
        await told.wait()


def welcome(base: str) -> str:
    return f"""\
MQL listens on {base} with two made-up sources: {REQUESTS} and {BIDS}. Ctrl+C ends it.

Failing requests as they happen:
  curl -N {base}/v1/queries -d "SELECT path, country, error FROM requests WHERE status >= 500"

How slow is each service? Every five seconds, the first time after some ten: late events get their chance.
  curl -N {base}/v1/queries -d "
    SELECT service, count(*) AS n, p99(latency_ms) AS p99 FROM requests WINDOW 5s GROUP BY service"

Where did it fail most in the last twenty minutes? The same words, over history:
  curl -N {base}/v1/queries -d "
    SELECT country, count(*) AS failed FROM requests WHERE status >= 500
    WINDOW 5m GROUP BY country ORDER BY failed DESC LIMIT 1 SINCE '-20m' UNTIL NOW"

Something goes wrong every five minutes. What, where, and when is it over? An alert, warm from the first second:
  curl -N {base}/v1/queries -d "
    {ALARM}"

To be alerted here when requests fail unusually often, from what was usual in the last twenty minutes:
  mql job new incidents --template examples/incidents.yaml --server {base}

More to try: {base}/   Every route: {base}/docs"""
