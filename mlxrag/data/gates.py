"""Gates: what a candidate must pass to be kept, from the cheapest to the dearest, each with a note that stays with it.

A gate is a plain function `(candidate, context) -> Verdict`; a new one is a function and a line in `GATES`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from mlxrag.data.candidate import Candidate
from mlxrag.data.corpus import Corpus
from mlxrag.data.duplicates import Near
from mlxrag.data.words import content_words, language_of, normal, overlap_f1, words
from mlxrag.settings import Making


class Verdict(NamedTuple):
    """Whether a candidate passed a gate, and what was seen."""

    passed: bool
    note: str


@dataclass(slots=True)
class Context:
    """What the gates know: settings, the corpus, and what was kept so far.

    Attributes:
        making: the settings.
        corpus: all passages.
        near: questions kept so far.
        said: their words, as a set, for questions that only turn the words round.
        facts: their answers and evidence, for questions that ask for the same fact in other words.
        alike: (document, first three words) -> how many were kept.
        of_passage: passage id -> how many were kept.
        kept, unanswerable: how many were kept, and how many of them have no answer.
    """

    making: Making
    corpus: Corpus
    near: Near
    said: set[frozenset[str]] = field(default_factory=set)
    facts: set[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=set)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    of_passage: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    unanswerable: int = 0


Gate = Callable[[Candidate, Context], Verdict]


def form(candidate: Candidate, context: Context) -> Verdict:
    """A question of 3 to 40 words that ends in a question mark, with no rest of a layout and no word twice in a row."""
    question = candidate.question
    if not question.endswith("?") and not (candidate.maker == "rule:cloze" and "___" in question):
        return Verdict(False, "does not end in a question mark")
    if not 3 <= len(words(question)) <= 40:
        return Verdict(False, f"{len(words(question))} words")
    if re.search(r"[\n\t;]|\s{2}|\b(\w+) \1\b|^\W|[=<>{}|*]| ,|\( ", question):
        return Verdict(False, "not one clean sentence")
    if question.count("(") != question.count(")") or question.count("“") != question.count("”"):
        return Verdict(False, "unbalanced brackets")
    if any(len(words(a)) > 40 or not a.strip() for a in candidate.answers):
        return Verdict(False, "an answer of over 40 words, or none")
    return Verdict(True, "ok")


def language(candidate: Candidate, context: Context) -> Verdict:
    """The question is in the language of its passage, as far as stop words and scripts tell."""
    there = language_of(" ".join(p.text for p in candidate.passages))
    here = language_of(candidate.question)
    if here and there and here != there:
        return Verdict(False, f"question in {here}, passage in {there}")
    return Verdict(True, there or "not known")


def specific(candidate: Candidate, context: Context) -> Verdict:
    """The question can be understood by itself: no word that points elsewhere, and at least two words of content."""
    plain = re.sub(r"\b(?:is|are|was|were) there\b|\bwhen it is\b", "", candidate.question.casefold())
    pointing = [w for w in words(plain) if w in _POINTING]
    if pointing:
        return Verdict(False, f"points elsewhere: {pointing[0]}")
    content = [w for w in content_words(candidate.question) if w not in _THIN and not w.isdigit()]
    named = is_named(candidate.question)
    if len(content) < 2 and not (named and content):
        return Verdict(False, f"says too little: {' '.join(content) or 'nothing'}")
    if not named and len(content) < 3 and all(_homes(w, context) > COMMON for w in content):
        return Verdict(False, f"could be about anything: {' '.join(content)}")
    return Verdict(True, f"{len(content)} words of content")


def _homes(word: str, context: Context) -> int:
    """Return how many documents hold a word, or another one with the same first five letters."""
    homes = context.corpus.derived.setdefault("homes", {})
    stem = word[:5]
    if stem not in homes:
        homes[stem] = len(
            {p.source for p in context.corpus.passages if re.search(rf"\b{re.escape(stem)}", p.text.casefold())}
        )
    return int(homes[stem])


def is_named(question: str) -> bool:
    """Whether a question holds a name or a number, which say by themselves what it is about."""
    return re.search(r"\b[A-Z][a-z]|\d", question[1:]) is not None


def evidence(candidate: Candidate, context: Context) -> Verdict:
    """Every quote stands literally in a passage, and an answer in a quote (white space aside)."""
    if not candidate.answers:
        return Verdict(True, "unanswerable")
    if not candidate.evidence:
        return Verdict(False, "no evidence")
    for quote in candidate.evidence:
        if not any(quote in p.text for p in candidate.passages):
            return Verdict(False, f"not in a passage: {quote[:60]!r}")
    quotes = _plain(" ".join(candidate.evidence))
    if not any(_plain(a) in quotes for a in candidate.answers):
        return Verdict(False, f"the answer {candidate.answers[0]!r} is not in the evidence")
    return Verdict(True, "literal")


def giveaway(candidate: Candidate, context: Context) -> Verdict:
    """The question does not hold its answer (a choice between two may), and is no copy of the passage's heading."""
    if "comparison" not in candidate.tags:
        asked = f" {normal(candidate.question)} "
        if any(f" {normal(a)} " in asked for a in candidate.answers if normal(a)):
            return Verdict(False, "the question holds the answer")
    content = set(content_words(candidate.question))
    for passage in candidate.passages:
        for heading in (passage.place, passage.text.split("\n", 1)[0], passage.title):
            head = set(content_words(heading))
            alike = len(content & head) / max(1, len(content | head))
            if len(head) >= 2 and alike >= (0.6 if heading.rstrip().endswith("?") else 0.9):
                return Verdict(False, f"copies the heading {heading[:60]!r}")
    return Verdict(True, "ok")


