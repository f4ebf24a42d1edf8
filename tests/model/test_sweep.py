"""Sweeps: figures for every recipe, the front, the pick, the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import mlxrag.model  # noqa: F401  # isort: skip

from mlxrag.errors import BadInput
from mlxrag.model.keep import waste
from mlxrag.model.likelihood import Divergence, Perplexity
from mlxrag.model.load import load
from mlxrag.model.source import Source
from mlxrag.model.sweep import ORIGINAL, AnswerScore, Keeper, Measuring, Row, front, pick, scratch, sweep
from mlxrag.model.sweep_page import page
from mlxrag.model.timing import Figure
from mlxrag.settings import Quantizing
from mlxrag.workspace import Workspace, open_workspace
from tests.toy_model import write_model

ROWS = np.random.default_rng(0).integers(3, 300, size=(4, 24)).tolist()


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def row(name: str, nbytes: int, kl: float) -> Row:
    quality = Divergence(kl, 0.1 * kl, 4 * kl, 3 * kl, 5 * kl, 0.9, 0.01, Perplexity(10.0, 1.0, 2.3, 90), 90)
    return Row(name, nbytes, 4.0, quality)


MADE = [row(ORIGINAL, 1000, 0.0), row("8", 500, 0.001), row("6", 400, 0.01), row("4", 300, 0.1), row("bad", 450, 0.2),
        Row("failed", reason="no")]  # fmt: skip


def test_the_front_holds_what_nothing_beats() -> None:
    """A row that is both larger and farther than another is not on it."""
    assert [one.recipe for one in front(MADE)] == ["4", "6", "8", ORIGINAL]


def test_a_budget_picks_the_closest_and_a_kl_the_smallest() -> None:
    """The pick keeps to the limits and says what the next better one would need."""
    assert pick(MADE, budget=450).recipe == "6" and "closer would be 8" in pick(MADE, budget=450).why
    assert pick(MADE, max_kl=0.05).recipe == "6" and "smaller would be 4" in pick(MADE, max_kl=0.05).why
    assert pick(MADE, budget=350, max_kl=0.2).recipe == "4"
    assert pick(MADE, budget=2000).recipe == ORIGINAL
    nothing = pick(MADE, budget=100)
    assert nothing.recipe == "" and "smallest, 4, has" in nothing.why
    assert pick(MADE, budget=350, max_kl=0.01).why == "none is admissible: of those that fit, the closest has KL 0.1"
    assert pick(MADE).recipe == ""


def test_every_recipe_is_a_row_and_the_best_becomes_a_version(tmp_path: Path, ws: Workspace) -> None:
    """Original first with distance 0; what cannot be made is a row with its reason; the pick loads."""
    toy = write_model(tmp_path / "toy", num_hidden_layers=2)
    source = Source(toy, f"directory:{toy}", "toy")
    measuring = Measuring(ROWS, None, 8, 4, 2, lambda path: AnswerScore("correct", 0.5, 0.4, 0.6, 3))
    keeper = Keeper(tmp_path)
    rows = list(sweep(source, ["8-g32", "4-g32", "4-g128", "mxfp4"], measuring, ws, max_kl=0.01, keep=keeper))
    assert [one.recipe for one in rows] == [ORIGINAL, "8-g32", "4-g32", "4-g128", "mxfp4"]
    assert rows[0].quality is not None and rows[0].quality.kl_mean == pytest.approx(0.0, abs=1e-9)
    assert "groups of 128" in rows[3].reason and rows[3].quality is None
    kls = [one.quality.kl_mean for one in rows if one.quality and one.recipe != ORIGINAL]
    assert kls[0] < min(kls[1:]) and all(one.answers for one in rows if not one.reason)
    chosen = pick(rows, max_kl=0.01)
    assert chosen.recipe == "8-g32" and keeper.row is not None and keeper.row.recipe == "8-g32"
    made = keeper.freeze(ws, source, "toy-8", chosen.why, Quantizing())
    assert made.manifest["sweep"]["quality"]["kl_mean"] == kls[0]
    load("toy-8", ws).close()
    assert not list((ws.root / "cache").glob("sweep*/*"))
    assert json.dumps([one.as_dict() for one in rows], allow_nan=False)


def test_a_source_that_is_replaced_meanwhile_stops_the_sweep(tmp_path: Path, ws: Workspace) -> None:
    """Figures of two different models never stand in one table."""
    toy = write_model(tmp_path / "toy", seed=0, num_hidden_layers=1)
    steps = sweep(Source(toy, "directory:toy", "toy"), ["8-g32"], Measuring(ROWS, None, 4, 2, 1), ws)
    next(steps)
    write_model(toy, seed=1, num_hidden_layers=1)
    with pytest.raises(BadInput, match="was changed while"):
        next(steps)


def test_two_sweeps_of_one_workspace_keep_their_files_apart(tmp_path: Path, ws: Workspace) -> None:
    """Each has a folder of its own; what a killed one left is among what a clean-up frees."""
    with scratch(ws) as one, scratch(ws) as other:
        assert one != other and one.is_dir() and other.is_dir()
        dead = one.with_name(".draft-999999999-1")
        dead.mkdir()
        (dead / "logits").write_bytes(b"1234")
        assert [(found.path, found.nbytes) for found in waste(ws)] == [(dead, 4)]
    assert not one.exists() and not other.exists()


def test_bad_words_are_refused_before_anything_is_measured(tmp_path: Path, ws: Workspace) -> None:
    """A recipe that is none, too little text, or a quantized source stops at once."""
    toy = write_model(tmp_path / "toy", num_hidden_layers=1)
    source = Source(toy, "directory:toy", "toy")
    with pytest.raises(BadInput, match="no recipe"):
        next(sweep(source, ["fast"], Measuring(ROWS, None), ws))
    with pytest.raises(BadInput, match="2 pieces"):
        next(sweep(source, ["4"], Measuring(ROWS[:1], None), ws))


def test_the_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    """Names are text, not markup; nothing is fetched; every recipe that was measured is in the picture."""
    text = page("<b>toy</b>", MADE, pick(MADE, max_kl=0.05), {"Texts": "<i>"})
    assert "<b>toy</b>" not in text and "&lt;b&gt;toy" in text and "&lt;i&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "") and "<script" not in text
    assert text.count("<circle") == 4 and "Picked: 6" in text


def test_intervals_are_order_statistics() -> None:
    """The interval holds the median, narrows with more runs, and is the whole span for few."""
    assert Figure((3.0, 1.0, 2.0)).interval == (1.0, 3.0)
    many = Figure(tuple(float(i) for i in range(101)))
    low, high = many.interval
    assert low < many.median < high and (low, high) == (40.0, 60.0)
    assert math.isclose(many.median, 50.0)
