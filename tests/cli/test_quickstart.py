"""The loop runs real commands, goes on where it stopped, and says all three verdicts honestly."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxrag import settings
from mlxrag.cli import quickstart as module
from mlxrag.cli.quickstart import Loop, _alone, _system, judge, quickstart
from mlxrag.errors import BadInput, MlxragError


def compared(difference: float, p: float | None, corrected: float | None = None) -> dict[str, Any]:
    row = {"measure": "correct", "mean_a": 0.5, "mean_b": 0.5 + difference, "difference": difference, "low": None,
           "high": None, "n": 30, "p": p, "corrected": corrected}  # fmt: skip
    return {
        "verdicts": ["B answers <b>."],
        "comparisons": [row],
        "time_ratios": [],
        "path": "/c",
        "report": "/c/r.html",
    }


@pytest.mark.parametrize(
    ("difference", "p", "corrected", "word"),
    [
        (0.1, 0.01, None, "better"),
        (-0.1, 0.01, None, "worse"),
        (0.1, 0.2, None, "not distinguishable"),
        (0.1, 0.01, 0.08, "not distinguishable"),
        (0.0, None, None, "not distinguishable"),
    ],
)
def test_the_verdict_follows_the_corrected_p_value(
    difference: float, p: float | None, corrected: float | None, word: str
) -> None:
    """Better and worse need a corrected p below 0.05; everything else is not distinguishable."""
    assert judge(compared(difference, p, corrected))["word"] == word


def test_the_systems_it_writes_are_configs_that_load(tmp_path: Path) -> None:
    """Base and adapter differ in one setting only."""
    for name, adapter in (("base", ""), ("tuned", "quick@v1")):
        (tmp_path / f"{name}.toml").write_text(_system("quick", "reader", adapter))
    base, tuned = settings.read(tmp_path / "base.toml"), settings.read(tmp_path / "tuned.toml")
    assert base.retrieval.index == tuned.retrieval.index == "quick"
    assert (base.model.adapter_path, tuned.model.adapter_path) == ("", "quick@v1")


def test_a_step_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    """A step answers what its command answered, is written down, and is skipped the next time, unless its line is another."""
    loop = Loop(tmp_path, tmp_path / "steps.json", {}, quiet=True)
    (tmp_path / "note.md").write_text("# Leave\n\nEvery employee has 28 days of leave.\n")
    answer = loop.step("Read", "", "ingest", str(tmp_path / "note.md"), says=str)
    assert answer["indexed"] == 1
    done = json.loads((tmp_path / "steps.json").read_text())
    (tmp_path / "note.md").unlink()
    again = Loop(tmp_path, tmp_path / "steps.json", done, quiet=True)
    assert again.step("Read", "", "ingest", str(tmp_path / "note.md"), says=str) == answer
    with pytest.raises(MlxragError, match="'Read' failed"):
        again.step("Read", "", "ingest", str(tmp_path / "other.md"), says=str)


def test_a_step_that_fails_stops_the_loop_and_keeps_what_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command's own sentence is shown; the loop says how to go on."""
    loop = Loop(tmp_path, tmp_path / "steps.json", {"Read": {}}, quiet=True)
    with pytest.raises(MlxragError, match="run mlxrag quickstart again"):
        loop.step("Question", "", "ingest", str(tmp_path / "none"), says=str)
    assert "none" in capfd.readouterr().err and set(loop.done) == {"Read"}


