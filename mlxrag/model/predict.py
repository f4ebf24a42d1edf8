"""How many bytes a model will take, before anything is allocated: weights, KV cache, prefill, decoding.

Weights and caches are counted on the network itself: MLX is lazy, so a network of any architecture and size can be
built and called without allocating, and every array already knows its shape.  What a step needs besides is in
`sizes.py`.
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
from mlxrag.model.sizes import work_bytes


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
    work = work_bytes(config, tokens, batch=batch, step=step, size=dtype.size, metal=metal)
    cache = cache_bytes(network, tokens, batch, kv_bits)
    if kv_bits is not None:  # those of the first step are there as they are until they are quantized
        first = work_bytes(config, min(step + 1, tokens), batch=batch, step=step, size=dtype.size, metal=metal)
        work = max(work, cache_bytes(network, min(step, tokens), batch) + first - cache)
    return Footprint(network_bytes(network), cache, work)


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
