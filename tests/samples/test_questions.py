"""The bundled documents, and the questions that the bundled reader is measured with, hold together."""

from __future__ import annotations

import csv
import email
import email.policy
import html
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT / "mlxrag" / "samples" / "documents"
QUESTIONS = ROOT / "benchmarks" / "reader_questions.jsonl"
FILES = sorted(path for path in DOCUMENTS.rglob("*") if path.is_file())
TEXT_LIKE = {".md", ".txt", ".rst", ".csv", ".json", ".jsonl", ".html", ".eml", ".ipynb"}


def squeeze(text: str) -> str:
    """Make every run of white space one space."""
    return " ".join(text.split())


def normal(text: str) -> str:
    """Normalize as the SQuAD score does: lower case, no punctuation, no articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return squeeze(re.sub(r"\b(a|an|the)\b", " ", bare))


def readable(path: Path) -> str:
    """Return the text of a text-like file, without markup and with single spaces."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"<[^>]+>", " ", text))
    elif path.suffix == ".eml":
        body = email.message_from_string(text, policy=email.policy.default).get_body(("plain",))
        assert body is not None
        text = body.get_content()
    elif path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        parts = [cell["source"] for cell in cells] + [out["text"] for cell in cells for out in cell.get("outputs", ())]
        text = "\n".join("".join(part) for part in parts)
    return squeeze(text)


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    """Every line of the question file."""
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def answerable(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions that the documents answer."""
    return [question for question in questions if question["answerable"]]


def test_documents_are_many_and_small() -> None:
    """Some thirty files in at least eight formats stay below 600 KB together."""
    assert 30 <= len(FILES) <= 36
    assert len({path.suffix for path in FILES}) >= 8
    assert sum(path.stat().st_size for path in FILES) <= 600_000


def test_documents_hold_reserved_contacts_only() -> None:
    """Telephone numbers and mail addresses belong to the ranges that are reserved for fiction."""
    for path in FILES:
        if path.suffix in TEXT_LIKE:
            text = readable(path)
            assert all(re.fullmatch("01[0-9][0-9]", number) for number in re.findall(r"\b555-(\d+)", text)), path
            domains = re.findall(r"@([a-z0-9.-]+[a-z])", text)
            assert all(re.search(r"(^|\.)example\.(org|com|net)$", domain) for domain in domains), path


def test_counts_and_identifiers(questions: list[dict[str, Any]]) -> None:
    """There are 200 answerable and 100 unanswerable questions, none of them twice."""
    assert Counter(question["answerable"] for question in questions) == {True: 200, False: 100}
    assert len({question["id"] for question in questions}) == 300
    assert len({normal(question["question"]) for question in questions}) == 300
    fields = {"id", "question", "answers", "answerable", "source", "evidence", "kind"}
    assert all(set(question) == fields for question in questions)


def test_unanswerable_questions_name_no_source(questions: list[dict[str, Any]]) -> None:
    """A question without an answer has neither source nor evidence."""
    for question in questions:
        if not question["answerable"]:
            assert (question["answers"], question["source"], question["evidence"]) == ([], "", ""), question["id"]


def test_every_document_is_asked_about(answerable: list[dict[str, Any]]) -> None:
    """Each file has at least three questions, and each source is a file."""
    asked = Counter(question["source"] for question in answerable)
    assert set(asked) == {path.relative_to(DOCUMENTS).as_posix() for path in FILES}
    assert min(asked.values()) >= 3


def test_answers_are_short_spans_of_the_evidence(answerable: list[dict[str, Any]]) -> None:
    """The first answer stands in the evidence, has at most eight words but articles, and there are one to four variants."""
    for question in answerable:
        assert 1 <= len(question["answers"]) <= 4, question["id"]
        first, evidence = question["answers"][0], question["evidence"]
        if question["source"].endswith(".csv"):
            evidence = " ".join(next(csv.reader([evidence])))
        assert 1 <= len(normal(first).split()) <= 8, question["id"]
        assert f" {normal(first)} " in f" {normal(evidence)} ", question["id"]


def test_evidence_is_verbatim(answerable: list[dict[str, Any]]) -> None:
    """In files that are text, the evidence occurs word for word."""
    for question in answerable:
        path = DOCUMENTS / question["source"]
        if path.suffix in TEXT_LIKE:
            assert squeeze(question["evidence"]) in readable(path), question["id"]
