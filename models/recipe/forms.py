"""How facts are written down: prose, lists, questions and answers, mails, minutes, change logs, tables and rows."""

import random
from collections.abc import Callable, Mapping, Sequence

from .kinds import DAYS, date, person, version
from .schema import Fact, choose, fill

FILLER = """Please read this page carefully.|If something is unclear, ask a colleague.|This text replaces all earlier versions.|Thank you for your help.|We are happy to hear what you think.
More details will follow.|The following rules apply to everyone.|Exceptions are possible in justified cases.|We look forward to working with you.|Not everything can be written down here.|Have a look at the overview as well.
This page is kept short on purpose.|Safety comes first.|Questions are welcome at any time.|Some points were discussed at length.|The list is not complete.|It has worked well so far.|There was a lively discussion.|Nothing else has changed.
We know that this is not always easy.|Everybody should know this.|See the other chapters for the rest.|New colleagues often ask about this.|The rules were agreed with all departments.|Good planning saves work for everyone.|This also applies to new colleagues.
Small changes were made to the wording.|Do not print this page.|A short summary is given below.|Most people find this helpful.|Be fair and friendly.|We review this text regularly.""".replace(
    "\n", "|"
).split("|")

Lines = list[tuple[str, list[tuple[Fact, Mapping[str, tuple[int, int]]]]]]
"""Text pieces of a passage, each with the facts said in it and their spans."""


def _sentence(fact: Fact, r: random.Random) -> tuple[str, Mapping[str, tuple[int, int]]]:
    said = fill(choose(r.choice(list(fact.schema.statements)), r), fact.values)
    text = said.text[:-1] if said.text.endswith("..") else said.text
    return text, said.spans


def _prose(facts: Sequence[Fact], r: random.Random) -> Lines:
    lines: Lines = []
    for fact in facts:
        if r.random() < 0.18:
            lines.append((r.choice(FILLER) + " ", []))
        text, spans = _sentence(fact, r)
        gap = " " if text[-1] in ".!?:" else r.choice([". ", "\n"])
        lines.append((text + gap, [(fact, spans)]))
    if r.random() < 0.15:
        lines.append((r.choice(FILLER), []))
    return lines


def _bullets(facts: Sequence[Fact], r: random.Random) -> Lines:
    mark = r.choice(["- ", "* ", "- ", "• "])
    lines: Lines = (
        [
            (
                choose(
                    "[Please note:|Overview:|The most important points:|In short:|Rules:|Remember:|Good to know:]", r
                )
                + "\n",
                [],
            )
        ]
        if r.random() < 0.5
        else []
    )
    for n, fact in enumerate(facts, 1):
        text, spans = _sentence(fact, r)
        head = mark if mark != "• " or r.random() < 0.6 else f"{n}. "
        text = text.rstrip(".") if r.random() < 0.3 else text
        lines.append((head + text + "\n", [(fact, moved(spans, len(head)))]))
    return lines


def _faq(facts: Sequence[Fact], r: random.Random) -> Lines:
    q, a = r.choice([("Q: ", "A: "), ("**", ""), ("### ", ""), ("", "")])
    lines: Lines = []
    for fact in facts:
        slot = r.choice([s for s in fact.schema.questions if s in fact.schema.slots] or [""])
        if not slot:
            continue
        question = fill(choose(r.choice(list(fact.schema.questions[slot])), r), fact.values).text
        text, spans = _sentence(fact, r)
        head = f"{q}{question}{'**' if q == '**' else ''}\n{a}"
        lines.append((head + text + "\n", [(fact, moved(spans, len(head)))]))
    return lines


def _mail(facts: Sequence[Fact], r: random.Random) -> Lines:
    head = f"From: {person(r)}\nTo: {r.choice(['all staff', person(r), 'the team', 'everyone'])}\nDate: {date(r)}\nSubject: {r.choice(['Update', 'News', 'Reminder', 'Information', 'Changes', 'Your question', 'Please read'])}\n\n{r.choice(['Dear all,', 'Hello everyone,', 'Hi team,', 'Hello,'])}\n"
    return [
        (head, []),
        *_prose(facts, r),
        (f"\n{r.choice(['Best regards', 'Kind regards', 'Thanks', 'See you'])}, {person(r)}", []),
    ]


def _minutes(facts: Sequence[Fact], r: random.Random) -> Lines:
    head = r.choice(
        [
            f"Minutes of {date(r)}. Present: {person(r)}, {person(r)}.\n",
            f"Meeting on {r.choice(DAYS)}, {date(r)}\n",
            "Decisions\n",
            "",
        ]
    )
    lines: Lines = [(head, [])]
    for n, fact in enumerate(facts, 1):
        text, spans = _sentence(fact, r)
        start = r.choice([f"{n}. ", "- ", "Decision: ", f"Item {n}: ", "Agreed: "])
        lines.append((start + text + "\n", [(fact, moved(spans, len(start)))]))
    return lines


def _changelog(facts: Sequence[Fact], r: random.Random) -> Lines:
    return [(f"## {version(r)} - {date(r)}\n", []), *_bullets(facts, r)]


