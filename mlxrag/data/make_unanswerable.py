"""Questions that nothing answers, from those that something does: the name, the year or the place in them is swapped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from mlxrag.data.candidate import Candidate
from mlxrag.data.corpus import Corpus
from mlxrag.data.make_rules import amount, reason, time
from mlxrag.data.make_tables import cell_question, is_name, table
from mlxrag.data.words import content_words, words
from mlxrag.rag.document import Passage


def unanswerable(passages: Sequence[Passage], corpus: Corpus) -> Iterator[Candidate]:
    """Ask of one thing what the documents say of another only: the name in an answerable question is swapped.

    The other thing must be of the same kind, no cell may answer the new question, and no line that names the other
    thing may hold half of the question's other words.
    """
    for passage in passages:
        done = 0
        for maker in (table, amount, time, reason):
            for candidate in maker([passage], corpus):
                twin = swapped(candidate, corpus, "rule:unanswerable") if done < 3 else None
                if twin is not None:
                    yield twin
                    done += 1


def swapped(candidate: Candidate, corpus: Corpus, maker: str) -> Candidate | None:
    """Return the twin of an answerable question that nothing answers; None where no name, year or place can be swapped.

    Its passage names the other thing, where one does.
    """
    if "names" not in corpus.derived:
        corpus.derived["names"] = _Names(corpus)
    found = corpus.derived["names"].swapped(candidate.question, candidate.passages[0], candidate.answers)
    if found is None:
        return None
    question, near = found
    return Candidate(question, (), (near or candidate.passages[0],), (), maker, ("unanswerable",))


class _Names:
    """The things that have names, by kind, and the lines that name them."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.kinds: dict[str, str] = {}
        self.stated: set[str] = set()
        self.towns = sorted({f.value for fs in corpus.facts.values() for f in fs if f.key.lower() in {"town", "city"}})
        for fact in (f for found in corpus.facts.values() for f in found):
            self.stated.add(cell_question(fact, corpus) or "")
            spoken = corpus.named(fact.entity, fact.kind) or ""
            if (
                spoken
                and "“" not in spoken
                and is_name(fact.entity, corpus)
                and (fact.kind or spoken.startswith("the "))
            ):
                self.kinds.setdefault(fact.entity, "" if spoken.startswith("the ") else fact.kind)
        for word, count in corpus.upper.items():
            if count > 2 and corpus.the[word.lower()] > 2 and is_name(word, corpus):
                self.kinds.setdefault(word, "")
        text = {p.id: " ".join(words(f"{p.title} {p.place} {p.text}")) for p in corpus.passages}
        self.where = {e: [p for p in corpus.passages if _holds(text[p.id], e)] for e in self.kinds}
        self.lines = {e: [line for p in found for line in _about(p, e)] for e, found in self.where.items()}

    def swapped(self, question: str, passage: Passage, answers: Sequence[str]) -> tuple[str, Passage | None] | None:
        """Return the question with another name, and a passage that holds that name; None if there is no such name."""
        elsewhere = self._other_column(question)
        if elsewhere is not None:
            return elsewhere, passage
        here = [e for e in self.kinds if re.search(rf"\b{re.escape(e)}\b(?! [A-Z\d])", question)]
        if not here or "“" in question:
            return None
        entity = max(here, key=len)
        key = next(
            (f.key for f in self.corpus.facts.get(passage.id, ()) if f.value in answers and f.entity == entity), ""
        )
        asked = [w for w in content_words(f"{question} {key}") if w not in words(entity) and w not in _GENERIC]
        others = [
            o for o in self.kinds if self.kinds[o] == self.kinds[entity] and not set(words(o)) & set(words(entity))
        ]
        others.sort(key=lambda o: hashlib.sha256(f"{question}{o}".encode()).digest())
        for other in others if asked else ():
            old, new = self.corpus.named(entity) or entity, self.corpus.named(other) or other
            whole = f"the {entity}" if f"the {entity}" in question else entity
            made = question.replace(whole, new if whole == old else other)
            if made not in self.stated and not any(_may_state(asked, line) for line in self.lines[other]):
                return made, next(iter(self.where[other]), None)
        return None

    def _other_column(self, question: str) -> str | None:
        """Return a question for a year or a stock that no column holds and no line about the thing names."""
        match = re.fullmatch(
            r"(.+ of (?:the (?:part|item) “?)?(.+?)”?(?: are in stock)? in )(\d{4}|[A-Z][\w ]+)\?", question
        )
        if match is None or hashlib.sha256(question.encode()).digest()[0] % 4:
            return None
        year = match[3].isdigit()
        others = [str(int(match[3]) - n) for n in (2, 3, 4)] if year else self.towns
        name = match[2].removeprefix("the ")
        text = [p.text for p in self.corpus.passages if _holds(" ".join(words(f"{p.title} {p.text}")), name)]
        free = [o for o in others if o != match[3] and not any(o in t for t in text)]
        free.sort(key=lambda o: hashlib.sha256(f"{question}{o}".encode()).digest())
        return f"{match[1]}{free[0]}?" if free else None


_GENERIC = frozenset("cost costs take takes price phone number address days long pieces kind get has".split())


def _about(passage: Passage, entity: str) -> Iterator[str]:
    """Yield the lines of a passage that name an entity, each with what follows it; all of a passage whose heading does."""
    if _holds(" ".join(words(f"{passage.title} {passage.place}")), entity):
        yield " ".join(words(passage.text))
        return
    pieces = [" ".join(words(x)) for x in re.split(r"\n|(?<=[.!?]) ", passage.text) if x.strip()]
    for i, piece in enumerate(pieces):
        if _holds(piece, entity):
            yield " ".join(pieces[i : i + 2])


def _may_state(asked: Sequence[str], line: str) -> bool:
    """Whether a line holds half of the words that are asked for, by their first five letters."""
    return sum(w[:5] in line for w in asked) * 2 >= len(asked)


def _holds(text: str, entity: str) -> bool:
    return f" {' '.join(words(entity))} " in f" {text} "
