"""Paired comparisons of scores: differences grouped by document, intervals, tests, effect sizes, corrections.

Rules: the questions of one document succeed and fail together, so the document is what is resampled and flipped;
every p-value is above 0; every random number comes from a seed that the caller gives; nothing is rounded.
Knows nothing of systems, measures or files: it takes numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

TINY = 1e-12
ENUMERATE = 16  # documents whose 2^16 signs are all tried where the sums lie on no lattice
LATTICES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 60, 100, 840)  # denominators of scores such as 2/3 or 0.25
LONGEST = 200_000  # cells of the exact null distribution


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences of paired scores, B minus A, grouped by document.

    Attributes:
        values: differences `(n,)`, in the order given.
        sums: sum of the differences of each document `(g,)`.
        sizes: number of questions of each document `(g,)`.
    """

    values: Floats
    sums: Floats
    sizes: Floats

    @property
    def mean(self) -> float:
        """Mean difference over questions."""
        return float(self.values.mean())

    @property
    def means(self) -> Floats:
        """Mean difference of each document `(g,)`."""
        return self.sums / self.sizes

    @property
    def plain(self) -> bool:
        """Whether every document has one question, so that questions are independent."""
        return len(self.sums) == len(self.values)

    @property
    def binary(self) -> bool:
        """Whether every difference is -1, 0 or 1, as right/wrong scores give."""
        return bool(np.isin(self.values, (-1.0, 0.0, 1.0)).all())


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with bounds; `low` and `high` are None where the data cannot give them.

    Attributes:
        estimate: the mean difference.
        low: lower bound.
        high: upper bound.
        confidence: such as 0.95.
        method: how the bounds were found.
    """

    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class Significance:
    """What a two-sided test of "no difference" found.

    Attributes:
        name: which test.
        p: p-value, above 0 and at most 1.
        statistic: its statistic; None where it has none.
        exact: whether the null distribution was counted out, and not sampled or approximated.
    """

    name: str
    p: float
    statistic: float | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Effect:
    """How large a difference is, by measures that do not depend on how many questions there were.

    Attributes:
        d_z: mean over standard deviation of the differences (Cohen 1988, 2.3.5); None where they do not vary.
        wins: questions that B scores higher.
        ties: questions of equal score.
        losses: questions that B scores lower.
        odds_ratio: wins over losses, the conditional odds ratio of right/wrong scores; None without losses.
        odds_low: lower 95 % bound of the odds ratio (Clopper-Pearson of wins among wins and losses).
        odds_high: upper bound; None where it is infinite.
    """

    d_z: float | None
    wins: int
    ties: int
    losses: int
    odds_ratio: float | None
    odds_low: float | None
    odds_high: float | None


def differences(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Differences:
    """Return B minus A, grouped.

    Args:
        a: scores `(n,)`, n at least 1, finite.
        b: scores `(n,)` of the same questions in the same order.
        clusters: what each question belongs to `(n,)`; each to itself unless given.
    """
    values = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite numbers, one per question, not of shape {values.shape}")
    if clusters is None:
        return Differences(values, values, np.ones(len(values)))
    places: dict[Hashable, int] = {}
    rows = np.array([places.setdefault(c, len(places)) for c in clusters])
    return Differences(values, np.bincount(rows, values).astype(np.float64), np.bincount(rows).astype(np.float64))


def standard_error(d: Differences) -> float:
    """Return the standard error of the mean difference, robust to documents (infinite for a single one).

    `sqrt(g / (g - 1) · Σ_g (S_g - m·n_g)²) / n`; with one question per document it is `s / sqrt(n)`.

    Source: Miller 2024, Adding Error Bars to Evals, equation 4, with the small-sample factor of Cameron & Miller 2015.
    """
    g = len(d.sums)
    if g < 2:
        return math.inf
    residuals = d.sums - d.mean * d.sizes
    return math.sqrt(g / (g - 1) * float(residuals @ residuals)) / len(d.values)


def design_effect(d: Differences) -> float:
    """Return how many times larger the variance of the mean is than it would be with independent questions."""
    naive = float(d.values.var(ddof=1)) / len(d.values) if len(d.values) > 1 else 0.0
    robust = standard_error(d) ** 2
    return robust / naive if naive > TINY and math.isfinite(robust) else 1.0


def mean_interval(
    d: Differences, *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0, span: float = 1.0
) -> Interval:
    """Return an interval of the mean difference by the bias-corrected accelerated bootstrap over documents.

    Documents are drawn with replacement and the mean is taken over their questions; bias is corrected by the share
    of resamples below the estimate, skewness by a jackknife over documents.  Where no difference varies there is
    nothing to resample: if a document differed with probability q, none of g would with (1 - q)^g, so the bounds
    are the estimate ± span · (1 - (α/2)^(1/g)), the rule of three.

    Args:
        d: what to describe.
        confidence: probability that the interval holds the true mean.
        resamples: bootstrap samples.
        seed: of the samples.
        span: largest difference that two scores can have.

    Source: Efron 1987, Better Bootstrap Confidence Intervals, section 3; `scipy.stats.bootstrap`.
    """
    g = len(d.sums)
    if g < 2:
        return Interval(d.mean, None, None, confidence, "none: a single document")
    if float(np.ptp(d.means)) < TINY:
        reach = span * (1 - ((1 - confidence) / 2) ** (1 / g))
        return Interval(d.mean, d.mean - reach, d.mean + reach, confidence, "rule of three: no difference varies")
    found = stats.bootstrap(
        (d.sums, d.sizes), _ratio, paired=True, vectorized=True, method="BCa", confidence_level=confidence,
        n_resamples=resamples, batch=max(1, 2_000_000 // g), rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = map(float, found.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        reach = float(stats.t.ppf(0.5 + confidence / 2, g - 1)) * standard_error(d)
        return Interval(d.mean, d.mean - reach, d.mean + reach, confidence, "t over documents")
    return Interval(d.mean, low, high, confidence, "BCa bootstrap over documents")


def sign_flip(d: Differences, *, resamples: int = 9999, seed: int = 0) -> Significance:
    """Test by permutation: without a difference, A and B could be exchanged in any document.

    The statistic is the sum of differences.  Its null distribution is counted out where the sums of the documents
    lie on a lattice (right/wrong scores do, and the result is then the exact McNemar test if each document has one
    question) or where there are at most 16 documents that differ; else it is sampled and p = (c + 1) / (r + 1).

    Args:
        d: what to test.
        resamples: r, samples where the distribution is not counted out.
        seed: of the samples.

    Source: Fisher 1935, The Design of Experiments, section 21; Phipson & Smyth 2010 for (c + 1) / (r + 1).
    """
    sums = d.sums[np.abs(d.sums) > TINY]
    seen = abs(float(sums.sum()))
    if not len(sums):
        return Significance("sign-flip permutation", 1.0, 0.0, True)
    steps = _lattice(np.abs(sums))
    if steps is not None:
        tail = _tail_of_lattice(steps, round(abs(float(np.sign(sums) @ steps))))
        return Significance("sign-flip permutation", tail, d.mean, True)
    edge = seen * (1 - 1e-9)
    if len(sums) <= ENUMERATE:
        # Half of the signs are enough: the other half mirrors them.
        bits = np.arange(1 << (len(sums) - 1))[:, None] >> np.arange(len(sums)) & 1
        return Significance(
            "sign-flip permutation", float(np.mean(np.abs((1.0 - 2 * bits) @ sums) >= edge)), d.mean, True
        )
    rng, count, left = np.random.default_rng(seed), 0, resamples
    while left:
        rows = min(left, max(1, 2_000_000 // len(sums)))
        signs = rng.integers(0, 2, (rows, len(sums)), np.int8)
        count += int(np.count_nonzero(np.abs(sums.sum() - 2 * (signs @ sums)) >= edge))
        left -= rows
    return Significance("sign-flip permutation", (count + 1) / (resamples + 1), d.mean, False)


def mcnemar(gains: int, losses: int, *, mid: bool = True) -> Significance:
    """Test right/wrong scores of independent questions by the questions that flipped.

    Without a difference each flip is a fair coin: p is the binomial tail of `losses` among `gains + losses`; the
    mid-p version takes half of the probability of what was seen, and is closer to alpha than the exact one.

    Args:
        gains: questions that B answers right and A wrong.
        losses: questions that A answers right and B wrong.
        mid: mid-p instead of exact.

    Source: McNemar 1947; Fagerland, Lydersen & Laake 2013 for mid-p.
    """
    flips = gains + losses
    name = "McNemar mid-p" if mid else "McNemar exact"
    if not flips:
        return Significance(name, 1.0, 0.0, True)
    fewer = min(gains, losses)
    p = min(1.0, 2 * float(stats.binom.cdf(fewer, flips, 0.5)))
    if mid:
        p = 1.0 if gains == losses else p - float(stats.binom.pmf(fewer, flips, 0.5))
    return Significance(name, _above_zero(p), float(gains - losses), True)


def wilcoxon(d: Differences) -> Significance:
    """Test by the signed ranks of the documents' mean differences; documents without one are left out.

    Source: Wilcoxon 1945; `scipy.stats.wilcoxon`.
    """
    means = d.means[np.abs(d.means) > TINY]
    if not len(means):
        return Significance("Wilcoxon signed rank", 1.0, 0.0, True)
    exact = len(means) <= 50 and len(np.unique(np.abs(means))) == len(means)
    found = stats.wilcoxon(means, method="exact" if exact else "asymptotic")
    return Significance("Wilcoxon signed rank", _above_zero(float(found.pvalue)), float(found.statistic), exact)


def paired_t(d: Differences) -> Significance:
    """Test by the mean difference over its standard error, robust to documents, on g - 1 degrees of freedom."""
    error = standard_error(d)
    if not math.isfinite(error) or error < TINY:
        return Significance("t over documents", 1.0, None, False)
    t = d.mean / error
    return Significance("t over documents", _above_zero(2 * float(stats.t.sf(abs(t), len(d.sums) - 1))), t, False)


def effect(d: Differences) -> Effect:
    """Return the sizes of an effect."""
    wins, losses = int((d.values > TINY).sum()), int((d.values < -TINY).sum())
    spread = float(d.values.std(ddof=1)) if len(d.values) > 1 else 0.0
    ratio = low = high = None
    if wins + losses and d.binary:
        ratio = wins / losses if losses else None
        bounds = stats.binomtest(wins, wins + losses).proportion_ci(0.95, method="exact")
        low = float(bounds.low / (1 - bounds.low))
        high = float(bounds.high / (1 - bounds.high)) if bounds.high < 1 else None
    return Effect(
        d_z=d.mean / spread if spread > TINY else None, wins=wins, ties=len(d.values) - wins - losses, losses=losses,
        odds_ratio=ratio, odds_low=low, odds_high=high,
    )  # fmt: skip


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected so that the chance of any false positive among them stays below alpha.

    Source: Holm 1979: with p sorted, the largest of (m - i)·p_i so far.

    Example:
        >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(x) for x in corrected]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return p-values corrected so that the expected share of false positives among those below alpha stays below it.

    Source: Benjamini & Hochberg 1995; `scipy.stats.false_discovery_control`.
    """
    return [float(x) for x in stats.false_discovery_control(list(p))] if p else []


CORRECTIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "holm": holm,
    "bh": benjamini_hochberg,
    "none": list,
}


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of a proportion that holds for few and for extreme counts.

    Source: Wilson 1927; `scipy.stats.binomtest`.
    """
    found = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def _ratio(sums: Floats, sizes: Floats, axis: int = -1) -> Floats:
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis), np.float64)


def _lattice(sizes: Floats) -> NDArray[np.int64] | None:
    """Return the sizes as whole steps of one lattice, or None where there is none that is small enough."""
    for parts in LATTICES:
        steps = np.rint(sizes * parts)
        if np.abs(steps - sizes * parts).max() < 1e-7:
            whole = steps.astype(np.int64)
            whole //= np.gcd.reduce(whole)
            return whole if whole.sum() <= LONGEST and whole.sum() * len(whole) <= 400_000_000 else None
    return None


def _tail_of_lattice(steps: NDArray[np.int64], seen: int) -> float:
    """Return the probability that |Σ ±step| is at least `seen`, signs being fair coins.

    The sum of the steps with a plus sign is built up step by step; `total` is that of all.
    """
    total = int(steps.sum())
    mass = np.zeros(total + 1)
    mass[0] = 1.0
    end = 0
    for step in sorted(int(s) for s in steps):
        moved = mass[: end + 1] * 0.5
        mass[: end + 1] = moved
        mass[step : end + step + 1] += moved
        end += step
    below = (total - seen) // 2  # plus-sums k with 2k - total <= -seen
    if seen == 0:
        return 1.0
    return min(1.0, _above_zero(2 * float(mass[: below + 1].sum())))


def _above_zero(p: float) -> float:
    return max(p, sys.float_info.min)
