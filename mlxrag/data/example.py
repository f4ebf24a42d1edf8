"""Examples: one shape for training and for evaluation."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlxrag.rag.document import Passage


@dataclass(frozen=True, slots=True)
class Example:
    """A question with what is known about its answer.

    Attributes:
        id: hash of the question, answers and passages.
        question: as a person would ask it.
        answers: every answer that counts as right; empty when unanswerable.
        passages: the gold passages with their text; for an unanswerable example, passages that look right but do not answer.
        answerable: whether the passages answer the question.
        source: where the example is from: a file, or a maker such as `make:fact`.
        tags: labels to slice results by, such as `fact` or `number`.
        history: earlier turns, (question, answer) each, oldest first.
        evidence: quotes, each found literally in one of the passages, that carry the answer.
        gates: what was checked when it was made, gate by gate, and with what result, such as `retrieval: rank 1`.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    answerable: bool
    source: str
    tags: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    gates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of an input that could not become an example; the rest goes on.

    Attributes:
        place: the file and the line, row or record, such as `questions.csv:12`.
        reason: what is wrong with it.
    """

    place: str
    reason: str


def example_id(question: str, answers: tuple[str, ...], passage_ids: tuple[str, ...]) -> str:
    """Return 16 hex digits that stand for a question, its answers and its passages (Unicode NFC)."""
    key = "\0".join((question, "\1".join(answers), "\1".join(passage_ids)))
    return hashlib.sha256(unicodedata.normalize("NFC", key).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def example(
    question: str,
    answers: tuple[str, ...],
    passages: tuple[Passage, ...],
    source: str,
    *,
    answerable: bool | None = None,
    **rest: Any,
) -> Example:
    """Return an example with its id worked out; answerable when it has an answer, unless said otherwise."""
    key = example_id(question, answers, tuple(p.id for p in passages))
    return Example(
        key, question, answers, passages, bool(answers) if answerable is None else answerable, source, **rest
    )


def documents_of(example: Example) -> tuple[str, ...]:
    """Return the ids of the documents the passages are from, each once, in order."""
    return tuple(dict.fromkeys(p.document_id for p in example.passages))


def to_row(example: Example) -> dict[str, Any]:
    """Return an example as plain JSON values."""
    return {
        "id": example.id,
        "question": example.question,
        "answers": list(example.answers),
        "passages": [{name: getattr(p, name) for name in _PASSAGE} for p in example.passages],
        "answerable": example.answerable,
        "source": example.source,
        "tags": list(example.tags),
        "history": [list(turn) for turn in example.history],
        "evidence": list(example.evidence),
        "gates": dict(example.gates),
    }


def from_row(row: Mapping[str, Any]) -> Example:
    """Return the example that `to_row` wrote.

    Raises:
        KeyError: a field is missing; TypeError: a passage has another shape.
    """
    return Example(
        id=row["id"],
        question=row["question"],
        answers=tuple(row["answers"]),
        passages=tuple(Passage(**passage) for passage in row["passages"]),
        answerable=bool(row["answerable"]),
        source=row["source"],
        tags=tuple(row.get("tags", ())),
        history=tuple((q, a) for q, a in row.get("history", ())),
        evidence=tuple(row.get("evidence", ())),
        gates=dict(row.get("gates", ())),
    )


_PASSAGE = tuple(f.name for f in fields(Passage))
