"""What a person sees while an adapter is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlxrag.cli import show

if TYPE_CHECKING:
    from mlxrag.train.step import Step


def watch(steps: Iterator[Step], every: int) -> Iterator[Step]:
    """Show notes, validations, and where training stands: a bar on a terminal, else a line every so many batches."""
    console = show.err()
    began = time.monotonic()
    losses: list[float] = []
    with show.bar(console, "batches") as drawn:
        task = drawn.add_task("preparing", total=None)
        for step in steps:
            if step.note:
                drawn.console.print(step.note, markup=False)
            if step.valid_loss is not None:
                scored = "".join(f", {name} {value:.3f}" for name, value in (step.measures or {}).items())
                kept = ", the best adapter so far" if step.best else ""
                drawn.console.print(f"batch {step.iteration}: validation loss {step.valid_loss:.4f}{scored}{kept}")
            if step.train_loss is not None:
                losses.append(step.train_loss)
                recent = sum(losses[-every:]) / len(losses[-every:])
                text = (
                    f"loss {recent:.3f}  {step.tokens_per_second or 0:,.0f} tokens/s  {show.size(step.peak_bytes or 0)}"
                )
                drawn.update(task, total=step.iterations, completed=step.iteration, description=text)
                if not console.is_terminal and (step.iteration % every == 0 or step.iteration == step.iterations):
                    left = (time.monotonic() - began) / len(losses) * (step.iterations - step.iteration)
                    show.say(f"batch {step.iteration}/{step.iterations}: {text}  {left / 60:.1f} min left")
            yield step
