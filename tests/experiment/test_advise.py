"""Advice from runs: every rule speaks when its figures are there, is silent else, and says what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxrag import settings as s
from mlxrag.errors import NotFound
from mlxrag.experiment.advice_page import advice_page, to_json
from mlxrag.experiment.advise import advise, information, places, to_toml
from mlxrag.experiment.evidence import Asked, Case, Contest, Evidence, Training, gather
from mlxrag.experiment.rules import RULES
from mlxrag.workspace import Workspace, create, open_workspace
from tests.experiment.test_run import carry_out, plan

QUESTIONS = "datasets/birds@v1 test"


def asked(number: int, **more: Any) -> Asked:
    """A question that went well, but for `more`; two of a document."""
    values: dict[str, Any] = {
        "answerable": True, "right": True, "rank": 1, "known": True, "refused": False, "failure": "", **more,
    }  # fmt: skip
    return Asked(f"q{number}", f"doc{number // 2}", score=float(values["right"]), **values)


def case(questions: list[Asked], name: str = "base", **more: Any) -> Case:
    retrieval = {"retriever": "dense", "num_passages": 5, "index": "documents", **more.pop("retrieval", {})}
    values: dict[str, Any] = {
        "ref": "runs/base@v1", "fingerprint": name, "model": "reader", "questions": QUESTIONS, "measure": "correct",
        "settings": {"retrieval": retrieval, "model": {"model": "reader"}}, "seconds": 0.5, "alone": None, "weights": None,
        "peak": None, "made": "2026-01-01", **more,
    }  # fmt: skip
    return Case(name, asked=tuple(questions), **values)


def of(
    *cases: Case, contests: tuple[Contest, ...] = (), trainings: tuple[Training, ...] = (), sweeps: Any = ()
) -> Evidence:
    return Evidence(cases, contests, trainings, sweeps, ())


def contest(decided: str, difference: float, **more: Any) -> Contest:
    row = {
        "a": "eight", "b": "four", "measure": "correct", "difference": difference, "low": difference - 0.02,
        "high": difference + 0.02, "n": 400, "documents": 80, "corrected": 0.01, "standard_error": 0.01, "detectable": 0.028,
        "decided": decided, **more.pop("row", {}),
    }  # fmt: skip
    costs = {"eight": {"seconds": 2.0, "peak": 8_000_000_000}, "four": {"seconds": 1.0, "peak": 4_000_000_000}}
    times = {"ratio": 0.5, "low": 0.45, "high": 0.55}
    settings = {"margin": 0.02, "alpha": 0.05, "power": 0.8, "effect": 0.05}
    return Contest("runs/c@v1", row, settings, costs, times, QUESTIONS, ("e", "f"))


WELL = [asked(i) for i in range(40)]


def spoilt(count: int, **how: Any) -> list[Asked]:
    return [asked(i, **(how if i % (40 // count) == 0 else {})) for i in range(40)]


SPEAKS: dict[str, Callable[[], Evidence]] = {
    "retrieval misses": lambda: of(case(spoilt(10, right=False, rank=None))),
    "reading fails": lambda: of(case(spoilt(10, right=False))),
    "refuses too much": lambda: of(case(spoilt(10, right=False, refused=True))),
    "answers anyway": lambda: of(case(spoilt(10, right=False, answerable=False, known=False, rank=None))),
    "order matters": lambda: of(case([asked(i, rank=1 + 2 * (i % 2), right=i % 2 == 0 or i % 10 == 1) for i in range(40)])),
    "questions fail": lambda: of(case(spoilt(4, right=False, failure="the prompt does not fit"))),
    "few documents": lambda: of(case([asked(i % 8) for i in range(40)])),
    "better": lambda: of(contests=(contest("better", 0.06),)),
    "same for less": lambda: of(contests=(contest("alike", 0.001),)),
    "undecided": lambda: of(contests=(contest("not distinguishable", 0.03, row={"detectable": 0.09}),)),
    "still learning": lambda: of(trainings=(Training("adapters/a@v1", "", ((0, 3.0), (50, 2.0), (75, 1.8), (100, 1.5)), 100, 1e-4),)),
    "learnt by heart": lambda: of(trainings=(Training("adapters/a@v1", "", ((0, 3.0), (25, 2.0), (100, 2.5)), 25, 1e-4),)),
    "smaller": lambda: of(sweeps=(("runs/sweep@v1", {"rows": [
        {"recipe": "original", "nbytes": 8_200_000_000, "quality": {"top1": 1.0, "top1_error": 0.0, "kl_mean": 0.0}},
        {"recipe": "8-g64", "nbytes": 4_100_000_000, "quality": {"top1": 0.99, "top1_error": 0.001, "kl_mean": 0.001}},
        {"recipe": "2-g64", "nbytes": 1_100_000_000, "quality": {"top1": 0.6, "top1_error": 0.001, "kl_mean": 1.0}},
    ]}),)),
}  # fmt: skip


def told(evidence: Evidence, tmp_path: Path, **more: str) -> Any:
    return advise(evidence, tmp_path, Workspace(tmp_path), **more)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_speaks_with_evidence_gain_and_source(rule: Any, tmp_path: Path) -> None:
    """A world in which the rule applies brings its advice, with figures in it and the source of the table."""
    found = [a for a in told(SPEAKS[rule.name](), tmp_path).advices if a.rule == rule.name]
    assert len(found) == 1 and found[0].source == rule.source and found[0].gain.words
    assert any(c.isdigit() for c in found[0].evidence) and found[0].text


def test_a_system_that_is_always_right_gets_no_advice(tmp_path: Path) -> None:
    """Nothing is recommended where nothing fails."""
    assert told(of(case(WELL)), tmp_path).advices == ()


def test_without_runs_there_is_no_advice(tmp_path: Path) -> None:
    """An empty workspace is an error that says how to begin; so is a dataset or a system that nothing was run on."""
    with pytest.raises(NotFound, match="nothing to advise from"):
        told(of(), tmp_path)
    with pytest.raises(NotFound, match="did you mean 'birds'"):
        told(of(case(WELL)), tmp_path, dataset="bird")
    with pytest.raises(NotFound, match="did you mean 'base'"):
        told(of(case(WELL)), tmp_path, system="bas")


def test_few_questions_are_no_ground_for_advice(tmp_path: Path) -> None:
    """Below twenty questions the rules about answers are silent, and it is said."""
    found = told(of(case(spoilt(10, right=False, rank=None)[:12])), tmp_path)
    assert found.advices == () and "12 questions" in found.notes[0]


def test_retrieval_that_misses_is_told_what_to_try_and_what_it_could_bring(tmp_path: Path) -> None:
    """The gain is bounded by what fails that way times how often answers are right with the passage there."""
    questions = [asked(i, **({"right": False, "rank": None} if i < 10 else {"right": i < 34})) for i in range(40)]
    (advice,) = [a for a in told(of(case(questions)), tmp_path).advices if a.rule == "retrieval misses"]
    assert "62 % of the failures: try hybrid" in advice.text and "10 of 16" in advice.evidence
    assert advice.gain.high == pytest.approx(10 / 40 * 24 / 30) and advice.gain.expected == pytest.approx(0.1)
    hybrid = case(questions, retrieval={"retriever": "hybrid", "num_passages": 5})
    assert any("8 passages instead of 5" in a.text for a in told(of(hybrid), tmp_path).advices)
    full = case(questions, retrieval={"retriever": "hybrid", "num_passages": 8})
    assert any("a reranker" in a.text and a.experiment is None for a in told(of(full), tmp_path).advices)


def test_the_cheaper_of_two_alike_is_recommended_with_what_it_saves(tmp_path: Path) -> None:
    """Bits that are not told apart: the memory that is saved; where alike is not shown, that is said, and how to show it."""
    (advice,) = told(of(contests=(contest("alike", -0.001),)), tmp_path).advices
    assert advice.system == "four" and "save 4.0 GB and 50 % less time" in advice.text and advice.experiment is None
    (unsure, *_) = told(of(contests=(contest("not distinguishable", -0.001),)), tmp_path).advices
    assert "that it loses less than 2 points is not shown" in unsure.evidence
    assert unsure.experiment is not None and unsure.experiment.goal == "noninferiority"


def test_the_better_one_of_a_comparison_is_named_whichever_side_it_is(tmp_path: Path) -> None:
    """B worse is A better; the gain is turned with it."""
    (advice,) = told(of(contests=(contest("worse", -0.06),)), tmp_path).advices
    assert advice.text == "use eight instead of four" and advice.gain.expected == pytest.approx(0.06)
    assert advice.gain.low == pytest.approx(0.04) and advice.gain.high == pytest.approx(0.08)


def test_advice_is_on_the_best_system_of_each_dataset_unless_another_is_named(tmp_path: Path) -> None:
    """A worse system on the same questions is in the table of costs only."""
    worse = case(spoilt(10, right=False, rank=None), "worse")
    assert told(of(case(WELL), worse), tmp_path).advices == ()
    named = told(of(case(WELL), worse), tmp_path, system="worse")
    assert {a.system for a in named.advices} == {"worse"}


def test_information_is_what_a_simulation_finds() -> None:
    """The worth of choosing by an outcome agrees with 200,000 simulated experiments; the bits with the variances."""
    prior, deviation, error = 0.02, 0.05, 0.03
    rng = np.random.default_rng(0)
    truth = rng.normal(prior, deviation, 200_000)
    seen = truth + rng.normal(0, error, truth.size)
    after = (prior / deviation**2 + seen / error**2) / (1 / deviation**2 + 1 / error**2)
    gained = np.where(after > 0, truth, 0.0).mean() - max(0.0, prior)
    bits, worth = information(prior, deviation, error)
    assert worth == pytest.approx(gained, abs=3e-4)
    assert bits == pytest.approx(0.5 * np.log2(seen.var() / error**2), abs=0.01)
    assert information(0.1, 0.0, 0.1) == (0.0, 0.0)


def test_experiments_come_by_information_with_commands_and_files(tmp_path: Path) -> None:
    """The most informative stands first; its two config files differ in the one setting that is tried."""
    questions = [asked(i, **({"right": False, "rank": None} if i < 16 else {"right": i % 4 > 0})) for i in range(40)]
    found = told(of(case(questions)), tmp_path).experiments
    assert [e.bits for e in found] == sorted((e.bits for e in found), reverse=True)
    assert [e.rule for e in found] == ["retrieval misses", "reading fails"]
    a, b = found[0].files.values()
    assert set(a.splitlines()) - set(b.splitlines()) == {"[retrieval]", 'retriever = "dense"'}
    assert found[0].commands[0].startswith("mlxrag ab plan ") and "--data birds@v1 --split test" in found[0].commands[0]
    assert found[0].minutes == pytest.approx(2 * 40 * 0.5 / 60)
    trained = found[1]
    assert trained.commands[0].startswith("mlxrag adapter train --model reader --data birds@v1")
    assert 'adapter_path = "birds"' in trained.files["next-2-b.toml"]


def test_an_adapter_is_not_tried_on_what_it_learns_from(tmp_path: Path) -> None:
    """Questions that were measured on without a split are split before one is trained."""
    questions = [asked(i, right=i % 4 > 0) for i in range(40)]
    one = replace(case(questions), questions="datasets/birds@v1 all")
    (found,) = told(of(one), tmp_path).experiments
    assert [c.split()[1:3] for c in found.commands] == [
        ["data", "split"],
        ["adapter", "train"],
        ["ab", "plan"],
        ["ab", "run"],
    ]
    assert all("birds-split" in command for command in found.commands[:3]) and "--split test" in found.commands[2]


@pytest.mark.parametrize("kept", [30, 1_000_000])
def test_more_questions_than_the_documents_gave_are_not_asked_for(kept: int, tmp_path: Path) -> None:
    """An experiment that takes more of them says that it takes more documents, and has no commands."""
    ws = Workspace(tmp_path)
    with create(ws, "datasets", "birds") as draft:
        draft.note(**{"yield": {"kept": kept}})
    systems = [case(WELL, name, ref="runs/c@v1") for name in ("eight", "four")]
    undecided = contest("not distinguishable", 0.03, row={"detectable": 0.09})
    planned = advise(of(*systems, contests=(undecided,)), tmp_path / "out", ws).experiments
    found = next(e for e in planned if e.rule == "undecided")
    assert bool(found.commands) == (kept > 30) and ("takes more documents" in found.text) == (kept == 30)


def test_a_system_that_is_worse_and_dearer_is_dominated() -> None:
    """Only what both have measured counts; without costs nothing is dominated."""
    good = case(WELL, "good", alone=1.0, peak=100)
    bad = case(spoilt(10, right=False), "bad", alone=2.0, peak=200)
    unknown = case(spoilt(20, right=False), "unknown")
    found = {p.system: p.dominated for p in places([good, bad, unknown])}
    assert found == {"good": (), "bad": ("good",), "unknown": ()}


def test_a_config_says_what_differs_from_the_defaults_and_loads(tmp_path: Path) -> None:
    """What is written is read back as the same settings."""
    given = s.Settings().model_copy(update={"retrieval": s.Retrieval(retriever="dense", where=("source=*.md",))})
    (tmp_path / "c.toml").write_text(to_toml(given.model_dump()))
    assert s.read(tmp_path / "c.toml").retrieval == given.retrieval


def test_the_runs_of_a_workspace_are_gathered(root: Path, ws: Workspace) -> None:
    """A comparison gives its systems, with ranks, costs and scores, and its pair; a damaged run is named and left out."""
    artefact = carry_out(plan(root, ws), ws)
    broken = carry_out(plan(root, ws), ws, "broken")
    (broken.path / "report.json").write_text("{")
    found = gather(ws)
    assert [c.name for c in found.cases] == ["one", "two"] and len(found.contests) == 1
    assert found.contests[0].ref == artefact.ref and found.left[0].startswith(broken.ref)
    first = found.cases[0]
    assert first.alone is not None and first.peak is not None and len(first.asked) == 15
    assert all(a.known and a.answerable for a in first.asked) and {a.rank for a in first.asked} <= {1, None}
    again = carry_out(plan(root, ws), ws)
    assert gather(ws).cases[0].ref == again.ref and len(gather(ws).cases) == 2


def test_the_page_escapes_what_runs_are_called_and_shows_the_rules(tmp_path: Path) -> None:
    """No name can put markup into the page; every rule and its source stand there."""
    found = told(of(case(spoilt(10, right=False), "<script>")), tmp_path)
    text = advice_page(found, "Advice")
    assert "<script" not in text and "&lt;script&gt;" in text and all(r.name in text for r in RULES)
    assert {r["name"] for r in to_json(found)["rules"]} == {r.name for r in RULES}


def test_a_workspace_without_anything_is_empty(tmp_path: Path) -> None:
    """Gathering finds nothing, and fails at nothing."""
    assert gather(open_workspace(tmp_path)) == of()


def test_the_rules_stand_in_the_documentation() -> None:
    """The page on experiments has the table as it is."""
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    assert all(f"| {r.name} | {r.looks} | {r.says} | {r.source} |" in page for r in RULES)
