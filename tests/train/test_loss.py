"""Every switch of the loss gives the plain step's loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxrag.model.attach import adapter_layers
from mlxrag.train.loss import Batch, How, batch_loss
from mlxrag.train.parts import first_trained, hidden, sound
from mlxrag.train.shared import can_share, shared_trunk
from tests.toys import llama_toy, qwen_toy

CONTEXT, LENGTH, ROWS = 12, 9, 5


def adapt(network: nn.Module, kind: str = "lora", layers: int = 3, keys: tuple[str, ...] | None = None) -> nn.Module:
    """Put trainable adapter layers in, with random second matrices so that every gradient is there."""
    adapter_layers()
    from mlx_lm.tuner.utils import linear_to_lora_layers

    network.freeze()
    config: dict[str, Any] = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(network, layers, config | ({"keys": keys} if keys else {}), use_dora=kind == "dora")
    mx.random.seed(3)
    for _, module in network.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.random.normal(module.lora_b.shape) * 0.05
    network.train()
    mx.eval(network.parameters())
    return network


def rows_with_context(groups: int) -> tuple[Batch, Batch]:
    """The same rows, once whole and once as contexts with what follows them."""
    rng = np.random.default_rng(0)
    contexts = rng.integers(1, 60, (groups, CONTEXT))
    owner = np.sort(np.arange(ROWS) % groups)
    after = rng.integers(1, 60, (ROWS, LENGTH))
    whole = np.concatenate([contexts[owner], after], axis=1)
    learn = np.zeros((ROWS, LENGTH - 1), bool)
    for r in range(ROWS):
        learn[r, 2 + r % 3 : 7 + r % 2] = True
    wide = np.concatenate([np.zeros((ROWS, CONTEXT), bool), learn], axis=1)
    return (
        batch(whole, wide),
        batch(after, learn, context=mx.array(contexts), owner=mx.array(owner.astype(np.int32))),
    )


def batch(tokens: np.ndarray, learn: np.ndarray, **more: Any) -> Batch:
    places = np.flatnonzero(learn.reshape(-1))
    padded = np.concatenate([places, np.zeros(7, np.int64)]).astype(np.int32)
    return Batch(0, mx.array(tokens), mx.array(learn), mx.array(padded), mx.array(len(places)), **more)


def step(network: nn.Module, how: How, given: Batch, trunk: Any = None) -> tuple[mx.array, dict[str, mx.array]]:
    """Loss and gradients, by name."""

    def loss(b: Any) -> tuple[mx.array, mx.array]:
        return batch_loss(network, how, given, trunk)

    (total, count), gradients = nn.value_and_grad(network, loss)(0)
    flat = {name: g / count for name, g in tree_flatten(gradients)}  # of the mean, as a step takes them
    mx.eval(total, flat)
    return total / count, flat


def assert_same(a: tuple[mx.array, dict[str, mx.array]], b: tuple[mx.array, dict[str, mx.array]]) -> None:
    assert abs(a[0].item() - b[0].item()) < 1e-5
    assert a[1].keys() == b[1].keys() and a[1]
    for name, gradient in a[1].items():
        assert mx.abs(gradient - b[1][name]).max().item() < 1e-6, name
    assert max(mx.abs(g).max().item() for g in a[1].values()) > 1e-4


def plain(network: nn.Module, given: Batch) -> tuple[mx.array, dict[str, mx.array]]:
    """Loss and gradients without any of our code: the network's logits and MLX's cross-entropy."""

    def loss(_: int) -> mx.array:
        logits = network(given.tokens[:, :-1])
        entropy = nn.losses.cross_entropy(logits, given.tokens[:, 1:])
        return (entropy * given.learn).sum() / given.learn.sum()

    value, gradients = nn.value_and_grad(network, loss)(0)
    flat = dict(tree_flatten(gradients))
    mx.eval(value, flat)
    return value, flat


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: adapt(llama_toy()),
    "llama, untied, dora": lambda: adapt(llama_toy(tied=False), "dora"),
    "qwen3, 4 bits": lambda: adapt(qwen_toy(bits=4)),
    "qwen3, last two": lambda: adapt(qwen_toy(), layers=2),
    "sliding window": lambda: adapt(
        llama_toy(layer_types=["sliding_attention", "full_attention", "sliding_attention"], sliding_window=6)
    ),
    "trained embedding": lambda: adapt(llama_toy(), keys=("model.embed_tokens", "self_attn.q_proj")),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_the_context_run_once_gives_the_plain_steps_loss_and_gradients(name: str, groups: int, again: bool) -> None:
    """Several rows on one context, and several contexts in a batch, kept or computed again."""
    network = NETWORKS[name]()
    whole, shared = rows_with_context(groups)
    assert can_share(network)
    expected = plain(network, whole)
    for how in (How(again=again), How(answer_head=False, again=again), How(logits_chunk=4, again=again)):
        assert_same(expected, step(network, how, shared))


@pytest.mark.parametrize("name", NETWORKS)
def test_head_chunks_and_recomputing_give_the_plain_steps_loss_and_gradients(name: str) -> None:
    """Each switch alone and all together, on whole rows."""
    network = NETWORKS[name]()
    whole, _ = rows_with_context(2)
    expected = plain(network, whole)
    switches = [
        How(whole=True),
        How(answer_head=False),
        How(),
        How(again=True),
        How(answer_head=False, logits_chunk=7),
        How(logits_chunk=3, again=True),
    ]
    for how in switches:
        assert_same(expected, step(network, how, whole))
    assert_same(expected, plain(network, whole))


def test_the_frozen_trunk_given_gives_the_very_same_bits() -> None:
    """Activations of the untrained blocks, kept, lead to the bits of the full step, with and without a context."""
    network = NETWORKS["qwen3, last two"]()
    assert first_trained(network) == 1 and first_trained(NETWORKS["trained embedding"]()) == 0
    whole, shared = rows_with_context(2)
    kept = hidden(network, whole.tokens[:, :-1], stop=1)
    mx.eval(kept)
    a, b = step(network, How(), whole), step(network, How(start=1), whole, (kept,))
    assert mx.array_equal(a[0], b[0]).item() and all(mx.array_equal(a[1][k], b[1][k]).item() for k in a[1])
    assert shared.context is not None and shared.owner is not None
    pair = shared_trunk(network, shared.context, shared.tokens[:, :-1], shared.owner, 1)
    mx.eval(pair)
    a, b = step(network, How(), shared), step(network, How(start=1), shared, pair)
    assert mx.array_equal(a[0], b[0]).item() and all(mx.array_equal(a[1][k], b[1][k]).item() for k in a[1])


def test_taking_a_network_apart_is_proved_or_refused() -> None:
    """`sound` is true for what works, false for a network whose blocks get more than activations."""
    assert sound(llama_toy()) and sound(qwen_toy(tied=False, bits=4))

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4)]

        def __call__(self, x: mx.array) -> mx.array:
            return x

    assert not sound(Odd())


def test_recomputing_changes_no_class() -> None:
    """A second network of the same class is not affected, as it is by mlx_lm's grad_checkpoint."""
    network = NETWORKS["llama"]()
    before = type(network.layers[0]).__call__
    step(network, How(again=True), rows_with_context(1)[0])
    assert type(network.layers[0]).__call__ is before
