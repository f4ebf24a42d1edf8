"""What kept keys and values are bound to: everything that they depend on besides the tokens.

Every word of the weights and of the adapter counts, not a sample of them: what is kept may lie on a disk for months,
and an answer from the keys and values of another model would look like an answer.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping

import mlx.core as mx
from mlx.utils import tree_flatten

from mlxrag.model.attach import Adapters, resident
from mlxrag.model.load import Model
from mlxrag.settings import Caching

WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint32}
PART = 1 << 18
"""Words that are summed at once, so that a large array takes no more memory than a small one."""


def store_key(model: Model, caching: Caching, adapter: str | None = None) -> str:
    """Return what keys and values of this model are bound to, in hex.

    The weights as they are in memory (so another version, quantization or precision is another model), the adapter with
    its scale, the chat template and its arguments, and how the caches are laid out.

    Args:
        model: a loaded model.
        caching: how caches are laid out.
        adapter: name of a resident adapter; the one in use unless given.

    Cost: reads all weights once per loaded model, and once more per adapter; afterwards nothing.  Weights that are
    changed in place later are not noticed.
    """
    placed = resident(model.network, model.name)
    active = placed.active
    placed.use(None)  # the base alone; pointers, put back below
    try:
        base = _digest(placed, None, None, dict(tree_flatten(model.network.parameters())))
    finally:
        placed.use(active)
    name = adapter or active
    weights = placed[name] if name is not None else None
    parts = (
        base,
        "" if weights is None else (_digest(placed, name, weights, weights.weights), weights.kind, weights.scale),
        model.tokenizer.chat_template or "",
        sorted(model.tokenizer.template_args.items()),
        caching.max_kv_size,
        caching.kv_bits,
        caching.kv_group_size,
        caching.quantized_kv_start,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def digest_of(weights: Mapping[str, mx.array]) -> str:
    """Return 32 hex digits over every word of some arrays, their names, shapes and types.

    Each array counts by the sum of its words times 1, 3, 5, ... (modulo 2^32): one changed word always changes it, and
    so does an exchange of two.

    Example:
        >>> digest_of({"w": mx.array([1.0, 2.0])}) == digest_of({"w": mx.array([2.0, 1.0])})
        False
    """
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        words = mx.view(array.reshape(-1), WORDS[array.dtype.size])
        total = mx.array(0, mx.uint32)
        for at in range(0, words.size, PART):
            part = words[at : at + PART].astype(mx.uint32)
            total = total + (part * (mx.arange(at, at + part.size, dtype=mx.uint32) * 2 + 1)).sum()
            mx.eval(total)
        digest.update(f"{name} {array.shape} {array.dtype} {total.item()}\n".encode())
    return digest.hexdigest()[:32]


def _digest(placed: Adapters, name: str | None, owner: object, weights: Mapping[str, mx.array]) -> str:
    """Return the digest of the base (`name` None) or of an adapter, computed once for as long as it is the same object."""
    known = _known.setdefault(placed, {})
    if name not in known or known[name][0] is not owner:
        known[name] = (owner, digest_of(weights))
    return known[name][1]


_known: weakref.WeakKeyDictionary[Adapters, dict[str | None, tuple[object, str]]] = weakref.WeakKeyDictionary()
