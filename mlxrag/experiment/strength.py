"""Preference strengths of systems from pairwise votes: Bradley-Terry with ties.

Knows nothing of who voted: a vote is a winner and a loser, or a tie.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, sparse, stats

from mlxrag.experiment.statistics import Floats


@dataclass(frozen=True, slots=True)
class Vote:
    """One judgement of two answers.

    Attributes:
        a: a system.
        b: another.
        outcome: 1.0 where a won, 0.0 where b won, 0.5 for a tie.
        cluster: what the vote belongs to, such as the question or its document; votes of one cluster are not independent.
    """

    a: str
    b: str
    outcome: float
    cluster: Hashable = None


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a system is against the reference.

    Attributes:
        system: its name.
        log_odds: logarithm of the odds of winning over losing against the reference; None where the votes cannot say,
            since some group of systems never lost (or never won) against the rest.
        low: lower bound of `log_odds`.
        high: upper bound.
        win_rate: chance to beat the reference, ties left out: 1 / (1 + exp(-log_odds)).
        votes: votes it was in.
    """

    system: str
    log_odds: float | None
    low: float | None
    high: float | None
    win_rate: float | None
    votes: int


def strengths(votes: Sequence[Vote], reference: str | None = None, confidence: float = 0.95) -> list[Strength]:
    """Return the strengths of all systems, strongest first, by maximum likelihood.

    With strengths π and a tie parameter ν: P(a wins) = π_a / (π_a + π_b + ν·sqrt(π_a·π_b)), and P(tie) has the last
    term above.  Without ties this is Bradley & Terry's model.  Bounds are normal, with the inverse Hessian as
    covariance, or Huber's sandwich over clusters where votes have them.

    Args:
        votes: at least one.
        reference: the system of log-odds 0; the first one named unless given.
        confidence: of the bounds.

    Source: Bradley & Terry 1952; Davidson 1970, JASA 65, 317-328, equation 2.4; Ford 1957 for when it has a solution.
    """
    names = list(dict.fromkeys(name for vote in votes for name in (vote.a, vote.b)))
    if reference is not None:
        names = [reference, *(n for n in names if n != reference)]
    place = {name: i for i, name in enumerate(names)}
    a = np.array([place[v.a] for v in votes])
    b = np.array([place[v.b] for v in votes])
    won = np.array([v.outcome for v in votes], np.float64)
    counts = np.bincount(np.concatenate([a, b]), minlength=len(names))
    if not _connected(a, b, won, len(names)):
        return [Strength(n, 0.0 if i == 0 else None, None, None, 0.5 if i == 0 else None, int(counts[i]))
                for i, n in enumerate(names)]  # fmt: skip
    tied = bool((won == 0.5).any())
    size = len(names) - 1 + tied

    def gradients(x: Floats) -> tuple[Floats, Floats]:
        """Log-likelihood of each vote `(votes,)` and its gradient `(votes, size)`."""
        theta = np.concatenate([[0.0], x[: len(names) - 1]])
        gap = theta[a] - theta[b]
        nu = x[-1] if tied else -math.inf
        terms = np.stack([gap / 2, -gap / 2, np.full(len(gap), nu)])
        peak = terms.max(0)
        total = peak + np.log(np.exp(terms - peak).sum(0))
        p = np.exp(terms - total)
        picked = np.where(won == 1, gap / 2, np.where(won == 0, -gap / 2, nu))
        slope = np.where(won == 1, 0.5, np.where(won == 0, -0.5, 0.0)) - (p[0] - p[1]) / 2
        rows = np.zeros((len(gap), len(names)))
        np.add.at(rows, (np.arange(len(gap)), a), slope)
        np.add.at(rows, (np.arange(len(gap)), b), -slope)
        rows = rows[:, 1:]
        if tied:
            rows = np.column_stack([rows, (won == 0.5) - p[2]])
        return picked - total, rows

    def loss(x: Floats) -> tuple[float, Floats]:
        values, rows = gradients(x)
        return -float(values.sum()), -rows.sum(0)

    found = optimize.minimize(loss, np.zeros(size), jac=True, method="BFGS", options={"gtol": 1e-9 * len(votes)})
    x = np.asarray(found.x, np.float64)
    step = 1e-5
    hessian = np.column_stack([(loss(x + step * e)[1] - loss(x - step * e)[1]) / (2 * step) for e in np.eye(size)])
    covariance = np.linalg.pinv((hessian + hessian.T) / 2)
    labels = {v.cluster for v in votes}
    if None not in labels and len(labels) > 1:
        order = {label: i for i, label in enumerate(labels)}
        scores = np.zeros((len(labels), size))
        np.add.at(scores, [order[v.cluster] for v in votes], gradients(x)[1])
        covariance = covariance @ (scores.T @ scores) @ covariance * len(labels) / (len(labels) - 1)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    rows = [Strength(names[0], 0.0, None, None, 0.5, int(counts[0]))]
    for i in range(1, len(names)):
        reach = z * math.sqrt(max(float(covariance[i - 1, i - 1]), 0.0))
        odds = float(x[i - 1])
        rows.append(Strength(names[i], odds, odds - reach, odds + reach, 1 / (1 + math.exp(-odds)), int(counts[i])))
    return sorted(rows, key=lambda s: -(s.log_odds or 0.0))


def _connected(a: np.ndarray, b: np.ndarray, won: Floats, n: int) -> bool:
    """Whether every system can be reached from every other along wins (a tie counts both ways)."""
    edges = np.zeros((n, n))
    edges[a[won > 0], b[won > 0]] = 1
    edges[b[won < 1], a[won < 1]] = 1
    parts = sparse.csgraph.connected_components(sparse.csr_array(edges), connection="strong")[0]
    return bool(parts == 1)
