"""The aggregates: one row each, from which the streamed form, shared panes and the batch form are all made.

A *fold* keeps partial columns: `step` makes one from rows, `merge` puts two together, `result` finishes. A *bag* keeps
the distinct values with their counts, rows (pane, key, value, n), and finishes from the values in order: exact
quantiles, distinct counts and everything that needs all values. Both merge by GROUP BY, in any order.

Templates are DuckDB SQL. In `step`: {0} {1} the arguments, {order} the row's place (event time, split, offset). In
`merge`: {p} the partial column, {q} the one beside it. In `result` of a fold: {p0} {p1} the merged partial columns,
{seconds} the length of the window. In `result` of a bag: v the value, n its count, c the running count up to and with
it, t the count of all; the rows come in no order. `direct` is the batch form over rows. {x} is the constant argument,
{error} how far an approximation may be off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mql.schema import BIGINT, BOOLEAN, DOUBLE, VARCHAR, DataType, ListOf, MapOf


@dataclass(frozen=True, slots=True)
class Partial:
    """One partial column of a fold. In `merge`, {q} is the fold's second partial column."""

    step: str
    merge: str


@dataclass(frozen=True, slots=True)
class Fold:
    partials: tuple[Partial, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Bag:
    """`value` is what is kept of a row; `merge` puts two counts of one value together (`sum`, or `max`), as `type`.
    `empty` is the result of a group that has no value at all."""

    result: str
    value: str = "{0}"
    count: str = "count(*)"
    merge: str = "sum"
    empty: str = "NULL"
    type: str = "BIGINT"


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """`takes`: what the arguments must be: any, number, boolean, integer. `gives`: the result's type, or "same" (as the
    first argument), "list", "histogram", "sum". `constant`: what constant argument follows (number, integer), within
    `bounds`; "fixed" is one that the name itself says, in `default`. `errors`: how far it may be off where nothing is
    said, and at least and at most where a last argument says it. `direct` is empty where only the partial form will do.
    """

    name: str
    args: int
    takes: str
    gives: DataType | str
    how: Fold | Bag
    direct: str
    doc: str
    constant: str | None = None
    default: float | int | None = None
    aliases: tuple[str, ...] = ()
    ordered: bool = False
    bounds: tuple[float, float] | None = None
    errors: tuple[float, float, float] | None = None


def _simple(call: str, merge: str, result: str = "{p0}") -> Fold:
    return Fold((Partial(call, merge),), result)


_SUM = Fold((Partial("sum({0})", "sum({p})"),), "coalesce({p0}, 0)")
_AVERAGE = Fold((Partial("sum({0})", "sum({p})"), Partial("count({0})", "sum({p})")), "({p0} / nullif({p1}, 0))")

# Moments of one number: count, mean, sum of squared deviations, merged as Chan, Golub and LeVeque (1979) do.
_MOMENTS = Partial(
    "struct_pack(n := count({0})::DOUBLE, m := coalesce(avg({0}), 0), s := coalesce(var_pop({0}), 0) * count({0}))",
    "list_reduce(list({p}), lambda a, b: struct_pack("
    "n := a.n + b.n, "
    "m := CASE WHEN a.n + b.n = 0 THEN 0 ELSE a.m + (b.m - a.m) * b.n / (a.n + b.n) END, "
    "s := CASE WHEN a.n + b.n = 0 THEN 0 ELSE a.s + b.s + (b.m - a.m) ** 2 * a.n * b.n / (a.n + b.n) END))",
)
# The same of two numbers, with the sum of products.
_PAIRED = "FILTER (WHERE {0} IS NOT NULL AND {1} IS NOT NULL)"
_CO_MOMENTS = Partial(
    f"struct_pack(n := count(*) {_PAIRED}::DOUBLE, "
    f"my := coalesce(avg({{0}}) {_PAIRED}, 0), mx := coalesce(avg({{1}}) {_PAIRED}, 0), "
    f"sy := coalesce(var_pop({{0}}) {_PAIRED}, 0) * count(*) {_PAIRED}, "
    f"sx := coalesce(var_pop({{1}}) {_PAIRED}, 0) * count(*) {_PAIRED}, "
    f"sp := coalesce(covar_pop({{0}}, {{1}}), 0) * count(*) {_PAIRED})",
    "list_reduce(list({p}), lambda a, b: CASE WHEN a.n = 0 THEN b WHEN b.n = 0 THEN a ELSE struct_pack("
    "n := a.n + b.n, "
    "my := a.my + (b.my - a.my) * b.n / (a.n + b.n), "
    "mx := a.mx + (b.mx - a.mx) * b.n / (a.n + b.n), "
    "sy := a.sy + b.sy + (b.my - a.my) ** 2 * a.n * b.n / (a.n + b.n), "
    "sx := a.sx + b.sx + (b.mx - a.mx) ** 2 * a.n * b.n / (a.n + b.n), "
    "sp := a.sp + b.sp + (b.my - a.my) * (b.mx - a.mx) * a.n * b.n / (a.n + b.n)) END)",
)


def _moment(name: str, result: str, doc: str, aliases: tuple[str, ...] = ()) -> AggregateRow:
    return AggregateRow(name, 1, "number", DOUBLE, Fold((_MOMENTS,), result), f"{name}({{0}})", doc, aliases=aliases)


def _co_moment(
    name: str, result: str, doc: str, gives: DataType = DOUBLE, aliases: tuple[str, ...] = ()
) -> AggregateRow:
    how, direct = Fold((_CO_MOMENTS,), result), f"{name}({{0}}, {{1}})"
    if name in ("corr", "regr_slope", "regr_intercept", "regr_r2"):
        # Of pairs whose x is all the same DuckDB gives not a number.
        direct = f"nullif({direct}, 'nan'::DOUBLE)"
    return AggregateRow(name, 2, "number", gives, how, direct, doc, aliases=aliases)


def _by_order(name: str, pick: str, doc: str) -> AggregateRow:
    present = "FILTER (WHERE {0} IS NOT NULL)"
    edge = "min" if pick == "arg_min" else "max"
    how = Fold(
        (
            Partial(f"{pick}({{0}}, {{order}})", f"{pick}({{p}}, {{q}})"),
            Partial(f"{edge}({{order}}) {present}", f"{edge}({{p}})"),
        ),
        "{p0}",
    )
    return AggregateRow(name, 1, "any", "same", how, f"{pick}({{0}}, {{order}})", doc, ordered=True)


def _by_value(name: str, doc: str) -> AggregateRow:
    """arg_min and arg_max; of equal values the earliest row counts."""
    present = "FILTER (WHERE {0} IS NOT NULL AND {1} IS NOT NULL)"
    if name == "arg_min":
        place, pick, edge = "row({1}, {order})", "arg_min", "min"
    else:
        place, pick, edge = "row({1}, {reversed})", "arg_max", "max"
    how = Fold(
        (
            Partial(f"{pick}({{0}}, {place}) {present}", f"{pick}({{p}}, {{q}})"),
            Partial(f"{edge}({place}) {present}", f"{edge}({{p}})"),
        ),
        "{p0}",
    )
    return AggregateRow(name, 2, "any", "same", how, f"{pick}({{0}}, {place}) {present}", doc, ordered=True)


# Of t values counted from 0: the nearest rank, and Mantis' rank (one above it, never past the last).
_NEAREST = "(greatest(1, t - floor(t - t * {x}::DOUBLE)) - 1)"
_MANTIS_RANK = "least(ceil({x}::DOUBLE * t), t - 1)"
_LOW = "floor((t - 1) * {x}::DOUBLE)"
_HIGH = "ceil((t - 1) * {x}::DOUBLE)"
_INTERPOLATED = (
    f"(min(v) FILTER (WHERE c > {_LOW}) + (min(v) FILTER (WHERE c > {_HIGH}) - min(v) FILTER (WHERE c > {_LOW}))"
    f" * any_value((t - 1) * {{x}}::DOUBLE - {_LOW}))"
)


def _quantile(name: str, rank: str, direct: str, doc: str, default: float | None = None) -> AggregateRow:
    """A quantile that is one of the values."""
    how = Bag(f"min(v) FILTER (WHERE c > {rank})")
    return AggregateRow(name, 1, "any", "same", how, direct, doc, constant="number", default=default, bounds=(0.0, 1.0))


_P_RANK = (
    "list_sort(list({0}) FILTER (WHERE {0} IS NOT NULL))"
    "[(least(ceil({x}::DOUBLE * count({0})), count({0}) - 1) + 1)::BIGINT]"
)


def _percentile(name: str, share: float) -> AggregateRow:
    row = _quantile(name, _MANTIS_RANK, _P_RANK, f"The value at rank ceil({share:g} * n), counted from 0.", share)
    return AggregateRow(row.name, 1, "number", "same", row.how, row.direct, row.doc, constant="fixed", default=share)


# Log buckets of 1 % relative error (DDSketch, Masson et al. 2019): gamma = 1.01 / 0.99. A bucket's number is shifted by
# a million, so that the sign tells the sign of its values; at 0.1 % the smallest of all doubles has number -372,500.
_GAMMA = "((1 + {error}) / (1 - {error}))"
_LOG_BUCKET = (
    "CASE WHEN {0} = 0 THEN 0::DOUBLE WHEN isfinite({0}::DOUBLE) "
    "THEN sign({0}::DOUBLE) * (1e6 + ceil(ln(abs({0}::DOUBLE)) / ln(" + _GAMMA + "))) END"
)
_BUCKET_AT = f"min(v) FILTER (WHERE c > {_NEAREST})"
_APPROX_QUANTILE = (
    f"CASE WHEN {_BUCKET_AT} = 0 THEN 0 "
    f"ELSE sign({_BUCKET_AT}) * 2 * pow({_GAMMA}, abs({_BUCKET_AT}) - 1e6) / ({_GAMMA} + 1) END"
)

# The values with their counts, commonest first and of equally common ones the smallest.
_COMMONEST = (
    "list_sort(list_transform(map_entries(histogram({0})), lambda x: struct_pack(n := -(x.value::BIGINT), v := x.key)))"
)

# HyperLogLog (Flajolet et al. 2007) with 4,096 registers, 1.04 / sqrt(4096) = 1.6 % standard error.
_REGISTER = "CASE WHEN {0} IS NOT NULL THEN (hash({0}) & 4095)::BIGINT END"
_ONE_RANK = "52 - floor(log2(((hash({0}) >> 12) | 1)::DOUBLE))"
_RANK = f"max({_ONE_RANK})::BIGINT"


def _estimated(hit: str, ranks: str) -> str:
    """`hit`: how many registers were, `ranks`: the sum of two to the minus rank of each."""
    raw = f"(0.7213 / (1 + 1.079 / 4096) * 4096 * 4096 / ({ranks} + (4096 - {hit})))"
    linear = f"round(4096 * ln(4096 / (4096 - {hit})::DOUBLE))::BIGINT"
    return f"CASE WHEN {raw} <= 2.5 * 4096 AND {hit} < 4096 THEN {linear} ELSE round({raw})::BIGINT END"


_HLL = _estimated("count(*)", "sum(pow(2, -n))")
# Each register with each of its ranks, where the largest of them may be withdrawn.
_REGISTER_AND_RANK = f"CASE WHEN {{0}} IS NOT NULL THEN (hash({{0}}) & 4095)::BIGINT * 64 + ({_ONE_RANK})::BIGINT END"
_LARGEST = "list_filter(l, lambda x, i: i = len(l) OR l[i + 1] // 64 <> x // 64)"
_HLL_OF_ALL = (
    f"list_transform(list_transform([list(v ORDER BY v)], lambda l: {_LARGEST}), "
    f"lambda h: {_estimated('len(h)', 'list_sum(list_transform(h, lambda x: pow(2, -(x % 64))))')})[1]"
)

AGGREGATES: tuple[AggregateRow, ...] = (
    AggregateRow(
        "count",
        0,
        "any",
        BIGINT,
        _simple("count(*)", "sum({p})", "coalesce({p0}, 0)"),
        "count(*)",
        "Rows; with an argument, the rows in which it is not null.",
    ),
    AggregateRow(
        "count_if",
        1,
        "boolean",
        BIGINT,
        _simple("count(*) FILTER (WHERE {0})", "sum({p})", "coalesce({p0}, 0)"),
        "count(*) FILTER (WHERE {0})",
        "Rows for which the condition is true.",
        aliases=("countif",),
    ),
    AggregateRow(
        "sum", 1, "number", "sum", _SUM, "coalesce(sum({0}), 0)", "Sum of the values; 0 where there are none."
    ),
    AggregateRow("min", 1, "any", "same", _simple("min({0})", "min({p})"), "min({0})", "Smallest value."),
    AggregateRow("max", 1, "any", "same", _simple("max({0})", "max({p})"), "max({0})", "Largest value."),
    AggregateRow("avg", 1, "number", DOUBLE, _AVERAGE, "avg({0})", "Arithmetic mean.", aliases=("average", "mean")),
    _moment(
        "stddev_samp",
        "CASE WHEN {p0}.n > 1 THEN sqrt({p0}.s / ({p0}.n - 1)) END",
        "Standard deviation of a sample.",
        ("stddev",),
    ),
    _moment("stddev_pop", "CASE WHEN {p0}.n > 0 THEN sqrt({p0}.s / {p0}.n) END", "Standard deviation of all values."),
    _moment("var_samp", "CASE WHEN {p0}.n > 1 THEN {p0}.s / ({p0}.n - 1) END", "Variance of a sample.", ("variance",)),
    _moment("var_pop", "CASE WHEN {p0}.n > 0 THEN {p0}.s / {p0}.n END", "Variance of all values."),
    AggregateRow(
        "bool_and",
        1,
        "boolean",
        BOOLEAN,
        _simple("bool_and({0})", "bool_and({p})"),
        "bool_and({0})",
        "True where all values are true.",
    ),
    AggregateRow(
        "bool_or",
        1,
        "boolean",
        BOOLEAN,
        _simple("bool_or({0})", "bool_or({p})"),
        "bool_or({0})",
        "True where any value is true.",
    ),
    AggregateRow(
        "bit_and",
        1,
        "integer",
        BIGINT,
        _simple("bit_and({0})", "bit_and({p})"),
        "bit_and({0})",
        "Bitwise and of all values.",
    ),
    AggregateRow(
        "bit_or",
        1,
        "integer",
        BIGINT,
        _simple("bit_or({0})", "bit_or({p})"),
        "bit_or({0})",
        "Bitwise or of all values.",
    ),
    AggregateRow(
        "bit_xor",
        1,
        "integer",
        BIGINT,
        _simple("bit_xor({0})", "bit_xor({p})"),
        "bit_xor({0})",
        "Bitwise exclusive or of all values.",
    ),
    _by_order("first", "arg_min", "The first value by (event time, split, offset) that is not null."),
    _by_order("last", "arg_max", "The last value by (event time, split, offset) that is not null."),
    _by_order("any_value", "arg_min", "A value that is not null: the first, so that it is always the same one."),
    _by_value("arg_min", "The first argument where the second is smallest."),
    _by_value("arg_max", "The first argument where the second is largest."),
    AggregateRow(
        "list",
        1,
        "any",
        "list",
        Fold(
            (
                Partial(
                    "list(struct_pack(o := {order}, v := {0})) FILTER (WHERE {0} IS NOT NULL)",
                    "flatten(list({p}) FILTER (WHERE {p} IS NOT NULL))",
                ),
            ),
            "list_transform(list_sort({p0}), lambda x: x.v)",
        ),
        "list({0} ORDER BY {order}) FILTER (WHERE {0} IS NOT NULL)",
        "All values that are not null, in order.",
        aliases=("array_agg",),
        ordered=True,
    ),
    AggregateRow(
        "histogram",
        1,
        "any",
        "histogram",
        Bag("map(list(v ORDER BY v), list(n::BIGINT ORDER BY v))"),
        "histogram({0})",
        "A map from each value to its count.",
    ),
    AggregateRow(
        "mode",
        1,
        "any",
        "same",
        Bag("first(v ORDER BY n DESC, v)"),
        f"({_COMMONEST}[1]).v",
        "The commonest value; of equally common ones the smallest.",
    ),
    AggregateRow(
        "median",
        1,
        "number",
        DOUBLE,
        Bag(_INTERPOLATED.replace("{x}", "0.5")),
        "median({0})",
        "The middle value, or the mean of the two in the middle.",
    ),
    _quantile("quantile", _NEAREST, "quantile_disc({0}, {x})", "The value of nearest rank: quantile(x, 0.99)."),
    _quantile(
        "quantile_disc", _NEAREST, "quantile_disc({0}, {x})", "The value of nearest rank: quantile_disc(x, 0.99)."
    ),
    AggregateRow(
        "quantile_cont",
        1,
        "number",
        DOUBLE,
        Bag(_INTERPOLATED),
        "quantile_cont({0}, {x})",
        "The quantile between the two nearest values, interpolated.",
        constant="number",
        bounds=(0.0, 1.0),
    ),
    *(
        _percentile(f"p{digits}", share)
        for digits, share in (
            ("1", 0.01),
            ("5", 0.05),
            ("10", 0.1),
            ("25", 0.25),
            ("50", 0.5),
            ("75", 0.75),
            ("90", 0.9),
            ("95", 0.95),
            ("99", 0.99),
            ("995", 0.995),
        )
    ),
    AggregateRow(
        "top_k",
        1,
        "any",
        "list",
        Bag("list(v ORDER BY n DESC, v)[1:{x}]"),
        f"list_transform({_COMMONEST}[1:{{x}}], lambda x: x.v)",
        "The k commonest values, commonest first.",
        constant="integer",
        bounds=(1, 1000),
    ),
    _co_moment(
        "corr",
        "CASE WHEN {p0}.sx > 0 AND {p0}.sy > 0 THEN {p0}.sp / sqrt({p0}.sx * {p0}.sy) END",
        "Correlation of two numbers.",
    ),
    _co_moment("covar_pop", "CASE WHEN {p0}.n > 0 THEN {p0}.sp / {p0}.n END", "Covariance of all pairs."),
    _co_moment(
        "covar_samp",
        "CASE WHEN {p0}.n > 1 THEN {p0}.sp / ({p0}.n - 1) END",
        "Covariance of a sample of pairs.",
        aliases=("covar",),
    ),
    _co_moment("regr_count", "coalesce({p0}.n, 0)::BIGINT", "Pairs in which both are not null.", BIGINT),
    _co_moment("regr_avgx", "CASE WHEN {p0}.n > 0 THEN {p0}.mx END", "Mean of x over the pairs; y comes first."),
    _co_moment("regr_avgy", "CASE WHEN {p0}.n > 0 THEN {p0}.my END", "Mean of y over the pairs."),
    _co_moment("regr_sxx", "CASE WHEN {p0}.n > 0 THEN {p0}.sx END", "Sum of squared deviations of x."),
    _co_moment("regr_syy", "CASE WHEN {p0}.n > 0 THEN {p0}.sy END", "Sum of squared deviations of y."),
    _co_moment("regr_sxy", "CASE WHEN {p0}.n > 0 THEN {p0}.sp END", "Sum of products of deviations."),
    _co_moment("regr_slope", "CASE WHEN {p0}.sx > 0 THEN {p0}.sp / {p0}.sx END", "Slope of the least-squares line."),
    _co_moment(
        "regr_intercept",
        "CASE WHEN {p0}.sx > 0 THEN {p0}.my - {p0}.sp / {p0}.sx * {p0}.mx END",
        "Where the least-squares line crosses x = 0.",
    ),
    _co_moment(
        "regr_r2",
        "CASE WHEN {p0}.sx > 0 THEN CASE WHEN {p0}.sy = 0 THEN 1 ELSE {p0}.sp * {p0}.sp / ({p0}.sx * {p0}.sy) END END",
        "Share of y's variance that the least-squares line explains.",
    ),
    AggregateRow(
        "rate",
        0,
        "number",
        DOUBLE,
        _simple("count(*)", "sum({p})", "({p0} / {seconds})"),
        "(count(*) / {seconds})",
        "Rows per second of the window; with an argument, its sum per second. Without a window, per second between the "
        "first row and the last.",
    ),
    AggregateRow(
        "approx_quantile",
        1,
        "number",
        DOUBLE,
        Bag(_APPROX_QUANTILE, _LOG_BUCKET),
        "",
        "A quantile to within 1 % of its own size, or as a third argument says, from log buckets: "
        "approx_quantile(x, 0.99, 0.05).",
        constant="number",
        bounds=(0.0, 1.0),
        errors=(0.01, 0.001, 0.5),
    ),
    AggregateRow(
        "approx_count_distinct",
        1,
        "any",
        BIGINT,
        Bag(_HLL, _REGISTER, _RANK, "max", "0"),
        "",
        "About how many distinct values: HyperLogLog, 1.6 % standard error.",
    ),
)

_PAIR = "CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN struct_pack(y := {0}, x := {1}) END"

OF_DISTINCT: Mapping[str, Bag] = {
    "count": Bag("count(v)", empty="0"),
    "sum": Bag("sum(v)", empty="0"),
    "list": Bag("list(v ORDER BY v)"),
    "count_if": Bag("count(*) FILTER (WHERE v)", empty="0"),
    "mode": Bag("min(v)"),
    "histogram": Bag("map(list(v ORDER BY v), list(1::BIGINT ORDER BY v))"),
    "top_k": Bag("list(v ORDER BY v)[1:{x}]"),
    **{
        name: Bag(f"{name}(v)")
        for name in ("avg", "median", "stddev_samp", "stddev_pop", "var_samp", "var_pop", "bit_xor")
    },
    **{name: Bag("quantile_disc(v, {x})") for name in ("quantile", "quantile_disc", "approx_quantile")},
    "quantile_cont": Bag("quantile_cont(v, {x})"),
    **{row.name: Bag(_P_RANK.replace("{0}", "v")) for row in AGGREGATES if row.constant == "fixed"},
    **{
        row.name: Bag(row.direct.replace("{0}", "v.y").replace("{1}", "v.x"), _PAIR)
        for row in AGGREGATES
        if row.args == 2 and row.takes == "number"
    },
    "regr_count": Bag("count(v)", _PAIR, empty="0"),
}
"""What DISTINCT makes of an aggregate: each value once."""

_ONCE = "list_sort(list(DISTINCT {0}) FILTER (WHERE {0} IS NOT NULL))"
DIRECT_OF_DISTINCT: Mapping[str, str] = {
    "count": "count(DISTINCT {0})",
    "sum": "coalesce(sum(DISTINCT {0}), 0)",
    "list": _ONCE,
    "count_if": "count(DISTINCT CASE WHEN {0} THEN true END)",
    "mode": "min({0})",
    "histogram": f"map({_ONCE}, list_transform({_ONCE}, lambda v: 1::BIGINT))",
    "top_k": f"{_ONCE}[1:{{x}}]",
    **{
        name: f"{name}(DISTINCT {{0}})"
        for name in ("avg", "median", "stddev_samp", "stddev_pop", "var_samp", "var_pop", "bit_xor")
    },
    **dict.fromkeys(("quantile", "quantile_disc"), "quantile_disc(DISTINCT {0}, {x})"),
    "quantile_cont": "quantile_cont(DISTINCT {0}, {x})",
    **{
        row.name: _P_RANK.replace("list({0})", "list(DISTINCT {0})").replace("count({0})", "count(DISTINCT {0})")
        for row in AGGREGATES
        if row.constant == "fixed"
    },
    **{
        row.name: row.direct.replace("({0}, {1})", "(DISTINCT {0}, {1})")
        for row in AGGREGATES
        if row.args == 2 and row.takes == "number"
    },
}
"""The same over rows, as the batch and frames have them. Of two numbers each pair counts once."""

UNMOVED_BY_DISTINCT = frozenset(
    (
        *("min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "first", "last", "any_value", "arg_min", "arg_max"),
        "approx_count_distinct",
    )
)
"""Aggregates that do not care how often a value comes."""

_PLACED = "CASE WHEN {0} IS NOT NULL THEN struct_pack(k := {order}, v := {0}) END"
_RANKED = "CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN struct_pack(k := row({1}, {place}), v := {0}) END"
_ALIKE = _MOMENTS.merge.replace("{p}", "struct_pack(n := n::DOUBLE, m := v::DOUBLE, s := 0::DOUBLE)")
_ALIKE_PAIRS = _CO_MOMENTS.merge.replace(
    "{p}",
    "struct_pack(n := n::DOUBLE, my := v.y::DOUBLE, mx := v.x::DOUBLE, "
    "sy := 0::DOUBLE, sx := 0::DOUBLE, sp := 0::DOUBLE)",
)
OF_WITHDRAWN: Mapping[str, Bag] = {
    **{name: Bag(f"{name}(v)") for name in ("min", "max", "bool_and", "bool_or", "bit_and", "bit_or")},
    "bit_xor": Bag("coalesce(bit_xor(v) FILTER (WHERE n % 2 = 1), 0)"),
    "approx_count_distinct": Bag(_HLL_OF_ALL, _REGISTER_AND_RANK, empty="0"),
    "list": Bag("list(v.v ORDER BY v.k)", _PLACED),
    "first": Bag("arg_min(v.v, v.k)", _PLACED),
    "last": Bag("arg_max(v.v, v.k)", _PLACED),
    "any_value": Bag("arg_min(v.v, v.k)", _PLACED),
    "arg_min": Bag("arg_min(v.v, v.k)", _RANKED.replace("{place}", "{order}")),
    "arg_max": Bag("arg_max(v.v, v.k)", _RANKED.replace("{place}", "{reversed}")),
    **{
        row.name: Bag(row.how.result.replace("{p0}", f"({_ALIKE})"))
        for row in AGGREGATES
        if isinstance(row.how, Fold) and row.how.partials == (_MOMENTS,)
    },
    **{
        row.name: Bag(
            row.how.result.replace("{p0}", f"({_ALIKE_PAIRS})"), _PAIR, empty="0" if row.gives == BIGINT else "NULL"
        )
        for row in AGGREGATES
        if isinstance(row.how, Fold) and row.how.partials == (_CO_MOMENTS,)
    },
}
"""The form that an aggregate takes over rows that can be withdrawn, where its own can't take a row back: all values."""

OWN = AggregateRow("@own", 1, "any", "same", _by_order("first", "arg_min", "").how, "{0}", "A row's own value.")
"""What a property outside of aggregates is in a sliding window, which has one row for each event. No text names it."""

SUMS = AggregateRow(
    "@sums",
    2,
    "any",
    MapOf(VARCHAR, DOUBLE),
    Bag("map(list(v ORDER BY v), list(n ORDER BY v))", count="sum({1})::DOUBLE", type="DOUBLE"),
    "",
    "A map from each value of the first argument to the sum of the second.",
)
"""How EXPLAIN BY adds up the parts of a sum. No text names it."""

SQUARES = AggregateRow(
    "@squares",
    2,
    "any",
    DOUBLE,
    Bag("sum(n * n)", count="sum({1})::DOUBLE", type="DOUBLE"),
    "",
    "The sum of squares of what the second argument sums to for each value of the first.",
)
"""How EXTRAPOLATE tells how far off a sticky sample may be. No text names it."""

_BY_NAME = {name: row for row in (*AGGREGATES, OWN, SUMS, SQUARES) for name in (row.name, *row.aliases)}


def aggregate_names() -> tuple[str, ...]:
    """All names and aliases."""
    return tuple(_BY_NAME)


def aggregate_row(name: str) -> AggregateRow | None:
    """The aggregate called so, in any case, by its name or an alias."""
    return _BY_NAME.get(name.lower())


def result_type(row: AggregateRow, argument: DataType | None) -> DataType:
    """What an aggregate gives, for an argument of this type."""
    match row.gives:
        case "same":
            assert argument is not None
            return argument
        case "list":
            assert argument is not None
            return ListOf(argument)
        case "histogram":
            assert argument is not None
            return MapOf(argument, BIGINT)
        case "sum":
            return argument if argument is not None and argument != BOOLEAN else BIGINT
        case str():
            raise AssertionError(row.gives)
        case _:
            return row.gives
