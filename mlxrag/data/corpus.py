"""What the makers may know of the whole collection: how its words are written, and the facts in its tables."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxrag.data.grammar import clauses
from mlxrag.data.lexicon import DETERMINERS, NUMBER_WORDS, PREPOSITIONS, PRONOUNS
from mlxrag.data.words import language_of
from mlxrag.rag.document import Passage

NAMES = re.compile(r"\b(?:[A-Z][\w'’-]*|\d+)(?: (?:[A-Z&][\w'’-]*|\d+|of|and)(?= [A-Z\d])| [A-Z][\w'’-]*| \d+)*")
HEADS = frozenset("property feature limit attribute characteristic item specification parameter".split())
# headers of rows whose first cell is no thing that has properties
ROWLESS = frozenset(
    "region topic case sign when field type variant date rule question step page key code error day time year month".split()
)
PAIR = re.compile(r"^[^:;]{1,60}: .+")
VALUE_MARKS = re.compile(r"; (?=[^:;]{1,60}: )")


@dataclass(frozen=True, slots=True)
class Fact:
    """A cell of a table, with what its row is about.

    Attributes:
        entity: what the row (or column) is about, such as `Ox 60`.
        kind: the header over the entities, such as `trailer`; empty where there is none.
        key: the header over the value, such as `weight`.
        value: the cell.
        line: the row as it stands in the passage: the evidence.
        passage: where.
    """

    entity: str
    kind: str
    key: str
    value: str
    line: str
    passage: Passage


@dataclass(frozen=True, slots=True)
class Corpus:
    """The passages, and what was counted in them.

    Attributes:
        passages: all of them, in order.
        lower: words seen in lower case inside a sentence.
        upper: words seen with a capital inside a sentence.
        the: phrases seen after `the`, `a` and the like, in lower case.
        facts: cells of tables, by passage id.
        derived: what makers worked out from the rest once, by name.
    """

    passages: Sequence[Passage]
    lower: Counter[str] = field(default_factory=Counter)
    upper: Counter[str] = field(default_factory=Counter)
    the: Counter[str] = field(default_factory=Counter)
    facts: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    derived: dict[str, Any] = field(default_factory=dict)

    def inside(self, phrase: str) -> str:
        """Return a phrase from the start of a sentence as it stands inside one: a capital stays on names only."""
        first = phrase.split(" ", 1)[0]
        bare = first.strip(",'’").removesuffix("'s").removesuffix("’s")
        if not bare[:1].isupper() or (len(bare) > 1 and bare[1:] != bare[1:].lower()) or any(c.isdigit() for c in bare):
            return phrase
        low = bare.lower()
        rest = phrase.split(" ")[1:2]
        named = bool(rest) and rest[0][:1].isupper() and not self.lower[low]
        if low in DETERMINERS | PREPOSITIONS | PRONOUNS | set(NUMBER_WORDS) or (
            not named and self.upper[bare] <= self.lower[low]
        ):
            return phrase[:1].lower() + phrase[1:]
        return phrase

    def named(self, entity: str, kind: str = "") -> str | None:
        """Return how a row's subject is spoken of: `the Ox 60`, `Spoke & Anchor`, `the baby hammock`, `the part “Rain window”`.

        Args:
            entity: as the table writes it.
            kind: the header over it, used where its name is seen nowhere in a sentence.
        """
        words = entity.split()
        if (
            not words
            or len(entity) > 45
            or re.search(r"[,;:()/]|\bor\b|\ball\b", entity)
            or not re.search(r"[A-Za-z]{2}", entity)
        ):
            return None
        low = entity.lower()
        common = len(words) > 1 and words[1][:1].islower() and self.lower[words[0].lower()] > 0
        if self.the[low]:
            return f"the {low[:1]}{entity[1:]}" if common else f"the {self.inside(entity)}"
        if words[0] == "The":
            return entity
        if all(w[:1].isupper() or w in {"&", "of", "and"} or w[:1].isdigit() for w in words):
            return f"the {entity}" if self.the[words[0].lower()] > 1 else entity
        if self.upper[words[0]] > self.lower[words[0].lower()] and self.the[words[0].lower()] > 1:
            return f"the {entity}"
        return f"the {kind or 'item'} “{entity}”" if words[0][:1].isupper() else None


def survey(passages: Sequence[Passage]) -> Corpus:
    """Read all passages once."""
    corpus = Corpus(passages)
    for passage in passages:
        text = passage.text
        for match in re.finditer(r"(?<=[a-z,;] )([A-Za-z][\w-]*)", text):
            word = match[1]
            (corpus.upper if word[0].isupper() else corpus.lower)[word if word[0].isupper() else word.lower()] += 1
        for match in re.finditer(r"\b(?:[Tt]he|[Aa]n?|[Ee]ach|[Ee]very|[Oo]ur) ((?:[\w-]+ ?){1,4})", text):
            words = match[1].split()
            for n in range(1, len(words) + 1):
                corpus.the[" ".join(words[:n]).lower()] += 1
    for passage in passages:
        found = list(facts(passage, corpus))
        if found:
            corpus.facts[passage.id] = found
    return corpus


def facts(passage: Passage, corpus: Corpus) -> Iterator[Fact]:
    """Yield the cells of the tables in a passage: lines of `Header: value; Header: value`."""
    for line in passage.text.split("\n"):
        cells = [_cell(part) for part in VALUE_MARKS.split(line.strip())]
        if len(cells) < 2 or any(c is None for c in cells[1:]) or line.startswith(("-", "*", ">")):
            continue
        pairs = [c for c in cells if c is not None]
        head = cells[0]
        subject = corpus_title(passage, corpus)
        if head is None:  # "Weight; Wren 1: 11.4 kg; Wren 2: 13.8 kg": a property, then entities
            first = line.split(";", 1)[0].strip()
            if 0 < len(first) <= 40:
                yield from (Fact(key, "", first, value, line, passage) for key, value in pairs)
        elif head[0].lower() in HEADS and len(pairs) == 2 and subject:  # "Property: Range; Value: 55 km"
            yield Fact(subject, "", head[1], pairs[1][1], line, passage)
        elif head[0].lower() in HEADS:  # "Limit: Total load; Wren 1: 30 kg; Wren 2: 45 kg"
            yield from (Fact(key, "", head[1], value, line, passage) for key, value in pairs[1:])
        else:
            if head[0].lower() in ROWLESS:
                continue
            name = next((i for i, (k, _) in enumerate(pairs) if k.lower() in {"name", "part", "title", "product"}), 0)
            kind, entity = pairs[name]
            kind = "" if kind.lower() in {"name", "title"} else kind.lower()
            yield from (
                Fact(entity, kind, key, value, line, passage) for i, (key, value) in enumerate(pairs) if i != name
            )


def corpus_title(passage: Passage, corpus: Corpus) -> str:
    """Return the short name a document's title starts with (`Heron: the trailer that pushes`), or an empty string."""
    name = passage.title.split(":", 1)[0].strip() if ":" in passage.title else ""
    return name if name and len(name) < 30 and corpus.the[name.lower()] else ""


