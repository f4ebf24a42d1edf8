"""Nearest vectors: exact below the limit, close to exact above it, the same in every layout."""

import numpy as np
import pytest

from mlxrag.errors import Mismatch
from mlxrag.rag import vectors


def unit(n, d=96, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def written(folder, form, x, rows=None, sizes=(70, 30)):
    """Write vectors in several appends."""
    rows = np.arange(1, len(x) + 1) * 3 if rows is None else rows
    count = at = 0
    folder.mkdir(exist_ok=True)
    while at < len(x):
        step = sizes[0] if at == 0 else sizes[1]
        count = vectors.append(folder, form, x.shape[1], count, [(rows[at : at + step], x[at : at + step])])
        at += step
    return vectors.open_matrix(folder, form, x.shape[1], count, np.empty(0, np.int64))


@pytest.mark.parametrize("d", [8, 64, 96, 384])
@pytest.mark.parametrize("form", ["exact", "signs"])
def test_nearest_finds_what_brute_force_finds(tmp_path, form, d):
    """With all rows rescored both forms give brute force's rows; scores agree to a byte's rounding."""
    x = unit(200, d)
    matrix = written(tmp_path, form, x)
    for question in unit(5, d, seed=1):
        rows, scores = vectors.nearest(matrix, question, 10, depth=200)
        expected = np.argsort(-(x @ question), kind="stable")[:10]
        np.testing.assert_allclose(scores, (x @ question)[expected], atol=1e-6 if form == "exact" else 5e-3)
        if form == "exact":
            assert rows.tolist() == ((expected + 1) * 3).tolist()
        assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("form", ["exact", "signs"])
def test_empty_matrix_and_large_k(tmp_path, form):
    """No rows give no hits; more hits than rows gives all rows."""
    tmp_path.mkdir(exist_ok=True)
    assert vectors.append(tmp_path, form, 96, 0, []) == 0
    matrix = vectors.open_matrix(tmp_path, form, 96, 0, np.empty(0, np.int64))
    assert len(vectors.nearest(matrix, unit(1)[0], 5)[0]) == 0
    matrix = written(tmp_path, form, unit(3))
    assert len(vectors.nearest(matrix, unit(1)[0], 50, depth=50)[0]) == 3


@pytest.mark.parametrize("form", ["exact", "signs"])
def test_removed_and_forbidden_rows_are_never_found(tmp_path, form):
    """Removed rows are not found, nor rows outside of those allowed; the rest still fills the list."""
    x = unit(50)
    written(tmp_path, form, x)
    removed = np.arange(1, 26) * 3
    matrix = vectors.open_matrix(tmp_path, form, 96, 50, removed)
    rows, _ = vectors.nearest(matrix, x[0], 50, depth=50)
    assert set(rows.tolist()) == set((np.arange(26, 51) * 3).tolist())
    allowed = np.array([3, 90, 93, 1000])
    rows, _ = vectors.nearest(matrix, x[0], 50, depth=2, allowed=allowed)
    assert set(rows.tolist()) == {90, 93}
    assert len(vectors.nearest(matrix, x[0], 5, allowed=np.empty(0, np.int64))[0]) == 0


def test_rows_of_equal_score_keep_their_order(tmp_path):
    """Equal vectors come in the order of their rows, also where the list is cut between them."""
    x = np.repeat(unit(1), 40, axis=0)
    matrix = written(tmp_path, "exact", x)
    rows, _ = vectors.nearest(matrix, x[0], 7)
    assert rows.tolist() == [3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize("form", ["exact", "signs"])
def test_append_overwrites_what_an_interrupted_one_left(tmp_path, form):
    """Bytes past the valid rows, as a process that died leaves them, do not count."""
    x = unit(60)
    rows = np.arange(60)
    vectors.append(tmp_path, form, 96, 0, [(rows[:20], x[:20])])
    vectors.append(tmp_path, form, 96, 20, [(rows[40:], x[40:])])  # died before its state was written
    count = vectors.append(tmp_path, form, 96, 20, [(rows[20:40], x[20:40])])
    assert count == 40
    matrix = vectors.open_matrix(tmp_path, form, 96, count, np.empty(0, np.int64))
    assert matrix.rows.tolist() == list(range(40))
    assert vectors.nearest(matrix, x[30], 1, depth=40)[0].tolist() == [30]


def test_short_file_is_noticed(tmp_path):
    """A file with fewer rows than the state says raises, so that the caller makes it again."""
    written(tmp_path, "exact", unit(10))
    (tmp_path / "vectors").write_bytes((tmp_path / "vectors").read_bytes()[:-4])
    with pytest.raises(ValueError):
        vectors.open_matrix(tmp_path, "exact", 96, 10, np.empty(0, np.int64))


def test_question_of_another_length_is_a_mismatch(tmp_path):
    """A vector of another encoder is refused in words."""
    with pytest.raises(Mismatch, match="encoder"):
        vectors.nearest(written(tmp_path, "exact", unit(3)), unit(1, 64)[0], 1)


def test_signs_and_bytes_find_nearly_all_of_real_neighbours(tmp_path):
    """On clustered vectors, rescoring a tenth finds at least 95 of 100 true neighbours."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 384))
    x = centres[rng.integers(0, 40, 4000)] + 0.9 * rng.standard_normal((4000, 384))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    matrix = written(tmp_path, "signs", x, np.arange(4000), (4000, 1))
    found = 0
    for i in range(0, 400, 20):
        true = set(np.argsort(-(x @ x[i]))[:10].tolist())
        found += len(true & set(vectors.nearest(matrix, x[i], 10, depth=400)[0].tolist()))
    assert found >= 190
