"""Near-duplicates by MinHash: texts that share most of their character 5-grams.

Strategy: 128 MinHash values a text, cut in 16 bands of 8; texts that agree in a whole band are candidates
(a pair of Jaccard similarity s meets in one with probability 1 - (1 - s^8)^16: 0.95 at 0.8, 0.06 at 0.5), and
are joined when the share of equal values reaches the threshold.  Signatures lie on disk; a band at a time is sorted.

Source: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3 (bands).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from zlib import crc32

import numpy as np
from datasketch import MinHash

from mlxrag.data.scratch import BLOCK, Column

PERMUTATIONS = 128
BANDS = 16
GRAM = 5


def signatures(texts: Iterable[str], seed: int = 1) -> np.ndarray:
    """Return the MinHash signatures `(n, 128)` uint32 of texts, case and spaces aside; a third of a millisecond each.

    They lie on disk, 512 bytes a text, and are mapped into memory.
    """
    column = Column(np.uint32, (PERMUTATIONS,))
    for made in MinHash.generator(
        map(_grams, texts), num_perm=PERMUTATIONS, seed=seed, hashfunc=crc32, scheme="affine32"
    ):
        column.add(made.hashvalues)
    return column.rows()


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the estimated Jaccard similarity of signatures `(..., 128)`, in [0, 1]; its standard error is at most 0.044."""
    return np.asarray((a == b).mean(axis=-1))


def pairs(signed: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity), i < j, for texts `(n, 128)` at least as similar as the threshold; each pair once.

    Within a bucket every text is held against the first, not against every other: a group is connected, but
    not every pair of it is yielded.  O(n log n) time; some 40 bytes a text and 8 bytes a pair in memory.
    """
    n = len(signed)
    yielded = np.empty(0, np.uint64)
    for band in range(BANDS):
        keys = _band_keys(signed, band)
        order = np.argsort(keys, kind="stable")
        new = np.ones(n, bool)
        new[1:] = keys[order[1:]] != keys[order[:-1]]
        first = order[np.maximum.accumulate(np.where(new, np.arange(n), 0))] if n else order
        left, right = first[~new], order[~new]  # the sort is stable, so the first of a bucket is the smallest
        del keys, order, first, new
        codes = left.astype(np.uint64) * np.uint64(n) + right.astype(np.uint64)
        fresh = ~np.isin(codes, yielded)
        left, right, codes = left[fresh], right[fresh], codes[fresh]
        kept = []
        for at in range(0, len(left), BLOCK):
            i, j = left[at : at + BLOCK], right[at : at + BLOCK]
            alike = similarity(signed[i], signed[j])
            close = alike >= threshold
            kept.append(codes[at : at + BLOCK][close])
            yield from zip(i[close].tolist(), j[close].tolist(), alike[close].tolist(), strict=True)
        if kept:
            yielded = np.union1d(yielded, np.concatenate(kept))


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


def _band_keys(signed: np.ndarray, band: int) -> np.ndarray:
    """Return a 64-bit number for each text's values in a band, `(n,)`; equal values have equal numbers."""
    width = PERMUTATIONS // BANDS
    odd = np.random.default_rng(band).integers(1 << 62, size=width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty(len(signed), np.uint64)
    for at in range(0, len(signed), BLOCK):
        part = signed[at : at + BLOCK, band * width : (band + 1) * width].astype(np.uint64)
        mixed = (part + np.uint64(0x9E3779B9)) * odd
        keys[at : at + BLOCK] = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return keys


def _keys(signed: np.ndarray) -> list[tuple[int, bytes]]:
    width = PERMUTATIONS // BANDS
    return [(b, signed[b * width : (b + 1) * width].tobytes()) for b in range(BANDS)]


def _grams(text: str) -> set[bytes]:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return {plain[i : i + GRAM].encode("utf-8", "surrogatepass") for i in range(max(1, len(plain) - GRAM + 1))}
