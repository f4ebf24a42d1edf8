"""Examples -> more examples: as users type, among other passages, without their passage, as a follow-up.

An augmenter is a plain function `(example, random, others) -> examples`; a new one is a function and a line in
`AUGMENTERS`.  Every result keeps the label, or has a label that follows (an unanswerable twin), and is held to that by
the gates: evidence still literal, the question still no giveaway, and the model where there is one.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlxrag.data.candidate import Candidate
from mlxrag.data.example import Example, example
from mlxrag.data.words import content_words, normal
from mlxrag.rag.document import Passage

Others = Mapping[str, Sequence[Example]]
"""Source of the first passage -> examples, of the same split."""
Augmenter = Callable[[Example, random.Random, Others], Iterator[Example]]
Check = Callable[[Sequence[Candidate]], Sequence[tuple[bool, str]]]


@dataclass(frozen=True, slots=True)
class Augmented:
    """What an augmenter made of an example.

    Attributes:
        by: the augmenter.
        of: id of the example it is made from.
        example: the new one.
        refused: why it is not kept; empty when it is.
    """

    by: str
    of: str
    example: Example
    refused: str = ""


def typos(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Type one word wrong: two letters swapped, one left out, doubled, or its neighbour on the keyboard."""
    places = list(re.finditer(r"\b[a-z]{4,}\b", one.question))
    if not places:
        return
    match = rng.choice(places)
    word, i = match[0], rng.randrange(1, len(match[0]) - 1)
    wrong = rng.choice(
        [word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:],
         word[:i] + rng.choice(_KEYS.get(word[i], word[i])) + word[i + 1 :]]
    )  # fmt: skip
    yield _asked(one, one.question[: match.start()] + wrong + one.question[match.end() :], "typos")


