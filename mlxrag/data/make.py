"""Passages -> examples: makers propose, gates judge, what is kept becomes a dataset; resumable, and streamed to disk.

Strategy: passages go through in windows, in an order drawn from the seed.  A window's verdicts are written as they
fall, and a last row closes it; a window that was not closed when the process died is done again, and its rows are
forgotten.  What was refused is written too, with the gate and the reason.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mlxrag.data import make_facts, make_rules, make_tables, make_unanswerable
from mlxrag.data.candidate import Candidate, Maker, from_row, to_row
from mlxrag.data.corpus import Corpus, survey
from mlxrag.data.dataset import Dataset, freeze, split_by_document
from mlxrag.data.duplicates import Near
from mlxrag.data.example import BadRow, Example, example
from mlxrag.data.gates import GATES, Context, Verdict, admit
from mlxrag.data.journal import Journal, rows
from mlxrag.data.make_model import by_model
from mlxrag.data.round_trip import found_again, known_already, read_again
from mlxrag.data.wordings import wordings
from mlxrag.errors import BadInput, nearest
from mlxrag.model.load import READER
from mlxrag.rag.document import Passage
from mlxrag.rag.system import System
from mlxrag.settings import Making
from mlxrag.workspace import Workspace

WINDOW = 16
MADE = "made.jsonl"
MAKERS: dict[str, Maker] = {
    "amount": make_rules.amount,
    "time": make_rules.time,
    "person": make_rules.person,
    "reason": make_rules.reason,
    "condition": make_rules.condition,
    "definition": make_rules.definition,
    "place": make_rules.place,
    "thing": make_facts.thing,
    "foremost": make_facts.foremost,
    "kinds": make_facts.kinds,
    "keyvalue": make_tables.keyvalue,
    "table": make_tables.table,
    "comparison": make_tables.comparison,
    "unanswerable": make_unanswerable.unanswerable,
    "cloze": make_tables.cloze,
}
LAST_RESORT = frozenset({"cloze"})
"""Not among the usual makers: nobody asks like that."""
LAST = ("new", "variety")
"""Gates that depend on what else is kept."""


@dataclass(frozen=True, slots=True)
class Made:
    """A candidate with its verdict.

    Attributes:
        candidate: what was proposed.
        gates: gate -> note, as far as it came.
        refused: the gate that refused it; empty when it is kept.
    """

    candidate: Candidate
    gates: Mapping[str, str]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Yield:
    """What came out of each gate.

    Attributes:
        proposed: candidates.
        kept: those that passed all gates.
        refused: gate -> how many it refused, in the order of the gates.
        makers: maker -> (proposed, kept).
    """

    proposed: int
    kept: int
    refused: Mapping[str, int]
    makers: Mapping[str, tuple[int, int]]


def makers_of(system: System, making: Making) -> dict[str, Maker]:
    """Return the makers that the settings name: all rules but the last resort, and the model's where it can write.

    Raises:
        BadInput: there is no such maker.
    """

    own = dict(by_model(system.model, seed=making.make_seed))
    known = [*MAKERS, "model", *own]
    for name in making.makers:
        if name not in known:
            raise BadInput(f"no maker {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    usual = [n for n in MAKERS if n not in LAST_RESORT]
    names = making.makers or (*usual, *(() if system.model.name == READER else ("model",)))
    chosen: dict[str, Maker] = {}
    for name in names:
        chosen |= own if name == "model" else {name: MAKERS.get(name) or own[name]}
    return chosen


def spool(workspace: Workspace, name: str, system: System, making: Making) -> Path:
    """Return the folder where an unfinished making keeps its rows; the same system, index and settings find it again."""
    assert system.index is not None
    key = json.dumps([system.fingerprint, _mark(system), making.model_dump()], sort_keys=True)
    return workspace.root / "datasets" / name / f".make-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def make(system: System, folder: Path, making: Making) -> Iterator[Made]:
    """Yield every candidate with its verdict; those of an earlier, interrupted call first.

    Args:
        system: its index is what questions are made from; its retriever and model make the round trip.
        folder: of `spool`.
        making: makers, gates and limits.

    Cost: the passages are held in memory (about a kilobyte each); the rest is streamed.
    """
    assert system.index is not None
    corpus = survey(list(system.index.all_passages()))
    makers = makers_of(system, making)
    context = Context(making, corpus, Near(making.near_question))
    closed = set()
    for window, made in _finished(folder):
        closed.add(window)
        for one in made:
            if not one.refused:
                admit(one.candidate, context)
            yield one
    order = sorted(corpus.passages, key=lambda p: hashlib.sha256(f"{making.make_seed}\0{p.id}".encode()).digest())
    with Journal(folder / MADE) as journal:
        for window, start in enumerate(range(0, len(order), WINDOW)):
            if making.num_questions and context.kept >= making.num_questions:
                return
            if window in closed:
                continue
            journal.add({"open": window})
            for one in _judge(system, _propose(makers, order[start : start + WINDOW], corpus), context):
                journal.add({"candidate": to_row(one.candidate), "gates": dict(one.gates), "refused": one.refused})
                yield one
            journal.add({"close": window})


def finish(
    workspace: Workspace,
    name: str,
    system: System,
    folder: Path,
    making: Making,
    shares: Mapping[str, float] | None,
    seed: int = 0,
) -> tuple[Dataset, Yield]:
    """Make a dataset of what was kept, split by document, and forget the folder.

    Args:
        workspace, name: where, and what to call it.
        system: as given to `make`; recorded.
        folder: of `spool`, all windows done.
        making: recorded.
        shares: of the splits; None leaves one split, as does a set with too few documents.
        seed: of the split.

    Raises:
        BadInput: nothing was kept; says which gates refused how many.
    """
    counts = tally(_verdicts(folder))
    if not counts.kept:
        raise BadInput(f"no question was kept of {counts.proposed} proposed; refused by {dict(counts.refused)}")
    facts = {"yield": {"proposed": counts.proposed, "kept": counts.kept, "refused": dict(counts.refused),
                       "makers": {m: list(c) for m, c in counts.makers.items()}}, "model": system.model_name, "system": system.fingerprint}  # fmt: skip
    assert system.index is not None
    settings = {
        "making": making.model_dump(),
        "retrieval": system.settings.retrieval.model_dump(),
        "shares": dict(shares or {}),
    }
    items = _items(folder, making.num_questions or counts.kept, shares, seed)
    inputs = [f"indexes/{system.index.name}"]
    made = freeze(workspace, name, items, inputs=inputs, settings=settings, notes=facts)
    shutil.rmtree(folder)
    return made, counts


class Kept:
    """The examples that a making kept, read from its folder at every look.

    Args:
        folder: of `spool`, all windows done.
        limit: how many of them at most.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def __iter__(self) -> Iterator[Example]:
        return islice((to_example(one) for one in _verdicts(self.folder) if not one.refused), self.limit)


