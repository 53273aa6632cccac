"""Why an event is among those that a query answers with, or why not: its pieces, computed over that one event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from mql.exec.items import TIME, Chunk
from mql.exec.kernel import Session
from mql.exec.scan import Decoder
from mql.planner.showing import show_us
from mql.planner.why import Condition, Questions, column_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN_MAX = 200
WINDOWS_MAX = 100


def why(asked: Questions, event: bytes, session: Session, now_us: int, reached_us: int | None) -> Mapping[str, Any]:
    """`kept`: whether nothing keeps the event out (None where that hangs on what is not known), `reason`: a sentence,
    `steps`: each with `step`, `ok` and a `detail`. `reached_us`: how far the source's event time has come."""
    scan = asked.scan
    decoder = Decoder(session, "json", scan.time, scan.columns, masks=scan.masks)
    found = decoder.decode([Chunk(0, event.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n", 0, now_us)])
    if found.table.num_rows == 0:
        reason = found.malformed[0].reason if found.malformed else "empty"
        return _told([_step("decode", False, f"it can't be read: {reason}")])
    table = found.table.slice(0, 1).combine_chunks()
    time_us = int(table.column(TIME)[0].as_py())
    steps = [_step("decode", True, f"its event time is {_instant(time_us)}")]
    if asked.bounds is not None:
        within = _value(session, asked.bounds, table)
        steps.append(_step("bounds", within is True, f"SINCE and UNTIL {'hold' if within else 'leave out'} that time"))
    if asked.sample is not None:
        steps.append(_sampled(session, asked.sample, table))
    steps.extend(_condition(session, one, table) for one in asked.conditions)
    if asked.windows is not None:
        steps.extend(_windows(session, asked, table, time_us, reached_us))
    if asked.keys:
        key = {name: _value(session, sql, table) for name, sql in asked.keys}
        shown = ", ".join(f"{name} = {_shown(value)}" for name, value in key.items())
        steps.append({**_step("group", True, f"its group is {shown}"), "key": {n: _plain(v) for n, v in key.items()}})
    return _told(steps)


def _told(steps: list[dict[str, Any]]) -> Mapping[str, Any]:
    against = next((step for step in steps if step["ok"] is False), None)
    unsure = next((step for step in steps if step["ok"] is None), None)
    if against is not None:
        return {"kept": False, "reason": against["detail"], "steps": steps}
    if unsure is not None:
        return {"kept": None, "reason": unsure["detail"], "steps": steps}
    return {"kept": True, "reason": "nothing keeps it out", "steps": steps}


def _step(step: str, ok: bool | None, detail: str) -> dict[str, Any]:
    return {"step": step, "ok": ok, "detail": detail}


def _sampled(session: Session, sql: str, table: pa.Table) -> dict[str, Any]:
    if not sql:
        return _step("sample", None, "SAMPLE decides by the event's place in its source, which is not known here")
    kept = _value(session, sql, table) is True
    return _step("sample", kept, f"SAMPLE {'keeps' if kept else 'leaves out'} all events like it")


def _condition(session: Session, one: Condition, table: pa.Table) -> dict[str, Any]:
    """Null is not true; what it was computed of tells why."""
    value = _value(session, one.sql, table)
    given = {}
    for path in one.paths:
        name, column = column_of(path)
        given[name] = table.column(column)[0].as_py() if column in table.column_names else None
    shown = ", ".join(f"{name} is {_shown(of)}" for name, of in given.items())
    is_what = "null" if value is None else str(bool(value)).lower()
    detail = f"{one.text} is {is_what}{': ' if shown else ''}{shown}"
    values = {name: _plain(of) for name, of in given.items()}
    return {**_step("where", value is True, detail), "text": one.text, "values": values}


def _windows(
    session: Session, asked: Questions, table: pa.Table, time_us: int, reached_us: int | None
) -> list[dict[str, Any]]:
    assert asked.windows is not None
    found = session.run(asked.windows, {"event": table}).to_pylist()
    if not found:
        return [_step("window", False, "no window holds its event time")]
    spans = [{"window_start": _instant(one["ws"]), "window_end": _instant(one["we"])} for one in found[:WINDOWS_MAX]]
    windows = f"{len(found)} windows" if len(found) > 1 else "the window"
    detail = f"it lies in {windows} from {_instant(found[0]['ws'])} to {_instant(found[-1]['we'])}"
    steps: list[dict[str, Any]] = [{**_step("window", True, detail), "windows": spans}]
    if reached_us is None:
        return steps
    closes_us, lateness = int(found[-1]["we"]) + asked.scan.lateness_us, show_us(asked.scan.lateness_us)
    come, late = f"the source has come to {_instant(reached_us)}", reached_us >= closes_us
    if not late:
        return [*steps, _step("lateness", True, f"{come}, so a window that it lies in is still open")]
    too_late = f"{come}, {show_us(reached_us - time_us)} past it; its last window closed at {_instant(closes_us)}"
    return [*steps, _step("lateness", False, f"too late if it came now: {too_late} (lateness {lateness})")]


def _value(session: Session, sql: str, table: pa.Table) -> Any:
    return session.run(f"SELECT ({sql}) AS v FROM event", {"event": table}).column("v")[0].as_py()


def _instant(us: int) -> str:
    at = EPOCH + timedelta(microseconds=us)
    digits = "seconds" if us % 1_000_000 == 0 else "milliseconds" if us % 1000 == 0 else "microseconds"
    return at.isoformat(timespec=digits).replace("+00:00", "Z")


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def _plain(value: Any) -> Any:
    """As JSON has it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {str(name): _plain(of) for name, of in value.items()}
        case datetime():
            return _instant(int((value.replace(tzinfo=value.tzinfo or UTC) - EPOCH) / timedelta(microseconds=1)))
        case _:
            return str(value)
