"""The loss of a batch: cross-entropy of the answers' tokens, with logits only where they are needed.

Everything here is exact: which switch is on changes time and memory, not the loss (but for the order of sums).
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxrag.train.parts import checkpointed, head, hidden, trunk_name
from mlxrag.train.shared import shared_hidden


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens with what to learn of them, padded on the right.

    Attributes:
        key: number of the batch; the same rows in every epoch.
        tokens: ids `(rows, length)`; after a shared context, what follows it.
        learn: `(rows, length - 1)` bool, whether token `[r, t + 1]` is to be learnt at position `t`.
        places: `(n,)` int32, positions of `learn` that are true in the flat `rows * (length - 1)`, then zeros.
        count: number of tokens to learn.
        context: ids `(groups, length)` that rows share, or None.
        owner: `(rows,)` int32, which context a row follows, or None.
        tokens_in_rows: tokens of all rows, those of other processes too, without padding, a shared context counted once
            for each row.
    """

    key: int
    tokens: mx.array
    learn: mx.array
    places: mx.array
    count: mx.array
    context: mx.array | None = None
    owner: mx.array | None = None
    tokens_in_rows: int = 0


@dataclass(frozen=True, slots=True)
class How:
    """The switches of the loss.

    Attributes:
        answer_head: logits only where there is loss.
        logits_chunk: tokens whose logits are in memory at once; 0 is all.
        again: compute activations again instead of keeping them.
        start: first block that is trained, if the trunk below is given; 0 runs everything.
        whole: run the network as a whole, for architectures that cannot be taken apart.
    """

    answer_head: bool = True
    logits_chunk: int = 0
    again: bool = False
    start: int = 0
    whole: bool = False


def batch_loss(
    network: nn.Module, how: How, batch: Batch, trunk: tuple[mx.array, ...] | None = None
) -> tuple[mx.array, mx.array]:
    """Return the sum of the cross-entropy over a batch's tokens to learn, and their number.

    Args:
        network: the network with its adapter layers.
        how: the switches.
        batch: the rows.
        trunk: what goes into block `how.start`: of the rows, and before it of the context where there is one.

    Returns:
        sum: float32 scalar, in nats.
        count: scalar.
    """
    inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
    if how.whole:
        return _entropy(network(inputs), targets, batch.learn), batch.count
    again = checkpointed if how.again else None
    if batch.context is not None and batch.owner is not None:
        out = shared_hidden(network, batch.context, inputs, batch.owner, start=how.start, given=trunk, again=how.again)
    else:
        out = hidden(network, inputs, start=how.start, given=trunk[0] if trunk else None, again=again)
    if not how.answer_head and not how.logits_chunk:
        return _entropy(head(network, out), targets, batch.learn), batch.count
    flat, wanted, weights = out.reshape(-1, out.shape[-1]), targets.reshape(-1), batch.learn.reshape(-1)
    if how.answer_head:
        flat, wanted = flat[batch.places], wanted[batch.places]
        weights = mx.arange(batch.places.shape[0]) < batch.count
    return chunked_entropy(network, flat, wanted, weights, how.logits_chunk), batch.count


def chunked_entropy(
    network: nn.Module, activations: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Return the weighted sum of the cross-entropy, with the logits of `chunk` tokens in memory at once.

    The logits of a chunk are computed again on the way back, so that they are never whole in memory: 1,024 tokens of
    a vocabulary of 152,000 take 600 MB in float32, and the way back needs them three times over.

    Args:
        network: whose head gives the logits.
        activations: `(n, dims)`.
        targets: `(n,)` ids.
        weights: `(n,)` bool, what counts.
        chunk: tokens at once; 0 is all.

    Cost: the head is computed twice when there is more than one chunk.
    """
    n = activations.shape[0]
    if not chunk or n <= chunk:
        return _entropy(head(network, activations[None]), targets[None], weights[None])
    name = trunk_name(network)
    of_head = [(k, v) for k, v in tree_flatten(network.trainable_parameters()) if not k.startswith(f"{name}.layers.")]

    def part(a: int, b: int) -> mx.array:
        y, w = targets[a:b], weights[a:b]

        def entropy(parameters: list[mx.array], x: mx.array) -> mx.array:
            if parameters:
                network.update(tree_unflatten([(k, p) for (k, _), p in zip(of_head, parameters, strict=True)]))
            return _entropy(head(network, x[None]), y[None], w[None])

        return mx.checkpoint(entropy)([v for _, v in of_head], activations[a:b])

    parts = [part(a, min(a + chunk, n)) for a in range(0, n, chunk)]
    if of_head:
        network.update(tree_unflatten(of_head))  # the arrays of the inner trace mean nothing outside it
    return mx.stack(parts).sum()


def _entropy(logits: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    return (nn.losses.cross_entropy(logits, targets) * weights).astype(mx.float32).sum()
