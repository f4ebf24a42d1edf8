"""Which quantization: every recipe made, measured on the user's own texts, and the best admissible one picked.

The original is measured first and its logits are written down; then one recipe at a time is made, measured and,
unless it is the best admissible so far, thrown away.  At most two models' files are on disk beside the original,
and one model is in memory at a time.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxrag.errors import BadInput, MlxragError
from mlxrag.model.calibrate import Calibration
from mlxrag.model.checkpoint import refuse_change, stamp
from mlxrag.model.likelihood import Divergence, Recorded, divergence, recorded
from mlxrag.model.network import assemble
from mlxrag.model.quantize import bits_per_weight, nbytes, unpack
from mlxrag.model.recipe import Recipe, parse
from mlxrag.model.source import Source
from mlxrag.model.timing import Timing, time_generation
from mlxrag.model.write import dtype_of, write_model
from mlxrag.settings import Quantizing
from mlxrag.workspace import Artefact, Workspace, create

ORIGINAL = "original"
DEFAULT = ("8-g64", "6-g64", "5-g64", "4-g32", "4-g64", "mixed_4_6", "3-g64", "mixed_3_6", "mxfp8", "mxfp4", "nvfp4")


@dataclass(frozen=True)
class AnswerScore:
    """Score of answers on a dataset: mean (None without any), interval where there is one, questions, and how many failed."""

    measure: str
    value: float | None
    low: float | None
    high: float | None
    questions: int
    failed: int = 0
    dataset: str = ""


@dataclass(frozen=True)
class Row:
    """One recipe's figures; where it could not be made, only `reason`.

    Attributes:
        recipe: its word, or `original`.
        nbytes: bytes of the weights.
        bits_per_weight: of all weights, what is not quantized included.
        quality: distance from the original on the texts.
        speed: prefill, decoding and memory.
        answers: score on a dataset, if one was given.
        make_bytes: most memory that making it took.
        reason: why there are no figures.
    """

    recipe: str
    nbytes: int = 0
    bits_per_weight: float = math.nan
    quality: Divergence | None = None
    speed: Timing | None = None
    answers: AnswerScore | None = None
    make_bytes: int = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a report holds it; figures with median, interval and values."""
        speed = None
        if self.speed is not None:
            speed = {"prompt_tokens": self.speed.prompt_tokens, "new_tokens": self.speed.new_tokens}
            speed |= {
                key: getattr(self.speed, key).as_dict() for key in ("first_token", "prefill", "decode", "peak_bytes")
            }
        row = {**asdict(self), "speed": speed}
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


@dataclass(frozen=True)
class Pick:
    """The recipe that was picked and why; `recipe` is empty where none is admissible."""

    recipe: str
    why: str


@dataclass(frozen=True)
class Measuring:
    """How each recipe is measured.

    Attributes:
        rows: token ids of the user's texts, pieces of one length, for quality; never those used for calibration.
        calibration: what calibrated recipes look at, or None.
        prompt_tokens: length of the prompts that are timed.
        new_tokens: tokens that are generated for each.
        runs: timed runs.
        answers: scores a model directory on a dataset; None where none was given.
    """

    rows: Sequence[Sequence[int]]
    calibration: Calibration | None
    prompt_tokens: int = 128
    new_tokens: int = 32
    runs: int = 5
    answers: Callable[[Path], AnswerScore] | None = None


