"""Carrying a plan out: interleaved, resumable after a kill, honest about what changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxrag.data.dataset import open_dataset
from mlxrag.errors import BadInput, WontFit
from mlxrag.evaluate.run import read_rows
from mlxrag.experiment import run as module
from mlxrag.experiment.arms import answer_block, open_group
from mlxrag.experiment.known import prepare
from mlxrag.experiment.plan import Plan, keep, read_variants
from mlxrag.experiment.run import run
from mlxrag.settings import Experimenting
from mlxrag.workspace import Artefact, Workspace
from tests.experiment.kit import config

FAST = Experimenting(block_questions=3, timing_questions=2, permutations=199)


def plan(root: Path, ws: Workspace, settings: Experimenting = FAST, **second: Any) -> Plan:
    configs = [config(root / "one.toml", root), config(root / "two.toml", root, **(second or {"num_passages": 2}))]
    return prepare("p", configs, open_dataset(ws, "birds"), "test", settings, ws)


def carry_out(made: Plan, ws: Workspace, name: str = "r", source: Artefact | None = None) -> Artefact:
    done: list[Artefact] = []
    for _ in run(made, source, ws, name, finished=done.append):
        pass
    return done[0]


def report(artefact: Artefact) -> dict[str, Any]:
    return json.loads((artefact.path / "report.json").read_text())


def figures(artefact: Artefact) -> list[Any]:
    """Everything of a report that must not depend on when and where it ran."""
    r = report(artefact)
    return [r["comparisons"], r["flips"], r["slices"], [s["figures"] for s in r["systems"]]]


def test_a_run_keeps_answers_scores_timings_and_reports(root: Path, ws: Workspace) -> None:
    """Every question has a row per system; the report has a verdict; the plan is its input."""
    made = plan(root, ws)
    kept = keep(ws, made)
    artefact = carry_out(made, ws, source=kept)
    assert artefact.manifest["inputs"] == [kept.ref, made.dataset] and artefact.manifest["what"] == "ab"
    for name in ("one", "two"):
        assert [r.example_id for r in read_rows(artefact.path / name)] == list(made.questions)
    timing = [json.loads(line) for line in (artefact.path / "timing.jsonl").read_text().splitlines()]
    assert len(timing) == 4 and all(t["seconds"] > 0 and t["peak"] >= t["weights"] > 0 for t in timing)
    found = report(artefact)
    assert found["verdicts"][0].startswith("two ") and "timed" not in found["verdicts"][0]
    assert {c["measure"] for c in found["comparisons"]} == {"chrf", "f1", "hit_at_1", "answer_words"}
    assert "<svg" in (artefact.path / "report.html").read_text() and found["about"]["departures"] == []
    assert (artefact.path / "report.md").read_text().startswith("# r\n")


def test_systems_with_adapters_of_one_base_answer_in_one_batch_as_they_would_alone(root: Path, ws: Workspace) -> None:
    """Mixed rows give, answer by answer, what each system says when it is open by itself."""
    configs = [
        config(root / f"{n}.toml", root, **({"adapter_path": str(root / n)} if n != "base" else {}))
        for n in ("base", "calm", "wild")
    ]
    variants = read_variants(configs, ws)
    examples = list(open_dataset(ws, "birds").split("test"))[:4]
    with open_group(variants, ws) as group:
        mixed = answer_block(group, examples)
        assert len({arm.fingerprint for arm in group.values()}) == 3
        assert len({id(arm.system.model) for arm in group.values()}) == 1
    assert len({tuple(a.text for a in answers) for answers in mixed.values()}) == 3
    for variant in variants:
        with open_group([variant], ws) as group:
            alone = answer_block(group, examples)[variant.name]
        assert [a.text for a in alone] == [a.text for a in mixed[variant.name]]


def test_other_bases_take_turns_and_are_unloaded_where_memory_is_short(
    root: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bases that do not fit side by side are loaded in turn, to the same figures as side by side."""
    made = plan(root, ws, max_tokens=3)
    assert made.cost["bases"] == [["one"], ["two"]] and made.cost["together"]
    side = carry_out(made, ws, "side")
    opened: list[str] = []
    real = module.open_group

    def counted(variants: Any, workspace: Workspace) -> Any:
        opened.append("+".join(v.name for v in variants))
        return real(variants, workspace)

    monkeypatch.setattr(module, "foreseen", lambda *a: {**dict(made.cost), "together": False, "fits": True})
    done: list[Artefact] = []
    for _ in run(made, None, ws, "turns", finished=done.append, opener=counted):
        pass
    assert figures(side) == figures(done[0]) and len(opened) >= 5 and set(opened) == {"one", "two"}


def test_what_does_not_fit_is_refused_before_it_starts(root: Path, ws: Workspace) -> None:
    """A budget smaller than one system is an error that says both numbers."""
    made = plan(root, ws)
    tight = made.variants[0].settings
    small = tight.model_copy(update={"memory": tight.memory.model_copy(update={"memory_budget": "100KB"})})
    made = replace(made, variants=(replace(made.variants[0], settings=small), *made.variants[1:]))
    with pytest.raises(WontFit, match=r"needs .* and the budget is 100000"):
        carry_out(made, ws)