def prose(passage: Passage) -> Iterator[tuple[str, str]]:
    """Yield (sentence, as it stands in the text): what is written in sentences, bullets taken off.

    Left out: headings, lines of tables, code, quoted mail and headers.
    """
    from mlxrag.rag.sentences import sentences

    if language_of(passage.text) not in {"en", ""}:
        return
    for start, end in _paragraphs(passage.text):
        for a, b in sentences(passage.text, start, end):
            raw = passage.text[a:b]
            plain = re.sub(r"^[-*•] |^\d+\. ", "", raw)
            if raw[-1:] not in ".!" or re.match(r"^(?:>|From:|To:|Subject:|Output:|Notes?:)", plain):
                continue
            plain = re.sub(r"^[A-Z][\w ]{0,25}: (?=[a-zA-Z])", "", plain)
            plain = plain[:1].upper() + plain[1:]
            if 4 <= len(plain.split()) <= 45:
                yield " ".join(plain.split()), raw


def told(passage: Passage, corpus: Corpus) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (sentence, its quotes) of `prose`, an `It` or `They` at the start replaced by what it stands for.

    That is the subject of the sentence before, whose words are a second quote, or the thing that the heading names.
    """
    subject, at = _headed(passage, corpus), -1
    quotes: tuple[str, ...] = ()
    for plain, raw in prose(passage):
        start = passage.text.find(raw, at + 1)
        if at >= 0 and "\n\n" in passage.text[at:start]:
            subject, quotes = "", ()
        at = start + len(raw)
        pronoun = re.match(r"(It|They) (?=[a-z])", plain)
        if pronoun:
            plural = subject.split(" ")[-1].endswith("s") and not subject.split(" ")[-1].endswith(("ss", "us"))
            if subject and plural == (pronoun[1] == "They"):
                yield f"{subject} {plain[pronoun.end() :]}", (raw, *quotes)
            continue
        found = next(clauses(plain), None)
        subject, quotes = "", ()
        acts = found is not None and not _ACTS.isdisjoint(f"{found.base} {found.verb}".split())
        if (
            found is not None
            and not acts
            and re.fullmatch(r"(?:[Tt]he (?!meeting|council)[\w -]+|[A-Z]\w+)", found.subject)
        ):
            subject, quotes = found.subject[:1].upper() + found.subject[1:], (raw,)
        yield plain, (raw,)


# after these a pronoun stands for what was spoken about, not for who spoke
_ACTS = frozenset(
    "approve approved decide decided agree agreed report reported want wanted ask asked propose proposed found".split()
)


def _headed(passage: Passage, corpus: Corpus) -> str:
    """Return the thing that a heading names, as the start of a sentence: `The Ox 100`; an empty string where it names none."""
    heading = passage.place.split(", page")[0].rsplit(" > ", 1)[-1].strip()
    name = heading.removeprefix("The ").removeprefix("the ")
    return f"The {name}" if name and len(name) < 30 and re.search(r"[A-Z]", name) and corpus.the[name.lower()] else ""


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for match in [*re.finditer(r"\n[ \t]*\n|\n(?=[-*•] |\d+\. )", text), None]:
        end = match.start() if match else len(text)
        block = text[at:end]
        lines = block.split("\n")
        coded = sum(
            bool(re.search(r"[=(){}\[\]]{2}|^\s{4}|^(?:import|from|for|print|with)\b.*[(:]$", line)) for line in lines
        )
        tables = sum(";" in line and ": " in line and len(VALUE_MARKS.split(line)) > 1 for line in lines)
        if not coded and not tables and len(block.split()) > 3:
            yield at, end
        at = match.end() if match else end


def _cell(part: str) -> tuple[str, str] | None:
    if not PAIR.match(part):
        return None
    key, _, value = part.partition(": ")
    return key.strip().replace("_", " "), value.strip().rstrip(";")


def first_names(passages: Iterable[Passage]) -> set[str]:
    """Return words that stand first in the name of a person: after a title, before a role, or in a list of those present."""
    found: set[str] = set()
    role = r"(?:head|director|manager|officer|engineer|secretary|editor|founder|chair|managing|finance|safety|sales|payroll)"
    for passage in passages:
        text = " ".join(passage.text.split())
        for pattern in (
            rf"\b([A-Z][a-z]+) [A-Z][a-z]+, (?:the )?(?:\w+ )?{role}\b",
            r"\b(?:Dr|Mr|Ms|Mrs|Prof)\.? ([A-Z][a-z]+) [A-Z][a-z]+",
            r"(?:Chair|Minutes|Editor|Author|Manager|manager|contact|Contact|staff|Excused|Guest[\w ]*): ([A-Z][a-z]+) [A-Z][a-z]+",
            rf"\b{role}[\w ]*, ([A-Z][a-z]+) [A-Z][a-z]+",
        ):
            found.update(m[1] for m in re.finditer(pattern, text))
        for listed in re.findall(r"Present: ([^:]+?)\.", text):
            found.update(m[1] for m in re.finditer(r"\b([A-Z][a-z]+) [A-Z][a-z]+", listed))
    return found
