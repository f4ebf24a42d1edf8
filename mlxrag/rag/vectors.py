"""Vectors in memory-mapped files, and the nearest of them to a question's.

Two forms.  Below some 20,000 rows every vector is kept as float32 and compared: the search is
exact.  Above, a row is kept as one sign bit and one byte per component (432 instead of 1,536 bytes
at 384): the rows whose signs differ least from the question's are found first, then scored by
their bytes, then, by the caller, by the store's vectors.

Derived from the store and rebuildable.  Appending writes past the end that the state file names, so
that a reader, or a process that dies, never sees half a batch.

Source: the two steps are those of Shakir et al. 2024, Binary and Scalar Embedding Quantization
(huggingface.co/blog/embedding-quantization), after Yamada et al. 2021 (arXiv:2106.00882).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mlxrag.errors import Mismatch

Form = Literal["exact", "signs"]
FILES: dict[Form, dict[str, str]] = {
    "exact": {"rows": "<i8", "vectors": "<f4"},
    "signs": {"rows": "<i8", "signs": "u1", "bytes": "i1", "scales": "<f4"},
}
"""Arrays of each form and the type of their elements; each is a bare file of rows."""

STRIPE = 65_536
"""Rows whose sign bits are compared at once: 512 KiB a word, so that they stay in the cache."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Vectors that can be searched.

    Attributes:
        form: exact, or signs and bytes.
        dimension: length of a vector.
        rows: `(n,)` int64, ascending.
        alive: `(n,)` bool, False where a row has been removed since; None where none has.
        arrays: what `FILES` lists, mapped; `words` `(d / 64, n)` uint64 is held in memory.
    """

    form: Form
    dimension: int
    rows: np.ndarray
    alive: np.ndarray | None
    arrays: dict[str, np.ndarray]


def widths(form: Form, dimension: int) -> dict[str, int]:
    """Return how many elements a row has in each file."""
    return {"rows": 1, "vectors": dimension, "signs": _padded(dimension) // 8, "bytes": dimension, "scales": 1}


def append(
    folder: Path, form: Form, dimension: int, count: int, batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> int:
    """Write rows after the first `count`, flush them to disk, and return how many there are then.

    Args:
        folder: where the files are.
        form: exact or signs.
        dimension: length of a vector.
        count: rows that are valid; whatever lies beyond them is overwritten.
        batches: rows `(m,)` int64 above all earlier ones, and vectors `(m, d)` of length 1.
    """
    wide = widths(form, dimension)
    handles = {
        name: _open_at(folder / name, count * wide[name] * np.dtype(kind).itemsize)
        for name, kind in FILES[form].items()
    }
    try:
        for rows, vectors in batches:
            for name, array in encoded(form, rows, vectors.astype(np.float32)).items():
                handles[name].write(np.ascontiguousarray(array, FILES[form][name]).data)
            count += len(rows)
        for handle in handles.values():
            handle.flush()
    finally:
        for handle in handles.values():
            handle.close()
    return count


def encoded(form: Form, rows: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of `FILES` for some rows `(m,)` and vectors `(m, d)`."""
    if form == "exact":
        return {"rows": rows, "vectors": vectors}
    largest = np.maximum(np.abs(vectors).max(axis=1), 1e-12)
    return {
        "rows": rows,
        "signs": sign_bits(vectors),
        "bytes": np.rint(vectors * (127 / largest)[:, None]),
        "scales": largest / 127,
    }


def sign_bits(vectors: np.ndarray) -> np.ndarray:
    """Return `(m, ceil(d / 64) * 8)` uint8: one bit a component, 1 where it is above 0."""
    bits = np.packbits(vectors > 0, axis=-1)
    short = _padded(vectors.shape[-1]) // 8 - bits.shape[-1]
    return np.pad(bits, ((0, 0), (0, short))) if short else bits


