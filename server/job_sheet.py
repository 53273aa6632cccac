"""A job, and a list of jobs, as somebody wants them who was woken by one: first what is wrong and since when, then what
it is, then what came of it. For people alone; programs read the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from server.exits import clean

Told = Mapping[str, Any]
FACT_WIDTH = 11
FAILURES_MAX = 3
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
CLASSES = ("emitted_from", "filtered", "late", "malformed", "sampled", "skipped", "dropped", "in_state")
COUNTED = {"emitted_from": "in rows", "in_state": "in state"}
SENT = ("number", "kind", "leaving", "leaving_since_us", "sent", "behind", "lost", "dead", "trouble", "open")
"""What a sink's line says in words; all else is where it writes to."""
HEAD = ("NAME", "STATE", "SINCE", "FRESH", "EVENTS/S", "ROWS", "FAILURES", "WHY")
RIGHT = ("FRESH", "EVENTS/S", "ROWS", "FAILURES")


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of one job. `silences`: those that are about it; `template`: the one that it is made of."""

    job: Told
    numbers: Told
    ledger: Told
    runs: Sequence[Told]
    silences: Sequence[Told]
    template: Told | None


def shown(looked: Looked, now_us: int) -> Iterator[str]:
    """Lines for a terminal: a fact each, its name first."""
    for name, lines in facts(looked, now_us):
        for at, line in enumerate(line for text in lines for line in text.split("\n")):
            yield f"{'' if at else name:<{FACT_WIDTH}} {clean(line)}".rstrip()


def facts(looked: Looked, now_us: int) -> Iterator[tuple[str, list[str]]]:
    """Names of facts with what is to be said of each; what there is not is left out."""
    job, numbers = looked.job, looked.numbers
    yield "job", [job["name"]]
    yield "state", [f"{job['state']} since {since(job['since_us'], now_us)}"]
    yield from fact("why", job["reason"])
    if job["trouble"] != job["reason"]:
        yield from fact("trouble", job["trouble"])
    failures = [run for run in looked.runs if run["outcome"] == "failed"]
    yield from fact("failures", *told_of_failures(job, failures, now_us))
    yield from made_of(looked)
    yield "guarantee", [promise(job, now_us)]
    yield from fact("fresh", freshness(job, numbers))
    yield "rows", [rows_of(numbers)]
    yield "events", [balance(looked.ledger["total"])]
    if numbers["dead_letters"]:
        yield "letters", [f"{numbers['dead_letters']:,} open: mql job dead-letters {job['name']}"]
    yield from fact("sinks", *(sink_line(sink, now_us) for sink in job["sinks"]))
    yield from fact("alerts", *alert_lines(job, looked.silences))
    yield from life(looked, now_us)
    yield "logs", [f"mql job logs {job['name']}"]


def fact(name: str, *lines: str | None) -> Iterator[tuple[str, list[str]]]:
    there = [line for line in lines if line]
    if there:
        yield name, there


def told_of_failures(job: Told, failures: Sequence[Told], now_us: int) -> Iterator[str]:
    """How many in a row, and the newest of them."""
    if job["attempts"]:
        yield f"{job['attempts']} in a row"
    for run in failures[:FAILURES_MAX]:
        yield f"{since(run['ended_us'], now_us)}: {run['reason']}"


def made_of(looked: Looked) -> Iterator[tuple[str, list[str]]]:
    job, template = looked.job, looked.template
    if job["template"] is not None:
        gone = "" if template is not None else "; it was deleted since"
        yield "template", [f"{job['template']}, version {job['version']}{gone}"]
    if job["artifact"] is not None:
        yield "artifact", [f"{job['artifact']}, version {job['artifact_version']}"]
    yield from fact("query", (job["query"] or (template or {}).get("query") or "").strip())
    yield from fact("params", *(f"{name} = {value}" for name, value in job["params"].items()))


def promise(job: Told, now_us: int) -> str:
    last = job["checkpoint"]
    if last is None:
        return str(job["guarantee"])
    return f"{job['guarantee']}; checkpoint {last['number']} ({size(last['bytes'])}) {since(last['at_us'], now_us)}"


def freshness(job: Told, numbers: Told) -> str | None:
    """How far it is behind its events; nothing while it does not run."""
    if job["status"] is None:
        return None
    fresh, lag = numbers["freshness_s"], numbers["lag_ms"]
    told = [] if fresh is None else [f"knows all up to {span(fresh)} ago"]
    told += [] if lag is None else [f"lag {span(lag / 1_000)}"]
    told += [] if numbers["rate"] is None else [f"{numbers['rate']:,.0f} events/s"]
    return ", ".join(told)


def rows_of(numbers: Told) -> str:
    kept = f"{numbers['rows_kept']:,} of them kept ({size(numbers['log_bytes'])})"
    readers = f"{numbers['readers']} reader{'' if numbers['readers'] == 1 else 's'}"
    return f"{numbers['rows']:,}, {kept}; {readers}"


def balance(ledger: Told) -> str:
    """What became of its events, in all runs."""
    parts = [f"{ledger[name]:,} {COUNTED.get(name, name)}" for name in CLASSES if ledger[name]]
    return f"{ledger['events']:,}" + (f" = {' + '.join(parts)}" if parts else "")


def sink_line(sink: Told, now_us: int) -> str:
    where = " ".join(f"{name}={value}" for name, value in sink.items() if name not in SENT and value is not None)
    told = [f"{sink['sent']:,} sent", f"{sink['behind']:,} wait"]
    told += [f"{sink[name]:,} {word}" for name, word in (("lost", "LOST"), ("dead", "dead letters")) if sink[name]]
    line = f"{sink['number']} {sink['kind']}: {', '.join(told)}"
    if sink["leaving"]:
        line += f"; LEAVING, asked {since(sink['leaving_since_us'], now_us)}"
    if sink["trouble"]:
        line += f"; TROUBLE: {sink['trouble']}"
    return f"{line} [{where}]" if where else line


def alert_lines(job: Told, silences: Sequence[Told]) -> Iterator[str]:
    for sink in job["sinks"]:
        if "open" in sink:
            yield f"{sink['open']} open at sink {sink['number']} ({sink['kind']})"
    for silence in silences:
        if silence["holds"]:
            until = f" until {silence['ends']}" if silence["ends"] else ""
            yield f"SILENCED by {silence['name']}{until}{': ' + silence['comment'] if silence['comment'] else ''}"


def life(looked: Looked, now_us: int) -> Iterator[tuple[str, list[str]]]:
    """When it runs, what it may use, what is expected of it, whose it is."""
    job = looked.job
    schedule = job["schedule"]
    if schedule is not None:
        line = f"{schedule['cron']} ({schedule['timezone']}, {schedule['policy']})"
        yield "schedule", [line if schedule["enabled"] else f"{line}, HELD BACK", *next_start(job, now_us)]
    for name in ("limits", "expect"):
        yield from fact(name, ", ".join(f"{key} {measure(key, value)}" for key, value in job[name].items()))
    sla = (looked.template or {}).get("sla") or {}
    counts = [f"{word} {sla[name]}" for name, word in (("min", "at least"), ("max", "at most")) if name in sla]
    yield from fact("sla", f"{', '.join(counts)} jobs of this template" if counts else None)
    yield "restart", [job["restart"]]
    yield from fact("transient", None if job["transient"] is None else span(job["transient"]))
    yield from fact("workers", None if job["workers"] is None else str(job["workers"]))
    yield from fact("priority", None if job["priority"] == "normal" else job["priority"])
    yield from fact("labels", ", ".join(f"{name}={value}" for name, value in job["labels"].items()))
    yield from fact("owner", job["owner"])
    yield "made", [since(job["created_us"], now_us)]


def next_start(job: Told, now_us: int) -> list[str]:
    at_us = job["next_run_us"]
    return [] if at_us is None else [f"next {moment(at_us)}, in {span((at_us - now_us) / 1e6)}"]


def measure(name: str, value: float) -> str:
    match name:
        case "state":
            return size(value)
        case "rows_per_s" | "entries":
            return f"{value:,.0f}"
        case "unreadable":
            return f"{value:g}"
        case _:
            return span(value)


# --- a list of jobs -----------------------------------------------------------------------------------------


def listed(jobs: Sequence[Told], now_us: int) -> Iterator[str]:
    """A line for each, below a head; columns are as wide as what is in them."""
    lines = [HEAD, *(line_of(job, now_us) for job in jobs)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    for line in lines:
        cells = zip(line, HEAD, widths, strict=True)
        yield "  ".join(
            cell.rjust(width) if name in RIGHT else cell.ljust(width) for cell, name, width in cells
        ).rstrip()


def line_of(job: Told, now_us: int) -> tuple[str, ...]:
    status = job["status"]
    fresh = "" if job["freshness_s"] is None else span(job["freshness_s"])
    rate = "" if status is None or status.get("rate") is None else f"{status['rate']:,.0f}"
    why = clean(job["reason"] or job["trouble"] or "")
    state_for = span((now_us - job["since_us"]) / 1e6)
    failures = str(job["attempts"] or "")
    return job["name"], job["state"], state_for, fresh, rate, f"{job['results']['rows']:,}", failures, why


# --- how moments and sizes read -----------------------------------------------------------------------------


def moment(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def since(us: int, now_us: int) -> str:
    return f"{moment(us)} ({span((now_us - us) / 1e6)} ago)"


def span(seconds: float) -> str:
    """A length of time in its two largest units; clocks of two machines may make it less than nothing."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= length or parts:
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def size(count: float) -> str:
    """Bytes."""
    power = 0
    while count >= 1_024 and power < len(UNITS) - 1:
        count /= 1_024
        power += 1
    return f"{count:,.{1 if power else 0}f} {UNITS[power]}"
