"""Where an encoder computes while a model answers, and what it has begun: `encode.py` begins and asks for it.

Knows no tokens: a piece of work is a list of arrays that MLX is computing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxrag.model.bert import Bert
from mlxrag.model.on_demand import OnDemand
from mlxrag.model.speed import backend

SMALL = 200_000_000
"""Bytes up to which an encoder is small: a CPU is done with a batch of questions before a model is with its answers."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """Vectors of questions that are being computed on the CPU's stream.

    Attributes:
        texts: the questions.
        rows: of each batch, the places of its questions in `texts`.
        batches: unit vectors `(b, d)` of each, not to be looked at before they are wanted.
        held: gives back what they hold of the budget, and lets the weights be unloaded.
    """

    texts: tuple[str, ...]
    rows: list[list[int]]
    batches: list[mx.array]
    held: ExitStack


def beside(weights: OnDemand[Any], on: str = "") -> bool:
    """Return whether an encoder computes on the CPU's stream while a model answers: the one rule of placement.

    On unified memory both streams read the same weights, and nothing is copied.  So it holds for Metal alone: CUDA's
    memory is the GPU's own.  Half precision and quantized weights are left to the GPU, since MLX's CPU kernels for them
    are 30 times slower.

    Args:
        weights: of the encoder; not loaded for this, since those out of memory have given way to the model.
        on: what MLX computes with; looked up unless given.
    """
    if not on and mx.default_device() == mx.Device(mx.cpu):
        return False
    if (on or backend()) != "Metal" or not weights.loaded or weights.size > SMALL:
        return False
    network = weights.get()
    return isinstance(network, Bert) and all(value.dtype == mx.float32 for value in network.weights.values())


def taken(ahead: list[Ahead], texts: Sequence[str]) -> np.ndarray | None:
    """Return the vectors `(len(texts), d)` that were begun for just these texts, and forget them; None where there are none."""
    if not ahead or ahead[0].texts != tuple(texts):
        return None
    begun = ahead[0]
    order = np.argsort([place for rows in begun.rows for place in rows])
    vectors = np.concatenate([np.array(batch) for batch in begun.batches])[order]
    drop(ahead)
    return vectors


def drop(ahead: list[Ahead]) -> None:
    """Let go of what was begun and not asked for."""
    while ahead:
        begun = ahead.pop()
        mx.eval(begun.batches)  # what is being computed cannot be given back
        begun.batches.clear()
        begun.held.close()
