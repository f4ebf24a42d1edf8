"""Training that knows it will be quantized sees the fused layer, and what it learns survives fusing."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.adapter import read_adapter
from mlxrag.model.fuse import fused_layers, placed
from mlxrag.settings import Training
from mlxrag.train.layers import trainable, weights_of, write_adapter
from mlxrag.train.qat import QATLinear, through
from tests.toys import llama_toy

WORDS = mx.array([[1, 5, 9, 2, 7]])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_forward_pass_is_that_of_the_fused_model(tmp_path: Path, kind: str) -> None:
    """On a 4-bit base: the network in training gives the logits of its adapter fused into 4 bits."""
    network = llama_toy(bits=4)
    training = Training(fine_tune_type=kind, rank=4, qat=4)
    with trainable(network, training) as keys:
        mx.random.seed(5)
        for _, module in network.named_modules():
            if isinstance(module, QATLinear):
                module.lora_b = mx.random.normal(module.lora_b.shape) * 0.05
        network.eval()
        expected = network(WORDS)
        write_adapter(tmp_path / "a", weights_of(network), training, keys, {})
    made, _ = fused_layers(network, read_adapter(tmp_path / "a"), "same")
    with placed(network, made):
        assert mx.abs(network(WORDS) - expected).max().item() < 1e-4


def test_the_gradient_goes_straight_through() -> None:
    """Rounding on the way forward, the identity on the way back."""
    weight = mx.random.normal((8, 64))
    rounded = through(weight, 4, 64, "affine")
    assert mx.abs(rounded - weight).max().item() > 0.01
    gradient = mx.grad(lambda w: (3 * through(w, 4, 64, "affine")).sum())(weight)
    assert mx.array_equal(gradient, mx.full(weight.shape, 3.0)).item()


def test_only_the_adapter_learns_and_odd_widths_are_refused() -> None:
    """Names are those of mlx-lm's layers; a width that no group divides is told."""
    network = llama_toy()
    with trainable(network, Training(rank=4, qat=8, lora_keys=("q_proj",))):
        names = {path.rpartition(".")[2] for path, _ in tree_flatten(network.trainable_parameters())}
        assert names == {"lora_a", "lora_b"}
    with pytest.raises(BadInput, match="50 inputs"):
        QATLinear(nn.Linear(50, 8), 4, False, 2, 0.0, 1.0)
