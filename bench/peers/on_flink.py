"""A question of throughput.py answered by Flink SQL: `on_flink.py QUESTION FILE MODE`, where MODE is `streaming` or
`batch`. Prints {"rows", "wall_s"} as JSON.

One slot, objects reused; windows by event time with a second for what comes late. Rows go to Flink's `blackhole`,
which keeps none; a first run counts them, which also warms the process up.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])

from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: E402 - see on_spark.py

NEEDED = {
    "filter": "country STRING, path STRING, latency_ms DOUBLE",
    "window": (
        "ts BIGINT, host STRING, latency_ms DOUBLE, event_time AS TO_TIMESTAMP_LTZ(ts, 3), "
        "WATERMARK FOR event_time AS event_time - INTERVAL '1' SECOND"
    ),
    "project": "country STRING, path STRING, status BIGINT, latency_ms DOUBLE, device STRING",
}
TEXTS = {
    "filter": "SELECT path, latency_ms FROM events WHERE country = 'XX'",
    "window": (
        "SELECT window_start, host, COUNT(*) AS n, AVG(latency_ms) AS latency "
        "FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_time), INTERVAL '10' SECOND)) "
        "GROUP BY window_start, window_end, host"
    ),
    "project": "SELECT country, path, status, latency_ms, device FROM events",
}
GIVEN = {
    "filter": "path STRING, latency_ms DOUBLE",
    "window": "window_start TIMESTAMP(3), host STRING, n BIGINT, latency DOUBLE",
    "project": "country STRING, path STRING, status BIGINT, latency_ms DOUBLE, device STRING",
}


def main(question: str, file: str, mode: str) -> None:
    settings = EnvironmentSettings.in_streaming_mode() if mode == "streaming" else EnvironmentSettings.in_batch_mode()
    flink = TableEnvironment.create(settings)
    for name, value in {"parallelism.default": "1", "pipeline.object-reuse": "true"}.items():
        flink.get_config().set(name, value)
    flink.execute_sql(
        f"CREATE TABLE events ({NEEDED[question]}) WITH "
        f"('connector' = 'filesystem', 'path' = 'file://{file}', 'format' = 'json')"
    )
    flink.execute_sql(f"CREATE TABLE away ({GIVEN[question]}) WITH ('connector' = 'blackhole')")
    counted = flink.execute_sql(f"SELECT COUNT(*) FROM ({TEXTS[question]})")
    with counted.collect() as results:
        rows = [row[0] for row in results][-1]
    began = time.perf_counter()
    flink.execute_sql(f"INSERT INTO away {TEXTS[question]}").wait()
    print(json.dumps({"rows": rows, "wall_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
