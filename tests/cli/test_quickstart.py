"""The loop runs real commands, goes on where it stopped, and says all three verdicts honestly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxrag import settings
from mlxrag.cli.quickstart import Loop, _system, judge
from mlxrag.errors import MlxragError


def compared(difference: float, p: float | None, corrected: float | None = None) -> dict[str, object]:
    return {
        "verdicts": ["B answers better."],
        "comparisons": [{"difference": difference, "p": p, "corrected": corrected}],
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
    """A step answers what its command answered, is written down, and is skipped the next time."""
    loop = Loop(tmp_path, tmp_path / "steps.json", {}, quiet=True)
    (tmp_path / "note.md").write_text("# Leave\n\nEvery employee has 28 days of leave.\n")
    answer = loop.step("Read", "", "ingest", str(tmp_path / "note.md"))
    assert answer["indexed"] == 1
    done = json.loads((tmp_path / "steps.json").read_text())
    again = Loop(tmp_path, tmp_path / "steps.json", done, quiet=True)
    assert again.step("Read", "", "ingest", "/no/such/file") == answer


def test_a_step_that_fails_stops_the_loop_and_keeps_what_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command's own sentence is shown; the loop says how to go on."""
    loop = Loop(tmp_path, tmp_path / "steps.json", {"Read": {}}, quiet=True)
    with pytest.raises(MlxragError, match="run mlxrag quickstart again"):
        loop.step("Question", "", "ingest", str(tmp_path / "none"))
    assert "none" in capfd.readouterr().err and set(loop.done) == {"Read"}
