"""The window functions: what stands before OVER beside the aggregates, one row each.

Templates are DuckDB SQL: {0} {1} the arguments, {x} the constant. An aggregate before OVER takes the values of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mql.schema import BIGINT, DOUBLE, DataType


@dataclass(frozen=True, slots=True)
class OverRow:
    """`least`, `most`: how many arguments it takes, the constant (a whole number) among them as the one numbered
    `constant`, `default` where that is left out. `gives`: its type, or "same" as the first argument. `ranks`: rows that
    come in the same place are told alike; else each row has a place of its own. `framed`: it looks at a frame.
    `goes_on`: it can be told from row to row, by what came before.
    """

    name: str
    least: int
    most: int
    gives: DataType | str
    sql: str
    doc: str
    constant: int | None = None
    default: int | None = None
    ranks: bool = False
    framed: bool = False
    goes_on: bool = True


OVERS: tuple[OverRow, ...] = (
    OverRow("row_number", 0, 0, BIGINT, "row_number()", "The number of the row, from 1."),
    OverRow(
        "rank",
        0,
        0,
        BIGINT,
        "rank()",
        "One more than the rows before it and its equals.",
        ranks=True,
    ),
    OverRow("dense_rank", 0, 0, BIGINT, "dense_rank()", "The same without gaps: the number of the value.", ranks=True),
    OverRow(
        "percent_rank",
        0,
        0,
        DOUBLE,
        "percent_rank()",
        "The rank from 0 to 1, over rows that are all there.",
        ranks=True,
        goes_on=False,
    ),
    OverRow(
        "cume_dist",
        0,
        0,
        DOUBLE,
        "cume_dist()",
        "The share of rows up to this one, over rows that are all there.",
        ranks=True,
        goes_on=False,
    ),
    OverRow(
        "ntile",
        1,
        1,
        BIGINT,
        "ntile({x})",
        "The number of the row's part, of so many equal parts of rows that are all there.",
        constant=0,
        goes_on=False,
    ),
    OverRow("lag", 1, 3, "same", "lag({0}, {x})", "The value so many rows before: lag(x, n, otherwise).", 1, 1),
    OverRow("lead", 1, 3, "same", "lead({0}, {x})", "The value so many rows later: lead(x, n, otherwise).", 1, 1),
    OverRow("first_value", 1, 1, "same", "first_value({0})", "The value in the frame's first row.", framed=True),
    OverRow("last_value", 1, 1, "same", "last_value({0})", "The value in the frame's last row.", framed=True),
)

_BY_NAME: Mapping[str, OverRow] = {row.name: row for row in OVERS}


def over_row(name: str) -> OverRow | None:
    """The window function called so, in any case."""
    return _BY_NAME.get(name.lower())
