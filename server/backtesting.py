"""`mql backtest` at the terminal: the report as text, and labels from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mql.errors import MqlError


def labels_in(path: Path) -> list[dict[str, Any]]:
    """Labels of a file: CSV with the columns start, end and keys; JSON lines; or a JSON array."""
    text = path.read_text("utf-8-sig")
    try:
        if path.suffix.lower() == ".csv":
            return [{name: value for name, value in row.items() if value} for row in csv.DictReader(text.splitlines())]
        if text.lstrip().startswith("["):
            found = json.loads(text)
        else:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, csv.Error) as error:
        raise MqlError(f'"{path}" can not be read: {error}', hint="Write CSV, JSON lines or a JSON array.") from None
    if not all(isinstance(one, dict) for one in found):
        raise MqlError(f'"{path}" holds no labels', hint='Each is an object: {"start": …, "end": …}.')
    return [dict(one) for one in found]


def lines_of(told: Mapping[str, Any]) -> Iterator[str]:
    """The report for people."""
    yield from told["notes"]
    yield f"{told['since']} .. {told['until']} ({told['days']:g} days)"
    yield f"{told['alerts']} alerts, {told['alerts_per_day']:g} a day{delay_of(told['delay'])}"
    busiest = max((day["alerts"] for day in told["by_day"]), default=0)
    for day in told["by_day"]:
        bar = "#" * (0 if not busiest else -(-40 * day["alerts"] // busiest))
        yield f"  {day['day']}  {day['alerts']:6d}  {bar}".rstrip()
    if told["offenders"]:
        yield "most alerts of"
        for one in told["offenders"]:
            yield f"  {one['alerts']:6d}  {keys_of(one['keys'])}  (worst score {one['worst_score']:g})"
    labels = told["labels"]
    if labels is not None:
        recall, precision = share_of(labels["recall"]), share_of(labels["precision"])
        yield f"{labels['found']} of {labels['labels']} labels found (recall {recall}){delay_of(labels['delay'])}"
        yield f"{labels['right']} of {told['alerts']} alerts right (precision {precision})"
        for one in labels["missed"]:
            yield f"  missed  {one['start']} .. {one['end']}  {keys_of(one['keys'])}".rstrip()


def keys_of(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in keys.items())


def share_of(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.3g} %"


def delay_of(delay: Mapping[str, float] | None) -> str:
    return "" if delay is None else f"; told after {delay['median_s']:g} s (median), {delay['max_s']:g} s (at most)"
