"""Examples -> more examples: as users type, among other passages, without their passage, as a follow-up.

An augmenter is a plain function `(example, random, others) -> examples`; a new one is a function and a line in
`AUGMENTERS`.  Every result keeps the label, or has a label that follows (an unanswerable twin), and is held to that by
the gates: evidence still literal, the question still no giveaway, and the model where there is one.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxrag.data.candidate import Candidate
from mlxrag.data.dataset import Dataset
from mlxrag.data.example import Example, example, from_row, to_row
from mlxrag.data.journal import Journal, rows
from mlxrag.data.store import Seen, Split
from mlxrag.data.words import content_words, normal
from mlxrag.rag.document import Passage
from mlxrag.workspace import Workspace


class Others:
    """The examples of a split by the source of their first passage; only their positions are held.

    Args:
        examples: of the split; read again at every look.
    """

    def __init__(self, examples: Sequence[Example] | Split = ()) -> None:
        self._examples = examples
        self._places: dict[str, array[int]] = {}
        for position, one in enumerate(examples):
            if one.passages:
                self._places.setdefault(one.passages[0].source, array("l")).append(position)
        self.sources = sorted(self._places)

    def of(self, source: str) -> Iterator[Example]:
        """Yield the examples of a source."""
        return (self._examples[position] for position in self._places.get(source, ()))

    def draw(self, source: str, rng: random.Random) -> Example:
        """Return one example of a source."""
        return self._examples[rng.choice(self._places[source])]


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
    before = [
        e
        for e in others.of(source)
        if e.id != one.id and e.answers and not e.history and any(_names(e.question, n) for n in named)
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
    examples: Sequence[Example] | Split,
    names: Sequence[str],
    *,
    seed: int = 0,
    share: float = 1.0,
    extra: Mapping[str, Augmenter] | None = None,
    check: Check | None = None,
    done: Path | None = None,
) -> Iterator[Augmented]:
    """Yield what the augmenters make of examples of one split, with why it is refused where it is.

    Args:
        examples: of one split, so that nothing of one comes into another.
        names: of `AUGMENTERS` or `extra`.
        seed: with the example's id and the augmenter's name it decides every draw.
        share: of the examples that each augmenter is tried on.
        extra: more augmenters, such as paraphrase by a model.
        check: the reading gate, asked for what the rules let through; in batches of one example's results.
        done: a journal of what was made; killed in the middle, the same call goes on after its last row.

    Memory: 8 bytes for each example given or made.
    """
    known = {**AUGMENTERS, **(extra or {})}
    others = Others(examples)
    seen = Seen()
    for one in examples:
        seen.add(_same(one))
    before = rows(done) if done is not None else iter(())
    with Journal(done) if done is not None else nullcontext() as journal:
        for one in examples:
            kept = next(before, None)
            if kept is not None:
                made = [Augmented(m["by"], one.id, from_row(m["example"]), m["refused"]) for m in kept["made"]]
                for new in made:
                    seen.add(_same(new.example))
            else:
                made = list(_augmented(one, names, known, others, seen, f"{seed}", share))
                made = _checked(made, check) if check is not None else made
                if journal is not None:
                    journal.add(
                        {"made": [{"by": a.by, "example": to_row(a.example), "refused": a.refused} for a in made]}
                    )
            yield from made


def _augmented(
    one: Example,
    names: Sequence[str],
    known: Mapping[str, Augmenter],
    others: Others,
    seen: Seen,
    seed: str,
    share: float,
) -> Iterator[Augmented]:
    for name in names:
        rng = random.Random(hashlib.sha256(f"{seed}\0{name}\0{one.id}".encode()).digest())
        if rng.random() >= share:
            continue
        for new in known[name](one, rng, others):
            fresh = seen.add(_same(new))
            yield Augmented(name, one.id, new, fault(new, one) if fresh else "the same as another example")


def _checked(made: Sequence[Augmented], check: Check) -> list[Augmented]:
    """Have the reader answer what the rules let through, and refuse what it does not answer rightly."""
    passed = [a for a in made if not a.refused]
    verdicts = check([candidate_of(a.example) for a in passed]) if passed else ()
    unread = {a.example.id: note for a, (right, note) in zip(passed, verdicts, strict=True) if not right}
    return [
        a if a.refused or a.example.id not in unread else replace(a, refused=f"reading: {unread[a.example.id]}")
        for a in made
    ]


def spool(workspace: Workspace, dataset: Dataset, *facts: Any) -> Path:
    """Return the journal of a job over a dataset that asks a model; the same dataset and facts find it again."""
    key = hashlib.sha256(json.dumps([dataset.version, *facts], sort_keys=True, default=list).encode()).hexdigest()[:16]
    return workspace.root / "datasets" / dataset.name / f".unfinished-{key}.jsonl"


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


def tally(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, Any]]:
    """Return for each augmenter how many it made, how many were kept, and why the others were not.

    Args:
        counts: (augmenter, why refused or nothing) -> how many.
    """
    found: dict[str, dict[str, Any]] = {}
    for (by, why), count in counts.items():
        mine = found.setdefault(by, {"made": 0, "kept": 0, "dropped": {}})
        mine["made"] += count
        if why:
            mine["dropped"][why] = count
        else:
            mine["kept"] += count
    return found


def candidate_of(one: Example) -> Candidate:
    """Return an example as the gates of making take it."""
    return Candidate(one.question, one.answers, one.passages, one.evidence, one.source, one.tags)


def _same(one: Example) -> str:
    """16 hex digits for what makes two examples the same: the question as typed, the passages in their order, the turns before."""
    text = "\0".join((one.question, *(p.id for p in one.passages), str(one.history)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _names(question: str, name: str) -> bool:
    """Whether a question names a thing, and not a longer name that starts alike (`the Wren`, `the Wren 2`)."""
    return re.search(rf"{re.escape(name)}\b(?! [A-Z\d])", question) is not None


def _elsewhere(one: Example, rng: random.Random, others: Others, count: int) -> tuple[Passage, ...]:
    mine = {p.source for p in one.passages}
    drawn = rng.sample(others.sources, min(len(others.sources), count + len(mine)))
    return tuple(others.draw(s, rng).passages[0] for s in [s for s in drawn if s not in mine][:count])


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
