"""What a maker proposes, before the gates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxrag.data.corpus import Corpus
from mlxrag.rag.document import Passage


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question that a maker proposes.

    Attributes:
        question: ends in a question mark.
        answers: right ones, the fullest first; empty for an unanswerable question.
        passages: where the answer is, or what looks right but does not answer.
        evidence: quotes of the passages.
        maker: who made it, such as `rule:amount` or `model:fact`.
        tags: kinds, such as `number`.
    """

    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    evidence: tuple[str, ...]
    maker: str
    tags: tuple[str, ...]

    @property
    def key(self) -> str:
        """16 hex digits that stand for it."""
        text = "\0".join((self.question, *self.answers, *(p.id for p in self.passages)))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


Maker = Callable[[Sequence[Passage], Corpus], Iterator[Candidate]]


def literal(quote: str, passage: Passage) -> str:
    """Return a quote as the passage writes it, line breaks and all; the quote itself where it is not there."""
    if quote in passage.text:
        return quote
    match = re.search(r"\s+".join(map(re.escape, quote.split())), passage.text) if quote.split() else None
    return match[0] if match else quote


def to_row(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as plain JSON values."""
    return {
        "question": candidate.question, "answers": list(candidate.answers), "evidence": list(candidate.evidence),
        "maker": candidate.maker, "tags": list(candidate.tags),
        "passages": [{f: getattr(p, f) for f in Passage.__slots__} for p in candidate.passages],
    }  # fmt: skip


def from_row(row: Mapping[str, Any]) -> Candidate:
    """Return the candidate that `to_row` wrote."""
    passages = tuple(Passage(**p) for p in row["passages"])
    return Candidate(
        row["question"], tuple(row["answers"]), passages, tuple(row["evidence"]), row["maker"], tuple(row["tags"])
    )
