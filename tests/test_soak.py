"""A minute of mixed work under a budget that jumps about: it is never exceeded, no answer is lost, everything comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak import faults, soak
from mlxrag import memory


@pytest.fixture
def own_ledger() -> Iterator[None]:
    """Leave the process the ledger that it had."""
    before = list(memory._current)
    yield
    memory._current[:] = before


@pytest.mark.slow
def test_a_minute_of_mixed_work_exceeds_nothing_and_loses_nothing(tmp_path: Path, own_ledger: None) -> None:
    """The half hour is `python -m benchmarks.soak`; its figures stand in docs/memory.md."""
    found = soak(tmp_path, 60, seed=3, tell=lambda text: None)
    assert faults(found) == [], found
    assert found["work"]["answers"] > 0 and found["budget_changes"] > 8
    assert found["samples"] > 1000 and found["grants"] > 50 and found["safe_points"] > 500
