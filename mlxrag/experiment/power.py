"""How many questions a comparison needs, and what a given number can show.

Strategy: differences of a pilot are drawn again with the wanted effect, whole documents at a time, and the test is
run on each draw; what share finds the effect is the power.  Without a pilot the differences are right/wrong flips
whose share is assumed, and the answer says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mlxrag.experiment.statistics import TINY, Differences, Floats

ASSUMED_FLIPS = 0.25  # share of questions that two systems answer differently, where nothing is known
LARGEST = 1 << 20
SIMULATED = 2000  # documents beyond which the mean is normal enough to work its law out


@dataclass(frozen=True, slots=True)
class Power:
    """What is needed to see an effect.

    Attributes:
        effect: the difference to be seen.
        alpha: of the test.
        power: chance to see it, as wanted.
        questions: how many questions give that chance; None where a million do not.
        reached: the chance with that many, as simulated.
        documents: how many documents they come from.
        deviation: standard deviation of a question's difference.
        design: how many times independent questions would be fewer.
        assumed: what was assumed for want of a pilot, or an empty string.
    """

    effect: float
    alpha: float
    power: float
    questions: int | None
    reached: float | None
    documents: int | None
    deviation: float
    design: float
    assumed: str


def needed(
    effect: float,
    pilot: Differences | None = None,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    simulations: int = 1000,
    seed: int = 0,
) -> Power:
    """Return how many questions show a difference of `effect` with chance `power`, by simulation.

    The number of documents is doubled until the chance is reached and then bisected, with the same random numbers
    for every number tried; beyond 2,000 documents the normal law takes the place of the simulation.

    Args:
        effect: difference of the measure, such as 0.05.
        pilot: differences of a pilot, of whatever mean.
        alpha: of the two-sided test.
        power: wanted chance, in (0, 1).
        simulations: draws for each number tried.
        seed: of the draws.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 25.5 (power by resampling).
    """
    flips = max(ASSUMED_FLIPS, min(1.0, abs(effect) * 1.5))
    sums, sizes = _drawn_from(effect, pilot, flips)
    per_document = float(sizes.mean())
    values = pilot.values if pilot is not None else None
    deviation = float(values.std(ddof=1)) if values is not None and len(values) > 1 else math.sqrt(flips - effect**2)
    low, high = 2, 4
    while (reached := _chance(sums, sizes, high, alpha, simulations, seed)) < power:
        low, high = high, high * 2
        if high * per_document > LARGEST:
            return Power(effect, alpha, power, None, None, None, deviation, 1.0, _assumption(pilot, flips))
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        chance = _chance(sums, sizes, middle, alpha, simulations, seed)
        if chance < power:
            low = middle
        else:
            high, reached = middle, chance
    independent = ((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * deviation / effect) ** 2
    return Power(
        effect=effect, alpha=alpha, power=power, questions=math.ceil(high * per_document), reached=reached,
        documents=high, deviation=deviation, design=max(1.0, high * per_document / float(independent)),
        assumed=_assumption(pilot, flips),
    )  # fmt: skip


def chance(effect: float, questions: int, pilot: Differences | None = None, **more: float) -> float:
    """Return the chance that `questions` questions show `effect`; arguments as of `needed`."""
    sums, sizes = _drawn_from(effect, pilot, max(ASSUMED_FLIPS, min(1.0, abs(effect) * 1.5)))
    documents = max(2, round(questions / float(sizes.mean())))
    return _chance(
        sums,
        sizes,
        documents,
        float(more.get("alpha", 0.05)),
        int(more.get("simulations", 1000)),
        int(more.get("seed", 0)),
    )


def detectable(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that a comparison with this standard error shows with chance `power`.

    `(z_{1-α/2} + z_{power}) · SE`.

    Source: Miller 2024, Adding Error Bars to Evals, equation 9.

    Example:
        >>> round(detectable(0.02), 4)
        0.056
    """
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * standard_error


def _drawn_from(effect: float, pilot: Differences | None, flips: float) -> tuple[Floats, Floats]:
    """Return sums and sizes of documents whose mean difference is `effect`, to draw from."""
    if pilot is None:
        # 1,000 questions in the shares of wins, losses and ties; a question is its own document.
        wins, losses = round(500 * (flips + effect)), round(500 * (flips - effect))
        return np.repeat([1.0, -1.0, 0.0], [wins, losses, 1000 - wins - losses]), np.ones(1000)
    return pilot.sums + (effect - pilot.mean) * pilot.sizes, pilot.sizes


def _chance(sums: Floats, sizes: Floats, documents: int, alpha: float, simulations: int, seed: int) -> float:
    """Return the share of draws of `documents` documents in which the t-test over documents finds the effect.

    The t-test stands in for the permutation test, which it agrees with but for few documents; it takes one pass.
    """
    if documents > SIMULATED:
        mean = sums.sum() / sizes.sum()
        deviation = float((sums - mean * sizes).std()) / float(sizes.mean())
        z = float(stats.norm.ppf(1 - alpha / 2))
        return float(stats.norm.sf(z - abs(mean) * math.sqrt(documents) / max(deviation, TINY)))
    rng = np.random.default_rng(seed)
    wins, left = 0, simulations
    critical = float(stats.t.ppf(1 - alpha / 2, documents - 1))
    sign = np.sign(sums.sum())
    while left:
        rows = min(left, max(1, 2_000_000 // documents))
        drawn = rng.integers(0, len(sums), (rows, documents))
        s, n = sums[drawn], sizes[drawn]
        mean = s.sum(1) / n.sum(1)
        residuals = s - mean[:, None] * n
        error = np.sqrt(documents / (documents - 1) * (residuals**2).sum(1)) / n.sum(1)
        wins += int(np.count_nonzero(sign * mean > critical * np.maximum(error, TINY)))
        left -= rows
    return wins / simulations


def _assumption(pilot: Differences | None, flips: float) -> str:
    if pilot is not None:
        return ""
    return f"no pilot: right/wrong scores that differ in {flips:.0%} of independent questions"
