"""What a training job will hold in memory, and the largest settings that fit a budget.

A step is built, not computed, on arrays of the shape of the largest batches: weights, what is trained with the optimizer's
state, what the batch needs on the way forward and back.  `peak.py` then finds the most that is held at once, for this
architecture, these settings and this device, with nothing fitted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlxrag.errors import WontFit
from mlxrag.model.attach import random_key
from mlxrag.settings import Training
from mlxrag.train.batches import PAD, SHARE, Plan, Store, plan
from mlxrag.train.graph import trace
from mlxrag.train.layers import trainable
from mlxrag.train.loss import Batch, How
from mlxrag.train.optimize import make_optimizer
from mlxrag.train.parts import first_trained, hidden, sound
from mlxrag.train.peak import CPU, GPU, peak
from mlxrag.train.shared import can_share, shared_trunk
from mlxrag.train.update import make_update
from mlxrag.workspace import write_json

LOOK = 50
"""How many of the longest batches of either kind are looked at."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that training takes.

    Attributes:
        weights: of the base.
        trained: what learns, with the optimizer's state.
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
class Load:
    """The shape of a batch.

    Attributes:
        rows: how many.
        own: tokens of the longest, after what is shared.
        groups: contexts that rows share.
        context: tokens of the longest context; 0 shares nothing.
        learnt: tokens to learn, of all rows.
    """

    rows: int
    own: int
    groups: int = 0
    context: int = 0
    learnt: int = SHARE

    @property
    def tokens(self) -> int:
        """Tokens that are run."""
        return self.groups * self.context + self.rows * self.own

    @property
    def pairs(self) -> int:
        """Pairs of tokens that attend to one another."""
        return self.groups * self.context**2 + self.rows * self.own * (self.context + self.own)

    def batch(self) -> Batch:
        """Return a batch of this shape, all zeros."""
        width = 1 + PAD * max(1, -(-(self.own - 1) // PAD))
        places = SHARE * max(1, -(-self.learnt // SHARE))
        shared = owner = None
        if self.context:
            shared = mx.zeros((self.groups, self.context), mx.int32)
            owner = mx.zeros((self.rows,), mx.int32)
        learn = mx.zeros((self.rows, width - 1), mx.bool_)
        tokens = mx.zeros((self.rows, width), mx.int32)
        return Batch(0, tokens, learn, mx.zeros((places,), mx.int32), mx.array(1), shared, owner)


def loads(store: Store, training: Training, shared: bool) -> set[Load]:
    """Return the shapes of the batches that take most: by tokens, by pairs of tokens and by tokens to learn.

    Args:
        store: the rows.
        training: batch size and longest row; rows that are longer will be cut.
        shared: whether passages are run once for the rows over them.
    """
    plans = plan(store, training.batch_size, shared)
    with_context = [p for p in plans if p.context]
    found = [_load(store, p, training) for p in with_context[:LOOK] + [p for p in plans if not p.context][:LOOK]]
    measures: tuple[Callable[[Load], int], ...] = (lambda f: f.tokens, lambda f: f.pairs, lambda f: f.learnt)
    return {max(found, key=measure) for measure in measures}


def _load(store: Store, planned: Plan, training: Training) -> Load:
    longest = min(int(store.index["length"][list(planned.rows)].max()), training.max_seq_length)
    context = min(planned.context, longest - 1)
    learnt = sum(int(store.row(r)[1][-longest:].sum()) for r in planned.rows)
    return Load(len(planned.rows), longest - context, len(set(planned.groups)), context, learnt)


def need(network: nn.Module, training: Training, load: Load) -> Need:
    """Return what training on batches of a shape takes; nothing is computed.

    Args:
        network: the base.
        training: the settings.
        load: shape of the batch.

    Raises:
        BadInput: settings that this base does not take.
        NotImplementedError: MLX cannot tell one of the operations.
    """
    key = random_key()
    weights = sum(w.nbytes for _, w in tree_flatten(network.parameters()))
    apart = sound(network)
    with trainable(network, training.model_copy(update={"resume_adapter_file": ""})):
        optimizer = make_optimizer(training, 2)
        optimizer.init(network.trainable_parameters())
        start = first_trained(network) if training.trunk_cache and apart else 0
        how = How(training.answer_head, training.logits_chunk, training.grad_checkpoint, start, not apart)
        alone = SimpleNamespace(size=lambda: 1)
        run = make_update(network, optimizer, how, training.clip, alone, False)
        learns, state = tree_flatten(network.trainable_parameters()), tree_flatten(optimizer.state)
        names = {name for name, _ in learns}
        rest = [(name, w) for name, w in tree_flatten(network.parameters()) if name not in names]
        waiting = learns if training.grad_accumulation_steps > 1 else []
        given = _given(network, load.batch(), start)
        groups = [learns, state, waiting, tree_flatten(given), rest]

        def step(*arrays: mx.array) -> list[mx.array]:
            left = iter(arrays)
            now = [[(name, next(left)) for name, _ in group] for group in groups]
            network.update(tree_unflatten(now[0] + now[4]))
            optimizer.state = tree_unflatten(now[1])
            sums = iter([array for _, array in now[2]])
            before = tree_map(lambda _: next(sums), network.trainable_parameters()) if now[2] else None
            total, count, _, _ = run(tree_unflatten(now[3]), before, mx.array(1) if before else None, True)
            after = tree_flatten([network.trainable_parameters(), optimizer.state])
            return [*(array for _, array in after), total, count]

        try:
            graph = trace(step, [array for group in groups for _, array in group])
        finally:  # the arrays of the trace mean nothing outside it
            network.update(tree_unflatten(learns + rest))
            mx.random.seed(key)
    own = sum(w.nbytes for _, w in learns)
    trained = own + sum(array.nbytes for _, array in state)
    # The old weights, state and waiting gradients are held by nobody but the step; the batch and the base are.
    loose = {value.name for value in graph.inputs[: len(learns) + len(state) + len(waiting)]}
    _, most = peak(graph, loose, GPU if mx.default_device() == mx.Device(mx.gpu) else CPU)
    # Where the layers themselves are trained, the base's are kept, to be put back.
    most += own if training.fine_tune_type == "full" else 0
    return Need(weights, trained, most - weights - trained)


def _given(network: nn.Module, batch: Batch, start: int) -> dict[str, Any]:
    """Return the arrays of a batch by name, flat, what the untrained blocks give for it included."""
    names = ("tokens", "learn", "places", "count", "context", "owner")
    given = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    if start:
        inputs = batch.tokens[:, :-1]
        made: tuple[mx.array, ...] = (hidden(network, inputs, stop=start),)
        if batch.context is not None and batch.owner is not None:
            made = shared_trunk(network, batch.context, inputs, batch.owner, start)
        given |= {"trunk": made}
    return given


def fit(
    needed: Callable[[Training], Need], training: Training, budget: int, longest: int, blocks: int
) -> tuple[Training, list[str], Need]:
    """Return the largest settings that fit, what was changed, and what they take.

    In this order: smaller batches with more accumulation, activations computed again, fewer logits at once, shorter
    rows, fewer layers.

    Args:
        needed: what settings take.
        training: what was asked for.
        budget: bytes that all of it may take.
        longest: tokens of the longest row.
        blocks: of the network; fewer of them are trained where nothing else helps.

    Raises:
        WontFit: not even the smallest; says needed and free, and what would help.
    """
    changed: list[str] = []
    asked = least = needed(training)
    while least.peak > budget:
        # Where it is not the step that is too large, no notch of it helps.
        less = None if least.weights > budget else notch(training, min(longest, training.max_seq_length))
        if less is None and least.weights < budget:
            many = training.num_layers if training.num_layers > 0 else blocks
            if many > 1:
                less = training.model_copy(update={"num_layers": many // 2}), 1, f"--num-layers {many // 2}"
        if less is None:
            raise WontFit(
                f"training needs {asked.peak / 1e9:.2f} GB as asked and {least.peak / 1e9:.2f} GB at the least, and "
                f"{budget / 1e9:.2f} GB are free; a smaller or quantized model (--q-bits 4) would fit, or a larger "
                "--memory-budget"
            )
        training, _, what = less
        changed.append(what)
        least = needed(training)
    return training, changed, least


def notch(training: Training, longest: int | None = None) -> tuple[Training, int, str] | None:
    """Return settings that take less memory, how many batches now make one, and what changed; None at the end."""
    if training.batch_size > 1:
        factor = 2 if training.batch_size % 2 == 0 else training.batch_size
        counts = ("iters", "steps_per_eval", "save_every", "grad_accumulation_steps", "steps_per_report")
        more = {name: getattr(training, name) * factor for name in counts}
        more["val_batches"] = max(-1, training.val_batches * factor)  # or the validations could not be compared
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
    network: nn.Module, training: Training, folder: Path, store: Store, budget: int
) -> tuple[Training, list[str], int]:
    """Return settings that fit, what was changed, and the bytes that training takes besides the weights.

    A run that goes on keeps what was chosen when it began, whatever the machine has free by now.  What cannot be predicted,
    since MLX cannot tell its operations, is left as it is and takes all that is free.

    Raises:
        WontFit: not even the smallest settings fit.
    """
    shared = training.shared_context and can_share(network)

    def needed(these: Training) -> Need:
        return max((need(network, these, load) for load in loads(store, these, shared)), key=lambda n: n.peak)

    file = folder / "plan.json"
    asked = json.loads(training.model_dump_json())
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    try:
        if kept.get("asked") == asked:
            chosen, changed = Training(**kept["chosen"]), list(kept["changed"])
            taken = needed(chosen)
        else:
            longest = int(store.index["length"].max())
            chosen, changed, taken = fit(needed, training, budget, longest, len(network.layers))
    except NotImplementedError:
        weights = sum(w.nbytes for _, w in tree_flatten(network.parameters()))
        return training, [], max(0, budget - weights)
    write_json(file, {"asked": asked, "chosen": json.loads(chosen.model_dump_json()), "changed": changed})
    return chosen, changed, taken.trained + taken.step
