"""What a training job will hold in memory, and the largest settings that fit a budget.

A step holds the weights, the trained weights with their gradients and the optimizer's two moments, the activations of
the trained blocks (of two, where they are computed again), and the logits of one chunk.  The coefficients were fitted
to MLX's measured peak on 44 random networks of 2 to 5 blocks (median error 7 %), and a margin of a quarter is added:
an estimate too low ends a process, one too high costs a little speed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import WontFit
from mlxrag.model.attach import adaptable, shapes
from mlxrag.model.sizes import Shape, read_shape
from mlxrag.settings import Training
from mlxrag.train.batches import Store, plan
from mlxrag.train.layers import layer_keys
from mlxrag.train.shared import can_share
from mlxrag.workspace import write_json

# Arrays alive at the peak, in units of their size: attention scores, residual stream, MLP, queries with keys; inputs kept
# of each block that is computed again; logits; and trained weights (gradient, clipped gradient, new moments).
SCORES, STREAM, INNER, HEADS = 2.0, 2.0, 5.6, 4.6
KEPT_INPUTS, LOGITS, TRAINED = 4.2, 3.7, 1.3
AGAIN = 2
MARGIN = 1.25
FLOAT = 4
"""Bytes of an activation; adapters compute in float32 also on half-precision weights."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that training takes.

    Attributes:
        weights: of the base.
        trained: adapter or layers that learn, with the optimizer's moments.
        step: the most that one batch takes besides.
    """

    weights: int
    trained: int
    step: int

    @property
    def peak(self) -> int:
        """All of it at once."""
        return self.weights + self.trained + self.step


@dataclass(frozen=True, slots=True)
class Sizes:
    """What of a network and its data the memory depends on.

    Attributes:
        shape: of the network.
        blocks: how many there are.
        weights: bytes of the base.
        trained: elements that are trained, by how many of the last blocks are.
        longest: tokens of the longest row.
        load: tokens, and pairs of tokens that attend to one another, of the largest batch under some settings.
    """

    shape: Shape
    blocks: int
    weights: int
    trained: Mapping[int, int]
    longest: int
    load: Callable[[Training], tuple[int, int]]


def whole_rows(longest: int) -> Callable[[Training], tuple[int, int]]:
    """Return the load of batches whose rows are all of the longest and share nothing."""

    def load(training: Training) -> tuple[int, int]:
        length = min(longest, training.max_seq_length)
        return training.batch_size * length, training.batch_size * length * length

    return load


def real_batches(store: Store, shared: bool, look: int = 50) -> Callable[[Training], tuple[int, int]]:
    """Return the load of the batches that will really be made of these rows, passages that are shared counted once.

    Args:
        store: the rows.
        shared: whether passages are run once for the rows over them.
        look: how many of the longest batches of either kind are looked at.
    """

    def load(training: Training) -> tuple[int, int]:
        plans = plan(store, training.batch_size, shared)
        with_context = [p for p in plans if p.context]
        most_tokens = most_pairs = 0
        for p in with_context[:look] + [p for p in plans if not p.context][:look]:
            longest = min(int(store.index["length"][list(p.rows)].max()), training.max_seq_length)
            context = min(p.context, longest)
            groups, rows, own = len(set(p.groups)), len(p.rows), longest - context
            most_tokens = max(most_tokens, groups * context + rows * own)
            most_pairs = max(most_pairs, groups * context**2 + rows * own * longest)
        return most_tokens, most_pairs

    return load


def sizes(
    network: nn.Module,
    config: Mapping[str, Any],
    training: Training,
    longest: int,
    load: Callable[[Training], tuple[int, int]] | None = None,
) -> Sizes:
    """Look at a network without computing anything.

    Args:
        network: the base.
        config: its config.json.
        training: what is trained.
        longest: tokens of the longest row.
        load: of the largest batch; `whole_rows` unless given.

    Raises:
        BadInput: no layer answers to a key.
    """
    blocks = len(network.layers)
    weights = sum(w.nbytes for _, w in tree_flatten(network.parameters()))
    modules = dict(network.named_modules())
    many = training.num_layers if training.num_layers > 0 else blocks
    if training.fine_tune_type == "full":
        by_block = [sum(w.size for _, w in tree_flatten(block.parameters())) for block in network.layers]
        trained = {n: sum(by_block[-n:]) for n in range(1, many + 1)}
    else:
        keys = layer_keys(network, training.lora_keys)
        trained = {}
        for n in range(1, many + 1):
            paths = adaptable(modules, network.layers, n, keys)
            elements = 0
            for path in paths:
                for shape in shapes(modules[path], training.rank, training.fine_tune_type).values():
                    size = 1
                    for side in shape:
                        size *= side
                    elements += size
            trained[n] = elements
    return Sizes(read_shape(config), blocks, weights, trained, longest, load or whole_rows(longest))


def need(found: Sizes, training: Training) -> Need:
    """Return what training with these settings takes."""
    shape = found.shape
    many = training.num_layers if 0 < training.num_layers < found.blocks else found.blocks
    tokens, pairs = found.load(training)
    block = FLOAT * (
        SCORES * shape.heads * pairs
        + STREAM * tokens * shape.width
        + INNER * tokens * shape.inner
        + HEADS * tokens * shape.head_dim * (shape.heads + shape.kv_heads)
    )
    alive = min(AGAIN, many) if training.grad_checkpoint else many
    step = block * (alive + (0.5 if many < found.blocks else 0.0))
    if training.grad_checkpoint:
        step += KEPT_INPUTS * many * tokens * shape.width * FLOAT
    at_once = min(tokens, training.logits_chunk) if training.logits_chunk else tokens
    step += LOGITS * at_once * shape.vocabulary * FLOAT
    trained = found.trained[max(n for n in found.trained if n <= many)] * FLOAT
    return Need(found.weights, 3 * trained, int(MARGIN * (step + TRAINED * trained)))


def fit(found: Sizes, training: Training, budget: int, fewer_layers: bool = True) -> tuple[Training, list[str]]:
    """Return the largest settings that fit, and what was changed.

    In this order: smaller batches with more accumulation, activations computed again, fewer logits at once, shorter
    rows, fewer layers.

    Args:
        found: sizes of the network and the data.
        training: what was asked for.
        budget: bytes that all of it may take.
        fewer_layers: whether layers may be left out.

    Raises:
        WontFit: not even the smallest; says needed and free, and what would help.
    """
    changed: list[str] = []
    asked = need(found, training).peak
    while need(found, training).peak > budget:
        # Where it is not the step that is too large, no notch of it helps.
        less = None if found.weights > budget else notch(training, min(found.longest, training.max_seq_length))
        if less is None and fewer_layers and found.weights < budget:
            many = training.num_layers if training.num_layers > 0 else found.blocks
            if many > 1:
                less = training.model_copy(update={"num_layers": many // 2}), 1, f"--num-layers {many // 2}"
        if less is None:
            least = need(found, training).peak
            raise WontFit(
                f"training needs {asked / 1e9:.2f} GB as asked and {least / 1e9:.2f} GB at the least, and {budget / 1e9:.2f} GB "
                "are free; a smaller or quantized model (--q-bits 4) would fit, or a larger --memory-budget"
            )
        training, _, what = less
        changed.append(what)
    return training, changed


def notch(training: Training, longest: int | None = None) -> tuple[Training, int, str] | None:
    """Return settings that take less memory, how many batches now make one, and what changed; None at the end."""
    if training.batch_size > 1:
        factor = 2 if training.batch_size % 2 == 0 else training.batch_size
        counts = ("iters", "steps_per_eval", "save_every", "grad_accumulation_steps", "steps_per_report")
        more = {name: getattr(training, name) * factor for name in counts}
        size = training.batch_size // factor
        less = training.model_copy(update={"batch_size": size, **more})
        return less, factor, f"--batch-size {size} --grad-accumulation-steps {less.grad_accumulation_steps}"
    if not training.grad_checkpoint:
        return training.model_copy(update={"grad_checkpoint": True}), 1, "--grad-checkpoint"
    if not training.logits_chunk or training.logits_chunk > 128:
        return training.model_copy(update={"logits_chunk": 128}), 1, "--logits-chunk 128"
    now = min(training.max_seq_length, longest or training.max_seq_length)
    if now > 256:
        half = max(256, now // 2)
        return training.model_copy(update={"max_seq_length": half}), 1, f"--max-seq-length {half}"
    return None


def planned(
    network: nn.Module, config: Mapping[str, Any], training: Training, folder: Path, store: Store, budget: int
) -> tuple[Training, list[str], int]:
    """Return settings that fit, what was changed, and the bytes that training takes besides the weights.

    A run that goes on keeps what was chosen when it began, whatever the machine has free by now.

    Raises:
        WontFit: not even the smallest settings fit.
    """
    file = folder / "plan.json"
    asked = json.loads(training.model_dump_json())
    load = real_batches(store, training.shared_context and can_share(network))
    found = sizes(network, config, training, int(store.index["length"].max()), load)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            chosen = Training(**kept["chosen"])
            return chosen, kept["changed"], need(found, chosen).peak - found.weights
    chosen, changed = fit(found, training, budget)
    write_json(file, {"asked": asked, "chosen": json.loads(chosen.model_dump_json()), "changed": changed})
    return chosen, changed, need(found, chosen).peak - found.weights
