"""Whether a system knows when it is right: its confidence against its correctness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of similar confidence.

    Attributes:
        n: how many.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    """

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against correctness.

    Attributes:
        n: answers with a confidence.
        missing: answers without one.
        ece: expected calibration error over bins of equal count; None when n is 0.
        brier: mean squared distance of confidence and correctness.
        auroc: chance that a right answer has more confidence than a wrong one; None if all are right or all wrong.
        bins: the reliability curve.
        coverage, risk: share answered, and share wrong among those, when the least confident are left out first.
        area: mean risk over all coverages (AURC; lower is better).
    """

    n: int
    missing: int
    ece: float | None
    brier: float | None
    auroc: float | None
    bins: tuple[Bin, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float | None


def confidence(logprob: float | None) -> float | None:
    """Return the geometric mean probability of an answer's tokens, from their mean log-probability in nats."""
    return None if logprob is None else math.exp(min(0.0, logprob))


def calibration(confidences: ArrayLike, right: ArrayLike, *, bins: int = 10, missing: int = 0) -> Calibration:
    """Hold confidence against correctness.

    Args:
        confidences: in [0, 1], `(n,)`.
        right: 0 or 1, `(n,)`.
        bins: bins of equal count for the calibration error; fewer when n is smaller.
        missing: answers without a confidence, reported.

    Source: Brier 1950; Naeini et al. 2015 (ECE), with bins of equal mass as Nguyen & O'Connor 2015; Geifman &
    El-Yaniv 2017 (risk and coverage).
    """
    p = np.asarray(confidences, np.float64)
    y = np.asarray(right, np.float64)
    n = len(p)
    if n == 0:
        return Calibration(0, missing, None, None, None, (), (), (), None)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, n)) if len(part)]
    found = tuple(Bin(len(part), float(p[part].mean()), float(y[part].mean())) for part in parts)
    ece = sum(b.n * abs(b.confidence - b.accuracy) for b in found) / n
    down = order[::-1]
    risk = np.cumsum(1 - y[down]) / np.arange(1, n + 1)
    picks = np.unique(np.linspace(0, n - 1, min(n, 50)).astype(int))
    return Calibration(
        n, missing, float(ece), float(np.mean((p - y) ** 2)), auroc(p, y), found,
        tuple(float((i + 1) / n) for i in picks), tuple(float(risk[i]) for i in picks), float(risk.mean()),
    )  # fmt: skip


def auroc(confidences: ArrayLike, right: ArrayLike) -> float | None:
    """Return the chance that a right answer has more confidence than a wrong one, ties counted half.

    None if all are right or all are wrong.  Source: Mann & Whitney 1947, U / (n1 n0), with mid-ranks.
    """
    from scipy.stats import rankdata

    p = np.asarray(confidences, np.float64)
    y = np.asarray(right, np.float64) > 0.5
    ones, zeros = int(y.sum()), int((~y).sum())
    if not ones or not zeros:
        return None
    return float((rankdata(p)[y].sum() - ones * (ones + 1) / 2) / (ones * zeros))
