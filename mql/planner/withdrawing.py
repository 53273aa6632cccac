"""Aggregates over rows that can be withdrawn: what a join without a bound tells of a row without a partner, until one
comes.

A withdrawn row comes a second time, in the same place, with a sign of -1. Counts and sums add up signs; what is made of
values with their counts goes by those whose counts are above nothing; most others are made of these here, too. Rates
can't take a row back, for they go by the times of the first row and the last.
"""

from __future__ import annotations

import re

from mql.aggregates import OF_WITHDRAWN, AggregateRow, Bag, Fold

SIGN = "sg"
SIGN_SQL = f"CASE \"_op\" WHEN 'delete' THEN -1 ELSE 1 END AS {SIGN}"
INVERTIBLE = ("count", "count_if", "sum", "avg")


def signed_form(row: AggregateRow, form: Fold | Bag) -> Fold | Bag | None:
    """The form in which an aggregate takes rows back; None where it can't."""
    if isinstance(form, Bag):
        return form if form.merge == "sum" and form.count == "count(*)" else OF_WITHDRAWN.get(row.name)
    return form if row.name in INVERTIBLE else OF_WITHDRAWN.get(row.name)


def signed_sql(step: str) -> str:
    """A partial column, or a count of values, of rows with signs."""
    if step.startswith("count(*)"):
        return f"sum({SIGN}){step.removeprefix('count(*)')}::BIGINT"
    step = re.sub(r"\bcount\((x\d+)\)", rf"sum({SIGN}) FILTER (WHERE \1 IS NOT NULL)::BIGINT", step)
    return re.sub(r"\bsum\((x\d+)\)", rf"sum({SIGN} * \1)", step)
