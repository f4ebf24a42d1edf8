"""Measurements and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxrag.bench import FEWEST, bench, busy, compare, read_report, report, verdict
from mlxrag.errors import BadInput, Mismatch
from mlxrag.workspace import open_workspace, write_json
from tests.toy_model import write_model


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_model(tmp_path / "toy", num_hidden_layers=1)


def test_every_cell_of_the_grid_is_measured(toy: Path, tmp_path: Path) -> None:
    """Models, bits and lengths make cells; each figure keeps the values of its runs."""
    ws = open_workspace(tmp_path / "ws")
    cells = list(bench([str(toy)], ws, bits=(None, 8), prompt_lengths=(8, 16), new_tokens=3, runs=2, warm=1))
    assert [(one.case.bits, one.case.prompt_tokens) for one in cells] == [(None, 8), (None, 16), (8, 8), (8, 16)]
    for one in cells:
        assert len(one.decode.values) == 2 and one.prefill.median > 0 and one.load.median > 0
        assert one.resident_bytes.median > one.peak_bytes.median > 0
    value = report(cells, {"runs": 2})
    write_json(tmp_path / "r.json", value)
    again = read_report(tmp_path / "r.json")
    assert again["cells"] == value["cells"] and busy(again) in (True, False)
    assert {one.verdict for one in compare(again, value)} == {"no difference"}


def test_impossible_measurements_are_refused(toy: Path) -> None:
    """Too long for the context, or too few tokens."""
    with pytest.raises(BadInput, match="more than its context of 1024"):
        list(bench([str(toy)], prompt_lengths=(1024,), new_tokens=2, runs=1, warm=0))
    with pytest.raises(BadInput, match="at least one run"):
        list(bench([str(toy)], new_tokens=1))


STEADY = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01, 0.99]


def test_verdicts_need_more_than_chance_and_more_than_a_trifle() -> None:
    """A clear change is called by its direction; noise, a trifle, or too few runs are no difference."""
    slow = [2 * v for v in STEADY]
    assert verdict("c", "decode", STEADY, slow).verdict == "faster"
    assert verdict("c", "first_token", STEADY, slow).verdict == "slower"
    assert verdict("c", "peak_bytes", STEADY, slow).verdict == "larger"
    assert verdict("c", "peak_bytes", slow, STEADY).verdict == "smaller"
    assert verdict("c", "decode", STEADY, STEADY[::-1]).verdict == "no difference"
    assert verdict("c", "decode", STEADY, [1.01 * v for v in STEADY]).verdict == "no difference"
    assert verdict("c", "decode", STEADY[:3], slow[:3]).verdict == "no difference"
    assert verdict("c", "load", STEADY[:5], slow[:5]).verdict == "slower" and FEWEST == 6


def machine(**more: Any) -> dict[str, Any]:
    return {"machine": {"chip": "a", "memory": 1, "backend": "CPU", **more}, "cells": []}


def test_only_equal_cells_of_one_machine_are_compared(tmp_path: Path) -> None:
    """Another machine, no common cell, or another file is refused."""
    with pytest.raises(Mismatch, match="different machines"):
        compare(machine(), machine(chip="b"))
    with pytest.raises(Mismatch, match="no cell in common"):
        compare(machine(), machine())
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(BadInput, match="no measurement"):
        read_report(tmp_path / "x.json")
