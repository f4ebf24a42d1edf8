"""Batch sizes are found by measuring, remembered, and found again on another machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.model import pace as module
from mlxrag.model.pace import Pace, forget, pace, remembered


def work(found: Pace, speed: dict[int, float], batches: int = 40) -> None:
    """Batches of exactly the size asked for, at a speed by size."""
    for _ in range(batches):
        found.note(found.size, found.size, found.size / speed[found.size])


def test_it_grows_while_that_pays_and_settles_on_the_last_that_did() -> None:
    """64 is 3 % faster than 32, which is not worth it."""
    found = pace("encode a", 8, 1024)
    work(found, {8: 100, 16: 180, 32: 250, 64: 257, 128: 900})
    assert (found.size, found.settled) == (32, True) and found.speeds[64] == pytest.approx(257)


def test_a_slow_batch_on_a_busy_machine_does_not_count() -> None:
    """The best of three is what a size is worth."""
    found = Pace("x", 8, 16)
    for seconds in (8.0, 0.08, 5.0):
        found.note(8, 8, seconds)
    assert found.size == 16 and found.speeds[8] == pytest.approx(100)


def test_a_batch_that_is_not_full_says_nothing() -> None:
    """Such as the last of a file, or a single question."""
    found = Pace("x", 100, 1000)
    for _ in range(9):
        found.note(10, 10, 1.0)
    assert found.speeds == {} and found.size == 100


def test_what_was_found_is_remembered_by_machine_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model and another machine begin anew; `forget` does so for all."""
    work(pace("encode a", 8, 64), {8: 1, 16: 2, 32: 2, 64: 2})
    again = pace("encode a", 8, 64)
    assert (again.size, again.settled) == (16, True) and not pace("encode b", 8, 64).settled
    assert pace("encode a", 8, 8).size == 8
    with monkeypatch.context() as other:
        other.setattr(module, "_machine", lambda: "another chip")
        assert remembered() == {} and not pace("encode a", 8, 64).settled
    forget()
    assert not pace("encode a", 8, 64).settled


@given(st.lists(st.floats(0.001, 10), max_size=60), st.integers(1, 64))
def test_whatever_is_measured_it_stays_within_its_limits(seconds: list[float], start: int) -> None:
    """Never below half of the beginning, never above the most."""
    found = Pace("x", start, 256)
    for each in seconds:
        found.note(found.size, found.size, each)
        assert min(start, max(1, start // 2)) <= found.size <= 256
