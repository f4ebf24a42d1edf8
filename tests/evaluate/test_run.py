"""Evaluation of a real (toy) system: batched, resumable, every failure a row; reports and the gate."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxrag.cli.main import cli
from mlxrag.data.dataset import Dataset
from mlxrag.data.quality import gold_rank
from mlxrag.data.round_trip import grade
from mlxrag.errors import BadInput, Mismatch
from mlxrag.evaluate import run as room
from mlxrag.evaluate.evaluate import evaluate, examples_of, read_scores, report_of, rescore
from mlxrag.evaluate.figures import length_band, question_type
from mlxrag.evaluate.gate import gate, limits
from mlxrag.evaluate.page import to_html
from mlxrag.evaluate.report import Report, quadrant, to_markdown
from mlxrag.evaluate.run import answer_all, from_row, read_rows, row_of
from mlxrag.evaluate.score import Score
from mlxrag.rag.answer import Answer
from mlxrag.rag.system import Asked, System, ask, ask_many, open_system
from mlxrag.settings import Evaluating, Making
from mlxrag.workspace import Artefact, Workspace
from tests.evaluate import world as w
from tests.evaluate.kit import ask as an_example
from tests.evaluate.kit import hits, passage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def ws(root: Path) -> Workspace:
    return w.make_world(root)


@pytest.fixture(scope="module")
def asked(ws: Workspace) -> Dataset:
    return w.dataset(ws)


@pytest.fixture
def system(root: Path, ws: Workspace) -> Iterator[System]:
    with open_system(w.settings(root), ws) as opened:
        yield opened


def run(system: System, ws: Workspace, asked: Dataset, name: str) -> tuple[Artefact, Report]:
    done: list[Any] = []
    examples = {e.id: e for e in asked.split()}
    rows = list(
        evaluate(
            system, asked, examples, ws, name, selection={"split": "all"}, finished=lambda a, r: done.append((a, r))
        )
    )
    assert [r.example_id for r in rows] == list(examples)
    return done[0]


def test_a_run_holds_answers_scores_and_reports(system: System, ws: Workspace, asked: Dataset) -> None:
    """A row for every question, a score for every question and measure, JSON, Markdown and HTML; the folder is gone."""
    artefact, report = run(system, ws, asked, "whole")
    assert {"answers.jsonl", "scores.jsonl", "report.json", "report.md", "report.html"} <= set(
        artefact.manifest["files"]
    )
    assert len(list(read_scores(artefact.path))) == 8 * len(report.figures)
    assert all(f.n + f.missing == 8 for f in report.figures)
    figures = {f.measure: f for f in report.figures}
    assert figures["hit_at_1"].n == 6 and figures["hit_at_1"].missing == 2
    assert figures["hit_at_5"].mean == 1.0 and sum(report.quadrants.values()) == 8
    assert report_of(artefact)["dataset"]["ref"] == asked.ref and asked.ref in artefact.manifest["inputs"]
    assert list(examples_of(ws, artefact)) == [e.id for e in asked.split()]
    assert not list((ws.root / "runs" / "whole").glob(".run-*"))
    again = rescore(ws, artefact)
    assert again.version != artefact.version and report_of(again)["figures"] == report_of(artefact)["figures"]


def test_batched_answers_are_those_asked_one_by_one(system: System, asked: Dataset, tmp_path: Path) -> None:
    """Greedy answers of a batch are the same texts as of single questions."""
    examples = list(asked.split())
    batched = [row.answer.text for row in answer_all(system, examples, tmp_path)]
    assert batched == [ask(system, e.question).text for e in examples]


def test_rows_come_back_as_they_were(system: System, asked: Dataset) -> None:
    """An answer written as JSON and read again is equal in all that measures look at."""
    for answer in ask_many(system, [Asked(e.question) for e in asked.split()]):
        back = from_row(json.loads(json.dumps(row_of("x", answer)))).answer
        assert (back.text, back.hits, back.citations, back.refused, back.logprob) == (
            answer.text, answer.hits, answer.citations, answer.refused, answer.logprob,
        )  # fmt: skip


def test_a_failing_question_costs_one_row(
    system: System, asked: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch dies, its questions are asked one by one, and the one at fault has its reason; no measure has a value."""
    real = room.ask_many

    def faulty(system: System, questions: Any) -> Iterator[Answer]:
        asked = list(questions)
        if any("Ox" in a.question for a in asked):
            raise RuntimeError("out of luck")
        yield from real(system, asked)

    monkeypatch.setattr(room, "ask_many", faulty)
    rows = list(answer_all(system, list(asked.split()), tmp_path))
    failed = [r for r in rows if r.answer.failure]
    assert len(rows) == 8 and [r.answer.failure for r in failed] == ["RuntimeError: out of luck"]


