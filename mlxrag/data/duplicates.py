"""Near-duplicates by MinHash: texts that share most of their character 5-grams.

Strategy: 128 MinHash values a text, cut in 16 bands of 8; texts that agree in a whole band are candidates
(a pair of Jaccard similarity s meets in one with probability 1 - (1 - s^8)^16: 0.95 at 0.8, 0.06 at 0.5), and
are joined when the share of equal values reaches the threshold.  Bands are sorted arrays and not dictionaries:
128 bytes a text for the bands and 512 for the signatures.

Source: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3 (bands).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from zlib import crc32

import numpy as np
from datasketch import MinHash

PERMUTATIONS = 128
BANDS = 16
GRAM = 5


def signatures(texts: Iterable[str], seed: int = 1) -> np.ndarray:
    """Return the MinHash signatures `(n, 128)` uint32 of texts, case and spaces aside; a third of a millisecond each."""
    made = MinHash.generator(map(_grams, texts), num_perm=PERMUTATIONS, seed=seed, hashfunc=crc32, scheme="affine32")
    rows = [m.hashvalues.astype(np.uint32) for m in made]
    return np.stack(rows) if rows else np.empty((0, PERMUTATIONS), np.uint32)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the estimated Jaccard similarity of signatures `(..., 128)`, in [0, 1]; its standard error is at most 0.044."""
    return np.asarray((a == b).mean(axis=-1))


def pairs(signed: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity), i < j, for texts `(n, 128)` at least as similar as the threshold.

    Within a bucket every text is held against the first, not against every other: a group is connected, but
    not every pair of it is yielded.  O(n log n) time.
    """
    n, width = len(signed), PERMUTATIONS // BANDS
    seen: set[tuple[int, int]] = set()
    for band in range(BANDS):
        keys = np.ascontiguousarray(signed[:, band * width : (band + 1) * width]).view(f"V{4 * width}").ravel()
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        new = np.ones(n, bool)
        if n:
            new[1:] = sorted_keys[1:] != sorted_keys[:-1]
        starts = np.flatnonzero(new)
        first = order[starts][np.cumsum(new) - 1] if n else order
        for i, j in zip(first[~new].tolist(), order[~new].tolist(), strict=True):
            pair = (i, j) if i < j else (j, i)
            if pair in seen:
                continue
            seen.add(pair)
            alike = float(similarity(signed[pair[0]], signed[pair[1]]))
            if alike >= threshold:
                yield (*pair, alike)


def groups(n: int, linked: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return for each of `n` items the smallest item it is connected with, `(n,)` int64."""
    root = np.arange(n)

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i

    for i, j in linked:
        a, b = find(i), find(j)
        root[max(a, b)] = min(a, b)
    return np.array([find(i) for i in range(n)], np.int64)


class Near:
    """The texts so far, asked one by one whether they hold something like the next; for jobs that stream.

    Args:
        threshold: least estimated Jaccard similarity that counts as the same.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._signed: list[np.ndarray] = []

    def find(self, text: str) -> int | None:
        """Return the position of an earlier text like this one, or None."""
        signed = signatures([text])[0]
        for other in dict.fromkeys(i for key in _keys(signed) for i in self._buckets.get(key, ())):
            if float(similarity(self._signed[other], signed)) >= self.threshold:
                return other
        return None

    def add(self, text: str) -> None:
        """Keep a text, to be found by what is like it."""
        signed = signatures([text])[0]
        for key in _keys(signed):
            self._buckets.setdefault(key, []).append(len(self._signed))
        self._signed.append(signed)


def _keys(signed: np.ndarray) -> list[tuple[int, bytes]]:
    width = PERMUTATIONS // BANDS
    return [(b, signed[b * width : (b + 1) * width].tobytes()) for b in range(BANDS)]


def _grams(text: str) -> set[bytes]:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return {plain[i : i + GRAM].encode("utf-8", "surrogatepass") for i in range(max(1, len(plain) - GRAM + 1))}
