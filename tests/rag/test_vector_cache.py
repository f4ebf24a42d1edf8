"""Vectors are found again by encoder and text, within a limit, and a damaged cache costs nothing but time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlxrag.rag.vector_cache import ROW, open_vectors

KEYS = [bytes([i]) * 16 for i in range(200)]


def vectors(count: int, start: int = 0) -> dict[bytes, np.ndarray]:
    return {key: np.full(4096, i, np.float16) for i, key in enumerate(KEYS[start : start + count], start)}


def test_a_vector_is_found_again_by_its_encoder_only(tmp_path: Path) -> None:
    """Also by another process, and counted."""
    cache = open_vectors(tmp_path, 8)
    cache.put("a", vectors(3))
    cache.close()
    cache = open_vectors(tmp_path, 8)
    found = cache.get("a", KEYS[:5])
    assert sorted(found) == KEYS[:3] and all(np.array_equal(found[key], vectors(3)[key]) for key in found)
    assert cache.get("b", KEYS[:5]) == {} and (cache.asked, cache.found) == (10, 3)
    cache.close()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Within a MiB, 127 vectors of 8 KiB stay; one that was asked for is among them."""
    cache = open_vectors(tmp_path, 1)
    for i in range(150):
        cache.put("a", vectors(1, i))
    cache.get("a", KEYS[:1])
    cache.close()
    cache = open_vectors(tmp_path, 1)
    left = cache.get("a", KEYS[:150])
    assert KEYS[0] in left and KEYS[1] not in left and KEYS[149] in left
    assert len(left) * (8192 + ROW) <= 1 << 20 < (len(left) + 2) * (8192 + ROW)
    cache.close()


def test_a_damaged_cache_is_begun_anew_and_none_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    """The answer is the same: nothing is known."""
    (tmp_path / "vectors.sqlite").write_bytes(b"no database at all" * 100)
    cache = open_vectors(tmp_path, 8)
    cache.put("a", vectors(1))
    assert len(cache.get("a", KEYS[:1])) == 1
    cache.close()
    none = open_vectors(tmp_path / "none", 0)
    none.put("a", vectors(1))
    assert none.get("a", KEYS[:1]) == {} and not (tmp_path / "none").exists()
    none.close()