def test_a_killed_run_goes_on_where_it_was(root: Path, ws: Workspace, asked: Dataset, tmp_path: Path) -> None:
    """SIGKILL after each of three rows: the rows are there, no question is asked twice, and the end is that of a whole run."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from tests.evaluate import world as w; from mlxrag.workspace import Workspace\n"
        "from mlxrag.data.dataset import open_dataset; from mlxrag.evaluate import run as room; from mlxrag.rag.system import open_system\n"
        "room.WINDOW = 2\n"
        "root, ws = Path(sys.argv[2]), Workspace(Path(sys.argv[2], 'ws'))\n"
        "with open_system(w.settings(root), ws) as system:\n"
        "    rows = list(open_dataset(ws, 'asked').split()); seen = 0\n"
        "    have = sum(1 for _ in room.read_rows(Path(sys.argv[3])))\n"
        "    for row in room.answer_all(system, rows, Path(sys.argv[3])):\n"
        "        seen += 1\n"
        "        if seen == have + 3: os.kill(os.getpid(), 9)\n"
    )
    codes = []
    for _ in range(4):
        codes.append(
            subprocess.run(
                [sys.executable, "-c", code, str(ROOT), str(root), str(tmp_path)], cwd=ROOT, check=False
            ).returncode
        )
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0, 0] or codes[:2] == [-signal.SIGKILL] * 2
    kept = list(read_rows(tmp_path))
    assert sorted(r.example_id for r in kept) == sorted(e.id for e in asked.split())
    with open_system(w.settings(root), ws) as system:
        whole = {r.example_id: r.answer.text for r in answer_all(system, list(asked.split()), tmp_path / "other")}
    assert {r.example_id: r.answer.text for r in kept} == whole
    assert (tmp_path / "answers.jsonl").is_file()


def test_the_report_names_where_it_fails() -> None:
    """Found or not, right or wrong, unanswerable, failed: each answer is in one of the quadrants."""
    gold = passage("gold")
    asked = an_example("?", "x", gold=(gold,))
    found, other = (
        room.Row("i", Answer("?", "x", hits(gold))),
        room.Row("i", Answer("?", "x", hits(passage("no", "o.md")))),
    )
    assert [quadrant(asked, r, right) for r in (found, other) for right in (True, False)] == [
        "found, right", "found, wrong", "not found, right", "not found, wrong",
    ]  # fmt: skip
    assert quadrant(an_example("?"), room.Row("i", Answer("?", "", refused=True)), True) == "unanswerable, refused"
    assert quadrant(an_example("?", "x"), found, True) == "no gold passage"
    assert quadrant(asked, room.Row("i", Answer("?", "", failure="died")), None) == "failed"


def test_the_page_escapes_and_needs_no_network(system: System, ws: Workspace, asked: Dataset) -> None:
    """What models and documents say is text in the page; there is no script and no address."""
    _, report = run(system, ws, asked, "page")
    evil = '<script>alert(1)</script> & "quotes"'
    import dataclasses

    worst = ({**(report.worst[0] if report.worst else {}), "question": evil, "text": evil, "answers": [evil], "quadrant": "x", "confidence": 0.5,
              "rank_of_gold": None, "scores": {}, "tags": [evil], "cited": [], "hits": [], "gold": []},)  # fmt: skip
    html = to_html(dataclasses.replace(report, title=evil, worst=worst, notes=(evil,)))
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org", "") and "&lt;script&gt;" in html
    markdown = to_markdown(dataclasses.replace(report, worst=({**worst[0], "question": "a | b\nc"},)))
    assert "a \\| b c" in markdown


def test_question_types_and_lengths() -> None:
    """Slices name how a question asks and how long its answer is."""
    types = [
        question_type(an_example(q))
        for q in ("How many days?", "In which town?", "Is it so?", "Tell me.", "Wo ist es?")
    ]
    assert types == ["how many", "which", "yes/no", "other", "other"]
    assert [length_band(an_example("?", *a)) for a in ((), ("one",), ("one two", "a b c d"), ("a " * 20,))] == [
        "no answer", "1 word", "2-3 words", "over 10 words",
    ]  # fmt: skip


def scores(values: list[float | None], measure: str = "f1") -> list[Score]:
    return [Score(f"q{i}", measure, v) for i, v in enumerate(values)]


def test_the_gate_passes_fails_and_misses() -> None:
    """A large proven drop fails, a small or unproven one passes, a lost value is missing; other questions are a mismatch."""
    settings, homes = Evaluating(resamples=200), {f"q{i}": f"d{i}" for i in range(30)}
    before = scores([1.0] * 30)

    def verdict(after: list[Score], limit: float = 0.02) -> Any:
        return gate(before, after, homes, {"f1": limit}, settings)[0]

    worse = verdict(scores([1.0] * 18 + [0.0] * 12))
    assert worse.verdict == "failed" and worse.p is not None and worse.p < 0.01 and worse.change == pytest.approx(-0.4)
    assert worse.high is not None and worse.high < 0
    assert verdict(scores([1.0] * 18 + [0.0] * 12), 0.5).verdict == "passed"
    unclear = verdict(scores([1.0] * 28 + [0.0] * 2))
    assert unclear.verdict == "passed" and "do not prove" in unclear.why
    assert verdict(scores([1.0] * 29 + [None])).verdict == "missing"
    assert verdict(scores([1.0] * 30, "em")).verdict == "missing"
    clustered = gate(
        before, scores([1.0] * 18 + [0.0] * 12), {f"q{i}": f"d{i // 15}" for i in range(30)}, {"f1": 0.02}, settings
    )[0]
    assert clustered.verdict == "passed" and clustered.documents == 2
    with pytest.raises(Mismatch):
        gate(before, [Score("other", "f1", 1.0)], homes, {"f1": 0.1}, settings)
    with pytest.raises(BadInput, match="MEASURE=NUMBER"):
        limits(["f1"])


def test_grading_notes_how_difficult_examples_are(root: Path, ws: Workspace, asked: Dataset, tmp_path: Path) -> None:
    """Rank of the passage and the model's F1 with and without it stand in the gates; a grading that was cut off goes on."""
    with open_system(w.settings(root), ws) as system:
        done = tmp_path / "notes.jsonl"
        first = next(iter(grade(system, asked.split(), Making(), done)))
        assert first.gates["retrieval"].startswith("rank 1") and first.gates["closed_book"].startswith("f1")
        lines = done.read_text().splitlines()
        done.write_text("\n".join(lines[:3]) + "\n")
        whole = list(grade(system, asked.split(), Making(), done))
    assert [e.id for e in whole] == [e.id for e in asked.split()] and whole[0].gates == first.gates
    assert len(done.read_text().splitlines()) == 8 and whole[-1].gates["reading"] == "no passage"
    assert gold_rank(whole[0]) == 1.0


