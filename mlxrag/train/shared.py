"""Training on several questions about the same passages, with the passages run once.

Strategy: the context runs once and its keys and values are kept block by block; then the rows run, each attending to
its context and to itself, never to one another, at the positions it would have had alone.  Losses and gradients are
those of the plain step: the context's gradient is the sum of what its rows send back.  At four questions on a
256-token context that is 2.7 times fewer tokens.  Needs a network whose memory is keys and values only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import cache as caches

from mlxrag.train.parts import Block, hidden, recomputed, trunk_name


class ContextCache:
    """Keeps a block's keys and values of the context."""

    offset = 0

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep keys and values `(groups, heads, length, dims)`."""
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Return the causal mask."""
        return caches.create_attention_mask(n, 0, return_array, window_size)


class RowCache:
    """Puts each row's context before its keys and values."""

    def __init__(self, length: int, keys: mx.array | None, values: mx.array | None, owner: mx.array | None) -> None:
        self.offset = length
        self.keys, self.values, self.owner = keys, values, owner

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return context and row, `(rows, heads, context + length, dims)`."""
        return self._before(self.keys, keys), self._before(self.values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """Return the causal mask for rows that begin after the context."""
        return caches.create_attention_mask(n, self.offset, return_array, window_size)

    def _before(self, context: mx.array | None, own: mx.array) -> mx.array:
        assert context is not None
        if context.shape[0] == 1:
            context = mx.broadcast_to(context, (own.shape[0], *context.shape[1:]))
        else:
            context = context[self.owner]
        return mx.concatenate([context, own], axis=2)


def can_share(network: nn.Module) -> bool:
    """Return whether the network's memory of the past is keys and values, and nothing else."""
    if not trunk_name(network):
        return False
    made = caches.make_prompt_cache(network)
    return all(type(c) in (caches.KVCache, caches.RotatingKVCache) for c in made)


def shared_hidden(
    network: nn.Module,
    context: mx.array,
    rows: mx.array,
    owner: mx.array,
    *,
    start: int = 0,
    given: tuple[mx.array, ...] | None = None,
    again: bool = False,
) -> mx.array:
    """Return what goes into the head for rows that follow shared contexts.

    Args:
        network: an mlx_lm network.
        context: ids `(groups, c)`.
        rows: ids `(rows, length)`.
        owner: `(rows,)` int32, which context each row follows.
        start: first block to run.
        given: what goes into that block for the context and for the rows.
        again: compute activations again on the way back.

    Returns:
        activations of the rows `(rows, length, dims)`.
    """
    blocks = network[trunk_name(network)]["layers"]
    kept = [ContextCache() for _ in blocks]
    own = mx.arange(context.shape[0]).astype(mx.int32)
    before, after = given if given is not None else (None, None)
    hidden(network, context, kept, start=start, given=before, again=_again(True) if again else None)
    length = context.shape[1]
    placed = [RowCache(length, c.keys, c.values, owner if own.shape[0] > 1 else None) for c in kept]
    return hidden(network, rows, placed, start=start, given=after, again=_again(False) if again else None)


def shared_trunk(
    network: nn.Module, context: mx.array, rows: mx.array, owner: mx.array, stop: int
) -> tuple[mx.array, mx.array]:
    """Return what goes into block `stop` for contexts and for rows."""
    kept = [ContextCache() for _ in network[trunk_name(network)]["layers"]]
    before = hidden(network, context, kept, stop=stop)
    placed = [RowCache(context.shape[1], c.keys, c.values, owner) for c in kept]
    return before, hidden(network, rows, placed, stop=stop)


def _again(context: bool) -> Callable[[nn.Module, Block], Block]:
    """Return a way to checkpoint blocks whose keys and values come from, or go to, somewhere else.

    Inside a checkpoint everything that takes part must go in and out as an array: for a context's block the keys and
    values come out; for a row's block they go in.
    """

    def wrap(block: nn.Module, call: Block) -> Block:
        def run(x: mx.array, mask: Any = None, cache: Any = None, **kwargs: Any) -> mx.array:
            if context:

                def first(x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
                    inner = ContextCache()
                    out = call(x, mask, inner, **kwargs)
                    assert inner.keys is not None and inner.values is not None
                    return out, inner.keys, inner.values

                out, cache.keys, cache.values = recomputed(block, first, x)
                return out

            def second(x: mx.array, keys: mx.array, values: mx.array) -> mx.array:
                return call(x, mask, RowCache(cache.offset, keys, values, cache.owner), **kwargs)

            return recomputed(block, second, x, cache.keys, cache.values)

        return run

    return wrap
