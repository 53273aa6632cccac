"""DISTINCT beside window functions, in other words: they look at all rows, and DISTINCT at what they say of them."""

from __future__ import annotations

from dataclasses import replace

from mql import syntax
from mql.errors import MqlError
from mql.planner.composing import OF_THE_WHOLE
from mql.planner.groups import is_grouped
from mql.planner.overs import calls_over
from mql.planner.selecting import name_of


def distinct_around(query: syntax.Query) -> syntax.Query:
    """A query with both as DISTINCT around a query in FROM; others as they are.

    One group that is all of a window has one row, which is distinct by itself. What GROUP BY makes is looked at where
    groups are bound.
    """
    looks_over = any(calls_over(node) for node in (query.qualify, *(item.expression for item in query.select)))
    if not query.distinct or query.group_by or query.union or not looks_over:
        return query
    plain = replace(query, distinct=False)
    if is_grouped(plain):
        return plain
    if query.windows:
        hint = "Put DISTINCT and the WINDOW around them: SELECT DISTINCT … FROM (SELECT … OVER (…) FROM …) WINDOW …."
        raise MqlError("DISTINCT can not stand with window functions over the rows of a window", query.span, hint)
    if query.anomaly is not None:
        return plain
    blank = syntax.Query(())
    inner = replace(plain, ctes=(), explain=None, **{name: getattr(blank, name) for name in OF_THE_WHOLE})
    everything = syntax.SelectItem(syntax.Star(None, query.span), None, "*", query.span)
    said = {name: getattr(query, name) for name in OF_THE_WHOLE}
    around = syntax.Query(
        (everything,), (syntax.SubqueryRef(inner, None, query.span),), True, span=query.span, explain=query.explain
    )
    around = replace(around, **said)
    return replace(around, order_by=tuple(_by_column(order, query) for order in query.order_by))


def _by_column(order: syntax.Order, query: syntax.Query) -> syntax.Order:
    """What is selected, and ordered by in the same words, is a column by now."""
    node = order.expression
    for item in query.select:
        if item.expression == node and not isinstance(node, syntax.Star):
            column = syntax.Property((syntax.Key(item.alias or name_of(item)),), node.span)
            return replace(order, expression=column)
    return order
