"""Whether what an answer says stands in the passages it was given, and whether it cites the right ones.

Faithfulness without a judge: every sentence of the answer is a claim, held against the sentences of the passages by
the words and numbers they share, or by an encoder.  Cheap and repeatable, weak on paraphrase; see `judge.py` for a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mlxrag.data.example import Example
from mlxrag.data.words import content_words, language_of
from mlxrag.evaluate.found import covers, gold_keys
from mlxrag.evaluate.numbers import agree, quantities
from mlxrag.evaluate.score import Answered, Measure, Score
from mlxrag.rag.sentences import sentences

CITATION = re.compile(r"\s?\[\d+(?:\s?,\s?\d+)*\]")


def claims(answer: Answered) -> list[str]:
    """Return the sentences of an answer that claim something: citations taken out, refusals none."""
    if answer.refused:
        return []
    text = CITATION.sub("", answer.text).strip()
    return [text[a:b] for a, b in sentences(text) if re.search(r"\w", text[a:b])]


def overlap_support(claim: str, passage: str, question: str = "") -> float:
    """Return the share of a claim's content words that one stretch of a passage holds, in [0, 1].

    A stretch is three sentences in a row.  Words of the question do not count, as repeating them supports nothing; a
    number of the claim that the stretch lacks makes it 0.
    """
    code = language_of(claim) or "en"
    asked = set(content_words(question, code))
    said = [w for w in content_words(claim, code) if w not in asked] or content_words(claim, code)
    if not said:
        return 1.0
    numbers = quantities(claim)
    spans = list(sentences(passage)) or [(0, len(passage))]
    best = 0.0
    for i in range(len(spans)):
        stretch = passage[spans[i][0] : spans[min(i + 2, len(spans) - 1)][1]]
        there = quantities(stretch)
        if all(any(agree(have, need) for have in there) for need in numbers):
            held = set(content_words(stretch, code))
            best = max(best, sum(w in held for w in said) / len(said))
    return best


def faithful_overlap(answer: Answered, example: Example) -> Score:
    """Mean over the answer's sentences of the best `overlap_support` by a passage; None if it refuses or says nothing."""
    found = claims(answer)
    if not found:
        return Score(example.id, "faithful_overlap", None, reason="refused" if answer.refused else "no claim")
    best = [max((overlap_support(c, h.passage.text, answer.question) for h in answer.hits), default=0.0) for c in found]
    return Score(example.id, "faithful_overlap", sum(best) / len(best))


def faithful_encoder(encode: Callable[[list[str]], Any], name: str) -> Measure:
    """Return a measure: mean over the answer's sentences of the best cosine with a sentence of a passage, in [-1, 1].

    Args:
        encode: texts -> unit vectors `(n, d)`.
        name: the encoder's name, recorded as who says so.
    """

    def faithful_encoder(answer: Answered, example: Example) -> Score:
        """Mean over the answer's sentences of the best cosine with a sentence of a passage; None if it refuses."""
        found = claims(answer)
        if not found or not answer.hits:
            return Score(
                example.id, "faithful_encoder", None, name, "refused" if answer.refused else "nothing to compare"
            )
        # A short answer means little by itself: it is read as an answer to its question.
        said = [c if len(c.split()) > 6 else f"{answer.question} {c}" for c in found]
        held = [h.passage.text[a:b] for h in answer.hits for a, b in sentences(h.passage.text)]
        vectors = encode([*said, *held])
        cosines = vectors[: len(said)] @ vectors[len(said) :].T
        return Score(example.id, "faithful_encoder", float(cosines.max(axis=1).mean()), name)

    return faithful_encoder


def citation_precision(answer: Answered, example: Example) -> Score:
    """Share of the cited passages that are gold, or hold the answer literally; None if nothing is cited."""
    cited = {c.n: c.hit for c in answer.citations}
    if not cited:
        return Score(example.id, "citation_precision", None, reason="nothing is cited")
    right = sum(
        any(covers(h.passage, g, example.evidence) for g in example.passages if example.answerable)
        or any(a.casefold() in h.passage.text.casefold() for a in example.answers)
        for h in cited.values()
    )
    return Score(example.id, "citation_precision", right / len(cited))


def citation_recall(answer: Answered, example: Example) -> Score:
    """Share of the gold passages among the hits that are cited; None if unanswerable, refused, or none was retrieved."""
    if not example.answerable or answer.refused:
        return Score(
            example.id, "citation_recall", None, reason="unanswerable" if not example.answerable else "refused"
        )
    keys = gold_keys(answer.hits, example)
    there = {key for key in keys if key is not None}
    if not there:
        return Score(example.id, "citation_recall", None, reason="no gold passage was retrieved")
    cited = {c.hit.passage.id for c in answer.citations}
    found = {key for key, hit in zip(keys, answer.hits, strict=True) if key is not None and hit.passage.id in cited}
    return Score(example.id, "citation_recall", len(found) / len(there))


CITING: dict[str, Measure] = {
    "faithful_overlap": faithful_overlap,
    "citation_precision": citation_precision,
    "citation_recall": citation_recall,
}
