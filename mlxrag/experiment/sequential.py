"""Intervals that stay valid however often one looks, so that a comparison may stop as soon as it is decided.

Strategy: betting.  If the true mean were m, nobody could get rich by betting on the documents one by one; the
capital of a fixed set of bets is watched, and every m against which it has ever reached 1/alpha is refused (Ville's
inequality: the chance of refusing the true one, at any time, is at most alpha).  This needs bounded scores and
documents in random order, and nothing else: no normal law, no variance that is known or guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlxrag.experiment.statistics import Floats

BETS = (0.08, 0.15, 0.27, 0.48, 0.85)  # shares of the capital put at risk, on either side
GRID = 401  # candidate means


@dataclass(frozen=True, slots=True)
class Sequence:
    """What was known after each document; all `(g,)`.

    Attributes:
        low: lower bounds, never falling.
        high: upper bounds, never rising.
        p: always-valid p-values of "no difference", never rising, in (0, 1].
        confidence: probability that all intervals hold the true mean at once.
    """

    low: Floats
    high: Floats
    p: Floats
    confidence: float


def confidence_sequence(
    sums: Floats, sizes: Floats, *, largest: int = 0, alpha: float = 0.05, span: float = 1.0
) -> Sequence:
    """Return the confidence sequence of the mean difference over questions.

    For a candidate r the bets are on x = (S - r·n) / largest, which lies in [-(span + r), span - r] and has mean 0 if
    r is true.  The capital is the mean of Π(1 + λx) over λ = f / (span + r) and -f / (span - r), f in `BETS`.

    Args:
        sums: sum of the differences of each document `(g,)`, in the random order in which they were asked.
        sizes: questions of each document `(g,)`.
        largest: most questions that a document has, known before the first was asked; the largest size unless given.
        alpha: chance of ever being wrong.
        span: largest difference that two scores can have.

    Returns:
        bounds on a grid of 401 means, rounded outwards; O(g · 401 · 10) time.

    Source: Waudby-Smith & Ramdas 2023, Estimating means of bounded random variables by betting, section 4 (a mixture
        of constant bets); Ville 1939.
    """
    sums, sizes = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    if len(sums) == 0:
        return Sequence(np.empty(0), np.empty(0), np.empty(0), 1 - alpha)
    largest = largest or int(sizes.max())
    if sizes.max() > largest or (np.abs(sums) > span * sizes + 1e-9).any():
        raise ValueError(f"a difference is above {span}, or a document has more than {largest} questions")
    means = np.linspace(-span, span, GRID)
    peak = _peak_capital(sums, sizes, largest, means[:, None], span)
    kept = peak < -np.log(alpha)
    # The means that are kept form an interval but for ripples of the mixture: take its hull, one step wider.
    step = means[1] - means[0]
    low = np.where(kept.any(0), means[kept.argmax(0)] - step, means[peak.argmin(0)] - step)
    high = np.where(kept.any(0), means[::-1][kept[::-1].argmax(0)] + step, means[peak.argmin(0)] + step)
    at_zero = _peak_capital(sums, sizes, largest, np.zeros((1, 1)), span)[0]
    return Sequence(np.clip(low, -span, span), np.clip(high, -span, span), np.exp(-np.maximum(at_zero, 0)), 1 - alpha)


def _peak_capital(sums: Floats, sizes: Floats, largest: int, means: Floats, span: float) -> Floats:
    """Return the logarithm of the largest capital so far, `(means, g)`."""
    x = (sums - means * sizes) / largest
    capital = np.full(x.shape, -np.inf)
    for share in BETS:
        # The most that can be lost on either side is 1 + r or 1 - r (times span); at the ends one side has no risk.
        for bet in (share / np.maximum(span + means, 1e-3 * span), -share / np.maximum(span - means, 1e-3 * span)):
            capital = np.logaddexp(capital, np.cumsum(np.log1p(np.maximum(bet * x, -1 + 1e-12)), axis=1))
    capital -= np.log(2 * len(BETS))
    return np.asarray(np.maximum.accumulate(capital, axis=1))
