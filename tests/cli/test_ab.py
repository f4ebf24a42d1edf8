"""`mlxrag ab`: plan, run, report and advise as a person types them, on a toy workspace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxrag import settings as s
from mlxrag.cli.ab import ab
from mlxrag.data.journal import Journal
from mlxrag.errors import BadInput, NotFound
from mlxrag.evaluate.evaluate import SCORES
from mlxrag.evaluate.score import Score, to_row
from mlxrag.workspace import create, open_workspace
from tests.experiment import kit
from tests.track import kit as owls

QUICK = ("--block-questions", "4", "--timing-questions", "2", "--permutations", "199")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds")
    kit.build(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """The toy workspace with two config files, `one.toml` and `two.toml`, that differ in their passages."""
    shutil.copytree(built, tmp_path / "birds")
    kit.config(tmp_path / "birds" / "one.toml", built)
    kit.config(tmp_path / "birds" / "two.toml", built, num_passages=2)
    return tmp_path / "birds"


def call(root: Path, *args: str) -> Result:
    return CliRunner().invoke(ab, [*args, "--workspace", str(root / "ws")], catch_exceptions=False)


def answer(root: Path, *args: str) -> Any:
    """What a command says with --json; nothing else may stand on stdout."""
    done = call(root, *args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def systems(root: Path) -> tuple[str, str]:
    return str(root / "one.toml"), str(root / "two.toml")


def test_plan_run_report_and_advise_follow_each_other(root: Path) -> None:
    """A plan is frozen under a name, the run names it, the report shows it, and advice counts it."""
    planned = answer(root, "plan", *systems(root), "--data", "birds", "--name", "p", *QUICK)
    assert planned["kind"] == "runs" and planned["name"] == "p" and planned["questions"] == 15
    assert planned["differs"] == {"num_passages": [1, 2]} and planned["warnings"] == []
    assert planned["power"]["questions"] > 15 and planned["cost"]["fits"] and len(planned["hypotheses"]) == 1
    ran = answer(root, "run", "p")
    assert ran["name"] == "p-run" and ran["departures"] == [] and Path(ran["report"]).is_file()
    assert ran["comparisons"][0]["measure"] == "chrf" and ran["comparisons"][0]["n"] == 15
    assert [t["n"] for t in ran["time_ratios"]] == [2]
    shown = answer(root, "report", "p-run")
    assert shown["verdicts"] == ran["verdicts"] and shown["about"]["planned"] == 15
    advised = answer(root, "advise", "--out", str(root / "advice"))
    assert advised["runs"]["comparisons"] == 1 and {p["system"] for p in advised["places"]} == {"one", "two"}
    assert Path(advised["page"]).is_file()
    for experiment in advised["experiments"]:
        for name in experiment["files"]:
            assert s.read(root / "advice" / name).retrieval.index == "documents"


def test_what_is_drawn_says_the_same_in_words(root: Path) -> None:
    """Without --json there are tables and sentences, and the next command."""
    planned = call(root, "plan", *systems(root), "--data", "birds", "--name", "p", *QUICK).output
    assert "What differs" in planned and "Hypothesis: two and one differ in chrf." in planned
    assert "Next: mlxrag ab run p" in planned
    ran = call(root, "run", "p").output
    assert "two and one are not distinguishable on chrf" in ran or "two answers" in ran
    assert "report.html" in ran
    assert "Cost against quality" in call(root, "advise").output


def test_config_files_are_compared_at_once_and_resumed_under_the_same_name(root: Path) -> None:
    """Without a plan the configs and --data are enough; a second run is a second version with the same figures."""
    first = answer(root, "run", *systems(root), "--data", "birds", "--name", "r", *QUICK)
    again = answer(root, "run", *systems(root), "--data", "birds", "--name", "r", *QUICK)
    assert (first["version"], again["version"]) == ("v1", "v2") and first["comparisons"] == again["comparisons"]


def test_a_flag_that_is_not_as_planned_is_a_departure(root: Path) -> None:
    """What was frozen can be changed, but not in silence."""
    answer(root, "plan", *systems(root), "--data", "birds", "--name", "p", *QUICK)
    ran = answer(root, "run", "p", "--max-questions", "6", "--alpha", "0.1")
    words = " ".join(ran["departures"])
    assert "alpha is 0.1, planned was 0.05" in words and "max_questions is 6, planned was 0" in words
    assert ran["comparisons"][0]["n"] == 6


def test_three_systems_are_compared_with_the_first_or_each_with_each(root: Path) -> None:
    """--all-pairs gives all pairs, corrected together, and writes them where it is told."""
    kit.config(root / "three.toml", root, num_passages=3)
    answer(root, "run", *systems(root), str(root / "three.toml"), "--data", "birds", "--name", "r", *QUICK)
    first = answer(root, "report", "r")
    pairs = {(c["a"], c["b"]) for c in first["comparisons"]}
    assert pairs == {("one", "two"), ("one", "three")}
    every = answer(root, "report", "r", "--all-pairs", "--out", str(root / "out"))
    assert {(c["a"], c["b"]) for c in every["comparisons"]} == pairs | {("two", "three")}
    assert {p.name for p in (root / "out").iterdir()} == {"report.json", "report.md", "report.html"}


def test_what_is_missing_is_said(root: Path) -> None:
    """Configs without --data are misuse; an unknown plan, a run that is no plan, and an empty workspace are errors."""
    misused = call(root, "run", *systems(root))
    assert misused.exit_code == 2 and "--data" in misused.output
    with pytest.raises(NotFound):
        call(root, "run", "nothing")
    answer(root, "run", *systems(root), "--data", "birds", "--name", "r", *QUICK)
    with pytest.raises(BadInput, match="is no plan"):
        call(root, "run", "r")
    with pytest.raises(NotFound, match="nothing to advise from"):
        CliRunner().invoke(ab, ["advise", "--workspace", str(root / "other")], catch_exceptions=False)


def test_votes_of_people_are_compared_by_document(root: Path) -> None:
    """Two runs of votes are two systems; the dataset says which document a question is of."""
    ws = open_workspace(root / "ws")
    for name, values in (("one", (0.0, 0.25, 0.5, 0.5)), ("two", (1.0, 0.75, 1.0, 0.5))):
        asked = owls.evaluation(ws, name)
        with create(ws, "runs", f"{name}-votes", inputs=[asked.ref]) as draft:
            with Journal(draft.path / SCORES) as scores:
                for e, value in zip(owls.examples(), values, strict=True):
                    scores.add(to_row(Score(e.id, "human_right", value, "ada")))
            draft.note(what="votes", dataset=asked.manifest["dataset"])
    (found,) = answer(root, "report", "one-votes", "two-votes", "--primary", "human_right")["comparisons"]
    assert found["difference"] == 0.5 and found["documents"] == 4


def test_the_rules_are_shown_with_their_sources(root: Path) -> None:
    """--rules needs no runs."""
    rules = answer(root, "advise", "--rules")
    assert len(rules) > 10 and all(r["source"] and r["says"] for r in rules)