def new(candidate: Candidate, context: Context) -> Verdict:
    """No question like it was kept before: not nearly the same text, the same words in another order, or for the same fact."""
    said = frozenset(normal(candidate.question, "en").split())
    if said in context.said:
        return Verdict(False, "the same words as an earlier question")
    if candidate.answers and (candidate.answers, candidate.evidence) in context.facts:
        return Verdict(False, "the same fact as an earlier question")
    if context.near.find(candidate.question) is not None:
        return Verdict(False, "nearly an earlier question")
    return Verdict(True, "ok")


def variety(candidate: Candidate, context: Context) -> Verdict:
    """Not too many of one passage, of one opening in a document, or without an answer."""
    making = context.making
    first = candidate.passages[0]
    if context.of_passage[first.id] >= making.per_passage:
        return Verdict(False, f"{making.per_passage} questions of this passage are kept already")
    if context.alike[first.source, opening(candidate)] >= making.alike_per_document:
        return Verdict(
            False, f"{making.alike_per_document} questions of this document start with {opening(candidate)!r} already"
        )
    if not candidate.answers and context.unanswerable + 1 > making.unanswerable_share * max(20, context.kept + 1):
        return Verdict(False, "enough unanswerable questions are kept")
    return Verdict(True, "ok")


def clash(candidate: Candidate, context: Context) -> Verdict:
    """No other passage has a sentence that answers the same question otherwise.

    A sentence elsewhere that holds all words of content of the question, but no answer, makes the question ambiguous.
    Only short questions are held against the corpus; more than six words of content are taken to be particular enough.
    """
    if not candidate.answers or "comparison" in candidate.tags:
        return Verdict(True, "not checked")
    stems = {w[:5] for w in content_words(candidate.question) if w not in _ASKED}
    who = candidate.question.startswith("Who ")
    if not stems or len(stems) > 6:
        return Verdict(True, "particular")
    own = {p.id for p in candidate.passages}
    answers = [normal(a) for a in candidate.answers]
    for passage in context.corpus.passages:
        if passage.id in own:
            continue
        low = passage.text.casefold()
        if not all(stem in low for stem in stems):
            continue
        for sentence in re.split(r"(?<=[.!?])\s|\n", passage.text):
            told = all(stem in sentence.casefold() for stem in stems)
            # a sentence that could answer: one with a number, or with the name of a person
            told = told and re.search(r"(?<!^)\b[A-Z][a-z]+ [A-Z][a-z]+" if who else r"\d", sentence) is not None
            if told and not any(f" {a} " in f" {normal(sentence)} " for a in answers):
                return Verdict(False, f"{passage.source} says something else: {sentence.strip()[:60]!r}")
    return Verdict(True, "ok")


def opening(candidate: Candidate) -> str:
    """Return the first three words of the question, in lower case."""
    return " ".join(words(candidate.question)[:3])


def admit(candidate: Candidate, context: Context) -> None:
    """Take note that a candidate was kept."""
    context.near.add(candidate.question)
    context.said.add(frozenset(normal(candidate.question, "en").split()))
    context.facts.add((candidate.answers, candidate.evidence))
    context.of_passage[candidate.passages[0].id] += 1
    context.alike[candidate.passages[0].source, opening(candidate)] += 1
    context.kept += 1
    context.unanswerable += not candidate.answers


def is_right(text: str, answers: tuple[str, ...], least_f1: float) -> tuple[bool, float]:
    """Return whether a model's text gives one of the answers, and its best F1: it holds the answer's words in a row, or the F1 suffices."""
    given = normal(re.sub(r"\[\d+\]", "", text))
    best = max((overlap_f1(given.split(), normal(a).split()) for a in answers), default=0.0)
    held = any(f" {normal(a)} " in f" {given} " for a in answers if normal(a))
    return held or best >= least_f1, best


GATES: dict[str, Gate] = {
    "form": form,
    "language": language,
    "specific": specific,
    "evidence": evidence,
    "giveaway": giveaway,
    "new": new,
    "variety": variety,
    "clash": clash,
}
COMMON = 2
"""Documents that may hold a word for it still to say what a question is about."""
_POINTING = frozenset(
    "it its they them their he him his she her this that these those there here above below following former latter text passage document".split()
) - {"that", "above", "below", "following", "document"}
_ASKED = frozenset("much many long often time far old quickly".split())
_THIN = frozenset(
    "figure figures look looks seem seems want wants wanted go goes went come comes came action decision offer place procedure meeting report thing case whole next new first last longest taken preferred wait fault month week hour price amount number".split()
) | frozenset(
    "take takes cost costs last lasts have has get gets happen happens use used name kind many much long often time year day called make made".split()
)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
