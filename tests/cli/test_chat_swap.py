"""`mlxrag chat` while `mlxrag model use` moves the name of its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mlxrag.model  # noqa: F401  # isort: skip

from mlxrag.cli import chat
from mlxrag.cli.main import cli
from mlxrag.model.convert import convert
from mlxrag.model.encode import load_encoder
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.settings import Settings
from mlxrag.workspace import Workspace, open_workspace, use
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

Turn = str | Callable[[], object]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A workspace with an index of two documents and a model of three versions, the first of which is in use."""
    ws = open_workspace(tmp_path / "ws")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "leave.txt").write_text("Leave is 28 days a year. It is asked for in writing.")
    (docs / "shop.txt").write_text("The shop opens at nine on Monday.")
    encoder = load_encoder(str(write_encoder(tmp_path / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
    for seed in range(3):
        convert(str(write_model(tmp_path / f"toy{seed}", seed=seed, num_hidden_layers=1)), ws, name="toy")
    use(ws, "models", "toy@v1")
    return ws


def talk(turns: list[Turn], ws: Workspace, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], str]:
    """Run a chat of these turns, calling those that are functions between two lines; return its answers and stderr."""
    left = iter(turns)

    def read(*_: object) -> str | None:
        for turn in left:
            if isinstance(turn, str):
                return turn
            turn()
        return None

    monkeypatch.setattr(chat, "_read", read)
    words = [
        "chat",
        "--model",
        "toy",
        "--encoder",
        str(encoder),
        "--max-tokens",
        "4",
        "--workspace",
        str(ws.root),
        "--json",
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_a_chat_goes_on_with_another_version_between_two_turns(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said stays: a follow-up is still searched for with the question before it, and going back is the same."""
    answers, said = talk(
        [
            "How many days of leave?",
            lambda: use(ws, "models", "toy@v2"),
            "And is it asked for in writing?",
            lambda: use(ws, "models", "toy@v1"),
            "How many days of leave?",
        ],
        ws, tmp_path / "encoder", monkeypatch,
    )  # fmt: skip
    assert [one["model"] for one in answers] == ["toy@v1", "toy@v2", "toy@v1"]
    assert "toy@v2 answers now." in said and "toy@v1 answers now." in said
    assert len(answers[1]["searched"]) > len(answers[1]["question"])


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_talking(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is shown once, the old version is back and answers, and the next version that is whole is taken up."""

    def broken() -> None:
        file = ws.root / "models" / "toy" / "v2" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
        use(ws, "models", "toy@v2")

    answers, said = talk(
        ["How many days of leave?", broken, "When does the shop open?", "And on Monday?", lambda: use(ws, "models", "toy@v3"),
         "How many days of leave?"],
        ws, tmp_path / "encoder", monkeypatch,
    )  # fmt: skip
    assert [one["model"] for one in answers] == ["toy@v1", "toy@v1", "toy@v1", "toy@v3"]
    assert said.count("is truncated") == 1 and said.count("toy@v1 answers on") == 1
