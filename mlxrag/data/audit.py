"""What is wrong with a dataset: leakage between splits, duplicates, faulty labels, contradictory answers; and what is in it."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mlxrag.data.dataset import Dataset, stale
from mlxrag.data.duplicates import pairs, signatures
from mlxrag.data.example import Example
from mlxrag.data.quality import QUALITY, Spread, distinct, embedding_spread, spread
from mlxrag.data.scratch import Column
from mlxrag.data.store import Seen
from mlxrag.data.words import language_of, normal, overlap_f1, words

NEAR = 0.8
SAME_QUESTION = 0.9
KEPT = 1000
DRAWN = 10_000
"""Distinct-n falls as a set grows, so it is taken of at most this many questions."""
ENCODED = 1000
"""Questions whose vectors are compared."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an audit found.

    Attributes:
        kind: what is wrong, such as `document in two splits`.
        grave: whether figures made with this dataset cannot be trusted because of it.
        examples: ids it concerns, those of the same trouble together.
        detail: what, in words.
    """

    kind: str
    grave: bool
    examples: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The whole of an audit.

    Attributes:
        dataset: `datasets/name@version`.
        counts: examples in each split.
        findings: what is wrong, the grave first; of each kind the first `KEPT`.
        times: kind of finding -> how many there are.
        quality: distribution of each measure of `quality.QUALITY`.
        diversity: distinct-1, -2 and -3 of `DRAWN` questions drawn at random (of all, if there are fewer), and how far
            their vectors are apart, where an encoder was given.
        tags, languages, openings: how many examples of each (openings: first two words of the question).
    """

    dataset: str
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    times: Mapping[str, int]
    quality: Mapping[str, Spread]
    diversity: Mapping[str, float | None]
    tags: Mapping[str, int]
    languages: Mapping[str, int]
    openings: Mapping[str, int]


def audit(
    dataset: Dataset,
    *,
    documents: Mapping[str, str] | None = None,
    trained_on: Iterable[Dataset] = (),
    encode: Callable[[list[str]], np.ndarray] | None = None,
) -> Audit:
    """Look a dataset through.

    Args:
        dataset: what to look through.
        documents: source -> document id as they are now; examples of other documents are reported as stale.
        trained_on: datasets whose `train` split an adapter has seen; an overlap with `test` or `valid` is grave.
        encode: texts -> unit vectors `(n, d)`, for how far `ENCODED` questions are apart in meaning; left out without it.

    Cost: four passes, about a millisecond an example.  Memory hardly grows: signatures and figures lie on disk, some
    50 bytes an example are held, and of each kind of finding the first thousand.
    """
    found = Findings()
    openings: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    quality = Column(np.float32, (len(QUALITY),))
    drawn: list[tuple[int, str]] = []
    for _, example in dataset.splits():
        found.add(label_faults(example))
        _draw(drawn, example)
        openings[" ".join(words(example.question)[:2])] += 1
        languages[language_of(" ".join((example.question, *(p.text for p in example.passages)))) or "?"] += 1
        values = (measure(example) for measure in QUALITY.values())
        quality.add([np.nan if v is None else v for v in values])
    found.add(leaks(dataset))
    found.add(question_pairs(dataset))
    if documents is not None:
        found.add(Finding("stale", False, (e.id,), why) for e, why in stale(dataset.split(), documents))
    for seen in trained_on:
        found.add(overlap(dataset, seen))
    questions = [question for _, question in sorted(drawn)]
    diversity = {f"distinct-{n}": distinct(questions, n) for n in (1, 2, 3)}
    if encode is not None:
        diversity["embedding spread"] = embedding_spread(encode(questions[:ENCODED]))
    figures = quality.rows()
    return Audit(
        dataset.ref, dataset.counts, tuple(sorted(found.kept, key=lambda f: (not f.grave, f.kind))), dict(found.times),
        {name: spread(figures[:, i]) for i, name in enumerate(QUALITY)}, diversity,
        dict(Counter(t for tags in dataset.split().column("tags") for t in tags).most_common()),
        dict(languages.most_common()), dict(openings.most_common(20)),
    )  # fmt: skip


