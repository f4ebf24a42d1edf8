"""Whether retrieval found what was needed: ranking measures through `ir_measures`, over passages or documents.

A gold passage counts as found by the first hit that is it, or that shares at least half of the shorter one's span with its
evidence (with itself, where no evidence is recorded): an index may cut its passages elsewhere than the dataset did, and a
model may be shown some sentences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from mlxrag.data.example import Example
from mlxrag.evaluate.score import Answered, Measure, Score
from mlxrag.rag.document import Hit, Passage

Unit = Literal["passage", "document"]


def covers(found: Passage, gold: Passage, evidence: Sequence[str] = ()) -> bool:
    """Whether a passage that was found stands for a gold one."""
    if found.id == gold.id:
        return True
    quotes = [quote for quote in evidence if quote in gold.text]
    if found.source == gold.source and any(quote in found.text for quote in quotes):
        return True
    if found.document_id != gold.document_id:
        return found.text == gold.text
    if not quotes:
        return _share(found, gold.start, gold.end)
    # Sentences of the gold passage that do not hold the evidence are not what had to be found.
    spans = [(gold.start + gold.text.index(quote), len(quote)) for quote in quotes]
    return any(_share(found, start, start + length) for start, length in spans)


def _share(found: Passage, start: int, end: int) -> bool:
    """Whether a passage and a span of its document share at least half of the shorter one."""
    shared = min(found.end, end) - max(found.start, start)
    return shared * 2 >= min(found.end - found.start, end - start) > 0


def gold_keys(hits: Sequence[Hit], example: Example, unit: Unit = "passage") -> list[str | None]:
    """Return for each hit the gold passage (or document) it finds, `(len(hits),)`; each gold one is found once."""
    left = {p.id: p for p in example.passages} if unit == "passage" else {p.source: p for p in example.passages}
    keys: list[str | None] = []
    for hit in hits:
        if unit == "document":
            key = hit.passage.source if hit.passage.source in left else None
        else:
            key = next((k for k, gold in left.items() if covers(hit.passage, gold, example.evidence)), None)
        if key is not None:
            del left[key]
        keys.append(key)
    return keys


def ranked(measure: str, name: str, unit: Unit = "passage") -> Measure:
    """Return a measure of the ranking.

    Args:
        measure: as `ir_measures` writes it: nDCG@10, R@5, P@5, RR, AP, Success@1.
        name: what to call it.
        unit: whether passages or documents are found; a document's first hit counts.
    """

    def found(answer: Answered, example: Example) -> Score:
        if not example.answerable:
            return Score(example.id, name, None, reason="unanswerable: nothing is there to be found")
        if not example.passages:
            return Score(example.id, name, None, reason="no gold passage is known")
        hits = list(answer.hits)
        if unit == "document":
            hits = list({h.passage.source: h for h in reversed(hits)}.values())[::-1]
            hits.sort(key=lambda h: h.rank)
        return Score(example.id, name, _calc(measure, gold_keys(hits, example, unit), _golds(example, unit)))

    found.__doc__ = f"{measure} of the {unit}s in the prompt, by `ir_measures`; None if unanswerable or without gold."
    found.__name__ = name
    return found


def rank_of_gold(hits: Sequence[Hit], example: Example) -> int | None:
    """Return the rank of the first hit that finds a gold passage, 1 for the best, or None."""
    return next((i for i, key in enumerate(gold_keys(hits, example), 1) if key is not None), None)


def _golds(example: Example, unit: Unit) -> list[str]:
    return list(dict.fromkeys(p.id if unit == "passage" else p.source for p in example.passages))


def _calc(measure: str, keys: list[str | None], golds: list[str]) -> float:
    """One question's value.  Scores fall strictly, since ties would be reordered by the library."""
    import ir_measures

    if not keys:
        return 0.0
    run = [ir_measures.ScoredDoc("q", key or f"other {i}", float(-i)) for i, key in enumerate(keys)]
    qrels = [ir_measures.Qrel("q", gold, 1) for gold in golds]
    return float(next(iter(ir_measures.iter_calc([_parsed(measure)], qrels, run))).value)


@cache
def _parsed(measure: str) -> Any:
    import ir_measures

    return ir_measures.parse_measure(measure)


RETRIEVAL: dict[str, Measure] = {
    "hit_at_1": ranked("Success@1", "hit_at_1"),
    "hit_at_5": ranked("Success@5", "hit_at_5"),
    "recall_at_5": ranked("R@5", "recall_at_5"),
    "recall_at_10": ranked("R@10", "recall_at_10"),
    "precision_at_5": ranked("P@5", "precision_at_5"),
    "ndcg_at_5": ranked("nDCG@5", "ndcg_at_5"),
    "ndcg_at_10": ranked("nDCG@10", "ndcg_at_10"),
    "mrr": ranked("RR", "mrr"),
    "map": ranked("AP", "map"),
    "document_hit_at_1": ranked("Success@1", "document_hit_at_1", "document"),
    "document_recall_at_5": ranked("R@5", "document_recall_at_5", "document"),
    "document_mrr": ranked("RR", "document_mrr", "document"),
}
