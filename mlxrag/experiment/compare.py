"""Scores of two or more systems on the same questions -> Comparisons, corrected for how many there are.

Rules: the question is the pair and its document is the unit; a question without a score on either side is left out,
counted, and answered for by a worst case; nothing is called alike because it is not significant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mlxrag.errors import BadInput, Mismatch
from mlxrag.experiment.equivalence import Equivalence, Goal, equivalence
from mlxrag.experiment.power import detectable
from mlxrag.experiment.sequential import confidence_sequence
from mlxrag.experiment.statistics import (
    CORRECTIONS,
    Differences,
    Effect,
    Significance,
    benjamini_hochberg,
    design_effect,
    differences,
    effect,
    mcnemar,
    mean_interval,
    sign_flip,
    standard_error,
    wilcoxon,
)
from mlxrag.settings import Experimenting

Scores = Mapping[str, float | None]

FEW = 10  # documents below which intervals are rough


@dataclass(frozen=True, slots=True)
class Looked:
    """What the always-valid analysis says at the last look.

    Attributes:
        low: lower bound of the difference.
        high: upper bound.
        p: p-value that stays valid however often one looked.
        alpha: chance of ever being wrong that the bounds are for.
    """

    low: float
    high: float
    p: float
    alpha: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """System B against system A on one measure; differences are B minus A.

    Attributes:
        a, b: names of the systems.
        measure: what is compared.
        n: questions with a score on both sides.
        documents: how many documents they are from.
        missing_a, missing_b: questions without a score of A, of B.
        mean_a, mean_b: means over the n questions.
        difference: mean difference; None when n is 0.
        low, high: bounds at `confidence`; None where the data cannot give them.
        confidence: of the bounds.
        method: how the bounds were found.
        p: p-value of "no difference"; None when n is 0.
        corrected: the same, corrected for the family it belongs to.
        family: what it was corrected with, in words.
        test: what `p` is from.
        others: further tests of the same, for the reader who prefers them; not corrected.
        effect: wins, ties, losses and standardized sizes.
        standard_error: of the difference, over documents; None for a single document.
        detectable: smallest difference that as many questions show with the wanted power.
        design_effect: how many alike questions of a document are worth one.
        alike: test of non-inferiority or equivalence, where that is the goal or the measure is a guardrail.
        looked: always-valid bounds, where one may stop early.
        worst_low, worst_high: difference if every missing score went against B, or against A; None when none is missing.
        direction: 1 where more is better, 0 where it is neither.
    """

    a: str
    b: str
    measure: str
    n: int
    documents: int
    missing_a: int
    missing_b: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    method: str
    p: float | None
    corrected: float | None
    family: str
    test: str
    others: tuple[Significance, ...]
    effect: Effect | None
    standard_error: float | None
    detectable: float | None
    design_effect: float
    alike: Equivalence | None
    looked: Looked | None
    worst_low: float | None
    worst_high: float | None
    direction: int = 1


def pairs(names: Sequence[str], against_first: bool = True) -> list[tuple[str, str]]:
    """Return which systems are compared: every other with the first, or each with each."""
    return [(names[0], name) for name in names[1:]] if against_first else list(combinations(names, 2))


def compare(
    name_a: str,
    name_b: str,
    measure: str,
    a: Scores,
    b: Scores,
    homes: Mapping[str, str],
    settings: Experimenting,
    *,
    alike: Goal | None = None,
    order: Sequence[str] = (),
    looks: int = 0,
    direction: int = 1,
) -> Comparison:
    """Compare two systems on one measure.

    Args:
        name_a: the system that was there before.
        name_b: the one that may be better.
        measure: name of the measure.
        a: example id -> score of A, or None where it has none.
        b: the same of B; for the same examples.
        homes: example id -> document, of all examples that may be asked; one that is not in it stands for itself.
        settings: alpha, margin, power, samples, seed.
        alike: test this too, within `settings.margin`.
        order: the order in which examples were asked, for always-valid bounds; none unless given.
        looks: comparisons that share alpha when looking (Bonferroni); 0 gives no always-valid bounds.
        direction: 1 where more is better, 0 where it is neither.

    Raises:
        Mismatch: the examples differ.
    """
    if a.keys() != b.keys():
        only = sorted(a.keys() ^ b.keys())
        raise Mismatch(
            f"{name_a} and {name_b} were asked different questions: {len(only)} of {len(a.keys() | b.keys())} have an "
            f"answer of one alone, such as {only[0]}; compare runs on the same dataset and split"
        )
    both = [(i, u, v) for i in (order or a) if (u := a[i]) is not None and (v := b[i]) is not None]
    without = {"missing_a": sum(v is None for v in a.values()), "missing_b": sum(v is None for v in b.values())}
    confidence = 1 - settings.alpha
    if not both:
        return Comparison(
            name_a, name_b, measure, 0, 0, **without, mean_a=None, mean_b=None, difference=None, low=None, high=None,
            confidence=confidence, method="none: no question has a score on both sides", p=None, corrected=None,
            family="", test="", others=(), effect=None, standard_error=None, detectable=None, design_effect=1.0,
            alike=None, looked=None, worst_low=None, worst_high=None, direction=direction,
        )  # fmt: skip
    x, y = np.array([u for _, u, _ in both]), np.array([v for _, _, v in both])
    clusters = [homes.get(i, i) for i, _, _ in both]
    d = differences(x, y, clusters)
    found = mean_interval(
        d, confidence=confidence, resamples=settings.permutations, seed=settings.ab_seed, span=_span(x, y)
    )
    first = sign_flip(d, resamples=settings.permutations, seed=settings.ab_seed)
    error = standard_error(d)
    low, high = _worst(a, b) if any(without.values()) and _span(x, y) <= 1.0 else (None, None)
    return Comparison(
        name_a, name_b, measure, len(both), len(d.sums), **without,
        mean_a=float(x.mean()), mean_b=float(y.mean()), difference=d.mean, low=found.low, high=found.high,
        confidence=confidence, method=found.method, p=first.p, corrected=first.p, family="", test=first.name,
        others=_others(d), effect=effect(d), standard_error=error if np.isfinite(error) else None,
        detectable=detectable(error, alpha=settings.alpha, power=settings.power) if np.isfinite(error) else None,
        design_effect=design_effect(d),
        alike=equivalence(d, settings.margin, alike, settings.alpha) if alike else None,
        looked=_look(d, homes, settings.alpha / looks) if looks and order and _span(x, y) <= 1.0 else None,
        worst_low=low, worst_high=high, direction=direction,
    )  # fmt: skip


def compare_all(
    scores: Mapping[str, Mapping[str, Scores]],
    homes: Mapping[str, str],
    settings: Experimenting,
    primary: str,
    *,
    which: Sequence[tuple[str, str]] = (),
    order: Sequence[str] = (),
    neutral: Iterable[str] = (),
) -> list[Comparison]:
    """Compare systems on all measures, the primary first, and correct the p-values.

    The primary measure over all pairs is one family, corrected as the settings say; all other measures over all pairs
    are a second one, corrected by Benjamini and Hochberg: they explore, they do not decide.

    Args:
        scores: system -> measure -> example id -> score.
        homes: example id -> document.
        settings: how to compare.
        primary: the measure that decides.
        which: pairs of systems; every other with the first unless given.
        order: the order in which examples were asked, for always-valid bounds.
        neutral: measures of which more is neither better nor worse.

    Raises:
        BadInput: fewer than two systems, or a measure that a system lacks.
    """
    names = list(scores)
    if len(names) < 2:
        raise BadInput("a comparison needs two systems or more; only one was given")
    which = which or pairs(names)
    shared = [m for m in scores[names[0]] if all(m in scores[n] for n in names)]
    for measure in dict.fromkeys((primary, *settings.guardrails)):
        if measure not in shared:
            raise BadInput(f"{measure} was not measured for every system; measured were: {', '.join(shared)}")
    goal: Goal | None = None if settings.goal == "difference" else settings.goal
    found = []
    for measure in (primary, *(m for m in shared if m != primary)):
        for a, b in which:
            alike = goal if measure == primary else "noninferiority" if measure in settings.guardrails else None
            found.append(compare(
                a, b, measure, scores[a][measure], scores[b][measure], homes, settings, alike=alike, order=order,
                looks=len(which) if measure == primary and settings.stopping == "sequential" else 0,
                direction=0 if measure in set(neutral) else 1,
            ))  # fmt: skip
    decides = _corrected(
        [c for c in found if c.measure == primary], CORRECTIONS[settings.correction], settings.correction
    )
    explores = _corrected([c for c in found if c.measure != primary], benjamini_hochberg, "bh")
    return [*decides, *explores]


def decided(c: Comparison, settings: Experimenting) -> str:
    """Return what a comparison comes to: better, worse, alike, not worse, or not distinguishable.

    With always-valid bounds the decision is theirs, since one may have stopped because of them.
    """
    if c.difference is None or c.corrected is None:
        return "not measured"
    if c.looked is not None:
        different, low, high = c.looked.p <= c.looked.alpha, c.looked.low, c.looked.high
        shown = low > -settings.margin and (settings.goal == "noninferiority" or high < settings.margin)
    else:
        different = c.corrected <= settings.alpha
        shown = c.alike is not None and c.alike.shown
    goal = c.alike.goal if c.alike is not None else "difference"
    if different and c.direction and not (goal == "equivalence" and shown):
        return "better" if c.difference > 0 else "worse"
    if different and not c.direction:
        return "different"
    if goal != "difference" and shown:
        return "alike" if goal == "equivalence" else "not worse"
    return "not distinguishable"


def _corrected(
    found: Sequence[Comparison], correct: Callable[[Sequence[float]], list[float]], name: str
) -> list[Comparison]:
    known = [c for c in found if c.p is not None]
    values = iter(correct([c.p for c in known if c.p is not None]))
    words = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "not corrected"}[name]
    family = (
        f"{words} over {len(known)}" if len(known) > 1 and name != "none" else "alone" if len(known) == 1 else words
    )
    return [replace(c, corrected=next(values) if c.p is not None else None, family=family) for c in found]


def _others(d: Differences) -> tuple[Significance, ...]:
    found = [wilcoxon(d)]
    if d.binary:
        gains, losses = int((d.values > 0).sum()), int((d.values < 0).sum())
        found += [mcnemar(gains, losses, mid=False), mcnemar(gains, losses)]
    return tuple(found)


def _look(d: Differences, homes: Mapping[str, str], alpha: float) -> Looked:
    # The largest document must be known before the first answer: it is that of all examples, asked or not.
    largest = max([*Counter(homes.values()).values(), int(d.sizes.max())])
    s = confidence_sequence(d.sums, d.sizes, largest=largest, alpha=alpha)
    return Looked(float(s.low[-1]), float(s.high[-1]), float(s.p[-1]), alpha)


def _span(x: np.ndarray, y: np.ndarray) -> float:
    """Return the largest difference that scores like these can have: 1 for shares."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    return 1.0 if low >= 0 and high <= 1 else float(high - low)


def _worst(a: Scores, b: Scores) -> tuple[float, float]:
    """Return the difference if missing shares went against B (its are 0, A's are 1), and the other way round."""

    def mean(missing_a: float, missing_b: float) -> float:
        filled = [((missing_a if (x := a[i]) is None else x), (missing_b if (y := b[i]) is None else y)) for i in a]
        return float(np.mean([y - x for x, y in filled]))

    return mean(1.0, 0.0), mean(0.0, 1.0)
