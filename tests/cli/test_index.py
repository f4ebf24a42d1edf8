"""`mlxrag index warm`: JSON of what is ready, a limit that holds, one sentence where nothing was asked."""

import json

import pytest

from tests.toy_encoder import write_encoder
from tests.toy_model import write_model


@pytest.fixture
def mlxrag(tmp_path, monkeypatch, command):
    """Run a command in a workspace of its own, with a toy encoder and a toy model, over one document."""
    monkeypatch.setenv("MLXRAG_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("MLXRAG_ENCODER", str(write_encoder(tmp_path / "encoder")))
    monkeypatch.setenv("MLXRAG_MODEL", str(write_model(tmp_path / "model")))
    monkeypatch.setenv("MLXRAG_MAX_TOKENS", "4")
    (tmp_path / "birds.txt").write_text("The owl hunts at night. The kiwi cannot fly.\n")
    assert command("ingest", tmp_path / "birds.txt")[0] == 0
    return command


def test_popular_passages_are_made_ready_once_and_used_by_the_next_question(mlxrag):
    """The second time they are there before; the answer says how many tokens it did not process."""
    assert mlxrag("ask", "owl")[0] == 0
    code, out, _ = mlxrag("index", "warm", "--json")
    first = json.loads(out)
    assert code == 0 and first["warmed"][0]["seconds"] > 0 and 0 < first["bytes"] <= first["limit"] == 500_000_000
    again = json.loads(mlxrag("index", "warm", "--json")[1])
    assert again["warmed"][0]["seconds"] == 0 and again["bytes"] == first["bytes"]
    answer = json.loads(mlxrag("ask", "kiwi", "--json")[1])
    assert answer["usage"]["reused_tokens"] >= first["warmed"][0]["tokens"] - 1
    assert "were not processed again" in mlxrag("ask", "owl")[2]


def test_nothing_asked_and_a_size_that_is_none_are_one_sentence(mlxrag):
    """Exit code 1, and what to do."""
    code, _, err = mlxrag("index", "warm")
    assert code == 1 and "ask some first" in err
    code, _, err = mlxrag("index", "warm", "--size", "much")
    assert code == 1 and "no size" in err


def test_a_small_size_leaves_sets_out(mlxrag):
    """And says that none is ready."""
    mlxrag("ask", "owl")
    code, out, _ = mlxrag("index", "warm", "--size", "1KB")
    assert code == 0 and out.startswith("0 sets")
