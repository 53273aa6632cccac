"""A question of throughput.py answered by Spark SQL: `on_spark.py QUESTION FILE`. Prints {"rows", "wall_s"} as JSON.

Batch, `local[1]`, the columns that the question needs declared. Rows go to Spark's `noop` sink, which makes each of
them and keeps none; how many there are is counted before, which also warms the process up.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])

from pyspark.sql import SparkSession  # noqa: E402 - the JVM takes the core it is started on

NEEDED = {
    "filter": "country STRING, path STRING, latency_ms DOUBLE",
    "window": "ts BIGINT, host STRING, latency_ms DOUBLE",
    "project": "country STRING, path STRING, status BIGINT, latency_ms DOUBLE, device STRING",
}
TEXTS = {
    "filter": "SELECT path, latency_ms FROM events WHERE country = 'XX'",
    "window": "SELECT ts DIV 10000 AS w, host, count(*) AS n, avg(latency_ms) AS latency FROM events GROUP BY 1, 2",
    "project": "SELECT country, path, status, latency_ms, device FROM events",
}


def main(question: str, file: str) -> None:
    settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1", "spark.driver.memory": "4g"}
    builder = SparkSession.builder.master("local[1]").appName("mql-bench")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.read.schema(NEEDED[question]).json(file).createOrReplaceTempView("events")
    answer = spark.sql(TEXTS[question])
    rows = answer.count()
    began = time.perf_counter()
    answer.write.format("noop").mode("overwrite").save()
    print(json.dumps({"rows": rows, "wall_s": time.perf_counter() - began}))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