class Findings:
    """What an audit found so far: all are counted, the first of each kind are kept."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.times: Counter[str] = Counter()

    def add(self, found: Iterable[Finding]) -> None:
        """Take findings in."""
        for one in found:
            self.times[one.kind] += 1
            if self.times[one.kind] <= KEPT:
                self.kept.append(one)


def _draw(drawn: list[tuple[int, str]], example: Example) -> None:
    """Keep the examples with the smallest hashes: a random draw that does not depend on the order."""
    entry = (-int(hashlib.sha256(example.id.encode()).hexdigest()[:15], 16), example.question)
    if len(drawn) < DRAWN:
        heapq.heappush(drawn, entry)
    elif entry > drawn[0]:
        heapq.heapreplace(drawn, entry)


def label_faults(example: Example) -> Iterator[Finding]:
    """Yield what is wrong with one example by itself."""
    texts = [p.text for p in example.passages]

    def fault(kind: str, detail: str) -> Finding:
        return Finding(kind, False, (example.id,), detail)

    if example.answerable and not example.answers:
        yield fault("no answer", f"{example.question!r} is answerable but has no answer")
    if not example.answerable and example.answers:
        yield fault("answer of an unanswerable", f"{example.question!r} has the answer {example.answers[0]!r}")
    for quote in example.evidence:
        if not any(quote in t for t in texts):
            yield fault("evidence not in a passage", repr(quote[:80]))
    for answer in example.answers:
        if not answer.strip():
            yield fault("empty answer", repr(example.question))
        elif normal(answer) and normal(answer) in normal(example.question) and len(words(answer)) > 1:
            yield fault("answer in the question", f"{example.question!r} holds {answer!r}")
    if len(words(example.question)) < 3 and len(example.question) < 8:
        yield fault("question of one or two words", repr(example.question))


def leaks(dataset: Dataset) -> Iterator[Finding]:
    """Yield documents, and near-duplicate passages, that stand in two splits."""
    if len(dataset.counts) < 2:
        return
    units, seen, owner = Column(_UNIT), Seen(), Column(_OWNER)
    codes = {split: code for code, split in enumerate(dataset.counts)}

    def texts() -> Iterator[str]:
        for position, (split, example) in enumerate(dataset.splits()):
            for passage in example.passages:
                unit = hashed(passage.source or passage.document_id)
                units.add((unit, codes[split]))
                if seen.add(f"{hashed(f'{split} {passage.id}'):016x}"):
                    owner.add((unit, codes[split], position))
                    yield passage.text

    signed = signatures(texts())
    yield from _in_two_splits(dataset, np.unique(units.rows()))
    owners, rows, names = owner.rows(), dataset.split(), list(dataset.counts)
    for i, j, alike in pairs(signed, NEAR):
        a, b = owners[i], owners[j]
        if a["split"] != b["split"] and a["unit"] != b["unit"]:
            first, second = rows[int(a["position"])], rows[int(b["position"])]
            unit, other = (
                next((p.source or p.document_id) for p in e.passages if hashed(p.source or p.document_id) == o["unit"])
                for e, o in ((first, a), (second, b))
            )
            detail = (
                f"passages of {unit} ({names[a['split']]}) and {other} ({names[b['split']]}) are alike, {alike:.2f}"
            )
            yield Finding("near-duplicate passages in two splits", True, (first.id, second.id), detail)


def _in_two_splits(dataset: Dataset, units: np.ndarray) -> list[Finding]:
    """Return the documents that `units` (unit, split), each once and sorted, holds with two splits."""
    twice = units["unit"][1:] == units["unit"][:-1]
    torn = set(units["unit"][1:][twice].tolist())
    home: dict[str, str] = {}
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for split, example in dataset.splits() if torn else ():
        for passage in example.passages:
            unit = passage.source or passage.document_id
            if hashed(unit) in torn and home.setdefault(unit, split) != split:
                found[unit, home[unit], split].append(example.id)
    return [
        Finding("document in two splits", True, tuple(ids), f"{unit} is in {a} and in {b}")
        for (unit, a, b), ids in found.items()
    ]


def question_pairs(dataset: Dataset) -> Iterator[Finding]:
    """Yield questions that are asked twice: across splits, with the same answer, or with answers that contradict."""
    rows = dataset.split()
    ends = np.cumsum(list(dataset.counts.values()))
    names = list(dataset.counts)
    for i, j, alike in pairs(signatures(rows.column("question")), SAME_QUESTION):
        one, two = rows[i], rows[j]
        a, b = (names[int(np.searchsorted(ends, position, side="right"))] for position in (i, j))
        agree = max(
            (overlap_f1(normal(x).split(), normal(y).split()) for x in one.answers for y in two.answers), default=0.0
        )
        same = agree >= 0.5 or (not one.answers and not two.answers)
        together = {p.source for p in one.passages} & {p.source for p in two.passages}
        ids = (one.id, two.id)
        if not same and together and normal(one.question) == normal(two.question):
            said = [repr(e.answers[0]) if e.answers else "unanswerable" for e in (one, two)]
            yield Finding("contradictory answers", True, ids, f"{one.question!r}: {said[0]} and {said[1]}")
        elif a != b:
            yield Finding("question in two splits", same, ids, f"{one.question!r} in {a} and {b}, {alike:.2f}")
        elif same:
            yield Finding("question asked twice", False, ids, f"{one.question!r}, {alike:.2f}")


def overlap(dataset: Dataset, trained: Dataset) -> Iterator[Finding]:
    """Yield the examples outside `train` that what was trained on already held: the question, or the document."""
    if "train" not in trained.counts and "all" not in trained.counts:
        return
    source = trained.split("train" if "train" in trained.counts else "all")
    questions, documents = Seen(), Seen()
    for example in source:
        questions.add(f"{hashed(normal(example.question)):016x}")
        for passage in example.passages:
            documents.add(f"{hashed(passage.source or passage.document_id):016x}")
    for split, example in dataset.splits():
        if split == "train":
            continue
        shared = [unit for p in example.passages if f"{hashed(unit := p.source or p.document_id):016x}" in documents]
        if f"{hashed(normal(example.question)):016x}" in questions:
            yield Finding("question was trained on", True, (example.id,), f"{example.question!r} is in {trained.ref}")
        elif shared:
            yield Finding("document was trained on", True, (example.id,), f"{min(shared)} is in {trained.ref}")


def hashed(text: str) -> int:
    """Return 64 bits that stand for a text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


_UNIT = np.dtype([("unit", np.uint64), ("split", np.uint8)])
_OWNER = np.dtype([("unit", np.uint64), ("split", np.uint8), ("position", np.int64)])
