"""What is wrong with a dataset, and how two versions differ.

`audit` looks for leakage between splits, duplicates, faulty labels and contradictory answers, and describes the
distributions; `difference` says what came, went and changed, and tests whether the distributions moved.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mlxrag.data.dataset import Dataset, row_digest, stale
from mlxrag.data.duplicates import pairs, signatures
from mlxrag.data.example import Example
from mlxrag.data.quality import QUALITY, Spread, distinct, spread
from mlxrag.data.words import language_of, normal, overlap_f1, words

NEAR = 0.8
SAME_QUESTION = 0.9


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
        findings: what is wrong, the grave first.
        quality: distribution of each measure of `quality.QUALITY`.
        diversity: distinct-1, -2 and -3 of the questions.
        tags, languages, openings: how many examples of each (openings: first two words of the question).
    """

    dataset: str
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
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
) -> Audit:
    """Look a dataset through.

    Args:
        dataset: what to look through.
        documents: source -> document id as they are now; examples of other documents are reported as stale.
        trained_on: datasets whose `train` split an adapter has seen; an overlap with `test` or `valid` is grave.

    Cost: one pass for the labels, two for near-duplicates; about a millisecond and 700 bytes an example.
    """
    findings: list[Finding] = []
    questions: list[str] = []
    openings: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    quality: dict[str, list[float | None]] = {name: [] for name in QUALITY}
    for _, example in dataset.splits():
        findings += label_faults(example)
        questions.append(example.question)
        openings[" ".join(words(example.question)[:2])] += 1
        languages[language_of(" ".join((example.question, *(p.text for p in example.passages)))) or "?"] += 1
        for name, measure in QUALITY.items():
            quality[name].append(measure(example))
    findings += leaks(dataset)
    findings += question_pairs(dataset)
    if documents is not None:
        findings += [Finding("stale", False, (e.id,), why) for e, why in stale(dataset.split(), documents)]
    for seen in trained_on:
        findings += overlap(dataset, seen)
    findings.sort(key=lambda f: (not f.grave, f.kind))
    return Audit(
        dataset.ref, dataset.counts, tuple(findings), {name: spread(v) for name, v in quality.items()},
        {f"distinct-{n}": distinct(questions, n) for n in (1, 2, 3)},
        dict(Counter(t for tags in dataset.split().column("tags") for t in tags).most_common()),
        dict(languages.most_common()), dict(openings.most_common(20)),
    )  # fmt: skip


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


def leaks(dataset: Dataset) -> list[Finding]:
    """Find documents, and near-duplicate passages, that stand in two splits."""
    home: dict[str, str] = {}
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    owner: list[tuple[str, str, str]] = []
    seen: set[str] = set()

    def texts() -> Iterator[str]:
        for split, example in dataset.splits():
            for passage in example.passages:
                unit = passage.source or passage.document_id
                if home.setdefault(unit, split) != split:
                    found[unit, home[unit], split].append(example.id)
                if (key := f"{split} {passage.id}") not in seen:
                    seen.add(key)
                    owner.append((split, example.id, unit))
                    yield passage.text

    signed = signatures(texts())
    faults = [
        Finding("document in two splits", True, tuple(ids), f"{unit} is in {a} and in {b}")
        for (unit, a, b), ids in found.items()
    ]
    for i, j, alike in pairs(signed, NEAR):
        (a, first, unit), (b, second, other) = owner[i], owner[j]
        if a != b and unit != other:
            detail = f"passages of {unit} ({a}) and {other} ({b}) are alike, {alike:.2f}"
            faults.append(Finding("near-duplicate passages in two splits", True, (first, second), detail))
    return faults


def question_pairs(dataset: Dataset) -> list[Finding]:
    """Find questions that are asked twice: across splits, with the same answer, or with answers that contradict."""
    kept = [
        (split, e.id, e.question, e.answers, frozenset(p.source for p in e.passages)) for split, e in dataset.splits()
    ]
    faults = []
    for i, j, alike in pairs(signatures(k[2] for k in kept), SAME_QUESTION):
        (a, first, question, answers, sources), (b, second, _, others, elsewhere) = kept[i], kept[j]
        agree = max((overlap_f1(normal(x).split(), normal(y).split()) for x in answers for y in others), default=0.0)
        same = agree >= 0.5 or (not answers and not others)
        ids = (first, second)
        if not same and sources & elsewhere and normal(question) == normal(kept[j][2]):
            said = [repr(x[0]) if x else "unanswerable" for x in (answers, others)]
            faults.append(Finding("contradictory answers", True, ids, f"{question!r}: {said[0]} and {said[1]}"))
        elif a != b:
            faults.append(Finding("question in two splits", same, ids, f"{question!r} in {a} and {b}, {alike:.2f}"))
        elif same:
            faults.append(Finding("question asked twice", False, ids, f"{question!r}, {alike:.2f}"))
    return faults


