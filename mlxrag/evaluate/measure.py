"""An answer and its example -> scores, by formula.

A measure is a plain function `(answer, example) -> Score`; a new one is a function and a line in `MEASURES`.
Values are shares in [0, 1] where nothing else is said.  What is not defined is None with a reason, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mlxrag.data.example import Example
from mlxrag.data.words import language_of, normal, overlap_f1, squad_normal, words
from mlxrag.evaluate.found import RETRIEVAL
from mlxrag.evaluate.numbers import agree, quantities
from mlxrag.evaluate.score import Answered, Measure, Score
from mlxrag.evaluate.support import CITATION, CITING


def plain_text(answer: Answered) -> str:
    """Return the answer without its citations; empty when it refuses."""
    return "" if answer.refused else CITATION.sub("", answer.text).strip()


def squad_exact(answer: Answered, example: Example) -> Score:
    """1.0 if the answer equals one of the answers after SQuAD's normalization; a refusal equals "unanswerable".

    Source: `compute_exact` of SQuAD's evaluate-v2.0.py.
    """
    given = squad_normal(plain_text(answer))
    return Score(example.id, "squad_exact", float(any(given == squad_normal(gold) for gold in _golds(example))))


def squad_f1(answer: Answered, example: Example) -> Score:
    """Best F1 of the bags of words after SQuAD's normalization; a refusal is right when there is no answer.

    Source: `compute_f1` of SQuAD's evaluate-v2.0.py.
    """
    given = squad_normal(plain_text(answer)).split()
    return Score(example.id, "squad_f1", max(overlap_f1(given, squad_normal(g).split()) for g in _golds(example)))


def exact(answer: Answered, example: Example) -> Score:
    """1.0 if the answer equals one of the answers, Unicode and language aware: case, width, punctuation, articles aside."""
    code = _language(example)
    given = normal(plain_text(answer), code)
    return Score(example.id, "exact", float(any(given == normal(gold, code) for gold in _golds(example))))


def f1(answer: Answered, example: Example) -> Score:
    """Best F1 of the bags of words, Unicode and language aware; characters count as words in scripts without spaces."""
    code = _language(example)
    given = normal(plain_text(answer), code).split()
    return Score(example.id, "f1", max(overlap_f1(given, normal(g, code).split()) for g in _golds(example)))


def correct(answer: Answered, example: Example) -> Score:
    """1.0 if a person who skims would call it right: it holds an answer's words in a row, or its F1 is at least 0.5.

    Where the answer is a number, that number must be in it.  Where there is no answer, it must refuse.
    """
    if not example.answerable:
        return Score(example.id, "correct", float(answer.refused))
    code = _language(example)
    given = normal(plain_text(answer), code)
    held = any(f" {normal(gold, code)} " in f" {given} " for gold in example.answers if normal(gold, code))
    close = (f1(answer, example).value or 0.0) >= 0.5
    counted = number(answer, example).value
    return Score(example.id, "correct", float(held or (close and counted != 0.0)))


def number(answer: Answered, example: Example) -> Score:
    """1.0 if every number of one of the answers is in the answer, units converted; None where no answer has a number."""
    golds = [found for gold in example.answers if (found := quantities(gold))]
    if not golds:
        return Score(example.id, "number", None, reason="the answer has no number")
    given = quantities(plain_text(answer))
    return Score(example.id, "number", float(any(all(any(agree(q, g) for q in given) for g in gold) for gold in golds)))


def rouge_l(answer: Answered, example: Example) -> Score:
    """Best ROUGE-L: F1 of the longest common subsequence of words, in any language; None if unanswerable.

    Written out, since the library `rouge-score` takes 8 seconds to import and gives 0 to identical Japanese texts; a
    test holds it against that library's values.  Source: Lin 2004, section 3, with beta 1.
    """
    if not example.answers:
        return Score(example.id, "rouge_l", None, reason="unanswerable")
    given = words(plain_text(answer))
    golds = [words(gold) for gold in example.answers]
    best = max(2 * _common(given, gold) / max(1, len(given) + len(gold)) for gold in golds)
    return Score(example.id, "rouge_l", best)


def bleu(answer: Answered, example: Example) -> Score:
    """Sentence BLEU against all the answers, 4-grams as far as the answer has them; None if unanswerable.

    Source: Papineni et al. 2002; the library `sacrebleu` (effective order, exponential smoothing), over 100.
    """
    if not example.answers:
        return Score(example.id, "bleu", None, reason="unanswerable")
    import sacrebleu

    tokens = {"zh": "zh", "ja": "char", "th": "char", "ko": "char"}.get(_language(example), "13a")
    found = sacrebleu.sentence_bleu(
        plain_text(answer), list(example.answers), tokenize=tokens, use_effective_order=True
    )
    return Score(example.id, "bleu", min(1.0, float(found.score) / 100))


def chrf(answer: Answered, example: Example) -> Score:
    """Best sentence chrF (character 6-grams, beta 2) of the answers; None if unanswerable.

    Source: Popović 2015; the library `sacrebleu`, over 100.
    """
    if not example.answers:
        return Score(example.id, "chrf", None, reason="unanswerable")
    import sacrebleu

    given = plain_text(answer)
    return Score(
        example.id,
        "chrf",
        max(min(1.0, float(sacrebleu.sentence_chrf(given, [g]).score) / 100) for g in example.answers),
    )


def refusal(answer: Answered, example: Example) -> Score:
    """1.0 if it refuses exactly when the documents hold no answer.

    Sliced by answerable: the complement is the false refusal rate (answerable) and the false answer rate (unanswerable).
    """
    return Score(example.id, "refusal", float(answer.refused is not example.answerable))


def answer_words(answer: Answered, example: Example) -> Score:
    """Words of the answer, citations aside: a count, not a share."""
    return Score(example.id, "answer_words", float(len(words(plain_text(answer)))))


def similarity(encode: Callable[[list[str]], Any], name: str) -> Measure:
    """Return a measure: the best cosine of the answer's and an answer's vectors, in [-1, 1].

    Args:
        encode: texts -> unit vectors `(n, d)`.
        name: the encoder's name, recorded as who says so.
    """

    def similarity(answer: Answered, example: Example) -> Score:
        """Best cosine of the encoder's vectors of the answer and an answer; None if unanswerable or refused."""
        given = plain_text(answer)
        if not example.answers or not given:
            return Score(example.id, "similarity", None, name, "refused" if example.answers else "unanswerable")
        vectors = encode([given, *example.answers])
        return Score(example.id, "similarity", float((vectors[1:] @ vectors[0]).max()), name)

    return similarity


