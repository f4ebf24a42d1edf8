"""A system answers the questions of a dataset: batched, kept row by row, resumable after a kill at any moment.

Rules: every question has a row, with the reason where there is no answer; a row is on disk before it is counted; the
rows of another system, dataset or selection are never mixed in, since the folder is named by their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrag.data.example import Example
from mlxrag.data.journal import Journal, rows
from mlxrag.data.store import batched
from mlxrag.errors import MlxragError
from mlxrag.rag.answer import Answer, Citation
from mlxrag.rag.document import Hit, Passage
from mlxrag.rag.system import WINDOW, Asked, System, ask_many
from mlxrag.workspace import Workspace

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """An example and what was said to it.

    Attributes:
        example_id: the example.
        answer: the answer; one that failed says why in `failure`.
    """

    example_id: str
    answer: Answer


def spool(workspace: Workspace, name: str, key: Mapping[str, Any]) -> Path:
    """Return the folder where an unfinished run keeps its rows; the same key finds it again.

    Args:
        workspace: where.
        name: of the run.
        key: everything that decides the answers: fingerprint of the system, dataset version, selection.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return workspace.root / "runs" / name / f".run-{digest}"


def answer_all(system: System, examples: Iterable[Example], folder: Path, *, gold: bool = False) -> Iterator[Row]:
    """Yield a row for every example, in order within what is new; those that `folder` holds already come first.

    Args:
        system: what answers.
        examples: the questions; ids must differ.
        folder: of `spool`; rows are added to `answers.jsonl` there.
        gold: hand the model the gold passages instead of retrieving: what reading alone is worth.

    Cost: memory does not grow with the examples, but for the ids of those already answered.
    """
    done: set[str] = set()
    for row in read_rows(folder):
        done.add(row.example_id)
        yield row
    with Journal(folder / ANSWERS) as journal:
        for window in batched((e for e in examples if e.id not in done), WINDOW):
            for example, answer in zip(window, _answers(system, window, gold), strict=True):
                journal.add(row_of(example.id, answer))
                yield Row(example.id, answer)


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of a run or of its unfinished folder, in the order they were answered."""
    for row in rows(folder / ANSWERS):
        yield from_row(row)


def row_of(example_id: str, answer: Answer) -> dict[str, Any]:
    """Return a row as plain JSON values."""
    return {
        "example_id": example_id,
        "question": answer.question,
        "text": answer.text,
        "hits": [
            {"score": float(h.score), "by": h.by, "rank": h.rank, **{k: getattr(h.passage, k) for k in _PASSAGE}}
            for h in answer.hits
        ],
        "citations": [c.n for c in answer.citations],
        "refused": answer.refused,
        "cites_nothing": answer.cites_nothing,
        "wrong_citations": list(answer.wrong_citations),
        "dropped_passages": answer.dropped_passages,
        "usage": dict(answer.usage),
        "logprob": answer.logprob,
        "model": answer.model,
        "failure": answer.failure,
    }


def from_row(row: Mapping[str, Any]) -> Row:
    """Return the row that `row_of` wrote."""
    hits = tuple(Hit(Passage(**{k: h[k] for k in _PASSAGE}), h["score"], h["by"], h["rank"]) for h in row["hits"])
    answer = Answer(
        row["question"], row["text"], hits, tuple(Citation(n, hits[n - 1]) for n in row["citations"]), row["refused"],
        row["cites_nothing"], tuple(row["wrong_citations"]), row["dropped_passages"],
        usage=row["usage"], logprob=row["logprob"], model=row["model"], failure=row["failure"],
    )  # fmt: skip
    return Row(row["example_id"], answer)


def _answers(system: System, window: Sequence[Example], gold: bool) -> Iterator[Answer]:
    """Answer a window together; when that fails, one by one, so that one bad question costs one row."""
    asked = [_asked(example, gold) for example in window]
    given = 0
    try:
        for answer in ask_many(system, asked):
            given += 1
            yield answer
    except Exception as error:  # one faulty question of the batch: the rest are asked by themselves
        if len(window) == 1:
            yield _failed(window[0], error)
            return
        for example in window[given:]:
            yield from _answers(system, [example], gold)


def _asked(example: Example, gold: bool) -> Asked:
    hits = tuple(Hit(p, 1.0 / n, "gold", n) for n, p in enumerate(example.passages, 1)) if gold else None
    return Asked(example.question, hits, example.history)


def _failed(example: Example, error: Exception) -> Answer:
    reason = str(error) if isinstance(error, MlxragError) else f"{type(error).__name__}: {error}"
    return Answer(example.question, "", failure=reason)


_PASSAGE = ("id", "document_id", "source", "title", "place", "start", "end", "text")
