"""Nothing that the reader is measured with may be in its training data: sentences of the sample documents, their questions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .sheet import Sheet

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ROOT / "benchmarks" / "reader_questions.jsonl"
DOCUMENTS = ROOT / "mlxrag" / "samples" / "documents"
TEXT = (".md", ".txt", ".rst", ".csv", ".html", ".eml", ".json", ".jsonl", ".ipynb")
SHORT = 6
"""Sentences of fewer words ("Thank you for your help.") belong to nobody."""


def squeeze(text: str) -> str:
    """Lower-case words with single spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def sentences(text: str) -> Iterator[str]:
    """The sentences and lines of a text, squeezed, those of fewer than `SHORT` words left out."""
    for part in re.split(r"(?<=[.!?:|])\s+|\n+", text):
        words = squeeze(part)
        if words.count(" ") >= SHORT - 1:
            yield words


def forbidden(questions: Path = QUESTIONS, documents: Path = DOCUMENTS) -> frozenset[str]:
    """What must not be learned from: questions, their evidence, sentences of the documents that are plain text."""
    rows = (
        [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()] if questions.is_file() else []
    )
    found = {squeeze(row["question"]) for row in rows}
    found |= {s for row in rows for s in sentences(row.get("evidence") or "")}
    for path in sorted(documents.rglob("*")):
        if path.suffix in TEXT:
            found |= set(sentences(re.sub(r"<[^>]+>", "\n", path.read_text(encoding="utf-8"))))
    return frozenset(found)


def clean(sheet: Sheet, forbidden: frozenset[str]) -> Sheet | None:
    """Return `sheet` without the questions that are forbidden; None if a passage holds a forbidden sentence.

    A generated "Who do I ask for leave?" may meet one of them by chance; what is trained on holds none of them.
    """
    if any(sentence in forbidden for piece in sheet.pieces for sentence in sentences(piece.text)):
        return None
    return Sheet(sheet.pieces, [t for t in sheet.talks if not any(squeeze(turn.question) in forbidden for turn in t)])
