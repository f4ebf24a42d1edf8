"""How good examples are: numbers for one example, and numbers for a set.

Every figure is defined where it is computed; None means that it is not defined for this example, and is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mlxrag.data.example import Example
from mlxrag.data.words import content_words, language_of, words


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number is distributed over examples.

    Attributes:
        n: examples with a value.
        missing: examples without one.
        mean: arithmetic mean, None when `n` is 0.
        quantiles: minimum, quartiles and maximum, empty when `n` is 0.
    """

    n: int
    missing: int
    mean: float | None
    quantiles: tuple[float, ...]


def answer_found(example: Example) -> float | None:
    """Whether an answer stands literally in a gold passage: 1.0 or 0.0; None if unanswerable or without passages."""
    if not example.answerable or not example.passages:
        return None
    texts = [p.text.casefold() for p in example.passages]
    return float(any(a.casefold() in t for a in example.answers for t in texts))


def evidence_coverage(example: Example) -> float | None:
    """Share of the best answer's content words that its evidence holds (its passages, where no evidence is recorded).

    In [0, 1]; None if unanswerable, without passages, or when every answer is made of stop words.
    """
    if not example.answerable or not example.passages:
        return None
    held = set(words(" ".join(example.evidence or tuple(p.text for p in example.passages))))
    shares = [sum(w in held for w in found) / len(found) for a in example.answers if (found := content_words(a))]
    return max(shares) if shares else None


def question_overlap(example: Example) -> float | None:
    """Share of the question's content words that its passages hold: how much of the finding is word matching.

    In [0, 1]; None without passages or content words.
    """
    asked = content_words(example.question)
    held = set(words(" ".join(p.text for p in example.passages)))
    return sum(w in held for w in asked) / len(asked) if asked and held else None


def readability(example: Example) -> float | None:
    """Flesch reading ease of the question and passages: about 100 is easy, 0 hard; English only, else None.

    206.835 - 1.015 words per sentence - 84.6 syllables per word, syllables as groups of vowels.
    Source: Flesch 1948, "A new readability yardstick".
    """
    text = " ".join((example.question, *(p.text for p in example.passages)))
    found = re.findall(r"[A-Za-z]+", text)
    if not found or language_of(text) != "en":
        return None
    sentences = max(1, len(re.findall(r"[.!?](?:\s|$)", text)))
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", w.lower().removesuffix("e")))) for w in found)
    return 206.835 - 1.015 * len(found) / sentences - 84.6 * syllables / len(found)


def gold_rank(example: Example) -> float | None:
    """Rank of the gold passage when the example was made, from its gates; None where it was not checked or not found."""
    match = re.search(r"rank (\d+)", example.gates.get("retrieval", ""))
    return float(match[1]) if match else None


def known_without(example: Example) -> float | None:
    """F1 of the base model's answer without any passage, from the gates: high means the question tests memory, not reading."""
    match = re.search(r"f1 ([\d.]+)", example.gates.get("closed_book", ""))
    return float(match[1]) if match else None


def answered_with(example: Example) -> float | None:
    """F1 of the model's answer with the gold passage, from the gates (answerability as a model sees it)."""
    match = re.search(r"f1 ([\d.]+)", example.gates.get("reading", ""))
    return float(match[1]) if match else None


def question_words(example: Example) -> float:
    """Words in the question."""
    return float(len(words(example.question)))


def answer_words(example: Example) -> float | None:
    """Words in the first answer; None if unanswerable."""
    return float(len(words(example.answers[0]))) if example.answers else None


def passage_words(example: Example) -> float | None:
    """Words in the passages together; None without passages."""
    return float(sum(len(words(p.text)) for p in example.passages)) if example.passages else None


QUALITY: dict[str, Callable[[Example], float | None]] = {
    "answer_found": answer_found,
    "evidence_coverage": evidence_coverage,
    "question_overlap": question_overlap,
    "readability": readability,
    "gold_rank": gold_rank,
    "known_without": known_without,
    "answered_with": answered_with,
    "question_words": question_words,
    "answer_words": answer_words,
    "passage_words": passage_words,
}


def spread(values: np.ndarray) -> Spread:
    """Return how numbers `(n,)` are distributed; NaN is counted as missing."""
    array = values[~np.isnan(values)]
    if not len(array):
        return Spread(0, len(values), None, ())
    quantiles = tuple(map(float, np.quantile(array, (0, 0.25, 0.5, 0.75, 1))))
    return Spread(len(array), len(values) - len(array), float(array.mean(dtype=np.float64)), quantiles)


def distinct(questions: Iterable[str], n: int) -> float | None:
    """Distinct word n-grams over all word n-grams of the questions, in (0, 1]; None if there are none.

    Falls as a set grows; compare only sets of similar size.  Source: Li et al. 2016, distinct-n.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for question in questions:
        found = words(question)
        counts.update(tuple(found[i : i + n]) for i in range(len(found) - n + 1))
    return len(counts) / counts.total() if counts else None


def embedding_spread(vectors: np.ndarray) -> float | None:
    """Mean cosine distance of two different rows of unit vectors `(n, d)`, in [0, 2]; None for fewer than two rows.

    By the identity |sum|^2 = n + n (n - 1) * mean cosine, so it costs one pass.
    """
    n = len(vectors)
    if n < 2:
        return None
    total = np.asarray(vectors, np.float64).sum(axis=0)
    return float(1 - (total @ total - n) / (n * (n - 1)))
