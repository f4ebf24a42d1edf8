"""What is done to the caches of single layers: cut back, quantized, packed for the disk, read from a file of mlx_lm.

Knows nothing of prompts and of what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, QuantizedKVCache, load_prompt_cache

from mlxrag.errors import BadInput
from mlxrag.settings import Caching


def read_cache_file(path: Path) -> tuple[list[Any], dict[str, str]]:
    """Read a prompt cache that `mlx_lm cache_prompt` wrote, and what it says of itself.

    Raises:
        BadInput: not there, or not such a file.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such prompt cache")
    try:
        cache, facts = load_prompt_cache(str(path), return_metadata=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: is no prompt cache of mlx_lm: {error}") from error
    return cache, facts


def quantize_cache(cache: list[Any], caching: Caching) -> None:
    """Quantize layers that have grown past the start, in place, as mlx_lm does.

    Raises:
        BadInput: the layers slide over a window, or their heads do not divide into groups of that size.
    """
    if caching.kv_bits is None:
        return
    for i, layer in enumerate(cache):
        if hasattr(layer, "to_quantized") and layer.offset >= caching.quantized_kv_start:
            try:
                cache[i] = layer.to_quantized(group_size=caching.kv_group_size, bits=caching.kv_bits)
            except NotImplementedError as error:
                raise BadInput("--kv-bits does not go with windows over keys and values; leave one out") from error
            except ValueError as error:
                size = layer.keys.shape[-1]
                raise BadInput(
                    f"--kv-bits {caching.kv_bits} with --kv-group-size {caching.kv_group_size} does not fit heads of "
                    f"{size} numbers; take a group size that divides {size}"
                ) from error


def can_cut(cache: Sequence[Any]) -> bool:
    """Return whether every layer can be cut back to fewer tokens."""
    return all(layer.is_trimmable() for layer in cache)


def cut_back(cache: Sequence[Any], count: int) -> None:
    """Take the last `count` tokens out of every layer."""
    for layer in cache:
        layer.trim(count)


def bytes_of(cache: Sequence[Any]) -> int:
    """Return the bytes of what is in the caches, without the room that they have left to grow."""
    return sum(a.nbytes for layer in cache for _, a in tree_flatten(layer.state) if isinstance(a, mx.array))


def pack(layer: Any, bits: int) -> Any:
    """Return a layer as it goes to disk: a plain one without its room to grow, and quantized if its heads divide.

    Args:
        layer: a layer's cache; one that is not plain is returned as it is.
        bits: 0 keeps it exact.
    """
    if type(layer) is not KVCache or layer.keys is None:
        return layer
    if not bits:
        tight = KVCache()
        tight.keys, tight.values = layer.keys[..., : layer.offset, :], layer.values[..., : layer.offset, :]
        tight.offset = layer.offset
        return tight
    sizes = (layer.keys.shape[-1], layer.values.shape[-1])
    group = next((size for size in (64, 32) if not sizes[0] % size and not sizes[1] % size), 0)
    return layer.to_quantized(group_size=group, bits=bits) if group else layer


def restore(layer: Any) -> Any:
    """Return a plain layer for one that was quantized for the disk."""
    if not isinstance(layer, QuantizedKVCache):
        return layer
    plain = KVCache()
    sizes = {"group_size": layer.group_size, "bits": layer.bits}
    plain.keys = mx.dequantize(*(part[..., : layer.offset, :] for part in layer.keys), **sizes)
    plain.values = mx.dequantize(*(part[..., : layer.offset, :] for part in layer.values), **sizes)
    plain.offset = layer.offset
    return plain


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return how many leading tokens are the same; by halving, since comparing slices is quick.

    Example:
        >>> common((1, 2, 3, 4), (1, 2, 9))
        2
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
