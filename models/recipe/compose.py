"""Sheets from schemas: facts of one to three topics, written down in the forms that real documents have."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .kinds import DAYS, Kind, date, made_up, person, version
from .schema import Fact, Schema, Section, choose, fill, sample
from .sheet import Piece, Sheet, Turn, casual

FILLER = """Please read this page carefully.|If something is unclear, ask a colleague.|This text replaces all earlier versions.|Thank you for your help.|We are happy to hear what you think.
More details will follow.|The following rules apply to everyone.|Exceptions are possible in justified cases.|We look forward to working with you.|Not everything can be written down here.|Have a look at the overview as well.
This page is kept short on purpose.|Safety comes first.|Questions are welcome at any time.|Some points were discussed at length.|The list is not complete.|It has worked well so far.|There was a lively discussion.|Nothing else has changed.
We know that this is not always easy.|Everybody should know this.|See the other chapters for the rest.|New colleagues often ask about this.|The rules were agreed with all departments.|Good planning saves work for everyone.|This also applies to new colleagues.
Small changes were made to the wording.|Do not print this page.|A short summary is given below.|Most people find this helpful.|Be fair and friendly.|We review this text regularly.""".replace("\n", "|").split("|")

Lines = list[tuple[str, list[tuple[Fact, Mapping[str, tuple[int, int]]]]]]
"""Text pieces of a passage, each with the facts said in it and their spans."""


@dataclass(frozen=True)
class Told:
    """A fact, the passage that tells it and where each of its slots stands there."""

    fact: Fact
    piece: int
    spans: Mapping[str, tuple[int, int]]


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
    lines: Lines = [(choose("[Please note:|Overview:|The most important points:|In short:|Rules:|Remember:|Good to know:]", r) + "\n", [])] if r.random() < 0.5 else []
    for n, fact in enumerate(facts, 1):
        text, spans = _sentence(fact, r)
        head = mark if mark != "• " or r.random() < 0.6 else f"{n}. "
        text = text.rstrip(".") if r.random() < 0.3 else text
        lines.append((head + text + "\n", [(fact, _moved(spans, len(head)))]))
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
        lines.append((head + text + "\n", [(fact, _moved(spans, len(head)))]))
    return lines


def _mail(facts: Sequence[Fact], r: random.Random) -> Lines:
    head = f"From: {person(r)}\nTo: {r.choice(['all staff', person(r), 'the team', 'everyone'])}\nDate: {date(r)}\nSubject: {r.choice(['Update', 'News', 'Reminder', 'Information', 'Changes', 'Your question', 'Please read'])}\n\n{r.choice(['Dear all,', 'Hello everyone,', 'Hi team,', 'Hello,'])}\n"
    return [(head, []), *_prose(facts, r), (f"\n{r.choice(['Best regards', 'Kind regards', 'Thanks', 'See you'])}, {person(r)}", [])]


def _minutes(facts: Sequence[Fact], r: random.Random) -> Lines:
    head = r.choice([f"Minutes of {date(r)}. Present: {person(r)}, {person(r)}.\n", f"Meeting on {r.choice(DAYS)}, {date(r)}\n", "Decisions\n", ""])
    lines: Lines = [(head, [])]
    for n, fact in enumerate(facts, 1):
        text, spans = _sentence(fact, r)
        start = r.choice([f"{n}. ", "- ", "Decision: ", f"Item {n}: ", "Agreed: "])
        lines.append((start + text + "\n", [(fact, _moved(spans, len(start)))]))
    return lines


def _changelog(facts: Sequence[Fact], r: random.Random) -> Lines:
    return [(f"## {version(r)} - {date(r)}\n", []), *_bullets(facts, r)]


FORMS: Sequence[tuple[float, Callable[[Sequence[Fact], random.Random], Lines]]] = ((0.55, _prose), (0.2, _bullets), (0.08, _faq), (0.06, _mail), (0.07, _minutes), (0.04, _changelog))


def _moved(spans: Mapping[str, tuple[int, int]], by: int) -> dict[str, tuple[int, int]]:
    return {k: (a + by, b + by) for k, (a, b) in spans.items()}


def _records(facts: Sequence[Fact], r: random.Random) -> Lines:
    """Facts about entities, as rows, tables or lists of fields; each has a label for its slot `v`."""
    entities = list(dict.fromkeys(f.values["e"] for f in facts))
    labels = {f.schema.name: r.choice(list(f.schema.labels["v"])) for f in facts}
    upper = r.random() < 0.5
    names = {k: v.capitalize() if upper else v for k, v in labels.items()}
    key = r.choice(["name", "item", "title", "entry", "label"])
    form = r.choice(["row", "table", "list", "short"])
    lines: Lines = []
    columns = list(names)
    if form == "table":
        head = "| " + " | ".join([key.capitalize(), *(names[c] for c in columns)]) + " |\n|" + "---|" * (len(columns) + 1) + "\n"
        lines.append((head, []))
    for entity in entities:
        own = {f.schema.name: f for f in facts if f.values["e"] == entity}
        text = {"row": f"{key}: {entity}", "table": f"| {entity}", "list": f"### {entity}", "short": f"{entity}:"}[form]
        at = len(text) - len(entity) - (1 if form == "short" else 0)
        told = []
        for column in columns:
            fact = own.get(column)
            if fact is None:
                text += " | -" if form == "table" else ""
                continue
            value = fact.values["v"]
            text += {"row": f", {names[column]}: ", "table": " | ", "list": f"\n- {names[column]}: ", "short": f" {names[column]} "}[form]
            told.append((fact, {"e": (at, at + len(entity)), "v": (len(text), len(text) + len(value))}))
            text += value + (";" if form == "short" else "")
        lines.append((text + (" |" if form == "table" else "") + "\n", told))
    return lines


def _write(facts: Sequence[Fact], r: random.Random) -> Lines:
    fit = [f for f in facts if "e" in f.schema.slots and "v" in f.schema.labels]
    if len(fit) == len(facts) and len({f.schema.slots["e"] for f in fit}) == 1 and r.random() < 0.55:
        return _records(facts, r)
    form = r.choices([f for _, f in FORMS], [w for w, _ in FORMS])[0]
    lines = form(facts, r)
    told = {id(f) for _, fs in lines for f, _ in fs}
    return lines if len(told) == len(facts) else _prose(facts, r)


def _draw(section: Section, count: int, kinds: Mapping[str, Kind], r: random.Random) -> list[Fact]:
    """Facts of a section; no schema twice about the same entity, so that every question has one answer."""
    about: dict[str, list[Schema]] = {}
    for schema in section.schemas:
        about.setdefault(schema.slots.get("e", ""), []).append(schema)
    facts: list[Fact] = []
    singles = about.pop("", [])
    for schema in r.sample(singles, min(len(singles), count)):
        facts.append(sample(schema, kinds, r))
    for kind, schemas in r.sample(list(about.items()), len(about)):
        if len(facts) >= count and facts and r.random() < 0.6 and singles:
            break
        few = r.sample(schemas, min(len(schemas), r.choice([1, 1, 2, 3, 4])))
        for entity in {kinds[kind](r) for _ in range(r.choice([1, 2, 3, 3, 4]))}:
            facts += [sample(s, kinds, r, {"e": entity}) for s in (few if r.random() < 0.7 else r.sample(schemas, len(few)))]
    return _distinct(facts)


def _distinct(facts: Sequence[Fact]) -> list[Fact]:
    """Drop facts whose value would make the reverse question ambiguous."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for fact in facts:
        keys = {(fact.schema.name, v) for v in fact.values.values()}
        if not keys & seen:
            kept.append(fact)
            seen |= keys
    return kept