def overlap(dataset: Dataset, trained: Dataset) -> Iterator[Finding]:
    """Yield the examples outside `train` that what was trained on already held: the question, or the document."""
    if "train" not in trained.counts and "all" not in trained.counts:
        return
    source = trained.split("train" if "train" in trained.counts else "all")
    questions, documents = set(), set()
    for example in source:
        questions.add(normal(example.question))
        documents |= {p.source or p.document_id for p in example.passages}
    for split, example in dataset.splits():
        if split == "train":
            continue
        shared = documents & {p.source or p.document_id for p in example.passages}
        if normal(example.question) in questions:
            yield Finding("question was trained on", True, (example.id,), f"{example.question!r} is in {trained.ref}")
        elif shared:
            yield Finding("document was trained on", True, (example.id,), f"{min(shared)} is in {trained.ref}")


@dataclass(frozen=True, slots=True)
class Shift:
    """Whether a distribution moved between two versions.

    Attributes:
        what: the field.
        test: the test's name.
        p: its p-value, adjusted for the number of fields by Holm's method; None when it cannot be computed.
        before, after: the most frequent values with counts, or mean and median.
    """

    what: str
    test: str
    p: float | None
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """How version `b` differs from version `a`.

    Attributes:
        a, b: refs.
        added, removed: ids only in `b`, only in `a` (16 hex digits).
        changed: (id in `a`, id in `b`): the same question on the same passages, with other answers or labels.
        moved: ids that are as they were, in another split.
        same: examples in both, as they were.
        shifts: a test for each field.
    """

    a: str
    b: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]
    moved: tuple[str, ...]
    same: int
    shifts: tuple[Shift, ...]


def difference(a: Dataset, b: Dataset) -> Difference:
    """Compare two versions example by example; holds some 200 bytes an example."""
    left, right = dict(_rows(a)), dict(_rows(b))
    both, new, gone = left.keys() & right.keys(), right.keys() - left.keys(), left.keys() - right.keys()
    edited = {k for k in both if left[k].content != right[k].content}
    moved = {k for k in both - edited if left[k].split != right[k].split}
    by_question = {left[k].question: k for k in gone}
    renamed = {k: by_question[right[k].question] for k in new if right[k].question in by_question}
    changed = sorted({(k, k) for k in edited} | {(old, k) for k, old in renamed.items()})
    return Difference(
        a.ref, b.ref, tuple(sorted(new - renamed.keys())), tuple(sorted(gone - set(renamed.values()))),
        tuple(changed), tuple(sorted(moved)), len(both - edited - moved), tuple(shifts(a, b)),
    )  # fmt: skip


def shifts(a: Dataset, b: Dataset) -> list[Shift]:
    """Test whether tags, answerability and opening words (chi-squared), and lengths (Kolmogorov-Smirnov) moved."""
    first, second = _fields(a), _fields(b)
    found: list[tuple[str, str, float | None, str, str]] = []
    for name in ("tags", "answerable", "opening"):
        x, y = first[name], second[name]
        # Rare values together, so that the expected counts suffice for the test.
        keys = [k for k, _ in (x + y).most_common(20)]
        table = np.array([[c[k] for k in keys] + [c.total() - sum(c[k] for k in keys)] for c in (x, y)])
        table = table[:, table.sum(axis=0) > 0]
        p = float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 and table.sum(axis=1).all() else None
        found.append((name, "chi-squared", p, _top(x), _top(y)))
    for name in ("question_words", "answer_words", "passage_words"):
        p_, q = first[name], second[name]
        p = float(stats.ks_2samp(p_, q).pvalue) if len(p_) and len(q) else None
        found.append((name, "Kolmogorov-Smirnov", p, _middle(p_), _middle(q)))
    known = sorted(p for *_, p, _, _ in found if p is not None)
    holm: dict[float, float] = {}
    running = 0.0
    for rank, p in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        holm.setdefault(p, running)
    return [Shift(what, test, None if p is None else holm[p], x, y) for what, test, p, x, y in found]


@dataclass(frozen=True, slots=True)
class _Row:
    question: bytes
    content: bytes
    split: str


def _rows(dataset: Dataset) -> Iterator[tuple[str, _Row]]:
    for split, example in dataset.splits():
        asked = "\0".join((normal(example.question), *sorted(p.text for p in example.passages)))
        digest = hashlib.sha256(asked.encode()).digest()[:16]
        yield example.id, _Row(digest, row_digest("", example), split)


def _fields(dataset: Dataset) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {"tags": Counter(), "answerable": Counter(), "opening": Counter()}
    lengths: dict[str, list[float]] = {"question_words": [], "answer_words": [], "passage_words": []}
    for example in dataset.split():
        counts["tags"].update(example.tags or ("(none)",))
        counts["answerable"]["yes" if example.answerable else "no"] += 1
        counts["opening"][" ".join(words(example.question)[:1])] += 1
        for name, kept in lengths.items():
            value = QUALITY[name](example)
            if value is not None:
                kept.append(value)
    return {**counts, **{name: np.asarray(kept) for name, kept in lengths.items()}}


def _top(counts: Counter[str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in counts.most_common(5)) or "none"


def _middle(values: np.ndarray) -> str:
    return f"mean {values.mean():.1f}, median {np.median(values):.0f}, n {len(values)}" if len(values) else "none"
