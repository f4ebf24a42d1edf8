"""How many bytes a model will take, before anything is allocated: weights, KV cache, prefill, decoding.

Weights and caches are counted on the network itself: MLX is lazy, so a network of any architecture and size can be
built and called without allocating, and every array already knows its shape.  What a prefill step needs besides is a
linear model of the sizes of its intermediate arrays; its coefficients were fitted to MLX's measured peak on 110 random
configurations (`benchmarks/memory_grid.py` draws new ones and prints the errors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.model.config import normalize_config
from mlxrag.model.network import build

# Arrays that are alive at once at the peak of a prefill step, in units of their size: scores `(b, heads, n, context)`,
# the MLP's hidden layer `(b, n, inner)`, the residual stream `(b, n, d)`, queries, and keys of one layer.
SCORES, INNER, STREAM, QUERIES, KEYS = 1.08, 2.1, 11.6, 0.8, 1.2
FUSED_INNER, GELU_INNER = 1.6, 0.5
# Head sizes for which Metal has fused attention, which never holds the scores. Source: mlx 0.32, scaled_dot_product_attention.cpp.
FUSED_HEADS = frozenset({64, 80, 96, 128, 256})


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that generation with a model takes.

    Attributes:
        weights: parameters.
        cache: KV cache at its full length.
        work: the most that a prefill step or a decoding step takes besides.
    """

    weights: int
    cache: int
    work: int

    @property
    def peak(self) -> int:
        """All of it at once."""
        return self.weights + self.cache + self.work


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network that its memory depends on."""

    heads: int
    kv_heads: int
    head_dim: int
    width: int
    inner: int
    vocabulary: int
    layers: int
    window: int | None
    fused_mlp: bool
    gelu: bool


def footprint(
    config: Mapping[str, Any],
    tokens: int,
    *,
    batch: int = 1,
    step: int = 2048,
    kv_bits: int | None = None,
    quantization: Mapping[str, int] | None = None,
    dtype: mx.Dtype = mx.float16,
    metal: bool | None = None,
) -> Footprint:
    """Predict what a prompt and its answer take.

    Args:
        config: config.json of the checkpoint.
        tokens: prompt and answer together, per row, at least 2.
        batch: rows at once.
        step: prompt tokens per prefill step.
        kv_bits: bits of the KV cache, or None for the model's own type.
        quantization: `{"bits": ..., "group_size": ...}` if it will be quantized; the config's own unless given.
        dtype: type of what is not quantized.
        metal: whether attention is Metal's; looked up unless given.
    """
    network = skeleton(config, quantization, dtype)
    return Footprint(
        network_bytes(network),
        cache_bytes(network, tokens, batch, kv_bits),
        work_bytes(config, tokens, batch=batch, step=step, size=dtype.size, metal=metal),
    )


def skeleton(
    config: Mapping[str, Any], quantization: Mapping[str, int] | None = None, dtype: mx.Dtype = mx.float16
) -> nn.Module:
    """Build a network without allocating: its arrays have shapes and types, and are never computed."""
    plain, _ = normalize_config(dict(config))
    network = build(plain)
    network.set_dtype(dtype)
    chosen = quantization or plain.get("quantization")
    if chosen:
        group, bits = int(chosen["group_size"]), int(chosen["bits"])

        def fits(_: str, module: nn.Module) -> bool:
            return hasattr(module, "to_quantized") and module.weight.shape[-1] % group == 0

        nn.quantize(network, group_size=group, bits=bits, class_predicate=fits)
    return network


def network_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's parameters; exact, also for a skeleton."""
    return sum(int(array.nbytes) for _, array in tree_flatten(network.parameters()))


def cache_bytes(network: nn.Module, tokens: int, batch: int = 1, kv_bits: int | None = None) -> int:
    """Return the bytes of a KV cache of this length; exact for every kind of cache, sliding windows included.

    The network is called lazily, so that each layer's cache takes the shapes it will have.
    """
    cache = make_prompt_cache(network)
    network(mx.zeros((batch, tokens), mx.int32), cache=cache)
    total = 0
    for layer in cache:
        size = int(layer.nbytes)
        if kv_bits is not None and hasattr(layer, "to_quantized") and type(layer).__name__ == "KVCache":
            element = layer.keys.dtype.size
            size = size * kv_bits // (8 * element) + 2 * size // 64  # a scale and a bias per group of 64
        total += size
    return total


def work_bytes(
    config: Mapping[str, Any],
    tokens: int,
    *,
    batch: int = 1,
    step: int = 2048,
    size: int = 4,
    metal: bool | None = None,
) -> int:
    """Predict the intermediate arrays at the peak of a prefill step, in bytes.

    Args:
        config: config.json.
        tokens: prompt length, per row.
        batch: rows at once.
        step: prompt tokens per step.
        size: bytes of one element.
        metal: whether attention is Metal's.
    """
    shape = read_shape(config)
    fused = (mx.metal.is_available() if metal is None else metal) and shape.head_dim in FUSED_HEADS
    peak = 0.0
    for start in range(0, max(tokens - 1, 1), step):
        n = min(step, max(tokens - 1, 1) - start)
        seen = start + n
        if shape.window is not None:
            seen = min(seen, shape.window + n - 1)
        scores = 0 if fused else SCORES * shape.heads * n * seen
        inner = (INNER + FUSED_INNER * shape.fused_mlp + GELU_INNER * shape.gelu) * n * shape.inner
        stream = STREAM * n * shape.width + QUERIES * n * shape.heads * shape.head_dim
        keys = KEYS * shape.kv_heads * shape.head_dim * seen
        peak = max(peak, batch * (scores + inner + stream + keys) * size)
    logits = 4.0 * batch * shape.vocabulary * size
    return int(max(peak, logits))


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Read the sizes from a config under the names that architectures give them."""
    plain = dict(config.get("text_config") or config)

    def first(*names: str, default: int = 0) -> int:
        return next((int(plain[name]) for name in names if isinstance(plain.get(name), int)), default)

    width = first("hidden_size", "n_embd", "d_model", "model_dim", default=1024)
    heads = first("num_attention_heads", "n_head", "n_heads", "num_heads", default=16)
    experts = first("num_experts_per_tok", "num_experts_per_token", default=1)
    inner = first("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", default=4 * width)
    kind = str(plain.get("model_type", ""))
    layers = first("num_hidden_layers", "n_layer", "n_layers", "num_layers", default=24)
    window = first("sliding_window") or None
    pattern = first("sliding_window_pattern")
    if kind.startswith("gemma3") and pattern and any((i + 1) % pattern == 0 for i in range(layers - 1)):
        window = None  # a full layer sets the peak; the last layer's attention is not run in a prefill step
    elif not kind.startswith("gemma3"):
        window = None
    return Shape(
        heads=heads,
        kv_heads=first("num_key_value_heads", "num_kv_heads", default=heads),
        head_dim=first("head_dim", default=width // heads),
        width=width,
        inner=inner * experts,
        vocabulary=first("vocab_size", default=32000),
        layers=layers,
        window=window,
        fused_mlp=kind.startswith("phi3"),
        gelu=kind.startswith("gemma"),
    )
