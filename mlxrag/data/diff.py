"""How two versions of a dataset differ: what came, went and changed, and whether the distributions moved."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mlxrag.data.dataset import NAMES, Dataset, row_digest
from mlxrag.data.quality import QUALITY
from mlxrag.data.words import normal, words


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
    """Compare two versions example by example; holds 40 bytes an example, and the ids of what differs."""
    left, right = _rows(a), _rows(b)
    _, i, j = np.intersect1d(left["id"], right["id"], assume_unique=True, return_indices=True)
    edited = left["content"][i] != right["content"][j]
    moved = ~edited & (left["split"][i] != right["split"][j])
    gone, new = np.delete(left, i), np.delete(right, j)
    # An example that is gone and a new one that asks the same of the same passages are one that was changed.
    _, old, now = np.intersect1d(gone["asked"], new["asked"], return_indices=True)
    changed = {(x, x) for x in _ids(left[i][edited])}
    changed |= set(zip(_ids(gone[old]), _ids(new[now]), strict=True))
    return Difference(
        a.ref, b.ref, tuple(sorted(_ids(np.delete(new, now)))), tuple(sorted(_ids(np.delete(gone, old)))),
        tuple(sorted(changed)), tuple(sorted(_ids(left[i][moved]))), int((~edited & ~moved).sum()), tuple(shifts(a, b)),
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
    for name in LENGTHS:
        x, y = first[name], second[name]
        found.append((name, "Kolmogorov-Smirnov", kolmogorov_smirnov(x, y), _middle(x), _middle(y)))
    known = sorted(p for *_, p, _, _ in found if p is not None)
    holm: dict[float, float] = {}
    running = 0.0
    for rank, p in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        holm.setdefault(p, running)
    return [Shift(what, test, None if p is None else holm[p], x, y) for what, test, p, x, y in found]


def kolmogorov_smirnov(a: Counter[float], b: Counter[float]) -> float | None:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test on counted values; None when one has none.

    Beyond 10,000 values in all the limit distribution is used, as scipy does; the values are never written out then.
    """
    n, m = a.total(), b.total()
    if not n or not m:
        return None
    keys = sorted(a.keys() | b.keys())
    x, y = (np.array([c[k] for k in keys]) for c in (a, b))
    if n + m <= EXACT:
        return float(stats.ks_2samp(np.repeat(keys, x), np.repeat(keys, y)).pvalue)
    distance = float(np.abs(np.cumsum(x) / n - np.cumsum(y) / m).max())
    return float(stats.kstwo.sf(distance, max(1, round(n * m / (n + m)))))


LENGTHS = ("question_words", "answer_words", "passage_words")
EXACT = 10_000
_ROW = np.dtype([("id", np.uint64), ("asked", np.uint64), ("content", np.uint64), ("split", np.uint8)])
_SPLITS = {name: code for code, name in enumerate(NAMES)}


def _rows(dataset: Dataset) -> np.ndarray:
    """Return id, what is asked of which passages, content, and split of every example, hashed: `(n,)` of 25 bytes each."""

    def each() -> Iterator[tuple[int, int, int, int]]:
        for split, example in dataset.splits():
            asked = "\0".join((normal(example.question), *sorted(p.text for p in example.passages)))
            yield (
                int(example.id, 16), _number(hashlib.sha256(asked.encode()).digest()), _number(row_digest("", example)), _SPLITS[split],
            )  # fmt: skip

    return np.fromiter(each(), _ROW, len(dataset))


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _ids(rows: np.ndarray) -> list[str]:
    return [f"{number:016x}" for number in rows["id"].tolist()]


def _fields(dataset: Dataset) -> dict[str, Counter[Any]]:
    counts: dict[str, Counter[Any]] = {name: Counter() for name in ("tags", "answerable", "opening", *LENGTHS)}
    for example in dataset.split():
        counts["tags"].update(example.tags or ("(none)",))
        counts["answerable"]["yes" if example.answerable else "no"] += 1
        counts["opening"][" ".join(words(example.question)[:1])] += 1
        for name in LENGTHS:
            value = QUALITY[name](example)
            if value is not None:
                counts[name][value] += 1
    return counts


def _top(counts: Counter[str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in counts.most_common(5)) or "none"


def _middle(values: Counter[float]) -> str:
    n = values.total()
    if not n:
        return "none"
    at, middle = 0, 0.0
    for value in sorted(values):
        at, middle = at + values[value], value
        if at * 2 >= n:
            break
    return f"mean {sum(v * c for v, c in values.items()) / n:.1f}, median {middle:.0f}, n {n}"
