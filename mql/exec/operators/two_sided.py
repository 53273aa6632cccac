"""What joins of two streams have in common: the rows of both sides in state, bounds on them, the watermark."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mql.errors import MqlError
from mql.exec.items import MAX_US, MIN_US, State
from mql.exec.kernel import Session
from mql.exec.operators.base import Base, number_state
from mql.exec.operators.segments import DECIDED, OVER, Segments


class TwoSided(Base):
    """An operator with the rows of a left and a right side as its state, which holds no more than `bytes_max`."""

    def __init__(self, session: Session, blanks: tuple[str, str], bytes_max: int, remedy: str) -> None:
        super().__init__(session)
        self._left, self._right = (Segments(session.run(blank, {})) for blank in blanks)
        self._watermark_us = MIN_US
        self._bytes_max = bytes_max
        self._remedy = remedy

    def in_state(self) -> int:
        return self._left.rows + self._right.rows

    def snapshot(self) -> State:
        numbers = number_state(watermark=self._watermark_us)
        return {"left": self._left.table(), "right": self._right.table(), "numbers": numbers}

    def restore(self, state: State) -> None:
        if state:
            self._left.add(state["left"])
            self._right.add(state["right"])
            self._watermark_us = max(self._watermark_us, state["numbers"].column("watermark")[0].as_py())

    def waiting(self, table: pa.Table) -> pa.Table:
        """The rows; those that the watermark has passed already wait for its next step."""
        least = pa.scalar(min(self._watermark_us, MAX_US - 1) + 1, pa.int64())
        for name in (DECIDED, OVER):
            at = table.column_names.index(name)
            table = table.set_column(at, name, pc.max_element_wise(table.column(at), least))
        return table

    def check_room(self) -> None:
        """MqlError where the state has grown too large."""
        held = self._left.bytes + self._right.bytes
        if held > self._bytes_max:
            raise MqlError(
                f"the join holds {held / 1e6:,.0f} MB in {self.in_state():,} rows, and may hold "
                f"{self._bytes_max / 1e6:,.0f} MB in each task",
                hint=self._remedy,
                code="state-too-large",
            )
