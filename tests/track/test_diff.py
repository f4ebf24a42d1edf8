"""Two runs side by side."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlxrag.cli.main import cli
from mlxrag.errors import BadInput, NotFound
from mlxrag.tracking.diff import diff
from mlxrag.tracking.page import dashboard
from mlxrag.workspace import Workspace
from tests.track import kit


def test_settings_prompts_data_scores_and_answers_are_held_side_by_side(ws: Workspace) -> None:
    """Everything that differs is named, and what is the same is counted."""
    kit.evaluation(ws, "system", (0, 1), prompt="Answer in one word.")
    kit.evaluation(ws, "system", (0, 1, 3), prompt="Answer <b>briefly</b>.", sampling={"temp": 0.5})
    found = diff(ws, "system@v1", "system@v2")
    assert (found.a, found.b) == ("runs/system@v1", "runs/system@v2")
    assert found.settings == {"sampling.temp": ("(none)", 0.5)}
    assert [line for line in found.prompt if line[0] in "+-"] == ["- Answer in one word.", "+ Answer <b>briefly</b>."]
    assert found.data["both"] == 4 and found.data["only_a"] == found.data["only_b"] == 0
    assert found.scores["correct"] == (0.5, 0.75, 0.25, 4) and found.measure == "correct"
    assert found.same_answers == 3 and [(x["a"], x["b"], x["score_b"]) for x in found.answers] == [
        ("hay", "mice [1]", 1.0)
    ]
    page = dashboard("both", [], [found])
    assert "&lt;b&gt;briefly" in page and "<script" not in page and "http" not in page


def test_the_command_answers_in_three_forms(ws: Workspace) -> None:
    """A table, JSON, and a page with the trends of both."""
    kit.evaluation(ws, "one", (0,))
    kit.evaluation(ws, "two", (0, 1))
    page = ws.root / "diff.html"
    runner = CliRunner()
    shown = runner.invoke(cli, ["track", "diff", "one", "two", "--workspace", str(ws.root)])
    assert shown.exit_code == 0 and "3 the same, 1 that differ" in shown.output
    given = runner.invoke(
        cli, ["track", "diff", "one", "two", "--json", "--out", str(page), "--workspace", str(ws.root)]
    )
    assert json.loads(given.output)["scores"]["correct"][:2] == [0.25, 0.5]
    assert page.read_text().count("<svg") == 2


def test_artefacts_without_answers_differ_in_what_they_have(ws: Workspace) -> None:
    """Adapters have settings and no scores."""
    kit.trained(ws)
    kit.trained(ws, "other")
    found = diff(ws, "adapters/adapter@v1", "adapters/other@v1")
    assert found.scores == {} and found.settings == {} and found.answers == ()
    assert "Neither has scores" in dashboard("both", [], [found])


def test_the_same_run_twice_is_refused(ws: Workspace) -> None:
    """Nothing could differ; the sentence says how to name two versions."""
    kit.evaluation(ws)
    with pytest.raises(BadInput, match="are the same: runs/system@v1"):
        diff(ws, "system", "system@v1")
    with pytest.raises(NotFound, match="did you mean 'system'"):
        diff(ws, "sytem", "system")
