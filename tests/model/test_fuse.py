"""Fusing is measured first, refused where too little survives, and what is written is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import attach, detach
from mlxrag.model.fuse import WouldNotSurvive, fused_layers, gate, placed, survival, write_fused
from mlxrag.model.load import load_network
from tests.toys import fresh_load, llama_toy, write_adapter

WORDS = mx.array([[1, 5, 9, 2, 7]])
ANSWERS = [([1, 5, 9, 2, 7, 30, 31], 4), ([3, 3, 8, 60, 12], 2)]


def written(folder: Path, bits: int) -> Path:
    """The toy as a model directory."""
    network = llama_toy(bits=bits)
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(network.parameters())), {"format": "mlx"})
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "rms_norm_eps": 1e-5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    if bits:
        config["quantization"] = {"group_size": 32, "bits": bits, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_on_an_unquantized_base_everything_survives(tmp_path: Path, kind: str) -> None:
    """The fused network gives the adapter's logits."""
    network = llama_toy()
    adapter = read_adapter(write_adapter(tmp_path / "a", network, kind=kind))
    made, found = survival(network, adapter, "same", ANSWERS)
    assert found.kept is not None and found.kept > 0.999 and found.agreement == 1.0 and found.tokens == 6
    assert all(layer.cosine > 0.999 for layer in found.layers)
    attach(network, adapter)
    expected = network(WORDS)
    detach(network)
    with placed(network, made):
        assert mx.abs(network(WORDS) - expected).max().item() < 1e-4


def test_a_small_change_is_lost_in_4_bits_and_kept_in_8(tmp_path: Path) -> None:
    """A change of about a per cent of the weight: the cosine is as in the literature, and the gate says no."""
    network = llama_toy(bits=4)
    adapter = read_adapter(write_adapter(tmp_path / "a", network, size=0.012, keys=None))
    cosines = {}
    for into in ("same", "8", "half"):
        _, layers = fused_layers(network, adapter, into)  # type: ignore[arg-type]
        cosines[into] = sum(layer.cosine for layer in layers) / len(layers)
        assert all(0.001 < layer.share < 0.03 for layer in layers)
    assert cosines["same"] < 0.35 and cosines["8"] > 0.8 and cosines["half"] > 0.99
    _, lost = survival(network, adapter, "same", ANSWERS)
    with pytest.raises(WouldNotSurvive, match=r"less than 80%; keep the adapter beside.*--into 8.*--qat 4"):
        gate(lost, 0.8, "same", 4)
    _, kept = survival(network, adapter, "8", ANSWERS)
    gate(kept, 0.8, "8", 4)


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("into", ["same", "8", "half"])
def test_what_is_written_is_what_was_measured(tmp_path: Path, bits: int, into: str) -> None:
    """A directory that loads, layers of another precision named in its config, with the measured logits."""
    source = written(tmp_path / "base", bits)
    network, _, _ = load_network(source)
    adapter = read_adapter(write_adapter(tmp_path / "a", network))
    made, _ = survival(network, adapter, into)  # type: ignore[arg-type]
    with placed(network, made):
        expected = network(WORDS)
    target = tmp_path / "fused"
    target.mkdir()
    facts = write_fused(source, target, made, into)  # type: ignore[arg-type]
    assert facts["nbytes"] > 0
    again, _, _ = load_network(target)
    assert mx.abs(again(WORDS) - expected).max().item() < 2e-3 * mx.abs(expected).max().item()


def test_mlx_lms_own_fuse_gives_the_same_layers(tmp_path: Path) -> None:
    """Into the same bits, layer by layer."""
    network = llama_toy(bits=4)
    folder = write_adapter(tmp_path / "a", network)
    made, _ = fused_layers(network, read_adapter(folder), "same")
    theirs = dict(fresh_load(llama_toy(bits=4), folder).named_modules())
    for path, layer in made.items():
        assert mx.array_equal(theirs[path].fuse().weight, layer.weight).item()


def test_without_answers_the_gate_looks_at_the_layers(tmp_path: Path) -> None:
    """And whole-weight adapters have nothing to fuse."""
    network = llama_toy(bits=4)
    adapter = read_adapter(write_adapter(tmp_path / "a", network, size=0.001))
    _, found = survival(network, adapter, "same")
    assert found.kept is None and found.score < 0.3
    with pytest.raises(WouldNotSurvive, match="cosine"):
        gate(found, 0.5, "same", 4)
    folder = tmp_path / "full"
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), {"model.norm.weight": mx.ones((64,))})
    (folder / "adapter_config.json").write_text('{"fine_tune_type": "full", "num_layers": 1}')
    with pytest.raises(BadInput, match="nothing to fuse"):
        fused_layers(network, read_adapter(folder), "same")