@pytest.mark.parametrize("when", [2, 4])
def test_killed_in_a_block_it_goes_on_to_the_same_figures(
    root: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """What an unfinished block left is asked again; answers, scores and verdict figures are as without the kill."""
    made = plan(root, ws)
    whole = carry_out(made, ws, "whole")
    calls = 0
    real = module.Journal.add

    def dies(self: Any, row: Any) -> None:
        nonlocal calls
        real(self, row)
        if self.path.name == "answers.jsonl":
            calls += 1
            if calls == 6 * when - 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(module.Journal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        carry_out(made, ws, "killed")
    monkeypatch.setattr(module.Journal, "add", real)
    resumed = carry_out(made, ws, "killed")
    assert figures(resumed) == figures(whole)
    assert not list((ws.root / "runs" / "killed").glob(".run-*"))


SCRIPT = """
import sys, mlxrag.device
from mlxrag.experiment.plan import open_plan
from mlxrag.experiment.run import run
from mlxrag.workspace import open_workspace
ws = open_workspace(sys.argv[1])
made, source = open_plan(ws, "p")
for step in run(made, source, ws, "r"):
    print(step.done, flush=True)
"""


def test_kill_9_in_the_middle_and_again_gives_the_same_figures(root: Path, ws: Workspace) -> None:
    """A process that is killed by the system and started again ends where an undisturbed one does."""
    made = plan(root, ws)
    keep(ws, made)
    whole = carry_out(made, ws, "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(ws.root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list((ws.root / "runs" / "r").glob(".run-*/blocks.jsonl"))
    assert figures(carry_out(made, ws, "r")) == figures(whole)


def test_a_decided_comparison_stops_early_and_says_so(
    root: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sequential stopping the run ends with the block that decides, also when it is resumed there."""
    settings = FAST.model_copy(update={"stopping": "sequential"})
    made = plan(root, ws, settings)
    monkeypatch.setattr(module, "_decided", lambda c, s: c.n >= 6)
    steps = []
    done: list[Artefact] = []
    for step in run(made, None, ws, "r", finished=done.append):
        steps.append(step)
    assert steps[-1].stop and steps[-1].done == 6 and report(done[0])["about"]["asked"] == 6
    assert (
        any("always-valid" in a for a in report(done[0])["assumptions"])
        and report(done[0])["about"]["departures"] == []
    )


def test_departures_from_the_plan_are_written_down(root: Path, ws: Workspace) -> None:
    """A model that changed after planning is named in the report."""
    made = plan(root, ws)
    (root / "model" / "mlxrag.json").write_text('{"num_passages": 1}')
    found = report(carry_out(made, ws))
    assert any("the model is not the one that was planned" in d for d in found["about"]["departures"])


def test_a_question_that_fails_costs_its_row_alone(root: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault inside a batch becomes the reason of one answer; the others are as they were."""
    from mlxrag.experiment import arms

    real = arms.fit
    examples = list(open_dataset(ws, "birds").split("test"))[:3]

    def faulty(system: Any, question: str, *rest: Any) -> Any:
        if question == examples[1].question:
            raise RuntimeError("boom")
        return real(system, question, *rest)

    variants = read_variants([config(root / "one.toml", root), config(root / "two.toml", root, num_passages=2)], ws)
    with open_group(variants, ws) as group:
        sound = answer_block(group, examples)
        monkeypatch.setattr(arms, "fit", faulty)
        found = answer_block(group, examples)
    for name in ("one", "two"):
        assert found[name][1].failure == "RuntimeError: boom"
        assert [found[name][i].text for i in (0, 2)] == [sound[name][i].text for i in (0, 2)]


def test_a_judge_scores_every_system_and_can_decide(root: Path, ws: Workspace) -> None:
    """A model that judges is asked about all answers; without one, or where one may stop early, it cannot decide."""
    configs = [config(root / "one.toml", root), config(root / "two.toml", root, num_passages=2)]
    dataset = open_dataset(ws, "birds")
    primary = FAST.model_copy(update={"primary": "faithful_judge", "max_questions": 4})
    with pytest.raises(BadInput, match="needs a model that judges"):
        prepare("p", configs, dataset, "test", primary, ws)
    for path in configs:
        path.write_text(path.read_text() + f'judge = "{root / "model"}"\n')
    with pytest.raises(BadInput, match="cannot decide when to stop"):
        prepare("p", configs, dataset, "test", primary.model_copy(update={"stopping": "sequential"}), ws)
    with pytest.raises(BadInput, match="a pilot does not judge"):
        prepare("p", configs, dataset, "test", primary.model_copy(update={"pilot_questions": 2}), ws)
    artefact = carry_out(prepare("p", configs, dataset, "test", primary, ws), ws)
    first = report(artefact)["comparisons"][0]
    assert first["measure"] == "faithful_judge" and first["n"] + first["missing_a"] >= 4
    for name in ("one", "two"):
        assert (artefact.path / name / "judged.jsonl").is_file()
