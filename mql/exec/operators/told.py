"""What readers were told of each key, so that only changes are told, with a revision and what they do."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mql.exec.kernel import Session
from mql.planner.sql import quote_identifier

KEY, REVISION, OP, FINAL = "_key", "_revision", "_op", "final"
_GONE, _DIGEST = "__gone", "__d"


class Told:
    """The last row told per `_key`, with its revision. A key that is gone keeps its revision until its window is
    forgotten, so that revisions only grow."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows: pa.Table | None = None

    @property
    def table(self) -> pa.Table | None:
        return self._rows

    def restore(self, rows: pa.Table) -> None:
        self._rows = rows if self._rows is None else pa.concat_tables([self._rows, rows])

    def changes(self, fresh: pa.Table, scope: str, *, final: bool | None, again: bool) -> pa.Table | None:
        """What to tell, now that `fresh` is all there is within `scope` (a condition on __ws and __we).

        New keys are inserts, other rows updates, keys told before and missing now deletes. `again` tells
        rows that did not change, too. `final` is said of all; None: each row says it, and it counts as a change.
        """
        visible = [quote_identifier(name) for name in fresh.column_names if not name.startswith("__") and name != KEY]
        columns = ", ".join(quote_identifier(name) for name in fresh.column_names)
        digest = f"hash(row({', '.join(visible)}))" if visible else "0::UBIGINT"
        tables = {"fresh": fresh}
        now = f'SELECT {columns}, {digest} AS "{_DIGEST}" FROM fresh'
        if self._rows is None:
            sql = f'SELECT *, 0::BIGINT AS "{REVISION}", \'insert\' AS "{OP}" FROM ({now})'
        else:
            tables["told"] = self._rows
            same = "" if again else f'WHERE t."{KEY}" IS NULL OR t."{_GONE}" OR t."{_DIGEST}" <> f."{_DIGEST}"'
            sql = (
                f'SELECT f.*, coalesce(t."{REVISION}" + 1, 0)::BIGINT AS "{REVISION}", '
                f'CASE WHEN t."{KEY}" IS NULL OR t."{_GONE}" THEN \'insert\' ELSE \'update\' END AS "{OP}" '
                f'FROM ({now}) f LEFT JOIN told t ON f."{KEY}" = t."{KEY}" {same} '
                f'UNION ALL SELECT {columns}, "{_DIGEST}", "{REVISION}" + 1, \'delete\' FROM told '
                f'WHERE NOT "{_GONE}" AND ({scope}) AND "{KEY}" NOT IN (SELECT "{KEY}" FROM fresh)'
            )
        changed = self._session.run(sql, tables)
        if not changed.num_rows:
            return None
        self._remember(changed)
        told = changed.drop_columns([_DIGEST])
        if final is None:
            return told.drop_columns([FINAL]).append_column(FINAL, told.column(FINAL))
        return told.append_column(FINAL, pa.repeat(pa.scalar(final), changed.num_rows))

    def has_others(self, keys: pa.ChunkedArray) -> bool:
        """Whether rows of other keys stand as they were told."""
        return self._rows is not None and pc.any(pc.and_not(self._stands(), self._is_of(keys))).as_py()

    def standing(self, keys: pa.ChunkedArray) -> pa.Table:
        """The rows of these keys as they were told last, without those that were taken back."""
        assert self._rows is not None
        return self._rows.filter(pc.and_(self._stands(), self._is_of(keys))).drop_columns([_DIGEST, REVISION, _GONE])

    def forget(self, until_us: int) -> None:
        """Windows that ended at or before are final: nothing of them will be told again."""
        if self._rows is not None:
            self._rows = self._rows.filter(pc.greater(self._rows.column("__we"), until_us)).combine_chunks()

    def forget_gone(self, until_us: int) -> None:
        """What was taken back of windows that began at or before does not come again: its revision is not needed."""
        if self._rows is not None:
            gone = pc.and_(self._rows.column(_GONE), pc.less_equal(self._rows.column("__ws"), until_us))
            self._rows = self._rows.filter(pc.invert(gone)).combine_chunks()

    def keep(self, column: str, values: pa.ChunkedArray) -> None:
        """Only the rows with one of these values."""
        if self._rows is not None:
            self._rows = self._rows.filter(pc.is_in(self._rows.column(column), values)).combine_chunks()

    def drop(self, column: str, values: pa.ChunkedArray) -> None:
        """Without the rows that have one of these values."""
        if self._rows is not None:
            self._rows = self._rows.filter(pc.invert(pc.is_in(self._rows.column(column), values))).combine_chunks()

    def _stands(self) -> pa.ChunkedArray:
        assert self._rows is not None
        return pc.invert(self._rows.column(_GONE))

    def _is_of(self, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        assert self._rows is not None
        return pc.is_in(self._rows.column(KEY), keys)

    def _remember(self, changed: pa.Table) -> None:
        gone = pc.equal(changed.column(OP), "delete")
        rows = changed.drop_columns([OP]).append_column(_GONE, gone)
        if self._rows is not None:
            known = self._session.run(
                f'SELECT * FROM told WHERE "{KEY}" NOT IN (SELECT "{KEY}" FROM changed)',
                {"told": self._rows, "changed": rows},
            )
            rows = pa.concat_tables([known.select(rows.column_names).cast(rows.schema), rows])
        self._rows = rows