FORMS: Sequence[tuple[float, Callable[[Sequence[Fact], random.Random], Lines]]] = (
    (0.55, _prose),
    (0.2, _bullets),
    (0.08, _faq),
    (0.06, _mail),
    (0.07, _minutes),
    (0.04, _changelog),
)


def moved(spans: Mapping[str, tuple[int, int]], by: int) -> dict[str, tuple[int, int]]:
    """Shift spans to the right."""
    return {k: (a + by, b + by) for k, (a, b) in spans.items()}


def _records(facts: Sequence[Fact], r: random.Random) -> Lines:
    """Facts about entities, as rows, tables or lists of fields; each has a label for its slot `v`."""
    entities = list(dict.fromkeys(f.values["e"] for f in facts))
    labels = {f.schema.name: r.choice(list(f.schema.labels["v"])) for f in facts}
    upper = r.random() < 0.5
    names = {k: v.capitalize() if upper else v for k, v in labels.items()}
    key = r.choice(["name", "item", "title", "entry", "label", "article", "place", "model", facts[0].schema.slots["e"]])
    form = r.choice(["row", "row", "cells", "cells", "crossed", "table", "list", "short"])
    if form == "crossed":
        return _crossed(facts, entities, names, r)
    lines: Lines = []
    columns = list(names)
    if form == "table":
        head = (
            "| "
            + " | ".join([key.capitalize(), *(names[c] for c in columns)])
            + " |\n|"
            + "---|" * (len(columns) + 1)
            + "\n"
        )
        lines.append((head, []))
    for entity in entities:
        own = {f.schema.name: f for f in facts if f.values["e"] == entity}
        before = f"{_aside(r)}; " if form == "cells" and r.random() < 0.4 else ""
        text = {
            "row": f"{key}: {entity}",
            "cells": f"{before}{key}: {entity}",
            "table": f"| {entity}",
            "list": f"### {entity}",
            "short": f"{entity}:",
        }[form]
        at = len(text) - len(entity) - (1 if form == "short" else 0)
        told = []
        for column in columns:
            if form == "cells" and r.random() < 0.35:
                text += f"; {_aside(r)}"
            fact = own.get(column)
            if fact is None:
                text += " | -" if form == "table" else ""
                continue
            value = fact.values["v"]
            text += {
                "row": f", {names[column]}: ",
                "cells": f"; {names[column]}: ",
                "table": " | ",
                "list": f"\n- {names[column]}: ",
                "short": f" {names[column]} ",
            }[form]
            told.append((fact, {"e": (at, at + len(entity)), "v": (len(text), len(text) + len(value))}))
            text += value + (";" if form == "short" else "")
        lines.append((text + (" |" if form == "table" else "") + "\n", told))
    return lines


def _aside(r: random.Random) -> str:
    """A cell that nobody asks about."""
    name = r.choice(
        ["no", "id", "ref", "since", "shelf", "code", "updated", "checked by", "note", "group", "page", "unit"]
    )
    value = r.choice(
        [
            str(r.randint(1, 2030)),
            version(r),
            date(r),
            person(r),
            f"{r.choice('ABCDEFX')}{r.randint(1, 99)}",
            "yes",
            "none",
        ]
    )
    return f"{name}: {value}"


def _crossed(facts: Sequence[Fact], entities: Sequence[str], names: Mapping[str, str], r: random.Random) -> Lines:
    """A table whose columns are the entities, row by row as cells with their headings."""
    head = r.choice(["property", "feature", "limit", "what", "field", "detail"])
    lines: Lines = []
    for column, name in names.items():
        text, told = f"{head.capitalize() if r.random() < 0.5 else head}: {name}", []
        for entity in entities:
            fact = next((f for f in facts if f.values["e"] == entity and f.schema.name == column), None)
            text += f"; {entity}: "
            value = fact.values["v"] if fact else "-"
            if fact:
                at = len(text)
                told.append((fact, {"e": (at - 2 - len(entity), at - 2), "v": (at, at + len(value))}))
            text += value
        lines.append((text + "\n", told))
    return lines


def wrapped(text: str, keep: Sequence[tuple[int, int]], r: random.Random) -> str:
    """Break the lines of `text` at some 60 to 90 characters, as plain mails and notices are, but not within `keep`."""
    width, out, column = r.randint(60, 90), list(text), 0
    for i, letter in enumerate(text):
        column = 0 if letter == "\n" else column + 1
        if letter == " " and column >= width - 8 and not any(a <= i < b for a, b in keep):
            out[i], column = "\n", 0
    return "".join(out)


def write(facts: Sequence[Fact], r: random.Random) -> Lines:
    """Write `facts` in one form that can hold them all; the lines together are the passage."""
    fit = [f for f in facts if "e" in f.schema.slots and "v" in f.schema.labels]
    if len(fit) == len(facts) and len({f.schema.slots["e"] for f in fit}) == 1 and r.random() < 0.55:
        return _records(facts, r)
    form = r.choices([f for _, f in FORMS], [w for w, _ in FORMS])[0]
    lines = form(facts, r)
    told = {id(f) for _, fs in lines for f, _ in fs}
    return lines if len(told) == len(facts) else _prose(facts, r)
