"""The score of answers that a sweep asks of every recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlxrag.model  # noqa: F401  # isort: skip

from mlxrag.cli.main import cli
from mlxrag.data.dataset import freeze
from mlxrag.errors import NotFound
from mlxrag.evaluate.evaluate import measures_of
from mlxrag.evaluate.score_model import scorer
from mlxrag.rag.system import ask, open_system
from mlxrag.workspace import Workspace
from tests.evaluate import world as w


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return w.make_world(tmp_path)


def test_the_score_is_the_mean_of_the_usual_measure(ws: Workspace, tmp_path: Path) -> None:
    """Every model is asked the same questions with the whole system; interval and number of questions are told."""
    data, settings = w.dataset(ws), w.settings(tmp_path)
    score = scorer(ws, "asked", 100, settings)(tmp_path / "model")
    with open_system(settings, ws) as system:
        measure = measures_of(settings.evaluating)[settings.evaluating.right_by]
        values = [measure(ask(system, one.question), one).value for one in w.examples(ws)]
    assert score.value == pytest.approx(sum(v for v in values if v is not None) / 8)
    assert (score.questions, score.failed, score.dataset) == (8, 0, data.ref)
    assert scorer(ws, "asked", 3, settings)(tmp_path / "model").questions == 3


def test_a_dataset_without_splits_will_do(ws: Workspace, tmp_path: Path) -> None:
    """What has no test split is asked as it is; what is not there is named."""
    freeze(ws, "whole", [("all", one) for one in w.examples(ws)])
    assert scorer(ws, "whole", 4, w.settings(tmp_path))(tmp_path / "model").questions == 4
    with pytest.raises(NotFound):
        scorer(ws, "none", 4, w.settings(tmp_path))


def test_a_sweep_with_a_dataset_has_answers_in_every_row(ws: Workspace, tmp_path: Path) -> None:
    """The score stands in the rows, in the drawn table and in the page, beside the peak of memory."""
    w.dataset(ws)
    words = [
        "model", "sweep", str(tmp_path / "model"), "--recipe", "8-g32", "--data", "asked", "--questions", "4", "--runs", "1",
        "--config", str(w.write_config(tmp_path, tmp_path / "system.toml")), "--prompt-tokens", "4", "--new-tokens", "2",
        "--calibration", str(tmp_path / "docs"), "--calibration-samples", "3", "--calibration-tokens", "16", "--workspace", str(ws.root),
    ]  # fmt: skip
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    found = json.loads(result.stdout)
    assert [row["answers"]["questions"] for row in found["rows"]] == [4, 4]
    assert "n = 4" in Path(found["path"], "report.html").read_text()
    drawn = CliRunner().invoke(cli, words, env={"COLUMNS": "220"})
    assert "answers" in drawn.output and "peak" in drawn.output
