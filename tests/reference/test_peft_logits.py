"""Imported PEFT adapters give peft's own logits (files made by `peft/make.py`)."""

from __future__ import annotations

from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama

from mlxrag.model.attach import attach
from mlxrag.model.peft import import_adapter

HERE = Path(__file__).parent / "peft"


def base() -> llama.Model:
    args = llama.ModelArgs(
        model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=64, tie_word_embeddings=False,
    )  # fmt: skip
    network = llama.Model(args)
    network.load_weights(str(HERE / "base.safetensors"))
    network.freeze()
    network.eval()
    return network


@pytest.mark.parametrize("name", ["base", "patterns", "dora", "embedding"])
def test_logits_are_pefts(tmp_path: Path, name: str) -> None:
    """rsLoRA with rank and alpha patterns, DoRA, and an adapted embedding with one layer."""
    gold = np.load(HERE / "logits.npz")
    network = base()
    if name != "base":
        made = import_adapter(HERE / name, network, tmp_path / "a", {"name": "tiny", "fingerprint": ""})
        assert made.difference < 1e-4
        attach(network, tmp_path / "a")
    assert np.abs(np.array(network(mx.array(gold["tokens"]))) - gold[name]).max() < 1e-4
    if name != "base":
        assert np.abs(gold[name] - gold["base"]).max() > 0.1
