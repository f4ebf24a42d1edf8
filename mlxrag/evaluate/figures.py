"""Scores -> figures: a mean is never bare, it comes with n, missing and an interval over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlxrag.data.example import Example
from mlxrag.data.words import words
from mlxrag.evaluate.score import Score
from mlxrag.experiment.statistics import differences, mean_interval
from mlxrag.settings import Evaluating

# Measures that are no share of something: their bounds are not cut to [0, 1].
UNBOUNDED = frozenset({"answer_words", "similarity", "faithful_encoder", "used_nats", "known_nats"})


@dataclass(frozen=True, slots=True)
class Figure:
    """A measure over some examples.

    Attributes:
        measure: its name.
        n: examples with a value.
        missing: examples without one; `reasons` says why.
        documents: how many documents the n examples are from; they are what is resampled.
        mean: mean over the n examples; None when n is 0.
        low, high: bounds; None where the data cannot give them, such as for a single document.
        method: how the bounds were found.
        by: who scored: formula, a model, a person.
        reasons: why values are missing, with counts.
    """

    measure: str
    n: int
    missing: int
    documents: int
    mean: float | None
    low: float | None
    high: float | None
    method: str
    by: str
    reasons: Mapping[str, int]


def figure(measure: str, scores: Sequence[Score], homes: Mapping[str, Hashable], settings: Evaluating) -> Figure:
    """Summarize the scores of one measure.

    Args:
        measure: its name.
        scores: one per example.
        homes: example id -> its document; examples of one document are resampled together.
        settings: confidence, bootstrap samples and seed.
    """
    known = [s for s in scores if s.value is not None]
    reasons: dict[str, int] = {}
    for s in scores:
        if s.value is None:
            reasons[s.reason or "no reason given"] = reasons.get(s.reason or "no reason given", 0) + 1
    by = ", ".join(sorted({s.by for s in scores}))
    clusters = [homes.get(s.example_id, s.example_id) for s in known]
    documents = len(set(clusters))
    if not known:
        return Figure(measure, 0, len(scores), 0, None, None, None, "none: no values", by, reasons)
    values = np.array([s.value for s in known], np.float64)
    found = mean_interval(
        differences(np.zeros(len(values)), values, clusters),
        confidence=settings.interval, resamples=settings.resamples, seed=settings.eval_seed,
    )  # fmt: skip
    low, high = found.low, found.high
    if low is not None and high is not None and measure not in UNBOUNDED:
        low, high = max(0.0, low), min(1.0, high)
    return Figure(
        measure,
        len(known),
        len(scores) - len(known),
        documents,
        float(values.mean()),
        low,
        high,
        found.method,
        by,
        reasons,
    )


def home(example: Example) -> str:
    """Return the document that an example is counted to: that of its first passage, else itself."""
    return example.passages[0].source if example.passages else f"example {example.id}"


def question_type(example: Example) -> str:
    """Return how a question asks: its question word (`how many` is one), or `other`."""
    found = words(example.question)
    for i, word in enumerate(found):
        if word == "how" and i + 1 < len(found) and found[i + 1] in _HOW:
            return f"how {found[i + 1]}"
        if word in _ASKING:
            return word
    return "yes/no" if found and found[0] in _YES_NO else "other"


def length_band(example: Example) -> str:
    """Return the band of words of the shortest answer."""
    if not example.answers:
        return "no answer"
    count = min(len(words(a)) for a in example.answers)
    return next(
        label
        for limit, label in ((1, "1 word"), (3, "2-3 words"), (10, "4-10 words"), (math.inf, "over 10 words"))
        if count <= limit
    )


SLICES: dict[str, Callable[[Example], Iterable[str]]] = {
    "answerable": lambda e: ["answerable" if e.answerable else "unanswerable"],
    "tag": lambda e: e.tags or ["(none)"],
    "question": lambda e: [question_type(e)],
    "answer length": lambda e: [length_band(e)],
    "passages": lambda e: [f"{len(e.passages)} gold"],
    "turn": lambda e: ["follow-up" if e.history else "first"],
    "document": lambda e: [home(e)],
}

_HOW = frozenset("many much long far often old large big fast high heavy tall wide deep soon".split())
_ASKING = frozenset("what who whom whose when where why how which".split())
_YES_NO = frozenset("is are was were do does did can could may must should will would has have had am".split())
