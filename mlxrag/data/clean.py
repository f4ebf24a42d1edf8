"""Clean examples: broken encodings, stray characters, boilerplate, repeated questions; personal data is flagged.

A cleaner is a plain function `(text) -> text`; what it changed is said.  Passages whose text changes are no spans of
an indexed document any more: they become documents of their own, under the same source.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from mlxrag.data.duplicates import pairs, signatures
from mlxrag.data.example import Example, example
from mlxrag.data.scratch import Column
from mlxrag.data.words import normal
from mlxrag.rag.document import Passage, document_id, passage_id

BOILERPLATE_SHARE = 0.3
BOILERPLATE_LEAST = 4
LINE = 15
"""A line of more than so many characters is boilerplate when it stands in this share of the documents, and in at least this many."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """An example after cleaning.

    Attributes:
        before: as it was.
        after: as it is now; None when it was dropped.
        changes: what was done, such as `mojibake` or `pii:email`.
        reason: why it was dropped.
    """

    before: Example
    after: Example | None
    changes: tuple[str, ...]
    reason: str = ""


def mojibake(text: str) -> str:
    """Undo text that was decoded with the wrong encoding, by `ftfy`; curly quotes and such stay as they are."""
    import ftfy

    return ftfy.fix_text(
        text, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization=None
    )


def unicode(text: str) -> str:
    """Compose characters (NFC); take out zero-width and control characters, and the soft hyphen."""
    plain = unicodedata.normalize("NFC", text).replace("\u00ad", "")
    return "".join(
        c for c in plain if c in "\n\t\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf"} or c == "\ufeff"
    ).replace("\ufeff", "")


def spaces(text: str) -> str:
    """One kind of space, none at the ends of lines, at most one empty line."""
    lines = [re.sub(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


CLEANERS: dict[str, Callable[[str], str]] = {"mojibake": mojibake, "unicode": unicode, "spaces": spaces}
PERSONAL: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "phone": re.compile(r"(?<![\w.,$€£-])\+?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ /-]\d{2,5}){1,4}(?![\w.,-]*\d)"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"\b(?:\d[ -]?){13,19}\b"),
    "address": re.compile(r"\b\d{1,4} [A-Z][a-z]+(?: [A-Z][a-z]+)? (?:Street|Road|Lane|Avenue|Square)\b"),
}


def clean(
    examples: Iterable[Example],
    *,
    boilerplate: frozenset[str] = frozenset(),
    repeated: Container[int] = (),
    passages: bool = True,
) -> Iterator[Cleaned]:
    """Yield every example cleaned, or dropped with its reason.

    Args:
        examples: what to clean, one pass.
        boilerplate: lines of `boilerplate_of` to take out of passages; lines that hold evidence stay.
        repeated: positions of `repeats`, which are dropped.
        passages: also clean the passages.
    """
    for position, before in enumerate(examples):
        changes: list[str] = []
        question, answers = _said(before, changes)
        evidence = tuple(_apply(q, changes) for q in before.evidence)
        texts = tuple(_passage(p, boilerplate, evidence, changes) if passages else p for p in before.passages)
        history = tuple((_apply(q, changes), _apply(a, changes)) for q, a in before.history)
        fault = _fault(question, answers, before)
        if not fault and position in repeated:
            fault = "asked before, with the same answers"
        if fault:
            yield Cleaned(before, None, tuple(dict.fromkeys(changes)), fault)
            continue
        flags = tuple(f"pii:{name}" for name in personal(" ".join((question, *answers))))
        tags = tuple(dict.fromkeys((*before.tags, *flags)))
        evidence = tuple(q for q in evidence if any(q in p.text for p in texts))
        after = example(question, answers, texts, before.source, answerable=before.answerable, tags=tags, history=history,
                        evidence=evidence, gates=before.gates)  # fmt: skip
        yield Cleaned(before, after, tuple(dict.fromkeys((*changes, *flags))))


def repeats(examples: Iterable[Example], near: float = 0.95) -> frozenset[int]:
    """Return the positions of the examples whose question, once clean, was nearly asked before, with the same answers.

    Args:
        examples: of one split, so that what is repeated in another is left to `audit`.
        near: similarity from which a question is the same.

    Cost: half a millisecond an example; signatures lie on disk.
    """
    answered = Column(np.uint64)

    def questions() -> Iterator[str]:
        for one in examples:
            question, answers = _said(one, [])
            said = "\0".join(sorted(map(normal, answers)))
            answered.add(int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "little"))
            yield question

    signed = signatures(questions())
    answers = answered.rows()
    return frozenset(j for i, j, _ in pairs(signed, near) if answers[i] == answers[j])


def boilerplate_of(examples: Iterable[Example]) -> frozenset[str]:
    """Return the lines that stand in many documents: letterheads, footers, legal notices.

    Args:
        examples: a sequence that can be read twice: first hashes are counted, then the lines that are many are fetched.
    """
    stand = Column(np.uint64, (2,))
    for line, source in _lines(examples):
        stand.add((line[1], source))
    places = np.unique(stand.rows(), axis=0)
    lines, counts = np.unique(places[:, 0], return_counts=True)
    sources = len(np.unique(places[:, 1]))
    many = set(lines[counts >= max(BOILERPLATE_LEAST, BOILERPLATE_SHARE * sources)].tolist())
    return frozenset(line[0] for line, _ in _lines(examples) if line[1] in many) if many else frozenset()


def _lines(examples: Iterable[Example]) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield ((line, its hash), hash of its source) of the lines of passages that are long enough to tell."""
    for one in examples:
        for passage in one.passages:
            source = crc32(passage.source.encode("utf-8", "surrogatepass"))
            for line in {line.strip() for line in passage.text.split("\n")}:
                if len(line) > LINE:
                    digest = hashlib.sha256(line.encode("utf-8", "surrogatepass")).digest()
                    yield (line, int.from_bytes(digest[:8], "little")), source


def _said(one: Example, changes: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the question and the answers, cleaned."""
    question = _apply(one.question, changes)
    return question, tuple(dict.fromkeys(a for a in (_apply(a, changes) for a in one.answers) if a))


def personal(text: str) -> tuple[str, ...]:
    """Return the kinds of personal data that a text seems to hold; patterns, so some are missed and some are none."""
    return tuple(name for name, pattern in PERSONAL.items() if pattern.search(text))


def _apply(text: str, changes: list[str]) -> str:
    for name, cleaner in CLEANERS.items():
        cleaned = cleaner(text)
        if cleaned != text:
            changes.append(name)
            text = cleaned
    return text


def _passage(passage: Passage, boilerplate: frozenset[str], evidence: tuple[str, ...], changes: list[str]) -> Passage:
    kept = [
        line
        for line in passage.text.split("\n")
        if line.strip() not in boilerplate or any(q in line or line.strip() in q for q in evidence)
    ]
    text = "\n".join(kept)
    if len(kept) < passage.text.count("\n") + 1:
        changes.append("boilerplate")
    text = _apply(text, changes)
    if text == passage.text:
        return passage
    document = document_id(passage.source, text)
    return replace(
        passage, id=passage_id(document, 0, len(text)), document_id=document, start=0, end=len(text), text=text
    )


def _fault(question: str, answers: tuple[str, ...], before: Example) -> str:
    if not re.search(r"\w", question):
        return "no word in the question"
    if "\ufffd" in question or any("\ufffd" in a for a in answers):
        return "characters were lost before this"
    if before.answerable and not answers:
        return "no answer is left"
    if len(question) > 1000:
        return "a question of over 1,000 characters"
    return ""
