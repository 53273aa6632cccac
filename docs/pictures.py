"""The pictures of docs/anomaly.md: `python docs/pictures.py` draws them anew.

Each is a real answer of a real query over made-up events (see sources/generator.py), the same at every run. SVG is
written by hand, small, and with colours for light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mql.exec.clock import ManualClock
from mql.exec.engine import Engine
from sources.generator import GeneratorSource, incidents_between

HOME = Path(__file__).parent / "pictures"
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
NOW_US = 1_700_006_400_000_000
"""2023-11-15, midnight."""
WIDTH, HEIGHT = 720, 190
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 28, 24
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #333 }
    .axis { stroke: #bbb } .band { fill: #4a7ebb; opacity: .18 } .expected { stroke: #4a7ebb; stroke-dasharray: 4 3 }
    .value { stroke: #222 } .episode { fill: #d1495b; opacity: .22 } path { fill: none; stroke-width: 1.4 }
    .band, .episode { stroke: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #ddd } .axis { stroke: #555 } .value { stroke: #eee }
      .band { opacity: .35 } .episode { opacity: .45 }
    }"""


@dataclass(frozen=True)
class Picture:
    """`value`: the column drawn; `unit` stands on its axis, `title` above. `skip`: windows not drawn at first."""

    name: str
    title: str
    query: str
    value: str
    unit: str
    rate: float
    skip: int = 0


def pictures() -> Sequence[Picture]:
    incident = next(
        one for one in incidents_between(NOW_US - 25 * MINUTE_US, NOW_US) if one.country in ("US", "BR", "IN")
    )
    here = f"country = '{incident.country}' AND device.type = '{incident.device}'"
    of_this = f"FROM requests WHERE {here} WINDOW 10 SECONDS"
    gap = f"event_time() NOT BETWEEN {moment(NOW_US - 9 * HOUR_US)} AND {moment(NOW_US - 7 * HOUR_US)}"
    night = f"event_time() NOT BETWEEN {moment(NOW_US - 24 * HOUR_US)} AND {moment(NOW_US - 22 * HOUR_US)}"
    left = f"({gap} AND {night}) OR service = 'search'"
    days = f"SELECT rate(*) AS starts FROM requests WHERE {left} WINDOW 30 MINUTES"
    return (
        Picture(
            "ratio",
            "ratio: failing requests of one country's televisions; the band ends where the score is 1",
            f"SELECT count_if(status >= 500) / count(*) AS share {of_this} "
            "ANOMALY ON share REARM AFTER 1 MINUTE EMIT ALL SINCE '-40m' UNTIL NOW",
            "share",
            "share",
            300,
            40,
        ),
        Picture(
            "auto",
            "auto TRANSFORM log: p95 of the latency, in the same minutes",
            f"SELECT p95(latency_ms) AS p95 {of_this} ANOMALY ON p95 TRANSFORM log DIRECTION UP WARMUP 60 WINDOWS "
            "REARM AFTER 1 MINUTE EMIT ALL SINCE '-40m' UNTIL NOW",
            "p95",
            "ms",
            300,
            40,
        ),
        Picture(
            "zscore",
            "zscore: starts a second over five days; two outages of two hours; the rhythm of the day hides both",
            f"{days} ANOMALY ON starts USING zscore DIRECTION DOWN WARMUP 48 WINDOWS REARM AFTER 2 WINDOWS EMIT ALL "
            "SINCE '-5d' UNTIL NOW",
            "starts",
            "a second",
            2,
        ),
        Picture(
            "seasonal",
            "seasonal: the same five days; both outages are found, once two days have been seen",
            f"{days} ANOMALY ON starts USING seasonal(slots => 48, short => 2, gamma => 0.5) DIRECTION DOWN "
            "WARMUP 48 WINDOWS REARM AFTER 2 WINDOWS EMIT ALL SINCE '-5d' UNTIL NOW",
            "starts",
            "a second",
            2,
        ),
        Picture(
            "des",
            "des(percent => 20): the same; it follows the rhythm, and wonders when an outage ends",
            f"{days} ANOMALY ON starts USING des(percent => 20, noise => 0.3) DIRECTION DOWN REARM AFTER 2 WINDOWS "
            "EMIT ALL SINCE '-5d' UNTIL NOW",
            "starts",
            "a second",
            2,
        ),
    )


