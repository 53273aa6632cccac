"""Steps that a user takes one after the other, within a time."""

from datetime import UTC, datetime

from reactivex import operators as ops

from mql.sdk import events

USERS_MAX = 1_000_000


def funnel(batches, params):
    steps, within_ms = params["steps"], params["within"] * 1000
    under_way = {}  # user: how many steps, and when the first of them was

    def finished(event):
        user, path, ts = event["user_id"], event["path"], event["ts"]
        taken, since = under_way.get(user, (0, ts))
        if taken and ts - since > within_ms:
            taken, since = 0, ts
        if path != steps[taken]:
            if path != steps[0]:
                return None
            taken, since = 0, ts  # begun anew
        if taken == 0:
            since = ts
        if taken + 1 < len(steps):
            under_way[user] = (taken + 1, since)
            if len(under_way) > USERS_MAX:
                del under_way[next(iter(under_way))]
            return None
        under_way.pop(user, None)
        moment = datetime.fromtimestamp(ts / 1000, UTC)
        return {"event_time": moment, "user_id": user, "seconds": (ts - since) / 1000}

    return events(batches).pipe(ops.map(finished), ops.filter(lambda row: row is not None))
