"""One update: gradients of a batch's loss, summed over batches and processes, divided by all tokens, applied.

Rule: `k` batches of `n` rows in `p` processes are one batch of `k * n * p` rows: sums are added, never means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.nn.utils import average_gradients
from mlx.utils import tree_map

from mlxrag.train.loss import Batch, How, batch_loss
from mlxrag.train.parts import hidden
from mlxrag.train.shared import shared_trunk

Arrays = dict[str, Any]
Update = Callable[[Arrays, Any, Any, bool], tuple[mx.array, mx.array, Any, Any]]


def make_update(
    network: nn.Module, optimizer: optim.Optimizer, how: How, clip: float, group: Any, compiled: bool
) -> Update:
    """Return the function that does one batch.

    It takes the arrays of a batch (`arrays_of`), gradients and count of the batches that wait for an update (None where
    none do), and whether to update now.  It gives the batch's loss and count over all processes, and what waits then.

    Args:
        network: what learns.
        optimizer: initialized for it.
        how: the switches of the loss.
        clip: longest gradient; 0 is no limit.
        group: the processes.
        compiled: compile the step.
    """
    state = [network.state, optimizer.state, mx.random.state]
    world = group.size()

    def loss(arrays: Arrays) -> tuple[mx.array, mx.array]:
        batch = Batch(0, **{name: array for name, array in arrays.items() if name != "trunk"})
        return batch_loss(network, how, batch, arrays.get("trunk"))

    gradient = nn.value_and_grad(network, loss)

    def step(arrays: Arrays, before: Any, counted: Any, update: bool) -> tuple[mx.array, mx.array, Any, Any]:
        (total, count), gradients = gradient(arrays)
        if world > 1:
            total = mx.distributed.all_sum(total, group=group)
            count = mx.distributed.all_sum(count, group=group)
        of_all = count
        if before is not None:
            gradients = tree_map(lambda a, b: a + b, gradients, before)
            of_all = count + counted
        if not update:
            return total, count, gradients, of_all
        if world > 1:
            gradients = tree_map(lambda g: g * world, average_gradients(gradients, group))
        gradients = tree_map(lambda g: g / mx.maximum(of_all, 1), gradients)
        if clip:
            gradients, _ = optim.clip_grad_norm(gradients, clip)
        optimizer.update(network, gradients)
        return total, count, None, None

    return partial(mx.compile, inputs=state, outputs=state)(step) if compiled else step


def arrays_of(batch: Batch, network: nn.Module, start: int, folder: Path) -> Arrays:
    """Return the arrays of a batch by name, with what the untrained blocks give for it where `start` is not 0.

    Args:
        batch: the rows.
        network: whose first blocks are not trained.
        start: first block that is.
        folder: where what they give is kept, for later epochs.
    """
    names = ("tokens", "learn", "places", "count", "context", "owner")
    arrays = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    return {**arrays, "trunk": _trunk(batch, network, start, folder)} if start else arrays


def _trunk(batch: Batch, network: nn.Module, start: int, folder: Path) -> tuple[mx.array, ...]:
    path = folder / f"{batch.key}.safetensors"
    if path.is_file():
        kept = mx.load(str(path))
        assert isinstance(kept, dict)
        return tuple(kept[str(i)] for i in range(len(kept)))
    inputs = batch.tokens[:, :-1]
    if batch.context is not None and batch.owner is not None:
        made: tuple[mx.array, ...] = shared_trunk(network, batch.context, inputs, batch.owner, start)
    else:
        made = (hidden(network, inputs, stop=start),)
    folder.mkdir(exist_ok=True)
    writing = folder / f".{batch.key}.writing.safetensors"
    mx.save_safetensors(str(writing), {str(i): array for i, array in enumerate(made)})
    writing.replace(path)
    return made
