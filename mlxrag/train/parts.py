"""Run a part of a network: up to a block, from a block, or only the head; with blocks computed again on the way back.

Strategy: the network's own `__call__` runs, with stand-ins in the places of the blocks (or of everything below the
head) for the time of one call.  So masks, scalings, soft caps and whatever else an architecture does between its
blocks stay as its authors wrote them, no class is patched, and paths of parameters do not change.  What a stand-in
makes unnecessary, such as the embedding under a given activation, is never computed, since MLX is lazy.

Not every architecture can be taken apart so; `sound` finds out on four tokens, and everything here is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

TRUNKS = ("model", "transformer", "backbone", "gpt_neox")
Block = Callable[..., Any]


class StandIn:
    """Stands in the place of a module: another `__call__`, everything else is the module's."""

    def __init__(self, module: Any, call: Block) -> None:
        self._module = module
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what was asked for instead of the module."""
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def trunk_name(network: nn.Module) -> str:
    """Return under which name a network holds everything below its head, or an empty string."""
    for name in TRUNKS:
        trunk = network.get(name)
        if isinstance(trunk, nn.Module) and isinstance(trunk.get("layers"), list):
            blocks = {id(block) for block in trunk["layers"]}
            if all(id(block) in blocks for block in network.layers):
                return name
    return ""


def hidden(
    network: nn.Module,
    tokens: mx.array,
    cache: Sequence[Any] | None = None,
    *,
    start: int = 0,
    given: mx.array | None = None,
    stop: int | None = None,
    again: Callable[[nn.Module, Block], Block] | None = None,
) -> mx.array:
    """Return what goes into the head, or into a block.

    Args:
        network: an mlx_lm network.
        tokens: ids `(rows, length)`.
        cache: one per block, or None.
        start: first block to run; those below are skipped.
        given: what goes into block `start`, `(rows, length, dims)`; needed if `start` is not 0.
        stop: return what goes into this block instead of the head.
        again: turns a block and its call into a call that does not keep activations.

    Returns:
        activations `(rows, length, dims)`.
    """
    trunk = network[trunk_name(network)]
    blocks: list[Any] = trunk["layers"]
    caught: list[mx.array] = []

    def catch(x: mx.array, *_: Any, **__: Any) -> mx.array:
        caught.append(x)
        return x

    def skip(x: mx.array, *_: Any, **__: Any) -> mx.array:
        return x

    def give(x: mx.array, *_: Any, **__: Any) -> Any:
        return given

    placed: list[Any] = []
    for i, block in enumerate(blocks):
        if i < start:
            placed.append(StandIn(block, give if i == start - 1 else skip))
        elif stop is not None and i >= stop:
            placed.append(StandIn(block, catch if i == stop else skip))
        else:
            placed.append(block if again is None else StandIn(block, again(block, block)))
    with replaced(trunk, "layers", placed):
        out = trunk(tokens) if cache is None else trunk(tokens, cache=cache)
    return caught[0] if caught else out


def head(network: nn.Module, activations: mx.array) -> mx.array:
    """Return the logits `(..., vocabulary)` that the network's own head gives for activations `(..., dims)`."""
    name = trunk_name(network)
    with replaced(network, name, StandIn(network[name], lambda *_, **__: activations)):
        return network(mx.zeros((1, 1), mx.int32))


@contextmanager
def replaced(holder: Any, key: Any, value: Any) -> Iterator[None]:
    """Put something else under a key for the time of a block."""
    before = holder[key]
    holder[key] = value
    try:
        yield
    finally:
        holder[key] = before


def sound(network: nn.Module) -> bool:
    """Return whether taking this network apart and together again gives its own logits, bit for bit.

    Cost: two forward passes of four tokens.
    """
    if not trunk_name(network):
        return False
    tokens = mx.array([[1, 2, 3, 4]])
    middle = len(network[trunk_name(network)]["layers"]) // 2
    try:
        whole = network(tokens)
        below = hidden(network, tokens, stop=middle) if middle else None
        parts = head(network, hidden(network, tokens, start=middle, given=below))
        return bool(mx.array_equal(whole, parts).item())
    except (TypeError, ValueError, AttributeError, IndexError, KeyError):
        # An architecture that passes its blocks more than activations; it is trained as a whole.
        return False


def recomputed(block: nn.Module, call: Callable[..., Any], *arrays: mx.array) -> Any:
    """Return `call(*arrays)`, whose activations are computed again on the way back instead of being kept.

    Everything that takes part in the gradient must be in `arrays` or be a parameter of `block`.
    """
    before = block.trainable_parameters()

    def inner(parameters: Any, *arrays: mx.array) -> Any:
        block.update(parameters)
        return call(*arrays)

    out = mx.checkpoint(inner)(before, *arrays)
    # The block still holds the arrays of the inner trace, which mean nothing outside it.
    block.update(before)
    return out


def checkpointed(block: nn.Module, call: Block) -> Block:
    """Return a call of a block that keeps only its input and computes the rest again on the way back.

    Unlike `mlx_lm.tuner.trainer.grad_checkpoint` it changes no class, so another training in the same process does
    not compute everything twice.
    """
    return lambda x, *args, **kwargs: recomputed(block, lambda x: call(x, *args, **kwargs), x)


def first_trained(network: nn.Module) -> int:
    """Return the first block with something to train in it or before it; 0 if the embedding is trained.

    Blocks before it, the frozen trunk, give the same activations in every epoch.
    """
    name = trunk_name(network)
    if not name:
        return 0
    blocks = network[name]["layers"]
    for path, _ in tree_flatten(network.trainable_parameters()):
        if path.startswith(f"{name}.") and not path.startswith(f"{name}.layers.") and "norm" not in path:
            return 0
    trained = (i for i, block in enumerate(blocks) if tree_flatten(block.trainable_parameters()))
    return next(trained, len(blocks))