def _question(schema: Schema, values: Mapping[str, str], slot: str, r: random.Random) -> str:
    return casual(fill(choose(r.choice(list(schema.questions[slot])), r), values).text, r)


def _missing(told: Sequence[Told], sections: Sequence[Section], everything: Sequence[Section], kinds: Mapping[str, Kind], r: random.Random) -> Turn | None:
    """A question that the passages do not answer, near to what they say."""
    x = r.random()
    have = {(t.fact.schema.name, t.fact.values.get("e")) for t in told}
    names = {t.fact.schema.name for t in told}
    if x < 0.4:  # the same is told, of something else
        about = [t.fact for t in told if "e" in t.fact.schema.slots]
        if not about:
            return None
        fact = r.choice(about)
        known = {t.fact.values.get("e") for t in told}
        entity = kinds[fact.schema.slots["e"]](r)
        slots = [s for s, qs in fact.schema.questions.items() if s != "e" and all("{e}" in q for q in qs)]
        if entity in known or not slots:
            return None
        return Turn(_question(fact.schema, {**fact.values, "e": entity}, r.choice(slots), r))
    if x < 0.65:  # of the same thing, something else is told
        about = [t.fact for t in told if "e" in t.fact.schema.slots]
        if about:
            fact = r.choice(about)
            entity = fact.values["e"]
            others = [s for sec in sections for s in sec.schemas if s.slots.get("e") == fact.schema.slots["e"] and (s.name, entity) not in have and any(k != "e" for k in s.questions)]
            if others:
                schema = r.choice(others)
                return Turn(_question(schema, sample(schema, kinds, r, {"e": entity}).values, r.choice([k for k in schema.questions if k != "e"]), r))
    pool = sections if x < 0.92 else everything
    others = [s for sec in pool for s in sec.schemas if s.name not in names]
    if not others:
        return None
    schema = r.choice(others)
    return Turn(_question(schema, sample(schema, kinds, r).values, r.choice(list(schema.questions)), r))