def test_the_command_line_runs_reports_and_gates(root: Path, ws: Workspace, asked: Dataset, tmp_path: Path) -> None:
    """eval run, report and gate from a config file: JSON on stdout, exit 0 for itself and 3 for a lost figure."""
    config = w.write_config(root, tmp_path / "toy.toml")
    where = ["--workspace", str(ws.root)]

    def call(*words: str) -> Any:
        return CliRunner().invoke(cli, ["eval", *words, *where], standalone_mode=False)

    first = call("run", str(config), "--data", "asked", "--json")
    assert first.exception is None, first.output
    answer = json.loads(first.stdout)
    assert (
        answer["kind"] == "runs"
        and answer["name"] == "toy"
        and answer["examples"] == 8
        and Path(answer["report"]).is_file()
    )
    second = call("run", str(config), "--data", "asked", "--split", "test", "--num", "5", "--name", "few", "--json")
    assert json.loads(second.stdout)["examples"] == 5
    assert call("report", "toy", "--to", "markdown").stdout.startswith("# toy")
    assert (
        call("report", "toy", "--out", str(tmp_path / "r.html"), "--json").exception is None
        and (tmp_path / "r.html").is_file()
    )
    same = call("gate", "toy", "--baseline", "toy", "--max-drop", "f1=0.02", "--json")
    assert same.exception is None and json.loads(same.stdout)["passed"]
    lost = call("gate", "few", "--baseline", "toy", "--max-drop", "f1=0.02", "--json")
    assert lost.return_value == 3 and json.loads(lost.stdout)["checks"][0]["verdict"] == "missing"
    with pytest.raises(BadInput, match="did you mean 'f1'"):
        raise call("run", str(config), "--data", "asked", "--measures", "f11").exception