def moment(us: int) -> str:
    return f"TIMESTAMP '{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}'"


def rows_of(picture: Picture) -> list[Mapping[str, Any]]:
    clock = ManualClock(NOW_US)
    engine = Engine([GeneratorSource(rate=picture.rate, clock=clock)], clock=clock)
    try:
        found = [row for table in engine.rows(picture.query) for row in table.to_pylist()]
    finally:
        engine.close()
    return sorted(found, key=lambda row: row["window_start"])[picture.skip :]


def drawn(picture: Picture, rows: Sequence[Mapping[str, Any]]) -> str:
    values = [float(row[picture.value]) for row in rows]
    bounds = [row[name] for row in rows for name in ("lower", "upper") if row[name] is not None]
    most = max(values) * 1.08
    top = max(most, min(max(bounds, default=0.0), 1.3 * most))
    places = [LEFT + (WIDTH - LEFT - RIGHT) * at / max(1, len(rows) - 1) for at in range(len(rows))]

    def height(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(value, 0.0), top) / top)

    def line(name: str, of: Sequence[float | None]) -> str:
        told, pen = [], "M"
        for x, value in zip(places, of, strict=True):
            if value is None or not math.isfinite(value):
                pen = "M"
                continue
            told.append(f"{pen}{x:.1f} {height(value):.1f}")
            pen = "L"
        return f'<path class="{name}" d="{"".join(told)}"/>'

    warm = [at for at, row in enumerate(rows) if row["expected"] is not None and row["score"] is not None]
    upper = [f"{places[at]:.1f} {height(top if rows[at]['upper'] is None else rows[at]['upper']):.1f}" for at in warm]
    lower = [f"{places[at]:.1f} {height(rows[at]['lower'] or 0.0):.1f}" for at in reversed(warm)]
    band = f'<path class="band" d="M{"L".join([*upper, *lower])}Z"/>' if warm else ""
    half = (places[1] - places[0]) / 2
    episodes = "".join(
        f'<rect class="episode" x="{x - half:.1f}" y="{TOP}" width="{2 * half:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        for x, row in zip(places, rows, strict=True)
        if row["is_anomaly"]
    )
    labels = "".join(
        f'<text x="{LEFT - 6}" y="{height(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in (0, top / 2, top)
    )
    pattern = "%H:%M" if len(rows) < 300 and picture.rate > 10 else "%a %H:%M"
    times = "".join(
        f'<text x="{places[at]:.0f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
        f"{rows[at]['window_start']:{pattern}}</text>"
        for at, anchor in ((0, "start"), (len(rows) // 2, "middle"), (len(rows) - 1, "end"))
    )
    expected = line("expected", [row["expected"] for row in rows])
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">
  <style>{STYLE}
  </style>
  <text x="{LEFT}" y="16">{picture.title.replace("=>", "=&gt;")}</text>
  <text x="6" y="{TOP - 12}">{picture.unit if picture.unit != "a second" else "/s"}</text>
  <path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>{labels}{times}
  {episodes}
  {band}
  {expected}
  {line("value", values)}
</svg>
"""


def main() -> None:
    HOME.mkdir(exist_ok=True)
    for picture in pictures():
        rows = rows_of(picture)
        path = HOME / f"{picture.name}.svg"
        path.write_text(drawn(picture, rows))
        episodes = len({row["episode"] for row in rows if row["is_anomaly"]})
        print(f"{path}: {len(rows)} windows, {episodes} episodes, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
