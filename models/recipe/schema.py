"""Schemas: what can be stated, in several phrasings, and what can be asked about it.

The tables are plain text in ``schemas/*.txt``::

    # section | document titles; ... | headings; ...
    name: slot=kind slot=kind
    = A statement with {slot} and [one|another] wording.
    ? slot: A question whose answer is the slot?
    ? yes: A question that the statement answers with yes?
    ~ slot: label | label            (the slot as a field of a record about {e})

``[a|b]`` is a choice. A schema with the slot ``e`` says something of an entity: one section holds many of those, and
they are combined into records, tables and follow-up questions.
"""

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .kinds import KINDS, Kind, read_lists

TABLES = Path(__file__).with_name("schemas")
CHOICE = re.compile(r"\[([^\[\]]*)\]")
SPACE = re.compile(r" (?=[.,:;?!]( |$))")
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Schema:
    """One thing that can be stated."""

    name: str
    section: str
    slots: Mapping[str, str]
    """Slot to kind."""
    statements: Sequence[str]
    questions: Mapping[str, Sequence[str]]
    """Slot (or ``yes`` and ``no``) to its phrasings."""
    labels: Mapping[str, Sequence[str]]


@dataclass
class Section:
    """A topic: what a document of this kind is called and what may stand in it."""

    name: str
    titles: list[str]
    headings: list[str]
    schemas: list[Schema] = field(default_factory=list)


@dataclass(frozen=True)
class Fact:
    """A schema with its values."""

    schema: Schema
    values: Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """A text and where in it each slot's value stands."""

    text: str
    spans: Mapping[str, tuple[int, int]]


def choose(template: str, r: random.Random) -> str:
    """Resolve every ``[a|b]`` of `template`."""
    while True:
        resolved = CHOICE.sub(lambda m: r.choice(m.group(1).split("|")), template)
        if resolved == template:
            return SPACE.sub("", " ".join(p for p in resolved.split(" ") if p)).replace("\\n", "\n")
        template = resolved


def fill(template: str, values: Mapping[str, str]) -> Said:
    """Put `values` into `template`, remembering where; the first letter becomes a capital."""
    text, spans, at = "", {}, 0
    for match in SLOT.finditer(template):
        text += template[at : match.start()]
        value = values[match.group(1)]
        spans[match.group(1)] = (len(text), len(text) + len(value))
        text, at = text + value, match.end()
    text += template[at:]
    return Said(text[:1].upper() + text[1:], spans)


def sample(schema: Schema, kinds: Mapping[str, Kind], r: random.Random, fixed: Mapping[str, str] | None = None) -> Fact:
    """Draw the values of `schema`; slots of one kind get different values; `fixed` ones are kept."""
    values = {k: v for k, v in (fixed or {}).items() if k in schema.slots}
    for slot, kind in schema.slots.items():
        tries = 0
        while slot not in values or (tries < 9 and any(values[o] == values[slot] for o in values if o != slot)):
            if slot in (fixed or {}):
                break
            values[slot], tries = kinds[kind](r), tries + 1
    return Fact(schema, values)


def _schema(head: str, section: str, lines: Sequence[str], where: str, kinds: Mapping[str, Kind]) -> Schema:
    name, _, rest = head.partition(":")
    slots = dict(part.split("=") for part in rest.split())
    statements, questions, labels = [], {}, {}  # type: ignore[var-annotated]
    for line in lines:
        mark, body = line[0], line[1:].strip()
        if mark == "=":
            statements.append(body)
            continue
        slot, _, text = body.partition(":")
        if mark == "?":
            questions.setdefault(slot.strip(), []).append(text.strip())
        else:
            labels[slot.strip()] = [t.strip() for t in text.split("|")]
    known = set(slots)
    used = {s for t in [*statements, *(q for qs in questions.values() for q in qs)] for s in SLOT.findall(t)}
    faults = [f"slot {s} is not declared" for s in sorted(used - known)]
    faults += [f"kind {k} is not known" for k in slots.values() if k not in kinds]
    faults += [
        f"question of slot {s}, which no statement holds"
        for s in questions
        if s not in ("yes", "no") and not all("{" + s + "}" in t for t in statements)
    ]
    if faults or not statements or not questions:
        raise ValueError(f"{where}, schema '{name}': {'; '.join(faults) or 'no statement or no question'}")
    return Schema(name.strip(), section, slots, statements, questions, labels)


def load(directory: Path = TABLES) -> tuple[list[Section], dict[str, Kind]]:
    """Read every table; the word lists are ``words.txt``."""
    kinds = {**KINDS, **read_lists(directory / "words.txt")}
    sections: list[Section] = []
    for path in sorted(directory.glob("*.txt")):
        if path.name == "words.txt":
            continue
        head, lines = "", []  # type: ignore[var-annotated]
        for raw in [*path.read_text(encoding="utf-8").splitlines(), "# end"]:
            line = raw.strip()
            if not line:
                continue
            if line[0] in "=?~":
                lines.append(line)
                continue
            if head:
                sections[-1].schemas.append(_schema(head, sections[-1].name, lines, path.name, kinds))
            head, lines = "", []
            if line[0] == "#":
                parts = [p.strip() for p in line[1:].split("|")]
                if len(parts) == 3:
                    sections.append(
                        Section(
                            parts[0], [t.strip() for t in parts[1].split(";")], [t.strip() for t in parts[2].split(";")]
                        )
                    )
            else:
                head = line
    return sections, kinds


def held_out(schema: Schema) -> bool:
    """Whether the schema is kept for development: one in fourteen, by its name."""
    return zlib.crc32(schema.name.encode()) % 14 == 5
