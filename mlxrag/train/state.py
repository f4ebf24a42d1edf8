"""States to resume from: weights, optimizer, random numbers, place in the data, and what was best; whole or not at all.

`states/0000100/` holds `weights.safetensors`, `optimizer.safetensors`, and `state.json`, which is written last in a
temporary neighbour that is then renamed.  A state belongs to a run with the same settings, data and base.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlxrag.errors import Mismatch
from mlxrag.model.attach import random_key
from mlxrag.train.step import stretch
from mlxrag.workspace import write_json

ANY = "any"
"""Signature of a state that a run with less memory goes on from."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        iteration: batches trained on.
        best: the best value of what `best_by` says, the lower the better (a measure counts negative), or None.
        best_iteration: when that was.
        waited: validations since then.
        base: the same value of the base alone, before the first batch, or None.
        tokens: tokens trained on.
        seconds: time spent on batches.
        random: state of MLX's random numbers, as a seed.
    """

    iteration: int = 0
    best: float | None = None
    best_iteration: int = 0
    waited: int = 0
    base: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    random: int = 0


def save_state(
    folder: Path, signature: str, progress: Progress, network: nn.Module, optimizer: optim.Optimizer, keep: int
) -> Path:
    """Write a state and remove all but the newest `keep`."""
    states = folder / "states"
    states.mkdir(parents=True, exist_ok=True)
    temporary = states / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    mx.save_safetensors(str(temporary / "weights.safetensors"), dict(tree_flatten(network.trainable_parameters())))
    mx.save_safetensors(str(temporary / "optimizer.safetensors"), dict(tree_flatten(optimizer.state)))
    fact = {"signature": signature, **asdict(replace(progress, random=random_key()))}
    (temporary / "state.json").write_text(json.dumps(fact), encoding="utf-8")
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    final = states / f"{progress.iteration:07d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in sorted(states.glob("[0-9]*"))[:-keep]:
        shutil.rmtree(old)
    return final


def newest_state(folder: Path, signature: str) -> Path | None:
    """Return the newest whole state of a run, or None.

    Raises:
        Mismatch: the states there are of another run.
    """
    for state in sorted((folder / "states").glob("[0-9]*"), reverse=True):
        if (state / "state.json").is_file():
            found = json.loads((state / "state.json").read_text(encoding="utf-8"))
            if found["signature"] not in (signature, ANY):
                raise Mismatch(
                    f"{folder}: holds the states of a run with other settings, data or base; remove it or use another folder"
                )
            return state
    return None


def adopt(folder: Path, factor: int) -> None:
    """Let the newest state be gone on from with other settings that need less memory.

    Args:
        folder: of the run.
        factor: how many batches of the new settings make one of the old.
    """
    states = [s for s in sorted((folder / "states").glob("[0-9]*")) if (s / "state.json").is_file()]
    for old in states[:-1]:
        shutil.rmtree(old)
    if not states:
        return
    fact = json.loads((states[-1] / "state.json").read_text(encoding="utf-8"))
    for name in ("iteration", "best_iteration"):
        fact[name] *= factor
    write_json(states[-1] / "state.json", {**fact, "signature": ANY})
    states[-1].rename(states[-1].with_name(f"{fact['iteration']:07d}"))
    stretch(folder, factor)


def load_state(state: Path, network: nn.Module, optimizer: optim.Optimizer) -> Progress:
    """Put a state into a network and an optimizer, and set the random numbers; return where the run stood."""
    fact: dict[str, Any] = json.loads((state / "state.json").read_text(encoding="utf-8"))
    fact.pop("signature")
    weights = mx.load(str(state / "weights.safetensors"))
    assert isinstance(weights, dict)
    network.update(tree_unflatten(list(weights.items())))
    kept = mx.load(str(state / "optimizer.safetensors"))
    assert isinstance(kept, dict)
    optimizer.state = tree_unflatten(list(kept.items()))
    optimizer.init(network.trainable_parameters())
    mx.eval(network.parameters(), optimizer.state)
    progress = Progress(**fact)
    mx.random.seed(progress.random)
    return progress
