"""Looking after every document keeps the error rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxrag.experiment import sequential
from mlxrag.experiment.sequential import confidence_sequence
from mlxrag.experiment.statistics import differences, paired_t


def draw(kind: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of mean 0 and the sizes of their documents."""
    if kind == "flips":
        return rng.choice([1.0, -1.0, 0.0], n, p=[0.2, 0.2, 0.6]), np.ones(n)
    if kind == "rare losses":
        return np.where(rng.random(n) < 0.02, -0.98, 0.02), np.ones(n)
    sizes = rng.integers(1, 8, n).astype(float)
    return rng.choice([1.0, -1.0, 0.0], n, p=[0.2, 0.2, 0.6]) * sizes, sizes


@pytest.mark.parametrize("kind", ["flips", "rare losses", "documents"])
def test_peeking_after_every_document_finds_nothing_in_95_of_100(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 A/A experiments looked at after each of 300 documents at most 5 % ever stop."""
    monkeypatch.setattr(sequential, "GRID", 3)  # only p is read
    rng = np.random.default_rng(21)
    stopped = 0
    for _ in range(1000):
        sums, sizes = draw(kind, rng, 300)
        stopped += confidence_sequence(sums, sizes, largest=7 if kind == "documents" else 1).p[-1] <= 0.05
    assert stopped / 1000 <= 0.05


def test_a_t_test_would_not_survive_the_peeking() -> None:
    """The same looks with a t-test stop far more often: the reason for all this."""
    rng = np.random.default_rng(22)
    stopped = 0
    for _ in range(200):
        sums, _ = draw("flips", rng, 300)
        stopped += any(paired_t(differences(np.zeros(n), sums[:n])).p <= 0.05 for n in range(20, 301, 20))
    assert stopped / 200 > 0.12


def test_intervals_hold_the_true_mean_at_all_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 experiments with a true difference of 0.1 at most 5 % ever have it outside."""
    monkeypatch.setattr(sequential, "GRID", 81)
    rng = np.random.default_rng(23)
    missed = 0
    for _ in range(200):
        found = confidence_sequence(rng.choice([1.0, -1.0, 0.0], 200, p=[0.2, 0.1, 0.7]), np.ones(200))
        missed += bool(found.low[-1] > 0.1 or found.high[-1] < 0.1)
    assert missed / 200 <= 0.05


def test_a_clear_difference_stops_early() -> None:
    """Thirty points are seen within 100 of 1,000 questions."""
    rng = np.random.default_rng(24)
    found = confidence_sequence(rng.choice([1.0, -1.0, 0.0], 1000, p=[0.4, 0.1, 0.5]), np.ones(1000))
    assert int(np.argmax(found.p <= 0.05)) < 100 and 0.2 < found.low[-1] < 0.3 < found.high[-1] < 0.4


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 4)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_bounds_only_narrow_and_p_only_falls(rows: list[tuple[float, int]]) -> None:
    """More documents never widen the interval, and swapping the systems mirrors it."""
    sums, sizes = np.array([d * n for d, n in rows]), np.array([float(n) for _, n in rows])
    found, mirror = confidence_sequence(sums, sizes, largest=4), confidence_sequence(-sums, sizes, largest=4)
    assert (np.diff(found.low) >= 0).all() and (np.diff(found.high) <= 0).all() and (np.diff(found.p) <= 0).all()
    assert (found.p > 0).all() and (found.low <= found.high).all()
    np.testing.assert_allclose(found.low, -mirror.high, atol=0.006)
    np.testing.assert_allclose(found.p, mirror.p)


def test_more_than_was_announced_is_refused() -> None:
    """A document larger than the largest, or a difference above the span, would break the guarantee."""
    with pytest.raises(ValueError, match="more than"):
        confidence_sequence(np.array([0.5]), np.array([3.0]), largest=2)
    with pytest.raises(ValueError, match="above"):
        confidence_sequence(np.array([1.5]), np.array([1.0]))
    assert len(confidence_sequence(np.empty(0), np.empty(0)).p) == 0
