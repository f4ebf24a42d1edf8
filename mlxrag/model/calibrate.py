"""Quantization that looks at what the model computes on the user's own texts, by mlx_lm's functions.

mlx_lm's commands fetch their calibration text from the network; its functions take token ids, and that is
what they get here.  They draw progress bars and print, which is caught.  All of them hold the unquantized
model in memory (gptq its Hessians too, dynamic its gradients).
"""

from __future__ import annotations

import copy
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.recipe import Recipe
from mlxrag.model.tokenizer import Tokenizer
from mlxrag.settings import Quantizing

Table = dict[str, Any]
HELD_OUT = 8  # pieces that dwq is checked on and does not see


@dataclass(frozen=True)
class Calibration:
    """Token ids `(n, length)` of the user's texts, all of one length, and how to use them."""

    ids: tuple[tuple[int, ...], ...]
    quantizing: Quantizing
    model_type: str = ""

    @property
    def array(self) -> mx.array:
        """The ids as an int32 array `(n, length)`."""
        return mx.array([list(row) for row in self.ids], dtype=mx.int32)


def pieces(tokenizer: Tokenizer, texts: Iterable[str], count: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Cut texts into `count` pieces of `length` tokens, spread evenly over all of them.

    Raises:
        BadInput: the texts are shorter than one piece.
    """
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text + "\n\n")
    whole = len(ids) // length
    if whole == 0:
        raise BadInput(
            f"the texts have {len(ids)} tokens and one piece needs {length}; give more, or --calibration-tokens"
        )
    chosen = np.unique(np.linspace(0, whole - 1, min(count, whole)).astype(int))
    return tuple(tuple(ids[i * length : (i + 1) * length]) for i in chosen)


def awq(network: nn.Module, recipe: Recipe, calibration: Calibration | None) -> Table:
    """Scale channels that activations make important before rounding (Lin et al., 2023)."""
    with quiet():
        from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize

    assert calibration is not None
    if (plan := AWQ_MODEL_CONFIGS.get(calibration.model_type)) is None:
        known = ", ".join(sorted(AWQ_MODEL_CONFIGS))
        raise BadInput(f"awq does not know {calibration.model_type} networks, but {known}; use gptq or dwq")
    undividable(network, recipe, "awq")
    with quiet():
        awq_quantize(
            network, calibration.array, plan, bits=recipe.bits, group_size=recipe.group_size,
            embed_bits=max(recipe.bits, 4), embed_group_size=32,
        )  # fmt: skip
    return table_of(network, recipe)


def gptq(network: nn.Module, recipe: Recipe, calibration: Calibration | None) -> Table:
    """Round column by column, each later column making up for the error so far (Frantar et al., 2022)."""
    with quiet():
        from mlx_lm.quant.gptq import gptq_quantize

    assert calibration is not None
    undividable(network, recipe, "gptq")
    with quiet():
        gptq_quantize(network, calibration.array, recipe.bits, recipe.group_size, 6, recipe.group_size)
    return table_of(network, recipe)


def dwq(network: nn.Module, recipe: Recipe, calibration: Calibration | None) -> Table:
    """Train the scales and biases of a rounded copy until it says what the original says; kept only if it does.

    mlx_lm keeps the last step even where it is worse than the first; here the figures of both are compared on
    pieces that were not trained on, and the rounded weights stay as they are if training did not help.
    """
    with quiet():
        from mlx.optimizers import Adam
        from mlx_lm.quant.dwq import dwq_quantize

    assert calibration is not None
    settings, rows = calibration.quantizing, calibration.ids
    held = max(1, min(HELD_OUT, len(rows) // 4))
    train, valid = rows[:-held], rows[-held:]
    if len(train) < settings.dwq_batch:
        raise BadInput(f"dwq needs at least {settings.dwq_batch + 1} pieces of text, not {len(rows)}; give more")
    teacher = copy.deepcopy(network)
    table = rounded(network, recipe)
    before = distance(teacher, network, valid)
    kept = dict(tree_flatten(network.parameters()))
    dtype = next(a.dtype for _, a in tree_flatten(teacher.parameters()) if mx.issubdtype(a.dtype, mx.floating))

    def target(tokens: mx.array, number: int, split: str) -> mx.array:
        out: mx.array = mx.stop_gradient(teacher(tokens))
        return out

    with quiet():
        dwq_quantize(
            network, target, Adam(learning_rate=settings.dwq_learning_rate, bias_correction=True),
            [(list(row), 0) for row in train], [(list(row), 0) for row in valid],
            batch_size=min(settings.dwq_batch, held), max_seq_length=len(rows[0]), seed=0, dtype=dtype,
        )  # fmt: skip
    network.freeze()
    if distance(teacher, network, valid) >= before:
        network.load_weights(list(kept.items()))
    return table


def distance(teacher: nn.Module, student: nn.Module, rows: Sequence[Sequence[int]]) -> float:
    """Return the mean KL(teacher || student) over the positions of `rows`, in nats."""
    total = 0.0
    for row in rows:
        ids = mx.array([list(row)])
        p, q = (nn.log_softmax(net(ids).astype(mx.float32), axis=-1) for net in (teacher, student))
        total += float(mx.mean(mx.sum(mx.exp(p) * (p - q), axis=-1)))
    return total / len(rows) if math.isfinite(total) else math.inf


def dynamic(network: nn.Module, recipe: Recipe, calibration: Calibration | None) -> Table:
    """Spend bits where the loss feels them: layers by sensitivity, up to a target of bits per weight."""
    with quiet():
        from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold

    assert calibration is not None
    undividable(network, recipe, "dynamic")
    group = recipe.group_size
    with quiet():
        found = dict(estimate_sensitivities(network, calibration.array, recipe.bits, group, recipe.high_bits, group))
        limit = estimate_threshold(network, found, recipe.target_bpw, recipe.bits, group, recipe.high_bits, group)
    high = {"group_size": group, "bits": recipe.high_bits, "mode": "affine"}

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        return high if found.get(path, -math.inf) > limit else hasattr(module, "to_quantized")

    nn.quantize(network, group, recipe.bits, class_predicate=choose)
    return table_of(network, recipe)


def rounded(network: nn.Module, recipe: Recipe) -> Table:
    """Quantize every layer that can be divided, and return the table."""
    nn.quantize(
        network, recipe.group_size, recipe.bits,
        class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % recipe.group_size == 0,
    )  # fmt: skip
    return table_of(network, recipe)


def table_of(network: nn.Module, recipe: Recipe) -> Table:
    """Return the table of config.json for a network as it is: the recipe's bits, and every layer that has others."""
    usual = {"group_size": recipe.group_size, "bits": recipe.bits, "mode": recipe.mode}
    table: Table = dict(usual)
    for path, module in tree_flatten(network.leaf_modules(), is_leaf=nn.Module.is_module):
        if hasattr(module, "bits"):
            mine = {"group_size": module.group_size, "bits": module.bits, "mode": getattr(module, "mode", "affine")}
            if mine != usual:
                table[path] = mine
    return table


def undividable(network: nn.Module, recipe: Recipe, method: str) -> None:
    """Raise BadInput if a layer's rows do not divide into groups; these methods have no way around one."""
    for path, module in tree_flatten(network.leaf_modules(), is_leaf=nn.Module.is_module):
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % recipe.group_size:
            raise BadInput(
                f"{method} needs every layer to divide into groups of {recipe.group_size}, and {path} has "
                f"{module.weight.shape[-1]} inputs; use another group size, or plain bits"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what mlx_lm prints and draws, and what transformers says when it is imported, off the terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
