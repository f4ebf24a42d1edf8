"""A measure over versions: changes are found where they are, and not where there are none."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

from mlxrag.cli.main import cli
from mlxrag.errors import NotFound
from mlxrag.tracking import trend as module
from mlxrag.tracking.page import chart, dashboard
from mlxrag.tracking.trend import changes, trends
from mlxrag.workspace import Workspace
from tests.track import kit


def flat(rng: np.random.Generator, versions: int, questions: int) -> np.ndarray:
    """Versions of one quality: questions differ in how hard they are, versions do not."""
    hard = rng.random(questions)
    return (rng.random((versions, questions)) > hard).astype(float)


def test_without_a_change_one_is_found_about_one_time_in_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at every place of six versions costs nothing: at most 9 % of 150 flat series have a change."""
    monkeypatch.setattr(module, "SHUFFLES", 99)
    rng = np.random.default_rng(1)
    clusters = [f"d{i // 2}" for i in range(60)]
    assert sum(bool(changes(flat(rng, 6, 60), clusters, seed=i)) for i in range(150)) / 150 <= 0.09


def test_a_change_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jumps in ten versions are found at their places and no others, in at least 10 of 12 simulated series."""
    monkeypatch.setattr(module, "SHUFFLES", 99)
    level = np.repeat([0.3, 0.7, 0.4], [3, 4, 3])[:, None]
    exact = 0
    for seed in range(12):
        scores = (np.random.default_rng(seed).random((10, 120)) < level).astype(float)
        found = changes(scores, [f"d{i}" for i in range(120)], seed=seed)
        assert {3, 7} <= {c.at for c in found} and all(0 < c.p <= 0.05 for c in found)
        exact += [c.at for c in found] == [3, 7]
    assert exact >= 10
    assert found[0].difference > 0.1 and found[-1].difference < -0.1


def test_degenerate_series_have_no_change() -> None:
    """One version, one document, and versions that are all alike."""
    assert changes(np.ones((1, 5)), list("abcde")) == []
    assert changes(np.array([[1.0, 1.0], [0.0, 0.0]]), ["a", "a"]) == []
    assert changes(np.ones((5, 4)), list("abcd")) == []


def test_versions_of_a_system_are_a_series_and_other_data_another(ws: Workspace) -> None:
    """Runs of one name on one dataset are compared on the questions all of them have."""
    for right in ((), (0, 1, 2, 3), (0, 1, 2, 3)):
        kit.evaluation(ws, "system", right)
    kit.evaluation(ws, "system", (0,), n=3)
    found = trends(ws, "correct")
    assert [(t.versions, t.n) for t in found] == [(("v1", "v2", "v3"), 4), (("v4",), 3)]
    assert found[0].means == (0.0, 1.0, 1.0) and found[0].documents == 4
    with pytest.raises(NotFound, match="did you mean 'correct'"):
        trends(ws, "corect")
    with pytest.raises(NotFound, match="no evaluation of 'gone'"):
        trends(ws, "correct", system="gone")


def test_the_command_answers_in_three_forms(ws: Workspace) -> None:
    """A table, JSON, and a page that fetches nothing, with the newest two versions side by side."""
    for right in ((0,), (0, 1, 2)):
        kit.evaluation(ws, "system", right)
    page = ws.root / "trend.html"
    runner = CliRunner()
    shown = runner.invoke(cli, ["track", "trend", "correct", "--workspace", str(ws.root)])
    assert shown.exit_code == 0 and "v2" in shown.output and "0.75" in shown.output
    given = runner.invoke(cli, ["track", "trend", "correct", "--json", "--out", str(page), "--workspace", str(ws.root)])
    assert json.loads(given.output)["trends"][0]["means"] == [0.25, 0.75]
    text = page.read_text()
    assert "<svg" in text and "<script" not in text and "http" not in text
    assert "runs/system@v1 (A) and runs/system@v2 (B)" in text


def test_a_single_version_can_be_drawn(ws: Workspace) -> None:
    """One point makes a chart and no change."""
    kit.evaluation(ws)
    found = trends(ws, "correct")
    assert len(chart(found[0])["points"]) == 1
    HTMLParser().feed(dashboard("correct", found, []))
    assert "No change beyond chance" in dashboard("correct", found, [])