def _items(
    folder: Path, limit: int, shares: Mapping[str, float] | None, seed: int
) -> Iterator[tuple[str, Example | BadRow]]:
    """Yield what was kept with its split, then what was refused with its reason."""
    kept = Kept(folder, limit)
    placed: Iterator[tuple[str, Example]] = (("all", e) for e in kept)
    if shares:
        split = split_by_document(kept, shares, seed=seed)
        with suppress(BadInput):  # too few documents to split: one split, which the counts show
            placed = chain([next(split)], split)
    yield from placed
    for one in _verdicts(folder):
        if one.refused:
            place = f"{one.candidate.maker}: {one.candidate.question}"
            yield "all", BadRow(place, f"{one.refused}: {one.gates[one.refused]}")


def to_example(made: Made) -> Example:
    """Return a kept candidate as an example, its gates beside it."""
    c = made.candidate
    hard = tuple(
        f"hard:{gate}"
        for gate in ("retrieval", "reading", "closed_book")
        if made.gates.get(gate, "").startswith("HARD")
    )
    return example(
        c.question,
        c.answers,
        c.passages,
        f"make:{c.maker}",
        tags=(*c.tags, *hard),
        evidence=c.evidence,
        gates=dict(made.gates),
    )


def tally(made: Iterable[Made]) -> Yield:
    """Count what each gate refused and what each maker got through."""
    refused: Counter[str] = Counter()
    makers: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in made:
        makers[one.candidate.maker][0] += 1
        makers[one.candidate.maker][1] += not one.refused
        refused[one.refused] += 1
    kept = refused.pop("", 0)
    order = [g for g in (*GATES, "retrieval", "reading", "closed_book") if g in refused]
    return Yield(
        kept + refused.total(),
        kept,
        {g: refused[g] for g in order},
        {m: (p, k) for m, (p, k) in sorted(makers.items())},
    )