def measure_all(answer: Answered | None, example: Example, measures: Iterable[str], failure: str = "") -> list[Score]:
    """Return a score for every measure; a question without an answer has rows too, with the failure as the reason."""
    if answer is None:
        return [Score(example.id, name, None, reason=failure or "no answer") for name in measures]
    return [MEASURES[name](answer, example) for name in measures]


def _golds(example: Example) -> tuple[str, ...]:
    """The answers; for an unanswerable example the empty one, as in SQuAD 2.0."""
    kept = tuple(a for a in example.answers if squad_normal(a)) if example.answerable else ()
    return kept or (example.answers[:1] if example.answerable and example.answers else ("",))


def _language(example: Example) -> str:
    return language_of(" ".join((example.question, *example.answers))) or "en"


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; O(len(a) len(b)) time, one row of memory."""
    row = [0] * (len(b) + 1)
    for word in a:
        corner = 0
        for j, other in enumerate(b, 1):
            corner, row[j] = row[j], corner + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


MEASURES: dict[str, Measure] = {
    "correct": correct,
    "f1": f1,
    "exact": exact,
    "squad_f1": squad_f1,
    "squad_exact": squad_exact,
    "number": number,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
    "refusal": refusal,
    "answer_words": answer_words,
    **CITING,
    **RETRIEVAL,
}
