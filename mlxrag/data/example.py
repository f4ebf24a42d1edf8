"""Examples: one shape for training and for evaluation."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    answerable: bool
    source: str
    tags: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()


def example_id(question: str, answers: tuple[str, ...], passage_ids: tuple[str, ...]) -> str:
    """Return 16 hex digits that stand for a question, its answers and its passages (Unicode NFC)."""
    key = "\0".join((question, "\1".join(answers), "\1".join(passage_ids)))
    return hashlib.sha256(unicodedata.normalize("NFC", key).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_row(example: Example) -> dict[str, Any]:
    """Return an example as plain JSON values."""
    return asdict(example)


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
    )
