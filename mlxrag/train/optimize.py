"""Optimizers and how their step size changes: a name in the settings, a function here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from mlxrag.settings import Training

Rate = float | Callable[[mx.array], mx.array]

OPTIMIZERS: dict[str, Callable[[Rate, Training], optim.Optimizer]] = {
    "adamw": lambda rate, t: optim.AdamW(rate, weight_decay=t.weight_decay),
    "adam": lambda rate, t: optim.Adam(rate),
    "adafactor": lambda rate, t: optim.Adafactor(rate, relative_step=False, scale_parameter=False),
    "lion": lambda rate, t: optim.Lion(rate, weight_decay=t.weight_decay),
    "muon": lambda rate, t: optim.Muon(rate, weight_decay=t.weight_decay),
    "sgd": lambda rate, t: optim.SGD(rate, momentum=0.9),
}
SCHEDULES: dict[str, Callable[[float, int, Training], Rate]] = {
    "constant": lambda rate, updates, t: rate,
    "linear": lambda rate, updates, t: optim.linear_schedule(rate, 0.0, updates),
    "cosine": lambda rate, updates, t: optim.cosine_decay(rate, updates),
    "restarts": lambda rate, updates, t: _restarts(rate, t.restart_every or max(1, updates // 4)),
}


def make_optimizer(training: Training, updates: int) -> optim.Optimizer:
    """Return the optimizer of a run of `updates` updates, its step size on its schedule."""
    return OPTIMIZERS[training.optimizer](schedule(training, updates), training)


def schedule(training: Training, updates: int) -> Rate:
    """Return the step size, or the function of the update's number (from 0) that gives it."""
    warmup = min(training.warmup, updates - 1)
    rate = SCHEDULES[training.lr_schedule](training.learning_rate, max(1, updates - warmup), training)
    if not warmup:
        return rate
    later = rate if callable(rate) else (lambda _: mx.array(training.learning_rate))
    rising = optim.linear_schedule(0.0, training.learning_rate, warmup)
    joined: Callable[[mx.array], mx.array] = optim.join_schedules([rising, later], [warmup])
    return joined


def _restarts(rate: float, every: int) -> Callable[[mx.array], mx.array]:
    """Cosine decay that begins anew every `every` updates.

    Source: Loshchilov and Hutter, SGDR (arXiv:1608.03983), equation 5 with a constant period.
    """
    once: Any = optim.cosine_decay(rate, every)
    return lambda step: once(step % every)
