"""Whether a run is worse than a baseline: the same questions, a paired test, a limit for each measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mlxrag.errors import BadInput, Mismatch
from mlxrag.evaluate.score import Score
from mlxrag.experiment.statistics import differences, mean_interval, sign_flip
from mlxrag.settings import Evaluating

Verdict = Literal["passed", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class Check:
    """One measure of a gate.

    Attributes:
        measure: which.
        limit: the largest drop that is allowed.
        n: questions with a value in both.
        missing: questions that the baseline has a value for and the run has not.
        documents: how many documents the n questions are from.
        baseline, run: means over the n questions; None when n is 0.
        change: run minus baseline, with bounds.
        low, high: bounds of the change over documents.
        p: two-sided p-value of "no difference" (signs of documents flipped).
        verdict: `failed` if it dropped by more than the limit and p is at most alpha; `missing` if a figure is; else `passed`.
        why: the verdict in words.
    """

    measure: str
    limit: float
    n: int
    missing: int
    documents: int
    baseline: float | None
    run: float | None
    change: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: Verdict
    why: str


def limits(given: Iterable[str]) -> dict[str, float]:
    """Read `f1=0.02` and the like as the largest drop allowed.

    Raises:
        BadInput: not of that form, or a negative number.
    """
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError as error:
            raise BadInput(f"--max-drop {text!r}: write MEASURE=NUMBER, such as f1=0.02") from error
        if found[name.strip()] < 0:
            raise BadInput(f"--max-drop {text!r}: a drop is a number of 0 or more")
    return found


def gate(
    baseline: Iterable[Score],
    run: Iterable[Score],
    homes: Mapping[str, str],
    allowed: Mapping[str, float],
    settings: Evaluating,
    *,
    alpha: float = 0.05,
) -> list[Check]:
    """Hold a run against a baseline, measure by measure.

    Args:
        baseline, run: all scores of each.
        homes: example id -> document, for every question of the baseline.
        allowed: measure -> the largest drop that is allowed.
        settings: of intervals.
        alpha: a drop counts when its p-value is at most this.

    Raises:
        Mismatch: they share no question.
    """
    before, after = _table(baseline), _table(run)
    asked = {i for values in before.values() for i in values}
    if not asked & {i for values in after.values() for i in values}:
        raise Mismatch("the run and the baseline share no question; evaluate both on the same version of a dataset")
    return [
        _check(name, limit, before.get(name, {}), after.get(name, {}), homes, settings, alpha)
        for name, limit in allowed.items()
    ]


def _check(
    name: str, limit: float, before: Mapping[str, float | None], after: Mapping[str, float | None],
    homes: Mapping[str, str], settings: Evaluating, alpha: float,
) -> Check:  # fmt: skip
    known = [i for i, v in before.items() if v is not None]
    both = [i for i in known if after.get(i) is not None]
    lost = len(known) - len(both)
    if not both:
        why = "the baseline has no value" if not known else "the run has no value for any question of the baseline"
        return Check(name, limit, 0, lost, 0, None, None, None, None, None, None, "missing", why)
    a, b = [float(before[i] or 0) for i in both], [float(after[i] or 0) for i in both]
    clusters = [homes.get(i, i) for i in both]
    d = differences(a, b, clusters)
    interval = mean_interval(d, confidence=settings.interval, resamples=settings.resamples, seed=settings.eval_seed)
    p = sign_flip(d, seed=settings.eval_seed).p
    verdict: Verdict = "passed"
    why = f"no drop beyond {limit:g}"
    if lost:
        verdict, why = "missing", f"{lost} questions of the baseline have no value in the run"
    elif -d.mean > limit:
        verdict = "failed" if p <= alpha else "passed"
        why = f"dropped by {-d.mean:.4f}" + (
            "" if p <= alpha else f", which {len(set(clusters))} documents do not prove (p = {p:.3g})"
        )
    return Check(
        name, limit, len(both), lost, len(set(clusters)), sum(a) / len(a), sum(b) / len(b), d.mean,
        interval.low, interval.high, p, verdict, why,
    )  # fmt: skip


def _table(scores: Iterable[Score]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for s in scores:
        found.setdefault(s.measure, {})[s.example_id] = s.value
    return found
