"""The detectors: numpy over arrays of keys, one file a method. mql.detectors has their names and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from mql.exec.detectors.auto import Auto
from mql.exec.detectors.counting import Count, Ratio
from mql.exec.detectors.cusum import Cusum
from mql.exec.detectors.des import Des
from mql.exec.detectors.frame import Detector
from mql.exec.detectors.peers import Peers
from mql.exec.detectors.robust_zscore import RobustZScore
from mql.exec.detectors.seasonal import Seasonal
from mql.exec.detectors.zscore import ZScore

Values = Mapping[str, float | int | str | None]


def detector(method: str, given: Values, warmup: int, window_us: int, direction: str) -> Detector:
    """The method with these parameters (all of them, as mql.detectors names them)."""

    def number(name: str) -> float:
        value = given[name]
        assert isinstance(value, int | float), name
        return value

    def whole(name: str) -> int:
        return int(number(name))

    up, down = direction != "down", direction != "up"
    match method:
        case "auto":
            return Auto(
                number("alpha"),
                number("beta"),
                number("half_life"),
                whole("short"),
                number("long"),
                number("threshold"),
                warmup,
                number("min_spread_percent") / 100,
                number("min_spread"),
                whole("slots"),
                str(given["timezone"]),
                window_us,
            )
        case "zscore":
            spread = number("min_spread_percent") / 100, number("min_spread")
            return ZScore(number("half_life"), number("threshold"), warmup, *spread)
        case "des":
            percent = number("percent")
            shares = [(percent if given[way] is None else number(way)) / 100 for way in ("up", "down")]
            noise = None if given["noise"] is None else number("noise")
            return Des(whole("training"), number("alpha"), number("beta"), shares[0], shares[1], noise, warmup)
        case "seasonal":
            return Seasonal(
                whole("period"),
                whole("slots"),
                number("gamma"),
                str(given["timezone"]),
                window_us,
                number("alpha"),
                number("half_life"),
                whole("short"),
                number("long"),
                number("threshold"),
                warmup,
                number("min_spread_percent") / 100,
                number("min_spread"),
            )
        case "robust_zscore":
            spread = number("min_spread_percent") / 100, number("min_spread")
            return RobustZScore(whole("window"), number("threshold"), warmup, number("half_life"), *spread)
        case "mad":
            spread = number("min_spread_percent") / 100, max(number("step"), number("min_spread"))
            return RobustZScore(whole("window"), number("times"), warmup, 1000, *spread)
        case "cusum":
            spread = number("min_spread_percent") / 100, number("min_spread")
            return Cusum(number("k"), number("threshold"), number("half_life"), warmup, *spread)
        case "ratio":
            return Ratio(
                number("phi"),
                number("kappa"),
                number("fdr"),
                number("min_events"),
                number("min_effect"),
                number("half_life"),
                warmup,
                up=up,
                down=down,
            )
        case "count":
            return Count(
                number("phi"),
                number("fdr"),
                number("min_events"),
                number("min_effect"),
                number("half_life"),
                warmup,
                up=up,
                down=down,
            )
        case "peers":
            spread = number("min_spread_percent") / 100, number("min_spread")
            return Peers(number("threshold"), whole("siblings"), warmup, *spread)
        case _:
            raise AssertionError(method)
