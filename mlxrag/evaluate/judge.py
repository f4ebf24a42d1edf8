"""A local model as judge: whether the passages support a claim, and which of two answers is better.

The verdict is not sampled: it is the probability of the yes-words against the no-words in the next-token
distribution.  When both together have little probability, the model did not judge, and there is no score.
Every verdict is asked for twice, with the options in either order, and the two are averaged; their distance is kept.

Source: probability-weighted scores, G-Eval (Liu et al. 2023, arXiv:2303.16634); both orders, Zheng et al. 2023 (arXiv:2306.05685).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlxrag.evaluate.calibration import auroc
from mlxrag.evaluate.score import Answered, Score
from mlxrag.evaluate.support import claims
from mlxrag.model.load import Model
from mlxrag.model.variants import next_logprobs

LEAST_MASS = 0.05
"""Probability that the verdict's words must have together; below it the model was about to say something else."""
SUPPORT = """{passages}

Claim: {claim}

Do the passages support the claim? Reply with one word, {first} or {second}."""
PREFER = """Question: {question}

Answer A: {a}

Answer B: {b}

Which answer is better? Reply with one letter, {first} or {second}."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge holds of something.

    Attributes:
        p: probability of the first option among the two, in [0, 1], the mean of both orders.
        mass: probability of the two options together, the smaller of both orders.
        swing: how far the two orders are apart, in [0, 1].
        first: probability of the option that is named first, the mean of both orders; 0.5 without position bias.
    """

    p: float
    mass: float
    swing: float
    first: float = 0.5

    @property
    def valid(self) -> bool:
        """Whether the model judged at all."""
        return self.mass >= LEAST_MASS


def supported(judge: Model, claim: str, passages: Sequence[str]) -> Verdict:
    """Return how likely the judge holds a claim to be supported by the passages."""
    text = "\n\n".join(f"Passage {i}: {p}" for i, p in enumerate(passages, 1)) or "(no passages)"
    return _both(judge, SUPPORT, ("Yes", "No"), passages=text, claim=claim)


def preferred(judge: Model, question: str, a: str, b: str) -> Verdict:
    """Return how likely the judge holds answer `a` to be better than `b`; asked with `a` first and with `b` first."""
    straight = _one(judge, PREFER.format(question=question, a=a, b=b, first="A", second="B"), ("A", "B"))
    turned = _one(judge, PREFER.format(question=question, a=b, b=a, first="A", second="B"), ("A", "B"))
    back = 1 - turned[0]
    first = (straight[0] + turned[0]) / 2
    return Verdict((straight[0] + back) / 2, min(straight[1], turned[1]), abs(straight[0] - back), first)


def verdicts_of(judge: Model, answer: Answered) -> tuple[list[Verdict], str]:
    """Return a verdict on every sentence of an answer, held against its passages, or why there is none."""
    found = claims(answer)
    if not found or not answer.hits:
        return [], "refused" if answer.refused else "no claim"
    passages = [h.passage.text for h in answer.hits]
    return [supported(judge, f"{answer.question} {c}", passages) for c in found], ""


def score_of(example_id: str, verdicts: Sequence[Verdict], why: str, by: str) -> Score:
    """Return `faithful_judge`: the mean probability that the passages support a sentence of the answer.

    None where there are no verdicts, or when the judge put less than `LEAST_MASS` on its two words for any sentence.
    """
    if not verdicts:
        return Score(example_id, "faithful_judge", None, by, why)
    if not all(v.valid for v in verdicts):
        return Score(example_id, "faithful_judge", None, by, "the judge gave no verdict")
    swing = max(v.swing for v in verdicts)
    return Score(example_id, "faithful_judge", sum(v.p for v in verdicts) / len(verdicts), by, f"swing {swing:.2f}")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against labels that people gave.

    Attributes:
        n: examples with both.
        kappa: Cohen's kappa of judge >= 0.5 and person >= 0.5; None when it is not defined.
        auroc: chance that the judge ranks a good one above a bad one; None if all are good or all bad.
        bias: mean of judge minus person; above 0 the judge is kinder.
    """

    n: int
    kappa: float | None
    auroc: float | None
    bias: float | None


def agreement(judged: Mapping[str, float], labelled: Mapping[str, float]) -> Agreement:
    """Hold a judge's scores (example id -> value in [0, 1]) against people's on the same examples.

    Source: Cohen 1960, kappa = (observed - expected) / (1 - expected).
    """
    ids = [i for i in judged if i in labelled]
    if not ids:
        return Agreement(0, None, None, None)
    a = np.array([judged[i] >= 0.5 for i in ids])
    b = np.array([labelled[i] >= 0.5 for i in ids])
    observed = float((a == b).mean())
    expected = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    kappa = None if expected == 1 else (observed - expected) / (1 - expected)
    gap = float(np.mean([judged[i] - labelled[i] for i in ids]))
    return Agreement(len(ids), kappa, auroc([judged[i] for i in ids], b), gap)


def _both(judge: Model, layout: str, words: tuple[str, str], **filled: str) -> Verdict:
    """Ask with the options in both orders; the sense of the question does not change, only their places."""
    straight = _one(judge, layout.format(first=words[0], second=words[1], **filled), words)
    turned = _one(judge, layout.format(first=words[1], second=words[0], **filled), words)
    first = (straight[0] + 1 - turned[0]) / 2
    return Verdict((straight[0] + turned[0]) / 2, min(straight[1], turned[1]), abs(straight[0] - turned[0]), first)


def _one(judge: Model, prompt: str, words: tuple[str, str]) -> tuple[float, float]:
    """Return the share of the first word, and the probability of both together."""
    ids = judge.tokenizer.prompt([{"role": "user", "content": prompt}])
    if len(ids) + 1 > judge.context:
        return 0.5, 0.0
    p = np.exp(next_logprobs(judge, ids).astype(np.float64))
    first, second = (float(p[sorted(_openings(judge, word))].sum()) for word in words)
    mass = first + second
    return (first / mass if mass > 0 else 0.5), mass


def _openings(judge: Model, word: str) -> set[int]:
    """The tokens a word can start with: as it is, in lower case, and after a blank."""
    forms = (word, word.lower(), f" {word}", f" {word.lower()}")
    return {ids[0] for form in forms if (ids := judge.tokenizer.encode(form, add_special_tokens=False))}