def _follow(turn: Turn, fact: Fact, slot: str, told: Sequence[Told], texts: Sequence[str], r: random.Random) -> Turn | None:
    """A short second question that leans on the first: the same of another, or another of the same."""
    if "e" not in fact.values or slot == "e":
        return None
    entity = fact.values["e"]
    same = [t for t in told if t.fact.schema.name == fact.schema.name and t.fact.values["e"] != entity and slot in t.spans]
    if same and r.random() < 0.6:
        t = r.choice(same)
        a, b = t.spans[slot]
        other = t.fact.values["e"]
        question = r.choice(["And {x}?", "And for {x}?", "What about {x}?", "And what about {x}?", "How about {x}?"]).replace("{x}", other)
        return Turn(question, texts[t.piece][a:b], t.piece, a)
    more = [t for t in told if t.fact.values.get("e") == entity and t.fact.schema.name != fact.schema.name and "v" in t.spans and "v" in t.fact.schema.questions]
    if not more:
        return None
    t = r.choice(more)
    a, b = t.spans["v"]
    pronoun = r.choice(["it", "that", "this one"]) if fact.schema.slots["e"] != "person" else "this person"
    question = fill(choose(r.choice(list(t.fact.schema.questions["v"])), r), {**t.fact.values, "e": pronoun}).text
    return Turn(question, texts[t.piece][a:b], t.piece, a)


def compose(sections: Sequence[Section], kinds: Mapping[str, Kind], r: random.Random, passages: int, questions: int, unanswerable: float = 0.2) -> Sheet:
    """Make a sheet.

    Args:
        sections: to draw from.
        kinds: of values.
        r: the generator; nothing else is random.
        passages: how many.
        questions: how many conversations.
        unanswerable: share of questions that the passages do not answer.
    """
    chosen = r.sample(list(sections), min(len(sections), r.choice([1, 1, 2, 2, 3][: passages + 2])))
    pieces: list[Piece] = []
    told: list[Told] = []
    shares = [[s for i, s in enumerate(chosen * passages) if i < passages].count(s) for s in chosen]
    for section, share in zip(chosen, shares, strict=True):
        if not share:
            continue
        per = r.choice([1, 2, 2, 3, 3, 4, 5])
        facts = _draw(section, per * share, kinds, r)
        if r.random() < 0.5:
            r.shuffle(facts)
        facts = facts[: 7 * share]
        title = r.choice(section.titles) if r.random() < 0.85 else f"{made_up(r)} {r.choice(section.titles).lower()}"
        cuts = sorted(r.sample(range(1, len(facts)), min(share - 1, len(facts) - 1))) if share > 1 and len(facts) > 1 else []
        for a, b in zip([0, *cuts], [*cuts, len(facts)], strict=True):
            lines = _write(facts[a:b], r)
            text = ""
            for line, said in lines:
                told += [Told(f, len(pieces), _moved(spans, len(text))) for f, spans in said]
                text += line
            text = text.rstrip()
            place = r.choice(section.headings) if r.random() < 0.75 else r.choice(["", f"page {r.randint(1, 30)}", f"row {r.randint(1, 60)}", f"{title} > {r.choice(section.headings)}"])
            pieces.append(Piece(title, place, text))
    talks: list[list[Turn]] = []
    asked: set[str] = set()
    for _ in range(questions * 3):
        if len(talks) >= questions or not told:
            break
        if r.random() < unanswerable:
            turn = _missing(told, chosen, sections, kinds, r)
            if turn and turn.question not in asked:
                talks.append([turn])
                asked.add(turn.question)
            continue
        t = r.choice(told)
        slots = [s for s in t.fact.schema.questions if s in t.spans or s in ("yes", "no")]
        if not slots:
            continue
        slot = r.choice(slots)
        question = _question(t.fact.schema, t.fact.values, slot, r)
        if question in asked:
            continue
        asked.add(question)
        if slot in ("yes", "no"):
            talks.append([Turn(question, slot.capitalize(), t.piece)])
            continue
        a, b = t.spans[slot]
        turn = Turn(question, pieces[t.piece].text[a:b], t.piece, a)
        talk = [turn]
        if r.random() < 0.12:
            second = _follow(turn, t.fact, slot, told, [p.text for p in pieces], r)
            talk += [second] if second else []
        talks.append(talk)
    return Sheet(pieces, talks)
