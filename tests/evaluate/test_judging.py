"""A judge over runs: verdicts kept row by row, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxrag.data.journal import Journal, rows
from mlxrag.errors import Mismatch
from mlxrag.evaluate import judging
from mlxrag.evaluate.evaluate import evaluate, judge_pair, judge_run, read_scores, report_of
from mlxrag.evaluate.judge import Agreement, Verdict
from mlxrag.evaluate.score import Score, to_row
from mlxrag.rag.system import open_system
from mlxrag.workspace import Artefact, Workspace, create
from tests.evaluate import world as w

JUDGE: Any = SimpleNamespace(name="toy judge")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return w.make_world(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="module")
def runs(ws: Workspace) -> list[Artefact]:
    data = w.dataset(ws)
    done: list[Artefact] = []
    for name, tokens in (("short", 4), ("long", 8)):
        settings = w.settings(ws.root.parent)
        settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"max_tokens": tokens})})
        with open_system(settings, ws) as system:
            examples = {e.id: e for e in data.split()}
            list(
                evaluate(
                    system, data, examples, ws, name, selection={"split": "all"}, finished=lambda a, r: done.append(a)
                )
            )
    return done


class Asked(list[str]):
    """What the judge was asked, and after how many it dies."""

    last = 10_000


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Verdicts without a model: 0.8 for whatever is claimed, 0.7 for the first run; what was asked is listed."""
    said = Asked()

    def verdicts(model: Any, answer: Any) -> tuple[list[Verdict], str]:
        if len(said) == said.last:
            raise KeyboardInterrupt
        said.append(answer.text)
        return [Verdict(0.8, 0.9, 0.1, 0.55)], ""

    def choice(model: Any, question: str, a: str, b: str) -> Verdict:
        said.append(question)
        return Verdict(0.7, 0.9, 0.6, 0.8)

    monkeypatch.setattr(judging, "verdicts_of", verdicts)
    monkeypatch.setattr(judging, "preferred", choice)
    yield said


def test_a_run_is_judged_once_and_says_what_speaks_against_it(
    ws: Workspace, runs: list[Artefact], asked: list[str]
) -> None:
    """The new version has a score for every question, the report the judge's position and that nobody voted."""
    made, found = judge_run(ws, runs[0], JUDGE)
    mine = [s for s in read_scores(made.path) if s.measure == "faithful_judge"]
    assert len(mine) == 8 and {s.value for s in mine} == {0.8} and {s.by for s in mine} == {"judge toy judge"}
    assert found["position"] == {"n": 8, "first": pytest.approx(0.55), "swing": pytest.approx(0.1), "turned": 0.0}
    notes = report_of(made)["notes"]
    assert any("option named first has 0.55" in n for n in notes) and any("Nobody has voted" in n for n in notes)
    again, _ = judge_run(ws, made, JUDGE)
    assert sum(s.measure == "faithful_judge" for s in read_scores(again.path)) == 8


def test_verdicts_that_are_there_are_not_asked_for_again(ws: Workspace, runs: list[Artefact], asked: Asked) -> None:
    """A judging that dies goes on after its last verdict."""
    asked.last = 3
    with pytest.raises(KeyboardInterrupt):
        judge_run(ws, runs[1], JUDGE)
    asked.last = 10_000
    judge_run(ws, runs[1], JUDGE)
    assert len(asked) == 8


def test_people_are_what_a_judge_is_held_against(ws: Workspace, runs: list[Artefact], asked: Asked) -> None:
    """Votes on exactly these runs give kappa, AUROC and bias; the sides that turn with the order are counted."""
    names = [f"{r.name}@{r.version}" for r in runs]
    ids = [row["example_id"] for row in rows(runs[0].path / "answers.jsonl")]
    with create(ws, "runs", "votes", inputs=[r.ref for r in runs], settings={}) as draft:
        lines = [to_row(Score(i, "preferred", float(n % 2), "ann")) for n, i in enumerate(ids)]
        with Journal(draft.path / "scores.jsonl") as journal:
            for line in lines:
                journal.add(line)
        draft.note(what="votes", runs=names)
    made, found = judge_pair(ws, runs, JUDGE)
    assert found["runs"] == tuple(names) and found["people"]["n"] == found["preferred"]["n"]
    different = found["position"]["n"]
    assert different and found["position"]["turned"] == 1.0 and found["position"]["first"] == pytest.approx(0.8)
    assert found["own"] == "" and found["self_preference"] is None
    assert {s.measure for s in read_scores(made.path)} == {"preferred"}
    with pytest.raises(Mismatch, match="share no question"):
        list(judging.compare(JUDGE, runs, [{}, {}], {}, Path("none")))


def test_a_judge_that_is_kinder_to_itself_is_found_out(ws: Workspace, runs: list[Artefact]) -> None:
    """Its own answers are better in 0.7 of its opinion where both are equally right: self-preference is 0.7."""
    examples = {e.id: e for e in w.dataset(ws).split()}
    own = SimpleNamespace(name="own")
    sides: Any = [
        SimpleNamespace(name=n, version="v1", manifest={"system": {"model": m}})
        for n, m in (("a", "own@1"), ("b", "x"))
    ]
    ids = list(examples)
    found = [(Score(i, "preferred", 0.7), Verdict(0.7, 0.9, 0.0)) for i in ids]
    right = [dict.fromkeys(ids, True), {**dict.fromkeys(ids, True), ids[0]: False}]
    made = judging.preference(own, sides, found, examples, right, {}, w.settings(Path()).evaluating)  # type: ignore[arg-type]
    assert made.own == "a@v1" and made.people is None and made.self_preference is not None
    assert made.self_preference.mean == pytest.approx(0.7) and made.self_preference.n == len(ids) - 1
    lines = judging.remarks(made.position, Agreement(3, 0.5, None, 0.1), "own")
    assert any("kappa 0.50, AUROC -" in line for line in lines)
    assert "gave no verdict" in judging.remarks(judging.position([]), None, "own")[0]
