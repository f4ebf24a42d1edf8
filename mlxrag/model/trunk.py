"""The beginning that rows of a batch share: processed once, grown from the one before it, or taken from a store."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.memory import ledger
from mlxrag.model.cache import LEAST, KVStore
from mlxrag.model.cache_layers import can_cut, common, cut_back
from mlxrag.model.load import Model
from mlxrag.settings import Caching


class Trunk:
    """Caches after the latest shared beginning.

    Args:
        model: a loaded model.
        caching: sizes of steps and caches.
        store: where keys and values of earlier beginnings are, and where new ones go; None for nowhere.
        keys: what they are bound to in the store, for each adapter.
    """

    def __init__(self, model: Model, caching: Caching, store: KVStore | None, keys: Mapping[str | None, str]) -> None:
        self.model, self.caching, self.store, self.keys = model, caching, store, keys
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return sum(layer.nbytes for layer in self.cache)

    def clear(self) -> None:
        """Let go of the caches."""
        self.cache: list[Any] = []
        self.owner: str | None = None
        self.tokens: tuple[int, ...] = ()

    def grow(self, adapter: str | None, shared: tuple[int, ...]) -> tuple[list[Any], int]:
        """Return the caches after a shared beginning, made from those of the one before, and how many tokens ran.

        Args:
            adapter: the one in use.
            shared: its tokens.

        Raises:
            WontFit: the budget has fallen below what is held; the caches are to be cleared then.
        """
        same = common(self.tokens, shared) if self.owner == adapter else 0
        if not self.cache or same < len(self.tokens):
            if self.cache and same and can_cut(self.cache):
                cut_back(self.cache, len(self.tokens) - same)
            else:
                self.cache, same = make_prompt_cache(self.model.network, self.caching.max_kv_size), 0
        if self.store is not None and len(shared) - same >= LEAST:
            # One token more than is asked for, since the store leaves the last one to be processed.
            kept, length = self.store.take(self.keys[adapter], (*shared, -1))
            if kept is not None and length > same:
                self.cache, same = kept, length
        began = time.perf_counter()
        ids = mx.array(shared[same:], mx.int32)
        for at in range(0, ids.size, self.caching.prefill_step_size):
            ledger().look()
            self.model.network(ids[None, at : at + self.caching.prefill_step_size], cache=self.cache)
            mx.eval([c.state for c in self.cache])
        self.owner, self.tokens = adapter, shared
        if self.store is not None and len(shared) - same >= LEAST:
            seconds = time.perf_counter() - began
            self.store.put(self.keys[adapter], shared, copy.deepcopy(self.cache), seconds, len(shared) - same)
        # A cache that cannot be cut back is spent by what is done with it.
        return (self.cache if can_cut(self.cache) else copy.deepcopy(self.cache)), len(shared) - same
