"""What is known after a batch, and the file where a run keeps it: `steps.jsonl`, a line for each Step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxrag.workspace import write_text

STEPS = "steps.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after a batch; numbers that were not computed are None.

    Attributes:
        iteration: batches so far; 0 for the validation before the first.
        iterations: batches of the run.
        train_loss: mean cross-entropy of the batch's tokens to learn, in nats.
        valid_loss: the same over the validation batches.
        measures: what the answers to the validation questions scored, by measure.
        tokens_per_second: tokens of the rows, passages counted once for each row, without padding.
        peak_bytes: most memory MLX held so far.
        learning_rate: step size of the last update.
        best: whether these weights are the best so far.
        note: something that happened, for people.
    """

    iteration: int
    iterations: int
    train_loss: float | None = None
    valid_loss: float | None = None
    measures: Mapping[str, float] | None = None
    tokens_per_second: float | None = None
    peak_bytes: int | None = None
    learning_rate: float | None = None
    best: bool = False
    note: str = ""


def log(folder: Path, step: Step) -> None:
    """Add a step to a run's file."""
    with (folder / STEPS).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(asdict(step)) + "\n")


def read_steps(path: Path) -> list[Step]:
    """Read the steps that a run logged."""
    return [Step(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def rewind(folder: Path, iteration: int) -> None:
    """Drop what was logged after a batch, and a line that was cut short: a run goes on from its last state."""
    path = folder / STEPS
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
    write_text(path, "".join(kept))


def stretch(folder: Path, factor: int) -> None:
    """Count what was logged in batches of which `factor` make one of the old."""
    path = folder / STEPS
    if path.is_file():
        whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        lines = [json.loads(line) for line in whole]
        lines = [{**line, "iteration": line["iteration"] * factor} for line in lines]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
