"""The methods of the ANOMALY clause: one row each, with their parameters. How they compute is in mql.exec.detectors."""

from __future__ import annotations

from dataclasses import dataclass

from mql.errors import did_you_mean

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named argument of a method. `kind`: number, whole, share (0 to 1, or 20%), length (a time), text.

    `default` None: what the method chooses by itself.
    """

    name: str
    kind: str
    default: float | int | str | None
    doc: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """`takes`: value, ratio (k of n), count or siblings. `direction`: what it looks for where the query does not say.

    `memory`: the parameter that HISTORY sets, in windows; `warmup`: windows of silence at first. `sigmas`: its
    threshold is in standard deviations, so that one below 3 alarms all the time. A key takes `bytes`, and
    `bytes_each` times the parameter that the state `grows_with`.
    """

    name: str
    takes: str
    direction: str
    parameters: tuple[Parameter, ...]
    warmup: int
    bytes: int
    doc: str
    memory: str | None = None
    sigmas: bool = False
    grows_with: str | None = None
    bytes_each: int = 0
    aliases: tuple[str, ...] = ()

    def parameter(self, name: str) -> Parameter | None:
        return next((found for found in self.parameters if found.name == name), None)


def _threshold(default: float, what: str) -> Parameter:
    return Parameter("threshold", "number", default, what, 0.1, 1000)


_ZONE = Parameter("timezone", "text", "UTC", "Whose clock the rhythm goes by.")
_FLOORS = (
    Parameter("min_spread_percent", "number", 1, "The usual spread is at least this % of the value.", 0),
    Parameter("min_spread", "number", 0, "And at least this.", 0),
)
_SIGMAS = "How many standard deviations are unusual."
_HALF_LIFE = Parameter("half_life", "number", 1000, "After so many windows a value counts half.", 2, 1e9)
_TOGETHER = (
    Parameter("short", "whole", 10, "So many residuals are judged together.", 2, 100),
    Parameter("long", "number", 2000, "Half-life of what is usual for residuals, in windows.", 10, 1e9),
)
_COUNTS = (
    Parameter("fdr", "share", 0.01, "Of the alarms of a window, at most this share is false on average.", 1e-12, 0.5),
    Parameter("min_events", "number", 5, "Fewer events than this never alarm.", 0, 1e12),
    Parameter("min_effect", "number", 2, "At least so many times what is expected.", 1, 1e6),
    Parameter("phi", "number", 100, "The more, the less the traffic varies beyond chance.", 1, 1e9),
    Parameter("half_life", "number", 60, "After so many windows an event counts half.", 2, 1e9),
)

METHODS: tuple[Method, ...] = (
    Method(
        "auto",
        "value",
        "both",
        (
            _threshold(4, "Standard deviations of the likelihood; a single value needs twice as many."),
            _HALF_LIFE,
            *_TOGETHER,
            Parameter("slots", "whole", 24, "Parts of the day's profile; 0 for none.", 0, 288),
            _ZONE,
            Parameter(
                "alpha", "number", 0.05, "Weight of a new value in the level, before the profile is known.", 0.0001, 1
            ),
            Parameter("beta", "number", 0.01, "Weight of a new value in the trend, at first.", 0, 1),
            *_FLOORS,
        ),
        100,
        164,
        "Spikes, and series that begin to behave differently; knows the rhythm of the day. Start here.",
        memory="half_life",
        sigmas=True,
        grows_with="slots",
        bytes_each=5,
    ),
    Method(
        "zscore",
        "value",
        "both",
        (_threshold(6, _SIGMAS), _HALF_LIFE, *_FLOORS),
        100,
        24,
        "Single values far from a long mean.",
        memory="half_life",
        sigmas=True,
    ),
    Method(
        "des",
        "value",
        "both",
        (
            Parameter("percent", "number", 20, "How many % away from the prediction are unusual.", 0, 1e6),
            Parameter("up", "number", None, "The same upwards alone.", 0, 1e6),
            Parameter("down", "number", None, "The same downwards alone.", 0, 100),
            Parameter("noise", "number", None, "And at least this much away; else three usual errors.", 0),
            Parameter("training", "whole", 10, "So many windows come before the first prediction.", 1, 100_000),
            Parameter("alpha", "number", 0.1, "Weight of a new value in the level.", 0.0001, 1),
            Parameter("beta", "number", 0.5, "Weight of a new step in the trend.", 0, 1),
        ),
        10,
        32,
        "Double exponential smoothing with a relative and an absolute margin, as Netflix alarms on stream starts.",
    ),
    Method(
        "seasonal",
        "value",
        "both",
        (
            Parameter("period", "length", DAY_US, "After what time the rhythm repeats.", 1_000_000, 400 * DAY_US),
            Parameter("slots", "whole", None, "Parts of the period; else 24, 168 for a week.", 2, 1440),
            _ZONE,
            Parameter("gamma", "number", 0.25, "Weight of one visit in a slot's profile.", 0.001, 1),
            _threshold(4, "Standard deviations of the likelihood of residuals."),
            _HALF_LIFE,
            *_TOGETHER,
            Parameter("alpha", "number", 0.002, "Weight of a new value in the level; slow.", 0.0001, 1),
            *_FLOORS,
        ),
        100,
        132,
        "Values with a rhythm of the day or the week.",
        memory="half_life",
        sigmas=True,
        grows_with="slots",
        bytes_each=5,
    ),
    Method(
        "robust_zscore",
        "value",
        "both",
        (
            _threshold(8, "How many robust standard deviations are unusual."),
            Parameter("window", "whole", 60, "The median is of so many windows.", 5, 1000),
            Parameter("half_life", "number", 1000, "Half-life of the long-run spread, in windows.", 2, 1e9),
            *_FLOORS,
        ),
        20,
        16,
        "Spikes against the last hour, unmoved by a few bad windows (Hampel).",
        memory="window",
        sigmas=True,
        grows_with="window",
        bytes_each=4,
        aliases=("hampel",),
    ),
    Method(
        "mad",
        "value",
        "both",
        (
            Parameter("step", "number", 0, "The spread is never taken for less than this.", 0),
            Parameter("times", "number", 8, "How many robust standard deviations are unusual.", 0.1, 1000),
            Parameter("window", "whole", 60, "The median is of so many windows.", 5, 1000),
            *_FLOORS,
        ),
        20,
        16,
        "The same under its name in Mantis: a floor, then a multiple.",
        memory="window",
        grows_with="window",
        bytes_each=4,
    ),
    Method(
        "cusum",
        "value",
        "both",
        (
            _threshold(15, "The sum of deviations that is unusual, in standard deviations."),
            Parameter("k", "number", 1, "What is forgiven in each window, in standard deviations.", 0, 100),
            _HALF_LIFE,
            *_FLOORS,
        ),
        100,
        40,
        "Small steps that do not go away.",
        memory="half_life",
    ),
    Method(
        "ratio",
        "ratio",
        "up",
        (
            *_COUNTS,
            Parameter("kappa", "number", 50, "Every key is given so many events at the rate of all keys.", 0, 1e9),
        ),
        30,
        24,
        "Errors of requests: knows that 1 of 3 means nothing. Made for very many keys.",
        memory="half_life",
    ),
    Method(
        "count",
        "count",
        "both",
        _COUNTS,
        30,
        16,
        "Numbers of events, also small ones. Made for very many keys.",
        memory="half_life",
    ),
    Method(
        "peers",
        "siblings",
        "both",
        (
            _threshold(6, "How many robust standard deviations from the siblings' median are unusual."),
            Parameter("siblings", "whole", 5, "Fewer siblings than this say nothing.", 3, 1_000_000),
            *_FLOORS,
        ),
        0,
        0,
        "The node that is not like the others in the same window. Name the siblings by AMONG.",
        sigmas=True,
    ),
)

_BY_NAME = {name: method for method in METHODS for name in (method.name, *method.aliases)}


def method_named(name: str) -> Method | None:
    return _BY_NAME.get(name)


def method_hint(name: str) -> str:
    return did_you_mean(name, _BY_NAME) or f"There are: {', '.join(method.name for method in METHODS)}."
