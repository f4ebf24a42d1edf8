"""Clean examples: broken encodings, stray characters, boilerplate, repeated questions; personal data is flagged.

A cleaner is a plain function `(text) -> text`; what it changed is said.  Passages whose text changes are no spans of
an indexed document any more: they become documents of their own, under the same source.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mlxrag.data.duplicates import Near
from mlxrag.data.example import Example, example
from mlxrag.data.words import normal
from mlxrag.rag.document import Passage, document_id, passage_id

BOILERPLATE_SHARE = 0.3
BOILERPLATE_LEAST = 4
"""A line is boilerplate when it stands in this share of the documents, and in at least this many."""


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
    examples: Iterable[Example], *, boilerplate: frozenset[str] = frozenset(), near: float = 0.95, passages: bool = True
) -> Iterator[Cleaned]:
    """Yield every example cleaned, or dropped with its reason.

    Args:
        examples: what to clean, one pass.
        boilerplate: lines of `boilerplate_of` to take out of passages; lines that hold evidence stay.
        near: similarity from which a question with the same answers counts as repeated.
        passages: also clean the passages.
    """
    seen = Near(near)
    kept: list[tuple[str, ...]] = []
    for before in examples:
        changes: list[str] = []
        question = _apply(before.question, changes)
        answers = tuple(dict.fromkeys(a for a in (_apply(a, changes) for a in before.answers) if a))
        evidence = tuple(_apply(q, changes) for q in before.evidence)
        texts = tuple(_passage(p, boilerplate, evidence, changes) if passages else p for p in before.passages)
        history = tuple((_apply(q, changes), _apply(a, changes)) for q, a in before.history)
        fault = _fault(question, answers, before)
        if not fault:
            found = seen.find(question)
            said = tuple(sorted(map(normal, answers)))
            if found is not None and kept[found] == said:
                fault = "asked before, with the same answers"
            else:
                seen.add(question)
                kept.append(said)
        if fault:
            yield Cleaned(before, None, tuple(dict.fromkeys(changes)), fault)
            continue
        flags = tuple(f"pii:{name}" for name in personal(" ".join((question, *answers))))
        tags = tuple(dict.fromkeys((*before.tags, *flags)))
        evidence = tuple(q for q in evidence if any(q in p.text for p in texts))
        after = example(question, answers, texts, before.source, answerable=before.answerable, tags=tags, history=history,
                        evidence=evidence, gates=before.gates)  # fmt: skip
        yield Cleaned(before, after, tuple(dict.fromkeys((*changes, *flags))))


def boilerplate_of(examples: Iterable[Example]) -> frozenset[str]:
    """Return the lines that stand in many documents: letterheads, footers, legal notices."""
    documents: dict[str, set[str]] = {}
    sources: set[str] = set()
    for one in examples:
        for passage in one.passages:
            sources.add(passage.source)
            for line in {line.strip() for line in passage.text.split("\n")}:
                if len(line) > 15:
                    documents.setdefault(line, set()).add(passage.source)
    least = max(BOILERPLATE_LEAST, BOILERPLATE_SHARE * len(sources))
    return frozenset(line for line, found in documents.items() if len(found) >= least)


def personal(text: str) -> tuple[str, ...]:
    """Return the kinds of personal data that a text seems to hold; patterns, so some are missed and some are none."""
    return tuple(name for name, pattern in PERSONAL.items() if pattern.search(text))


def tally(cleaned: Iterable[Cleaned]) -> Mapping[str, int]:
    """Count what was changed and dropped, by kind."""
    counts: Counter[str] = Counter()
    for one in cleaned:
        counts.update(one.changes)
        if one.after is None:
            counts[f"dropped: {one.reason}"] += 1
    return counts


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