def sweep(
    source: Source, recipes: Sequence[str], measuring: Measuring, workspace: Workspace, *, budget: int | None = None,
    max_kl: float | None = None, keep: Callable[[Row, Path], None] | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Measure the original and every recipe; one row each, as they are done.

    Args:
        source: the model, not quantized.
        recipes: words that `recipe.parse` reads.
        measuring: texts, prompts, runs.
        workspace: where files lie while they are measured.
        budget: most bytes the weights may have.
        max_kl: most nats per token they may lose.
        keep: called with the row and the directory of each recipe that is the best admissible so far.

    Raises:
        BadInput: a word is no recipe (said before anything is measured), the source is quantized already, or its files
            were replaced meanwhile.
    """
    plans = [parse(word) for word in recipes]
    if len(measuring.rows) < 2:
        raise BadInput(
            "a sweep needs at least 2 pieces of text to measure on; give more texts, or --calibration-tokens"
        )
    seen = stamp(source.path)
    first = assemble(source.path)
    if first.config.get("quantization"):
        raise BadInput(f"{source.name} is quantized already; sweep the model it was made from")
    network = ready(source.path)
    with scratch(workspace) as folder, recorded(network, measuring.rows, folder) as logits:
        rows = [original(source, network, logits, measuring)]
        del network
        yield rows[0]
        for plan in plans:
            place = folder / plan.name.replace("@", "-")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            try:
                row = measured(source, plan, place, logits, measuring)
            except MlxragError as error:
                row = Row(plan.name, reason=str(error))
            refuse_change(source.path, seen)
            rows.append(row)
            if not row.reason and keep and pick(rows, budget, max_kl).recipe == row.recipe:
                keep(row, place)
            shutil.rmtree(place, ignore_errors=True)
            yield row


def original(source: Source, network: Any, logits: Recorded, measuring: Measuring) -> Row:
    """Measure the model as it is; its distance from itself is 0, which shows that the ruler is straight."""
    return Row(
        ORIGINAL, sum_of_files(source.path), bits_per_weight(assemble(source.path).network), divergence(logits, network),
        timed(source.path, measuring), measuring.answers(source.path) if measuring.answers else None,
    )  # fmt: skip


def measured(source: Source, plan: Recipe, place: Path, logits: Recorded, measuring: Measuring) -> Row:
    """Make one recipe in `place` and measure it."""
    calibration = measuring.calibration if plan.calibrated else None
    written = write_model(assemble(source.path), source.path, place, recipe=plan, calibration=calibration)
    # The same rounded numbers, unpacked where packed ones are slow.
    quality = divergence(logits, ready(place, plain=mx.default_device() == mx.cpu))
    return Row(
        plan.name, written.nbytes, written.bits_per_weight, quality, timed(place, measuring),
        measuring.answers(place) if measuring.answers else None, written.peak_bytes,
    )  # fmt: skip


def ready(path: Path, *, plain: bool = False) -> Any:
    """Return the network in `path` with its weights read; in float32 where half precision is slow."""
    network = assemble(path).network
    if plain:
        unpack(network)
    if mx.default_device() == mx.cpu and dtype_of(network) != "float32":
        network.set_dtype(mx.float32)
    mx.eval(network.parameters())
    return network


def timed(path: Path, measuring: Measuring) -> Timing:
    """Time the model in `path` as it would be used."""
    return time_generation(ready(path), measuring.prompt_tokens, measuring.new_tokens, measuring.runs)


def sum_of_files(path: Path) -> int:
    """Return the bytes of a model's arrays."""
    return nbytes(assemble(path).network)


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats in both bytes and KL, smallest first (the Pareto front)."""
    best: list[Row] = []
    for row in sorted(valid(rows), key=lambda row: (row.nbytes, kl_of(row))):
        if not best or kl_of(row) < kl_of(best[-1]):
            best.append(row)
    return best


def pick(rows: Sequence[Row], budget: int | None = None, max_kl: float | None = None) -> Pick:
    """Return the best admissible recipe: the closest to the original within a budget, else the smallest within a KL.

    Args:
        rows: measured so far, the original among them.
        budget: most bytes of weights.
        max_kl: most nats per token.
    """
    if budget is None and max_kl is None:
        return Pick("", "nothing was asked for; give --budget or --max-kl")
    usable = valid(rows)
    small = [row for row in usable if budget is None or row.nbytes <= budget]
    fits = [row for row in small if max_kl is None or kl_of(row) <= max_kl]
    if not fits:
        least = min(usable, key=lambda row: row.nbytes, default=None)
        closest = min((row for row in usable if row.recipe != ORIGINAL), key=kl_of, default=None)
        said = f"the smallest, {least.recipe}, has {size(least.nbytes)}" if least else "nothing could be measured"
        if small and closest:
            said = f"of those that fit, the closest has KL {min(kl_of(row) for row in small):.3g}"
        return Pick("", f"none is admissible: {said}")
    if budget is not None:
        best = min(fits, key=lambda row: (kl_of(row), row.nbytes))
        over = [row for row in usable if row.nbytes > budget and kl_of(row) < kl_of(best)]
        more = min(over, key=lambda row: row.nbytes, default=None)
        rest = f"; closer would be {more.recipe} (KL {kl_of(more):.2g}) with {size(more.nbytes)}" if more else ""
        return Pick(
            best.recipe, f"closest to the original (KL {kl_of(best):.2g}) of {len(fits)} within {size(budget)}{rest}"
        )
    best = min(fits, key=lambda row: (row.nbytes, kl_of(row)))
    less = min((row for row in usable if row.nbytes < best.nbytes), key=kl_of, default=None)
    rest = f"; smaller would be {less.recipe} ({size(less.nbytes)}) with KL {kl_of(less):.2g}" if less else ""
    return Pick(best.recipe, f"smallest ({size(best.nbytes)}) of {len(fits)} with KL up to {max_kl:g}{rest}")


def valid(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have figures, and finite ones."""
    return [row for row in rows if row.quality is not None and math.isfinite(row.quality.kl_mean)]


def kl_of(row: Row) -> float:
    """Return the mean KL of a row that has one."""
    assert row.quality is not None
    return row.quality.kl_mean


def size(count: int) -> str:
    """Return a byte count for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


@contextmanager
def scratch(workspace: Workspace) -> Iterator[Path]:
    """Give a folder of this process's own; left behind by a kill, it is among what a clean-up frees."""
    folder = workspace.root / "cache" / "sweep" / f".draft-{os.getpid()}-{time.monotonic_ns():x}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Keeper:
    """Holds the files of the best admissible recipe so far, until it becomes a version or is not wanted."""

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, which is the caller's to remove."""
        self.folder = folder / "best"
        self.row: Row | None = None

    def __call__(self, row: Row, place: Path) -> None:
        """Take over the files of a recipe."""
        shutil.rmtree(self.folder, ignore_errors=True)
        place.rename(self.folder)
        self.row = row

    def freeze(self, workspace: Workspace, source: Source, name: str, why: str, quantizing: Quantizing) -> Artefact:
        """Make the files a version named `name`, with the figures in its manifest."""
        assert self.row is not None
        settings = {"recipe": self.row.recipe, "picked": why, **quantizing.model_dump()}
        with create(workspace, "models", name, inputs=[source.ref], settings=settings) as draft:
            for file in sorted(self.folder.iterdir()):
                shutil.move(file, draft.path / file.name)
            draft.note(
                nbytes=self.row.nbytes, bits_per_weight=self.row.bits_per_weight, recipe=self.row.recipe,
                sweep=self.row.as_dict(), source=source.ref, **({"proof": source.proof} if source.proof else {}),
            )  # fmt: skip
        assert draft.artefact is not None
        return draft.artefact
