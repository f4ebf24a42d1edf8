"""Answers and examples made by hand, for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxrag.data.example import Example, example
from mlxrag.rag.document import Hit, Passage, document_id, passage_id


@dataclass(frozen=True)
class Citation:
    n: int
    hit: Hit


@dataclass(frozen=True)
class Answer:
    text: str
    question: str = "What?"
    hits: tuple[Hit, ...] = ()
    citations: tuple[Citation, ...] = ()
    refused: bool = False
    logprob: float | None = None
    usage: dict[str, Any] = field(default_factory=dict)


def passage(text: str, source: str = "docs/a.md", start: int = 0) -> Passage:
    document = document_id(source, "whole")
    return Passage(
        passage_id(document, start, start + len(text)), document, source, source, "", start, start + len(text), text
    )


def hits(*passages: Passage) -> tuple[Hit, ...]:
    return tuple(Hit(p, 1.0 / i, "test", i) for i, p in enumerate(passages, 1))


def answer(text: str, *passages: Passage, cites: tuple[int, ...] = (), **rest: Any) -> Answer:
    found = hits(*passages)
    return Answer(text, hits=found, citations=tuple(Citation(n, found[n - 1]) for n in cites), **rest)


def ask(question: str = "What?", *answers: str, gold: tuple[Passage, ...] = (), **rest: Any) -> Example:
    return example(question, answers, gold, "test", **rest)