def open_matrix(folder: Path, form: Form, dimension: int, count: int, removed: np.ndarray) -> Matrix:
    """Map the first `count` rows.

    Args:
        folder: where the files are.
        form: exact or signs.
        dimension: length of a vector.
        count: rows that are valid.
        removed: rows that are not to be found any more.

    Raises:
        ValueError: a file is shorter than `count` rows; it must be built again.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, kind in FILES[form].items():
        shape = (count, widths(form, dimension)[name])
        arrays[name] = np.memmap(folder / name, kind, "r", shape=shape) if count else np.empty(shape, kind)
    rows = np.array(arrays["rows"][:, 0])
    alive = None
    if len(removed):
        alive = ~np.isin(rows, removed)
        alive = None if alive.all() else alive
    if form == "signs":
        # Word by word, so that a comparison runs over neighbouring bytes; 48 bytes a row at 384.
        arrays["words"] = np.ascontiguousarray(arrays.pop("signs").view(np.uint64).T)
    return Matrix(form, dimension, rows, alive, arrays)


def nearest(
    matrix: Matrix, question: np.ndarray, k: int, depth: int = 0, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows closest to a question, nearest first.

    Args:
        matrix: the vectors.
        question: `(d,)`, of length 1.
        k: how many to return, at least 1.
        depth: of the signs form, how many rows are scored by their bytes, at least `k`.
        allowed: rows that may be returned, ascending; None is all.

    Returns:
        rows: `(min(k, n),)` int64.
        scores: `(min(k, n),)` float32, cosine in [-1, 1], never increasing; rows of equal score ascend.

    Raises:
        Mismatch: the question has another length than a row.
    """
    if question.shape != (matrix.dimension,):
        raise Mismatch(
            f"the question's vector has {question.shape[-1]} components and the index's have {matrix.dimension}; "
            "use the encoder that the index was made with"
        )
    question = np.ascontiguousarray(question, np.float32)
    mask = matrix.alive
    if allowed is not None:
        mask = np.isin(matrix.rows, allowed, assume_unique=True) & (True if mask is None else mask)
    if matrix.form == "exact":
        scores = np.asarray(matrix.arrays["vectors"] @ question)
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        at = largest(scores, k)
        at = at[scores[at] > -np.inf]
        return matrix.rows[at], scores[at]
    chosen = closest_signs(matrix.arrays["words"], question, max(k, depth), mask)
    scores = (matrix.arrays["bytes"][chosen].astype(np.float32) @ question) * matrix.arrays["scales"][chosen, 0]
    best = largest(scores, k)
    return matrix.rows[chosen[best]], scores[best]


def closest_signs(words: np.ndarray, question: np.ndarray, depth: int, mask: np.ndarray | None) -> np.ndarray:
    """Return the positions, ascending, of about `depth` rows whose signs differ least from the question's.

    All rows at the distance of the last one are returned too, so the answer does not depend on
    how ties are broken.

    Args:
        words: `(d / 64, n)` uint64, sign bits.
        question: `(d,)`.
        depth: at least how many, if there are so many.
        mask: `(n,)` bool, rows that count; None is all.
    """
    own = sign_bits(question[None]).view(np.uint64)[0]
    n = words.shape[1]
    distance = np.empty(n, np.uint16)
    for start in range(0, n, STRIPE):
        stripe = slice(start, start + STRIPE)
        total = np.bitwise_count(words[0, stripe] ^ own[0]).astype(np.uint16)
        for i in range(1, len(own)):
            total += np.bitwise_count(words[i, stripe] ^ own[i])
        distance[stripe] = total
    if mask is not None:
        distance = np.where(mask, distance, np.uint16(65_535))
    counts = np.cumsum(np.bincount(distance, minlength=1))
    limit = int(np.searchsorted(counts, min(depth, n)))
    chosen = np.flatnonzero(distance <= min(limit, 65_534))
    return chosen


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the `k` largest scores, best first; equal scores keep their order."""
    if k < len(scores):
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        at = np.flatnonzero(scores >= bound)
    else:
        at = np.arange(len(scores))
    return at[np.argsort(-scores[at], kind="stable")][:k]


def _padded(dimension: int) -> int:
    return -(-dimension // 64) * 64


def _open_at(path: Path, position: int):  # type: ignore[no-untyped-def]  # a binary file
    handle = path.open("r+b" if path.exists() else "w+b")
    handle.truncate(position)
    handle.seek(position)
    return handle
