"""The queries of the Nexmark benchmark over the generator's events, against plain statements of DuckDB's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from support.random_queries import normal
from support.routes import settled

from mql.exec.engine import Engine, Options, tables_of
from mql.exec.feed import From
from sources.nexmark import NexmarkSource
from sources.tables import memory_table

ROOT = Path(__file__).parent.parent.parent
QUERIES = sorted((ROOT / "examples" / "nexmark").glob("*.mql"), key=lambda file: int(file.stem[1:]))
STREAMS = ("person", "auction", "bid")
SIDE = [{"key": key, "value": f"side {key}"} for key in range(0, 100, 3)]
WINDOW = "make_timestamp(date_time * 1000 // {0} * {0})"
SALES = """
    SELECT a.id, a.seller, a.category, max(b.price) AS final, max(b.date_time) AS closed
    FROM auction a, bid b WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires GROUP BY ALL"""
PLAIN = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bid",
    "q1": "SELECT auction, bidder, 0.908::DOUBLE * price, date_time, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """SELECT name, city, state, a.id FROM auction a JOIN person p ON a.seller = p.id
        WHERE category = 10 AND state IN ('OR', 'ID', 'CA')""",
    "q4": f"SELECT category, avg(final) FROM ({SALES}) GROUP BY category",
    "q5": """WITH ends AS (
            SELECT auction, unnest(range(date_time // 2000 * 2000 + 2000, date_time // 2000 * 2000 + 10001, 2000)) AS e
            FROM bid
        ), counted AS (SELECT auction, e, count(*) AS n FROM ends GROUP BY ALL)
        SELECT make_timestamp((e - 10000) * 1000), make_timestamp(e * 1000), auction, n
        FROM counted QUALIFY n = max(n) OVER (PARTITION BY e)""",
    "q6": f"""SELECT seller, avg(final) OVER (PARTITION BY seller ORDER BY closed, id ROWS BETWEEN 9 PRECEDING AND
        CURRENT ROW) FROM ({SALES})""",
    "q7": f"""SELECT auction, bidder, price, {WINDOW.format(10_000_000)} + INTERVAL 10 SECOND AS e FROM bid
        QUALIFY price = max(price) OVER (PARTITION BY e)""",
    "q8": f"""SELECT DISTINCT p.id, p.name, p.w FROM (SELECT *, {WINDOW.format(10_000_000)} AS w FROM person) p
        JOIN (SELECT *, {WINDOW.format(10_000_000)} AS w FROM auction) a ON p.id = a.seller AND p.w = a.w""",
    "q9": """SELECT a.id, b.auction, b.bidder, b.price, b.date_time FROM auction a, bid b
        WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
        QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY price DESC, b.date_time, b.number) = 1""",
    "q10": """SELECT auction, bidder, price, date_time, extra, strftime(make_timestamp(date_time * 1000), '%Y-%m-%d'),
        strftime(make_timestamp(date_time * 1000), '%H:%M') FROM bid""",
    "q11": """WITH cut AS (SELECT *, coalesce(date_time - lag(date_time) OVER w >= 10000, true)::INT AS new FROM bid
            WINDOW w AS (PARTITION BY bidder ORDER BY date_time)),
        numbered AS (
            SELECT *, sum(new) OVER (PARTITION BY bidder ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS s FROM cut
        )
        SELECT bidder, count(*), make_timestamp(min(date_time) * 1000), make_timestamp(max(date_time) * 1000 + 10000000)
        FROM numbered GROUP BY bidder, s""",
    "q12": f"""SELECT bidder, count(*), {WINDOW.format(10_000_000)} AS w, w + INTERVAL 10 SECOND FROM bid
        GROUP BY bidder, w""",
    "q13": "SELECT auction, bidder, price, date_time, value FROM bid JOIN side ON auction % 100 = key",
    "q14": """SELECT auction, bidder, 0.908::DOUBLE * price AS p, CASE WHEN h BETWEEN 8 AND 18 THEN 'day' WHEN h <= 6 OR
        h >= 20 THEN 'night' ELSE 'other' END, date_time, extra, len(regexp_extract_all(extra, '1'))
        FROM (SELECT *, hour(make_timestamp(date_time * 1000)) AS h FROM bid) WHERE p > 1000000 AND p < 50000000""",
    "q15": f"""SELECT {WINDOW.format(86_400_000_000)} AS day, count(*), count_if(price < 10000),
        count_if(price >= 10000 AND price < 1000000), count_if(price >= 1000000), count(DISTINCT bidder),
        count(DISTINCT CASE WHEN price < 10000 THEN bidder END), count(DISTINCT auction) FROM bid GROUP BY day""",
    "q16": f"""SELECT channel, {WINDOW.format(86_400_000_000)} AS day,
        strftime(max(make_timestamp(date_time * 1000)), '%H:%M'), count(*), count_if(price < 10000),
        count(DISTINCT bidder), count(DISTINCT auction) FROM bid GROUP BY channel, day""",
    "q17": f"""SELECT auction, {WINDOW.format(86_400_000_000)} AS day, count(*), count_if(price < 10000), min(price),
        max(price), avg(price), sum(price) FROM bid GROUP BY auction, day""",
    "q18": """SELECT auction, bidder, price, channel, date_time FROM bid
        QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, number) = 1""",
    "q19": """SELECT auction, bidder, price,
        row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, number) AS place
        FROM bid QUALIFY place <= 10""",
    "q20": """SELECT auction, bidder, price, b.date_time, item_name, initial_bid, seller, category FROM bid b
        JOIN auction a ON b.auction = a.id WHERE category = 10""",
    "q21": """SELECT auction, bidder, price, channel,
        list_position(['apple', 'google', 'facebook', 'baidu'], lower(channel)) - 1 || '' FROM bid""",
    "q22": """SELECT auction, bidder, price, channel,
        string_split(url, '/')[4], coalesce(string_split(url, '/')[5], ''),
        coalesce(string_split(url, '/')[6], '') FROM bid""",
    "q23": """SELECT auction, bidder, price, item_name, seller, name, city FROM bid b JOIN auction a ON b.auction = a.id
        JOIN person p ON a.seller = p.id""",
}


def sources(splits: int) -> list[NexmarkSource]:
    start_us = 1_700_000_000_000_000
    return [
        NexmarkSource(name, name, rate=200, seed=3, events=4000, splits=splits, start_us=start_us) for name in STREAMS
    ]


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine(sources(2), workers=request.param, tables=[memory_table("side", SIDE)])
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> duckdb.DuckDBPyConnection:
    """The same events in tables; `number` counts them as the source does."""
    connection = duckdb.connect()
    for source in sources(1):
        texts = [
            (offset, json.loads(line))
            for raw in source.history(From())
            for offset, line in zip(
                raw.table.column("_offset").to_pylist(), raw.table.column("_raw").to_pylist(), strict=True
            )
        ]
        connection.register(source.name, pa.Table.from_pylist([{**event, "number": number} for number, event in texts]))
    connection.register("side", pa.Table.from_pylist(SIDE))
    return connection


def test_all_queries_of_the_benchmark_are_there() -> None:
    assert [file.stem for file in QUERIES] == list(PLAIN) == [f"q{number}" for number in range(24)]


@pytest.mark.parametrize("route", ["stream", "batch"])
@pytest.mark.parametrize("file", QUERIES, ids=lambda file: file.stem)
def test_a_query_of_the_benchmark(engine: Engine, plain: duckdb.DuckDBPyConnection, file: Path, route: str) -> None:
    relation = plain.sql(PLAIN[file.stem]).to_arrow_table()
    want = relation.rename_columns([str(number) for number in range(relation.num_columns)]).to_pylist()
    running = engine.start(file.read_text(), options=Options(route=route))
    told = [row for table in tables_of(running) for row in table.to_pylist()]
    rows = settled(engine.plan(file.read_text()), told)
    assert want
    assert normal(rows) == normal(want)


def test_the_page_shows_the_queries_as_they_are() -> None:
    page = (ROOT / "docs" / "nexmark.md").read_text()
    missing = [file.name for file in QUERIES if file.read_text().split("\n", 1)[1].strip() not in page]
    assert not missing
