"""SAMPLE: which share of the rows a query looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mql import syntax
from mql.errors import MqlError
from mql.planner.binding import Scope, bind_expression, constant_int, constant_number
from mql.planner.collecting import without_aggregates
from mql.planner.logical import Sampled


def bind_sample(node: syntax.Sample, scope: Scope) -> Sampled:
    """Which rows a SAMPLE clause keeps."""
    options = dict(node.options)
    extrapolate = node.extrapolate or options.get("extrapolate") is True
    return replace(_sampled(node, options, scope), extrapolate=extrapolate)


def _sampled(node: syntax.Sample, options: Mapping[str, object], scope: Scope) -> Sampled:
    by = tuple(bind_expression(item, without_aggregates(scope, "SAMPLE")) for item in node.by)
    match node.kind:
        case "percent":
            assert node.amount is not None
            share = constant_number(node.amount, scope) / 100
            if not 0 <= share <= 1:
                raise MqlError("a sample is from 0% to 100%", node.span)
            return Sampled(share, None, by, 0)
        case "rate":
            assert node.amount is not None
            return Sampled(None, constant_int(node.amount, scope, 1, 1_000_000), (), 0)
        case "json":
            return _mantis_sample(options, node, scope)
        case kind:
            raise AssertionError(kind)


def _mantis_sample(options: Mapping[str, object], node: syntax.Sample, scope: Scope) -> Sampled:
    """`{'strategy': 'RANDOM' | 'STICKY' | 'RPS', 'threshold': n, 'factor': 10000, 'keys': […], 'salt': n}`."""

    def whole(name: str, default: int) -> int:
        value = options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise MqlError(f'"{name}" of a sample must be a whole number', node.span)
        return value

    strategy = str(options.get("strategy", "")).upper()
    factor = max(1, whole("factor", 10_000))
    threshold = whole("threshold", factor)
    seed = whole("salt", 0)
    match strategy:
        case "RANDOM":
            return Sampled(min(1.0, threshold / factor), None, (), seed)
        case "STICKY":
            names = options.get("keys", ())
            if not isinstance(names, tuple) or not names:
                raise MqlError("a sticky sample needs keys", node.span, "Add 'keys': ['user_id'].")
            keys = tuple(
                bind_expression(syntax.Property((syntax.Key(str(name), "tick"),), node.span), scope) for name in names
            )
            return Sampled(min(1.0, threshold / factor), None, keys, seed)
        case "RPS":
            return Sampled(None, max(1, threshold), (), seed)
        case _:
            raise MqlError(
                f'no sampling strategy "{options.get("strategy", "")}"', node.span, "There are RANDOM, STICKY and RPS."
            )
