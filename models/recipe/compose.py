"""Sheets from schemas: facts of one to three topics, written down in the forms that real documents have."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .forms import moved, wrapped, write
from .kinds import Kind, made_up
from .schema import Fact, Schema, Section, choose, fill, sample
from .sheet import Piece, Sheet, Turn, casual


@dataclass(frozen=True)
class Told:
    """A fact, the passage that tells it and where each of its slots stands there."""

    fact: Fact
    piece: int
    spans: Mapping[str, tuple[int, int]]


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
            facts += [
                sample(s, kinds, r, {"e": entity}) for s in (few if r.random() < 0.7 else r.sample(schemas, len(few)))
            ]
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


LABELLED = (
    "{l} of {e}", "{e} {l}", "{e}: {l}?", "{l} {e}", "What is the {l} of {e}?", "{l} for {e}?", "{e}, {l}?", "What's the {l} of the {e}?"
)  # fmt: skip


def _question(schema: Schema, values: Mapping[str, str], slot: str, r: random.Random) -> str:
    if "e" in values and schema.labels.get(slot) and r.random() < 0.25:
        return casual(r.choice(LABELLED).format(l=r.choice(list(schema.labels[slot])), e=values["e"]), r)
    return casual(fill(choose(r.choice(list(schema.questions[slot])), r), values).text, r)


def _missing(
    told: Sequence[Told],
    sections: Sequence[Section],
    everything: Sequence[Section],
    kinds: Mapping[str, Kind],
    r: random.Random,
) -> Turn | None:
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
            others = [
                s
                for sec in sections
                for s in sec.schemas
                if s.slots.get("e") == fact.schema.slots["e"]
                and (s.name, entity) not in have
                and any(k != "e" for k in s.questions)
            ]
            if others:
                schema = r.choice(others)
                return Turn(
                    _question(
                        schema,
                        sample(schema, kinds, r, {"e": entity}).values,
                        r.choice([k for k in schema.questions if k != "e"]),
                        r,
                    )
                )
    pool = sections if x < 0.92 else everything
    others = [s for sec in pool for s in sec.schemas if s.name not in names]
    if not others:
        return None
    schema = r.choice(others)
    return Turn(_question(schema, sample(schema, kinds, r).values, r.choice(list(schema.questions)), r))


def _follow(
    turn: Turn, fact: Fact, slot: str, told: Sequence[Told], texts: Sequence[str], r: random.Random
) -> Turn | None:
    """A short second question that leans on the first: the same of another, or another of the same."""
    if "e" not in fact.values or slot == "e":
        return None
    entity = fact.values["e"]
    same = [
        t for t in told if t.fact.schema.name == fact.schema.name and t.fact.values["e"] != entity and slot in t.spans
    ]
    if same and r.random() < 0.6:
        t = r.choice(same)
        a, b = t.spans[slot]
        other = t.fact.values["e"]
        question = r.choice(
            ["And {x}?", "And for {x}?", "What about {x}?", "And what about {x}?", "How about {x}?"]
        ).replace("{x}", other)
        return Turn(question, texts[t.piece][a:b], t.piece, a)
    more = [
        t
        for t in told
        if t.fact.values.get("e") == entity
        and t.fact.schema.name != fact.schema.name
        and "v" in t.spans
        and "v" in t.fact.schema.questions
    ]
    if not more:
        return None
    t = r.choice(more)
    a, b = t.spans["v"]
    pronoun = r.choice(["it", "that", "this one"]) if fact.schema.slots["e"] != "person" else "this person"
    question = fill(choose(r.choice(list(t.fact.schema.questions["v"])), r), {**t.fact.values, "e": pronoun}).text
    return Turn(question, texts[t.piece][a:b], t.piece, a)


def compose(
    sections: Sequence[Section],
    kinds: Mapping[str, Kind],
    r: random.Random,
    passages: int,
    questions: int,
    unanswerable: float = 0.1,
) -> Sheet:
    """Make a sheet.

    Args:
        sections: to draw from.
        kinds: of values.
        r: the generator; nothing else is random.
        passages: how many.
        questions: how many conversations.
        unanswerable: share of questions that the passages do not answer.
    """
    roomy = r.random() < 0.35
    chosen = r.sample(list(sections), min(len(sections), r.choice([1, 1, 2, 2, 3][: passages + 2])))
    pieces: list[Piece] = []
    told: list[Told] = []
    shares = [[s for i, s in enumerate(chosen * passages) if i < passages].count(s) for s in chosen]
    for section, share in zip(chosen, shares, strict=True):
        if not share:
            continue
        per = r.choice([1, 2, 2, 3, 3, 4, 5, 6, 7] if roomy else [1, 1, 2, 2, 3])
        facts = _draw(section, per * share, kinds, r)
        if r.random() < 0.5:
            r.shuffle(facts)
        facts = facts[: 8 * share]
        title = r.choice(section.titles) if r.random() < 0.85 else f"{made_up(r)} {r.choice(section.titles).lower()}"
        cuts = (
            sorted(r.sample(range(1, len(facts)), min(share - 1, len(facts) - 1)))
            if share > 1 and len(facts) > 1
            else []
        )
        for a, b in zip([0, *cuts], [*cuts, len(facts)], strict=True):
            lines = write(facts[a:b], r)
            text = f"{r.choice(section.headings)}\n\n" if r.random() < 0.15 else ""
            here: list[Told] = []
            for line, said in lines:
                here += [Told(f, len(pieces), moved(spans, len(text))) for f, spans in said]
                text += line
            text = text.rstrip()
            if r.random() < 0.1:
                text = wrapped(text, [span for t in here for span in t.spans.values()], r)
            told += here
            place = (
                r.choice(section.headings)
                if r.random() < 0.75
                else r.choice(
                    [
                        "",
                        f"page {r.randint(1, 30)}",
                        f"row {r.randint(1, 60)}",
                        f"{title} > {r.choice(section.headings)}",
                    ]
                )
            )
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