def _propose(makers: Mapping[str, Maker], passages: Sequence[Passage], corpus: Corpus) -> list[Candidate]:
    """Collect the candidates of a window, the makers taking turns so that no maker fills a passage's quota."""
    queues = [list(maker(passages, corpus)) for maker in makers.values()]
    found: dict[str, Candidate] = {}
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue):
                found.setdefault(queue[turn].key, queue[turn])
    return list(found.values())


def _judge(system: System, candidates: Sequence[Candidate], context: Context) -> Iterator[Made]:
    """Yield the candidates of a window with their verdicts; what only the round trip refused is asked again in other words."""
    unread: list[Candidate] = []
    for one in _sift(system, candidates, context):
        if one.refused in {"retrieval", "reading"}:
            unread.append(one.candidate)
        yield one
    again = [replace(c, question=other) for c in unread if c.answers for other in wordings(c.question)]
    yield from _sift(system, again, context)


def _sift(system: System, candidates: Sequence[Candidate], context: Context) -> Iterator[Made]:
    """Pass candidates through the gates: first those that look at one alone, then the round trip, then what else is kept."""
    notes: dict[str, dict[str, str]] = {c.key: {} for c in candidates}
    left: list[Candidate] = []
    for candidate in candidates:
        fault = _pass(candidate, context, [g for g in GATES if g not in LAST], notes[candidate.key])
        if fault:
            yield Made(candidate, notes[candidate.key], fault)
        else:
            left.append(candidate)
    passed: list[tuple[Candidate, dict[str, str]]] = []
    for candidate, noted, fault in _round_trip(system, left, notes, context.making):
        if fault:
            yield Made(candidate, noted, fault)
        else:
            passed.append((candidate, noted))
    for candidate, noted in passed:
        fault = _pass(candidate, context, LAST, noted)
        if not fault:
            admit(candidate, context)
        yield Made(candidate, noted, fault)


def _pass(candidate: Candidate, context: Context, gates: Iterable[str], noted: dict[str, str]) -> str:
    """Note what the gates say, up to the first that refuses; return its name, or an empty string."""
    for name in gates:
        verdict = GATES[name](candidate, context)
        noted[name] = verdict.note
        if not verdict.passed:
            return name
    return ""


def _round_trip(
    system: System, candidates: Sequence[Candidate], notes: Mapping[str, dict[str, str]], making: Making
) -> Iterator[tuple[Candidate, dict[str, str], str]]:
    """Yield (candidate, notes, gate that refused it or nothing) after retrieval and reading."""
    noted = [dict(notes[c.key]) for c in candidates]
    current = list(candidates)
    faults = [""] * len(current)

    def note(i: int, gate: str, verdict: Verdict) -> None:
        if verdict.passed:
            noted[i][gate] = verdict.note
        elif making.keep_hard:
            noted[i][gate] = f"HARD {verdict.note}"
        else:
            noted[i][gate], faults[i] = verdict.note, gate

    if making.round_trip != "none" and current:
        for i, (candidate, verdict) in enumerate(found_again(system, current, making)):
            current[i] = candidate
            note(i, "retrieval", verdict)
    if making.round_trip == "full":
        for gate, check in (("reading", read_again), ("closed_book", known_already)):
            open_ = [i for i, fault in enumerate(faults) if not fault]
            for i, verdict in zip(open_, check(system, [current[i] for i in open_], making), strict=True):
                note(i, gate, verdict)
    yield from zip(current, noted, faults, strict=True)


def _verdicts(folder: Path) -> Iterator[Made]:
    return (one for _, made in _finished(folder) for one in made)


def _finished(folder: Path) -> Iterator[tuple[int, list[Made]]]:
    """Yield (window, verdicts) of the windows that were closed; the rows of one that was not are forgotten."""
    held: list[Made] = []
    for row in rows(folder / MADE):
        if "open" in row:
            held = []
        elif "close" in row:
            yield row["close"], held
            held = []
        else:
            held.append(Made(from_row(row["candidate"]), row["gates"], row["refused"]))


def _mark(system: System) -> Any:
    """What the index holds, so that a making is not continued over other documents."""
    assert system.index is not None
    return sorted((d.source, d.id) for d in system.index.documents())
