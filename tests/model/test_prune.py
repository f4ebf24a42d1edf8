"""Fewer layers and fewer tokens, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np

from mlxrag.errors import BadInput
from mlxrag.model.load import load
from mlxrag.model.network import assemble, load_network
from mlxrag.model.prune import drop_layers, influence, least
from mlxrag.model.smaller import smaller
from mlxrag.model.source import Source
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.model.trim import choose_tokens, processor_ids, same_cuts, trim_network
from mlxrag.settings import Quantizing
from mlxrag.workspace import Workspace, artefacts, open_workspace
from tests.toy_model import TEXT, write_model

ROWS = np.random.default_rng(0).integers(3, 300, size=(3, 16)).tolist()


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def silent_layer(folder: Path, number: int) -> Path:
    """A model in which one layer adds nothing to what goes through it."""
    toy = write_model(folder, num_hidden_layers=4)
    weights = dict(mx.load(str(toy / "model.safetensors")))  # type: ignore[arg-type]
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        name = f"model.layers.{number}.{part}.weight"
        weights[name] = mx.zeros(weights[name].shape)
    mx.eval(weights)
    mx.save_safetensors(str(toy / "model.safetensors"), weights)
    return toy


def test_a_layer_that_does_nothing_has_no_influence_and_goes_without_loss(tmp_path: Path) -> None:
    """Its influence is 0, it is the one that is dropped, and the logits stay the same."""
    toy = silent_layer(tmp_path / "toy", 2)
    network, _, _ = load_network(toy)
    ids = mx.array([ROWS[0]])
    before = network(ids)
    scores = influence(network, ROWS)
    assert scores[2] == pytest.approx(0.0, abs=1e-5) and min(scores[:2]) > 1e-3
    assert mx.array_equal(network(ids), before)  # the network is as it was
    assert least(scores, 1) == (2,)
    cut = drop_layers(assemble(toy), (2,))
    assert cut.config["num_hidden_layers"] == 3
    assert mx.allclose(cut.network(ids), before, atol=1e-5)


def test_layers_that_cannot_go_are_refused(tmp_path: Path) -> None:
    """All but two layers at most; and none where their number says what they are."""
    with pytest.raises(BadInput, match="1 to 2 can be left out, not 3"):
        least([0.1, 0.2, 0.3, 0.4], 3)
    toy = write_model(tmp_path / "toy", "gemma3_text")
    with pytest.raises(BadInput, match="sliding_window_pattern = 3"):
        drop_layers(assemble(toy), (1,))


def test_a_trimmed_vocabulary_cuts_the_texts_as_before_and_computes_the_same(tmp_path: Path) -> None:
    """Kept tokens have the original's logits, up to the rows that are gone; special tokens stay special."""
    toy = write_model(tmp_path / "toy")
    tokenizer = load_tokenizer(toy, [1])
    text = TEXT.splitlines()[0]
    chosen = choose_tokens(toy, tokenizer, [text], keep_top=0)
    assert len(chosen.kept) < tokenizer.vocab_size and {0, 1, 2} <= set(chosen.kept)
    (tmp_path / "toy" / "tokenizer.json").write_text(json.dumps(chosen.tokenizer))
    trimmed = load_tokenizer(toy, [1])
    assert same_cuts(tokenizer, trimmed, chosen, [text]) == 1.0
    assert trimmed.decode(trimmed.encode("Zürich <|end|>")) == "Zürich <|end|>"
    ids = tokenizer.encode(text)
    place = chosen.new_id
    network, _, _ = load_network(toy)
    cut = trim_network(assemble(toy), chosen)
    old = network(mx.array([ids]))[0]
    new = cut.network(mx.array([[place[i] for i in ids]]))[0]
    assert mx.allclose(new, old[:, mx.array(list(chosen.kept))], atol=1e-4)


def test_post_processors_are_renumbered() -> None:
    """Ids in templates and in pairs of a token and its id follow the new numbers."""
    part = {
        "type": "TemplateProcessing",
        "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}},
        "sep": ["</s>", 9],
    }
    done = processor_ids(part, {7: 0, 9: 1})
    assert done["special_tokens"]["<s>"]["ids"] == [0] and done["sep"] == ["</s>", 1]


def test_a_smaller_model_is_a_version_with_its_figures(tmp_path: Path, ws: Workspace) -> None:
    """Both cuts at once give a model that loads; a trial makes nothing."""
    toy = silent_layer(tmp_path / "toy", 1)
    source = Source(toy, f"directory:{toy}", "toy")
    settings = Quantizing(calibration_samples=3, calibration_tokens=16)
    texts = [TEXT.splitlines()[0]] * 3
    tried = smaller(source, texts, ws, settings, drop_layers=1, keep=False)
    assert tried.artefact is None and artefacts(ws, "models") == []
    assert tried.facts["after"]["kl_mean"] == pytest.approx(0.0, abs=1e-6)
    made = smaller(source, texts, ws, settings, drop_layers=1, keep_top=16)
    assert made.artefact is not None
    after, before = made.facts["after"], made.facts["before"]
    assert after["layers"] == 3 and after["tokens"] < before["tokens"] and after["nbytes"] < before["nbytes"]
    assert made.facts["same_cuts"] == 1.0 and 0 <= made.facts["lost_mass"] < 1
    with load(made.artefact.name, ws) as model:
        assert model.tokenizer.vocab_size <= after["tokens"]
        assert 1 in {model.tokenizer.id("eos_token"), *model.tokenizer.eos_ids}