def test_a_second_loop_waits_for_what_the_first_left_running(tmp_path: Path) -> None:
    """The lock goes on with the command that inherited it, so a killed loop's last step is not done twice at once."""
    held = (tmp_path / "lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    entered = threading.Event()

    def second() -> None:
        with _alone(tmp_path, quiet=True):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(0.2)
    held.close()
    assert entered.wait(10)
    thread.join()


ANSWERS: dict[str, dict[str, Any]] = {
    "Read": {"documents": 3, "passages": 9, "indexed": 3, "unchanged": 0, "refused": [{"source": "x", "reason": "<i>"}]},
    "Question": {"name": "q", "version": "v1", "kept": 40, "proposed": 60, "gates": {"new": 2},
                 "counts": {"train": 20, "valid": 5, "test": 15}},
    "Measure": {"figures": {"correct": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 15}}, "examples": 15, "report": "/m"},
    "Train": {"name": "a", "version": "v1", "path": "/a", "scores": {"iterations": 6, "base": {"valid_loss": 2.0},
              "best": {"valid_loss": 1.0, "iteration": 5}}},
    "Measure again": {"figures": {}, "examples": 15, "report": "/n"},
    "Keep": {"name": "f", "version": "v1", "path": "/f", "kept": 0.99},
    "Advise": {"advices": [{"text": "try", "evidence": "e", "gain": {"words": "w"}, "source": "s"}], "page": "/advice",
               "experiments": [{"text": "more", "commands": []}, {"text": "try", "commands": ["mlxrag ab plan next", "run"]}]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "p", "word", "next_", "kept"),
    [
        (0.2, 0.001, "better", 'mlxrag ask "your question" --config', True),
        (-0.2, 0.001, "worse", "mlxrag ab plan next && run", False),
        (0.0, 0.9, "not distinguishable", "mlxrag ab plan next && run", False),
    ],
)
def test_the_loop_ends_with_an_adapter_a_report_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float, p: float, word: str, next_: str, kept: bool
) -> None:
    """Whatever the verdict: it is on the page, what the files are called is escaped, and only a better adapter is fused."""
    asked: list[tuple[str, ...]] = []

    def step(self: Loop, title: str, why: str, *args: str, says: Any) -> dict[str, Any]:
        answer = compared(difference, p) if title == "Compare" else ANSWERS[title]
        asked.append(args)
        assert says(answer)
        return answer

    monkeypatch.setattr(module.Loop, "step", step)
    args = ["--workspace", str(tmp_path / "ws"), "--json"]
    value = json.loads(CliRunner().invoke(quickstart, args, catch_exceptions=False).stdout)
    assert value["verdict"] == word and value["next"].startswith(next_) and value["adapter"] == "/a"
    assert value["model"] == ("/f" if kept else None)
    assert any(a[:2] == ("adapter", "fuse") for a in asked) == kept
    page = Path(value["report"]).read_text()
    assert module.SAID[word] in page and "&lt;i&gt;" in page and "B answers &lt;b&gt;" in page
    drawn = CliRunner().invoke(quickstart, args[:-1], catch_exceptions=False).stdout
    assert "\nNext, " in drawn and "Report: " in drawn


def test_a_better_adapter_that_cannot_be_fused_is_kept_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's reason is said, and the next command asks the model with its adapter."""

    def step(self: Loop, title: str, why: str, *args: str, says: Any) -> dict[str, Any]:
        refused = {"refused": "it keeps 12 % <i>"} if title == "Keep" else ANSWERS.get(title)
        answer = refused or compared(0.2, 0.001)
        assert says(answer)
        return answer

    monkeypatch.setattr(module.Loop, "step", step)
    args = ["--workspace", str(tmp_path / "ws"), "--json"]
    value = json.loads(CliRunner().invoke(quickstart, args, catch_exceptions=False).stdout)
    assert value["verdict"] == "better" and value["model"] is None and "tuned.toml" in value["next"]
    page = Path(value["report"]).read_text()
    assert "beside the model" in page and "it keeps 12 % &lt;i&gt;" in page and "The fused model" not in page


def test_an_adapter_that_learnt_nothing_of_use_is_not_called_an_advance() -> None:
    """Where no validation was better than the model alone, the words say so."""
    scores = {"iterations": 6, "base": {"valid_loss": 1.6}, "best": {"valid_loss": 1.7, "iteration": 2}}
    assert "never fell below the 1.600" in module._learnt({"scores": scores})


def test_without_an_experiment_to_make_the_next_step_is_more_questions(tmp_path: Path) -> None:
    """Where the documents give too few questions for any advice, the loop says what gives more."""
    answers = ANSWERS | {"Advise": {"experiments": [{"text": "more", "commands": []}]}}
    command, why = module._next("not distinguishable", answers, tmp_path, (Path("a b"),), " --workspace w")
    assert command == "mlxrag model choose --goal best"
    assert "40 questions tell little" in why and "mlxrag quickstart 'a b' --model NAME --workspace w" in why


def test_what_the_loop_has_just_tried_is_not_what_comes_next(tmp_path: Path) -> None:
    """An experiment that begins by training an adapter on these documents is passed over for the next one."""
    again = {"text": "an adapter", "commands": ["mlxrag adapter train --data q", "mlxrag ab run next-1"]}
    other = {"text": "more passages", "commands": ["mlxrag ab run next-2"]}
    answers = ANSWERS | {"Advise": {"experiments": [again, other]}}
    command, why = module._next("not distinguishable", answers, tmp_path, (), "")
    assert command == "mlxrag ab run next-2" and "more passages" in why


def test_a_gate_that_says_no_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 is written down with what was answered, and is not asked again."""
    code = "import json, sys; print(json.dumps({'refused': 'no'})); sys.exit(3)"
    real = subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda _, **kw: real([sys.executable, "-c", code], **kw))
    loop = Loop(tmp_path, tmp_path / "steps.json", {}, quiet=True)
    assert loop.step("Keep", "", "adapter", "fuse", says=module._fused) == {"refused": "no"}
    assert json.loads((tmp_path / "steps.json").read_text())["Keep"]["answer"] == {"refused": "no"}


def test_documents_that_are_not_there_are_said_before_anything_is_done(tmp_path: Path) -> None:
    """A mistyped folder costs nothing."""
    with pytest.raises(BadInput, match="no such file or folder"):
        CliRunner().invoke(quickstart, [str(tmp_path / "docs")], catch_exceptions=False)
