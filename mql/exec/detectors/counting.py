"""`ratio` and `count`: tests that know how many events there were, for any number of keys.

Of three requests one fails: that is 33 %, and means nothing. The test asks how likely so many failures are, given the
key's own past (its few events are filled up with pseudo-events of the whole fleet's rate), for counts that vary more
than coins do. All keys of a window are judged together, so that of the alarms only a small share is false.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mql.exec.detectors.fdr import cut
from mql.exec.detectors.frame import Columns, Field, Flags, Floats, Ints, Scored, Seen, half_life, number
from mql.exec.detectors.moments import weights
from mql.exec.detectors.tails import binomial_tail, count_tail, normal_quantile

P_MIN = 1e-300
TOGETHER = 3
"""A ratio is tested over the last window, and over so many windows together: small keys need more than one."""
JUST_BELOW_ONE = float(np.nextafter(1.0, 0.0))


@dataclass(frozen=True, slots=True)
class Ratio:
    """k of n. `kappa`: pseudo-events of the fleet's rate; `phi`: the more, the less overdispersed; `fdr`: share of
    false alarms; `min_effect`: how many times the expected ratio. `up`, `down`: what is looked for."""

    phi: float = 100
    kappa: float = 50
    fdr: float = 0.01
    min_events: float = 5
    min_effect: float = 2
    half_life: float = 60
    warmup: int = 30
    events: float = 200
    up: bool = True
    down: bool = False

    @property
    def fields(self) -> tuple[Field, ...]:
        before = (Field("ks", width=TOGETHER - 1), Field("ns", width=TOGETHER - 1))
        return (Field("n", "int64"), Field("e"), Field("t"), *before)

    def step(self, state: Columns, seen: Seen) -> Scored:
        assert seen.of is not None, "a ratio has a denominator"
        at, n = seen.slots, np.maximum(seen.of, 0.0)
        k = np.minimum(np.maximum(seen.value, 0.0), n)
        visits, e, t = state["n"][at], state["e"][at], state["t"][at]
        # Slot 0 is no key's but the whole fleet's: its sums do not depend on which keys are still known.
        fleet_e, fleet_t = state["e"][0], state["t"][0]
        fleet = (fleet_e + 0.5) / (fleet_t + 1)
        expected = np.clip((e + self.kappa * fleet) / (t + self.kappa), 1e-9, 1 - 1e-9)
        warm = (visits >= self.warmup) | (t >= self.events)
        some = n > 0
        wanted = warm & some

        ks, ns = state["ks"][at], state["ns"][at]
        now = self._tested(k, n, *effective(k, n, self.phi), expected, wanted)
        whole_k, whole_n, sure_k, sure_n = k.copy(), n.copy(), *effective(k, n, self.phi)
        for back in range(TOGETHER - 1):
            part = effective(ks[:, back], ns[:, back], self.phi)
            whole_k, whole_n = whole_k + ks[:, back], whole_n + ns[:, back]
            sure_k, sure_n = sure_k + part[0], sure_n + part[1]
        lately = self._tested(whole_k, whole_n, sure_k, sure_n, expected, wanted)
        # The more telling of the two tests counts; that there are two is paid for.
        together = lately.p < now.p
        p = np.minimum(1.0, 2 * np.where(together, lately.p, now.p))
        if self.up and self.down:
            p = np.minimum(1.0, 2 * p)
        limit = cut(p[wanted], self.fdr)
        score = scores(p, limit, np.where(together, lately.enough, now.enough))

        def reason(row: int) -> str:
            hits, size = (whole_k[row], whole_n[row]) if together[row] else (k[row], n[row])
            return (
                f"{number(hits)} of {number(size)} ({100 * hits / max(size, 1):.3g} %)"
                f"{f' in {TOGETHER} windows' if together[row] else ''}, "
                f"expected {100 * expected[row]:.3g} %; p = {shown(p[row])}"
            )

        scored = Scored(
            np.where(warm, score, np.nan),
            np.where(np.where(together, lately.up, now.up), 1, -1).astype(np.int8),
            expected,
            *self._band(expected, n, limit / (4 if self.up and self.down else 2)),
            reason,
        )
        keep = 1 - half_life(self.half_life)
        state["n"][at] = visits + some
        state["e"][at] = np.where(some, keep * e + k, e)
        state["t"][at] = np.where(some, keep * t + n, t)
        state["ks"][at] = np.where(some[:, None], np.column_stack([k, ks[:, :-1]]), ks)
        state["ns"][at] = np.where(some[:, None], np.column_stack([n, ns[:, :-1]]), ns)
        state["e"][0] = keep * fleet_e + k.sum()
        state["t"][0] = keep * fleet_t + n.sum()
        return scored

    def _tested(self, k: Floats, n: Floats, sure_k: Floats, sure_n: Floats, expected: Floats, wanted: Flags) -> Tested:
        """p-values of k in n (of which `sure_n` are as good as independent), and whether the effect is large enough."""
        rate = k / np.maximum(n, 1.0)
        up = rate >= expected
        p = _chances(
            wanted & _looked_for(up, self.up, self.down),
            lambda rows: binomial_tail(sure_k[rows], sure_n[rows], expected[rows], up[rows]),
        )
        enough = np.where(
            up,
            (k >= self.min_events) & (rate >= self.min_effect * expected),
            (expected * n >= self.min_events) & (rate * self.min_effect <= expected),
        )
        return Tested(p, up, enough)

    def _band(self, expected: Floats, n: Floats, limit: float) -> tuple[Floats, Floats]:
        """About where the score is 1: normal approximation of the tail at the cut, never inside the least effect."""
        reach = normal_quantile(limit)
        size = np.maximum(n * (self.phi + 1) / (self.phi + n), 1e-9)
        spread = np.sqrt(expected * (1 - expected) / size)
        upper = np.maximum.reduce(
            [expected + reach * spread, self.min_effect * expected, self.min_events / np.maximum(n, 1.0)]
        )
        lower = np.minimum(expected - reach * spread, expected / self.min_effect)
        return np.maximum(lower, 0.0) if self.down else np.full(len(n), np.nan), (
            np.minimum(upper, 1.0) if self.up else np.full(len(n), np.nan)
        )


@dataclass(frozen=True, slots=True)
class Tested:
    p: Floats
    up: Flags
    enough: Flags


def effective(k: Floats, n: Floats, phi: float) -> tuple[Floats, Floats]:
    """A count and its size, shrunk as if at most about `phi` events were independent: traffic varies beyond chance."""
    size = n * (phi + 1) / (phi + n)
    return k * size / np.maximum(n, 1.0), size


@dataclass(frozen=True, slots=True)
class Count:
    """A number of events against the key's own mean number."""

    phi: float = 100
    fdr: float = 0.01
    min_events: float = 5
    min_effect: float = 2
    half_life: float = 60
    warmup: int = 30
    up: bool = True
    down: bool = True

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field("n", "int64"), Field("m"))

    def step(self, state: Columns, seen: Seen) -> Scored:
        at, k = seen.slots, np.maximum(seen.value, 0.0)
        n, mean = state["n"][at], state["m"][at]
        warm = n >= self.warmup
        expected = np.maximum(mean, 0.5 / np.maximum(n + 1, 1))
        up = k >= expected
        p = _chances(
            warm & _looked_for(up, self.up, self.down),
            lambda rows: count_tail(k[rows], expected[rows], up[rows], self.phi),
        )
        if self.up and self.down:
            p = np.minimum(1.0, 2 * p)
        limit = cut(p[warm], self.fdr)
        enough = np.where(
            up,
            (k >= self.min_events) & (k >= self.min_effect * expected),
            (expected >= self.min_events) & (k * self.min_effect <= expected),
        )
        reach = normal_quantile(limit) * np.sqrt(expected + expected * expected / self.phi)
        nothing = np.full(len(k), np.nan)
        upper = np.maximum.reduce([expected + reach, self.min_effect * expected, np.full(len(k), self.min_events)])
        lower = np.maximum(np.minimum(expected - reach, expected / self.min_effect), 0.0)
        scored = Scored(
            np.where(warm, scores(p, limit, enough), np.nan),
            np.where(up, 1, -1).astype(np.int8),
            expected,
            lower if self.down else nothing,
            upper if self.up else nothing,
            lambda row: f"{number(k[row])} events, expected {number(expected[row])}; p = {shown(p[row])}",
        )
        state["m"][at] = mean + weights(n, half_life(self.half_life)) * (k - mean)
        state["n"][at] = n + 1
        return scored


def scores(p: Floats, limit: float, enough: Flags) -> Floats:
    """1 and more where the p-value is at or below the cut and the effect is large enough."""
    found = np.abs(np.log(np.maximum(p, P_MIN)) / np.log(limit))
    # The last bit of a quotient of logarithms must not decide.
    found = np.where(p <= limit, np.maximum(found, 1.0), np.minimum(found, JUST_BELOW_ONE))
    return np.asarray(np.where(enough, found, np.minimum(found, JUST_BELOW_ONE)), np.float64)


def shown(p: float) -> str:
    return "< 1e-300" if p <= P_MIN else f"{p:.0e}"


def _looked_for(up: Flags, ups: bool, downs: bool) -> Flags:
    return (up & ups) | (~up & downs)


def _chances(rows: Flags, of: Callable[[Ints], Floats]) -> Floats:
    """p-values where they are asked for, 1 elsewhere."""
    found = np.ones(len(rows))
    asked = np.flatnonzero(rows)
    if len(asked):
        found[asked] = of(asked)
    return found
