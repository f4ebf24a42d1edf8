"""`mlxrag adapter`: what is kept is listed, shown, moved, taken in and out, and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxrag.cli.adapter import adapter
from mlxrag.errors import MlxragError
from mlxrag.workspace import create, open_workspace
from tests.toys import llama_toy, write_adapter, write_model


def say(workspace: Path, *words: str) -> Any:
    done = CliRunner().invoke(adapter, [*words, "--workspace", str(workspace), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_adapter_goes_through_its_life(tmp_path: Path) -> None:
    """Two versions, rolled back, shown, exported, imported on its base with a proof, and removed."""
    ws = tmp_path / "ws"
    model = write_model(tmp_path / "toy")
    network = llama_toy(vocab_size=128, hidden_size=32, intermediate_size=48, layers=2)
    for seed in (1, 2):
        with create(open_workspace(ws), "adapters", "mine") as draft:
            folder = write_adapter(tmp_path / f"a{seed}", network, seed=seed)
            for file in folder.iterdir():
                (draft.path / file.name).write_bytes(file.read_bytes())
    assert [(a["version"], a["current"]) for a in say(ws, "list")] == [("v1", False), ("v2", True)]
    assert say(ws, "use", "mine@v1")["version"] == "v1"
    assert [a["current"] for a in say(ws, "list")] == [True, False]
    shown = say(ws, "show", "mine")
    assert (shown["name"], shown["kind"], shown["rank"]) == ("mine@v1", "lora", 4)
    say(ws, "export", "mine", str(tmp_path / "peft"))
    made = say(ws, "import", str(tmp_path / "peft"), "--model", str(model), "--name", "back")
    assert made["difference"] < 1e-4 and made["base"]["name"] == "toy"
    assert say(ws, "merge", "mine@v1", "mine@v2", "--name", "both")["rank"] == 8
    assert say(ws, "remove", "back")["name"] == "back"
    with pytest.raises(MlxragError, match="no adapter 'nothing'"):
        say(ws, "show", "nothing")
