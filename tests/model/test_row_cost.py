"""What several rows cost against one is measured once and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxrag.model import row_cost
from mlxrag.model.load import load
from mlxrag.model.row_cost import TYPICAL, calibrate, known_cost, rows_are_dear, typical_cost
from tests.toy_model import write_model


def test_calibration_measures_the_network(tmp_path: Path) -> None:
    """One row costs 1 by definition; the other sizes are there."""
    with load(write_model(tmp_path / "toy")) as model:
        cost = calibrate(model.network, repeats=1)
        assert cost[1] == 1.0 and set(cost) == set(TYPICAL) and all(value > 0 for value in cost.values())
        assert typical_cost(model.network) == dict(TYPICAL)


def test_a_network_that_is_too_slow_to_measure_gets_the_rest_from_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In proportion to the last size that was measured."""
    monkeypatch.setattr(row_cost, "PATIENCE", 0.0)
    with load(write_model(tmp_path / "toy")) as model:
        cost = calibrate(model.network)
    assert cost[1] == 1.0 and cost[32] == pytest.approx(TYPICAL[32])


def test_it_is_measured_once_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file answers the second time; another model is measured; a file that is no JSON is made again."""
    calls = []
    monkeypatch.setattr(row_cost, "calibrate", lambda network: calls.append(1) or {1: 1.0, 2: 1.5})
    with load(write_model(tmp_path / "a")) as a, load(write_model(tmp_path / "b", seed=3)) as b:
        assert known_cost(a, tmp_path / "c") == known_cost(a, tmp_path / "c") == {1: 1.0, 2: 1.5}
        assert len(calls) == 1
        known_cost(b, tmp_path / "c")
        assert len(calls) == 2 and len(json.loads((tmp_path / "c" / "row-cost.json").read_text())) == 2
        (tmp_path / "c" / "row-cost.json").write_text("{")
        known_cost(a, tmp_path / "c")
        assert len(calls) == 3


def test_chips_with_the_narrow_kernel_are_told() -> None:
    """Of M1 and M2, what helps; of others, nothing."""
    assert "mxfp4" in rows_are_dear("Apple M1 Pro") and not rows_are_dear("Apple M3 Max") and not rows_are_dear("Xeon")
