"""Tests that two systems are as good as each other, within a margin: what "not significant" does not show.

Knows nothing of systems: it takes grouped differences, B minus A, where higher is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import special

from mlxrag.experiment.statistics import TINY, Differences, design_effect, standard_error

Goal = Literal["noninferiority", "equivalence"]


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Whether B is not worse than A by more than a margin, or differs by less than it either way.

    Attributes:
        goal: noninferiority (one-sided) or equivalence (both sides).
        margin: the difference that would still not matter, above 0.
        p: p-value of the test; equivalence takes the larger of its two.
        low: lower bound of the difference at confidence 1 - 2·alpha; shown when it is above -margin.
        high: upper bound.
        shown: whether p is at most alpha.
        method: which test.
    """

    goal: Goal
    margin: float
    p: float
    low: float
    high: float
    shown: bool
    method: str


def equivalence(d: Differences, margin: float, goal: Goal = "noninferiority", alpha: float = 0.05) -> Equivalence:
    """Test that B is worse than A by less than `margin` (and, for equivalence, better by less than it).

    Right/wrong scores take Tango's score test, which keeps its error rate with few flips; with several questions per
    document, counts are divided by the design effect and the normal law gives way to Student's with g - 1 degrees
    of freedom.  Other scores take two one-sided t-tests with the standard error over documents.  Where no difference
    varies, the chance of g equal documents when the true difference is at the margin is at most (1 - margin)^g.

    Args:
        d: differences B - A in [-1, 1] or any scale that `margin` shares.
        margin: above 0.
        goal: one side or both.
        alpha: of each one-sided test.

    Source: Schuirmann 1987 (two one-sided tests); Tango 1998, Statistics in Medicine 17, 891-908 (paired proportions);
        Rao & Scott 1992, Biometrics 48, 577-585 (counts over the design effect).
    """
    if not margin > 0:
        raise ValueError(f"the margin must be above 0, not {margin}")
    g = len(d.sums)
    if g < 2 or standard_error(d) < TINY:
        worse = (1 - min(margin, 1.0)) ** g if abs(d.mean) < TINY else float(d.mean <= -margin)
        better = (1 - min(margin, 1.0)) ** g if abs(d.mean) < TINY else float(d.mean >= margin)
        reach = 1 - alpha ** (1 / g)
        low, high, method = d.mean - reach, d.mean + reach, "rule of three: no difference varies"
    elif d.binary:
        over = 1.0 if d.plain else max(1.0, design_effect(d))
        freedom = math.inf if d.plain else g - 1.0
        gains, losses, n = float((d.values > 0).sum()) / over, float((d.values < 0).sum()) / over, len(d.values) / over
        worse = float(special.stdtr(freedom, -tango(gains, losses, n, -margin)))
        better = float(special.stdtr(freedom, tango(gains, losses, n, margin)))
        low, high = tango_interval(gains, losses, n, float(special.stdtrit(freedom, 1 - alpha)))
        method = "Tango score test" if d.plain else "Tango score test over documents"
    else:
        error = standard_error(d)
        worse = float(special.stdtr(g - 1, -(d.mean + margin) / error))
        better = float(special.stdtr(g - 1, (d.mean - margin) / error))
        reach = float(special.stdtrit(g - 1, 1 - alpha)) * error
        low, high, method = d.mean - reach, d.mean + reach, "two one-sided t-tests over documents"
    p = worse if goal == "noninferiority" else max(worse, better)
    p = min(1.0, max(p, 5e-324))
    return Equivalence(goal, margin, p, low, high, p <= alpha, method)


def tango(gains: float, losses: float, n: float, difference: float) -> float:
    """Return the score statistic of "the true difference of paired proportions is `difference`", standard normal then.

    With q the likeliest share of losses under that difference, the positive root of
    2n·q² + (−gains − losses + (2n − gains + losses)·δ)·q − losses·δ·(1 − δ),
    it is (gains − losses − n·δ) / sqrt(n·(2q + δ·(1 − δ))).

    Source: Tango 1998, section 2.
    """
    a = 2.0 * n
    b = -gains - losses + (2 * n - gains + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    distance = gains - losses - n * difference
    if variance < TINY:
        return math.copysign(math.inf, distance) if abs(distance) > TINY else 0.0
    return distance / math.sqrt(variance)


def tango_interval(gains: float, losses: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the lowest and the highest difference whose `tango` statistic is within `z` of 0, by bisection.

    Source: Tango 1998, section 3.
    """
    estimate = (gains - losses) / n

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(tango(gains, losses, n, middle)) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    return edge(estimate, -1.0), edge(estimate, 1.0)
