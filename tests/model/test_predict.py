"""Predicted bytes against what MLX allocates."""

from __future__ import annotations

from typing import Any

import pytest

from mlxrag.model.predict import cache_bytes, footprint, network_bytes, skeleton
from mlxrag.model.sizes import work_bytes

import mlx.core as mx  # isort: skip
from mlx_lm.models.cache import make_prompt_cache  # isort: skip

TOY: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "vocab_size": 300,
    "tie_word_embeddings": True, "rope_theta": 10000.0, "max_position_embeddings": 2048,
}  # fmt: skip


def test_a_skeleton_allocates_nothing_and_counts_exactly() -> None:
    """A network of 8 billion parameters is built and counted in no memory."""
    mx.clear_cache()
    before = mx.get_active_memory()
    big = {**TOY, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False}  # fmt: skip
    network = skeleton(big)
    assert network_bytes(network) / 2 == pytest.approx(8.19e9, rel=0.01)
    assert mx.get_active_memory() - before < 10_000_000


def test_quantized_weights_are_counted_with_scales_and_biases() -> None:
    """4 bits in groups of 64 are 4.5 bits per weight where the group fits."""
    full, small = network_bytes(skeleton(TOY)), network_bytes(skeleton(TOY, {"bits": 4, "group_size": 64}))
    assert small / full == pytest.approx(4.5 / 16, rel=0.03)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_the_cache_is_what_a_real_call_allocates(kind: str) -> None:
    """Counted lazily, equal to the bytes after a real prefill; sliding windows included."""
    config = {**TOY, "model_type": kind, "query_pre_attn_scalar": 32, "sliding_window": 64, "sliding_window_pattern": 2}
    network = skeleton(config, dtype=mx.float32)
    said = cache_bytes(network, 300, batch=2)
    cache = make_prompt_cache(network)
    network(mx.zeros((2, 300), mx.int32), cache=cache)
    mx.eval([layer.state for layer in cache])
    assert said == sum(layer.nbytes for layer in cache)


def test_eight_bits_halve_the_cache_and_fused_attention_spares_the_scores() -> None:
    """KV precision and Metal's kernels are part of the prediction."""
    network = skeleton(TOY)
    assert cache_bytes(network, 512, kv_bits=8) / cache_bytes(network, 512) == pytest.approx(8.5 / 16, rel=0.01)
    wide = {**TOY, "head_dim": 64}
    assert work_bytes(wide, 2000, metal=True) < work_bytes(wide, 2000, metal=False) / 3


def test_the_peak_of_a_toy_is_predicted_within_the_promise() -> None:
    """Weights, cache and work against MLX's own peak: at most 10 % above, 5 % below."""
    said = footprint(TOY, 800, batch=2, step=256, dtype=mx.float32, metal=False)
    peaks = []
    for _ in range(3):
        mx.clear_cache()
        base = mx.get_active_memory()
        network = skeleton(TOY, dtype=mx.float32)
        mx.eval(network.parameters())
        mx.reset_peak_memory()
        cache = make_prompt_cache(network)
        for start in range(0, 799, 256):
            network(mx.zeros((2, min(256, 799 - start)), mx.int32), cache=cache)
            mx.eval([layer.state for layer in cache])
        peaks.append(mx.get_peak_memory() - base)
        del network, cache
    assert -0.05 <= said.peak / sorted(peaks)[1] - 1 <= 0.10