def case(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Type in small letters, without a question mark, as into a search box."""
    yield _asked(one, one.question.lower().rstrip("?").strip(), "case")


def forms(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Ask politely, indirectly, or in key words only."""
    question = one.question
    words = content_words(question)
    made = [
        f"Could you tell me this: {question[:1].lower()}{question[1:]}",
        f"Hi, quick question: {question[:1].lower()}{question[1:]}",
    ]
    if 2 <= len(words) <= 8:
        made.append(" ".join(words))
    yield _asked(one, rng.choice(made), "forms")


def distractors(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Put two passages of other documents beside the gold ones, in a drawn order."""
    found = _elsewhere(one, rng, others, 2)
    if found and one.passages:
        yield _laid(one, rng, (*one.passages, *found), "distractors")


def order(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Put the passages in another order."""
    if len(one.passages) > 1:
        passages = list(one.passages)
        rng.shuffle(passages)
        if tuple(passages) != one.passages:
            yield _remade(one, one.question, tuple(passages), "order")


def unanswerable(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Ask the same of passages of other documents, which do not hold the answer: the right answer is to refuse."""
    if not one.answerable or not one.passages:
        return
    golds = [normal(a) for a in one.answers]
    found = [
        p for p in _elsewhere(one, rng, others, 6) if not any(f" {g} " in f" {normal(p.text)} " for g in golds if g)
    ][:3]
    if found:
        yield example(
            one.question,
            (),
            tuple(found),
            f"augment:unanswerable:{one.id}",
            tags=(*one.tags, "unanswerable", "augmented"),
            history=one.history,
        )


def follow_up(one: Example, rng: random.Random, others: Others) -> Iterator[Example]:
    """Ask after another question about the same thing, which is called `it` now."""
    source = one.passages[0].source if one.passages else ""
    named = {m[0] for m in re.finditer(r"\bthe [A-Z][\w-]*(?: [A-Z\d][\w-]*)*", one.question)}
    same = others.get(source, ())
    before = [
        e for e in same if e.id != one.id and e.answers and not e.history and any(_names(e.question, n) for n in named)
    ]
    if not before or one.history:
        return
    earlier = rng.choice(before)
    name = max((n for n in named if _names(earlier.question, n)), key=len)
    if one.question.count(name) != 1 or re.search(rf"{re.escape(name)}(?:['’]s)", one.question):
        return
    question = one.question.replace(name, "it")
    made = example(f"And {question[:1].lower()}{question[1:]}", one.answers, one.passages, f"augment:follow_up:{one.id}", answerable=one.answerable,
                   tags=(*one.tags, "follow-up", "augmented"), history=((earlier.question, earlier.answers[0]),), evidence=one.evidence)  # fmt: skip
    yield made


AUGMENTERS: dict[str, Augmenter] = {
    "typos": typos,
    "case": case,
    "forms": forms,
    "distractors": distractors,
    "order": order,
    "unanswerable": unanswerable,
    "follow_up": follow_up,
}


def augment(
    examples: Iterable[Example],
    names: Sequence[str],
    *,
    seed: int = 0,
    share: float = 1.0,
    extra: Mapping[str, Augmenter] | None = None,
    check: Check | None = None,
) -> Iterator[Augmented]:
    """Yield what the augmenters make of examples of one split, with why it is refused where it is.

    Args:
        examples: of one split, so that nothing of one comes into another.
        names: of `AUGMENTERS` or `extra`.
        seed: with the example's id and the augmenter's name it decides every draw.
        share: of the examples that each augmenter is tried on.
        extra: more augmenters, such as paraphrase by a model.
        check: the reading gate, asked for what the rules let through; in batches of one example's results.
    """
    known = {**AUGMENTERS, **(extra or {})}
    held = list(examples)
    others: dict[str, list[Example]] = defaultdict(list)
    for one in held:
        if one.passages:
            others[one.passages[0].source].append(one)
    seen = {_same(e) for e in held}
    for one in held:
        made: list[Augmented] = []
        for name in names:
            rng = random.Random(hashlib.sha256(f"{seed}\0{name}\0{one.id}".encode()).digest())
            if rng.random() >= share:
                continue
            for new in known[name](one, rng, others):
                key = _same(new)
                made.append(
                    Augmented(name, one.id, new, "the same as another example" if key in seen else fault(new, one))
                )
                seen.add(key)
        passed = [a for a in made if not a.refused]
        if check is not None and passed:
            verdicts = check([candidate_of(a.example) for a in passed])
            refused = {a.example.id: note for a, (right, note) in zip(passed, verdicts, strict=True) if not right}
            made = [
                Augmented(
                    a.by,
                    a.of,
                    a.example,
                    a.refused or (f"reading: {refused[a.example.id]}" if a.example.id in refused else ""),
                )
                for a in made
            ]
        yield from made


def fault(new: Example, one: Example) -> str:
    """Return why the label may not hold any more; an empty string where it does."""
    if new.answerable and not all(any(q in p.text for p in new.passages) for q in new.evidence):
        return "the evidence is gone"
    if new.answerable and new.answers != one.answers:
        return "another answer"
    if not re.search(r"\w", new.question):
        return "no question is left"
    asked = f" {normal(new.question)} "
    if (
        "comparison" not in new.tags
        and any(f" {normal(a)} " in asked for a in new.answers if normal(a))
        and not any(f" {normal(a)} " in f" {normal(one.question)} " for a in one.answers)
    ):
        return "the question holds the answer"
    return ""


def tally(made: Iterable[Augmented]) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Return for each augmenter: how many it made, how many were kept, and why the others were not."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in made:
        counts[one.by][one.refused] += 1
    return {by: (c.total(), c[""], {why: n for why, n in c.items() if why}) for by, c in counts.items()}


def candidate_of(one: Example) -> Candidate:
    """Return an example as the gates of making take it."""
    return Candidate(one.question, one.answers, one.passages, one.evidence, one.source, one.tags)


def _same(one: Example) -> tuple[str, ...]:
    """What makes two examples the same: the question as it is typed, the passages in their order, the turns before."""
    return (one.question, *(p.id for p in one.passages), str(one.history))


def _names(question: str, name: str) -> bool:
    """Whether a question names a thing, and not a longer name that starts alike (`the Wren`, `the Wren 2`)."""
    return re.search(rf"{re.escape(name)}\b(?! [A-Z\d])", question) is not None


def _elsewhere(one: Example, rng: random.Random, others: Others, count: int) -> tuple[Passage, ...]:
    mine = {p.source for p in one.passages}
    sources = [s for s in sorted(others) if s not in mine]
    rng.shuffle(sources)
    return tuple(rng.choice(others[s]).passages[0] for s in sources[:count])


def _laid(one: Example, rng: random.Random, passages: tuple[Passage, ...], name: str) -> Example:
    shuffled = list(passages)
    rng.shuffle(shuffled)
    return _remade(one, one.question, tuple(shuffled), name)


def _asked(one: Example, question: str, name: str) -> Example:
    return _remade(one, question, one.passages, name)


def _remade(one: Example, question: str, passages: tuple[Passage, ...], name: str) -> Example:
    return example(question, one.answers, passages, f"augment:{name}:{one.id}", answerable=one.answerable,
                   tags=(*one.tags, name, "augmented"), history=one.history, evidence=one.evidence)  # fmt: skip


_KEYS = {
    c: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, c in enumerate(row)
}
