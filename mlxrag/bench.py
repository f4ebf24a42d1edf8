"""Seconds, tokens per second and bytes of models, with their spread; and whether they differ from an earlier measurement.

Every figure is the list of its runs.  A comparison pairs the runs (the same prompts in the same order) and gives a
verdict only where the difference is both more than chance and large enough to matter.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mlxrag import device as device  # isort: skip  # before mlx.core
import mlx.core as mx
import psutil

from mlxrag import __version__
from mlxrag.errors import BadInput, Mismatch
from mlxrag.experiment.statistics import differences, wilcoxon
from mlxrag.model.generate import stream
from mlxrag.model.load import Model, load
from mlxrag.model.speed import backend, chip
from mlxrag.model.timing import Figure
from mlxrag.settings import Caching, ModelSettings, Sampling
from mlxrag.workspace import Workspace, machine

FIGURES = ("first_token", "prefill", "decode", "load", "peak_bytes", "resident_bytes")
MORE_IS_BETTER = frozenset({"prefill", "decode"})
ENOUGH = 0.02  # share by which medians must differ before it is called a difference
LEVEL = 0.05  # of the test
BUSY = 1.5  # processes per core beyond which figures say more about the machine's other work
FEWEST = 6  # runs with which the test can reach the level
Verdict = Literal["faster", "slower", "smaller", "larger", "no difference"]


@dataclass(frozen=True)
class Case:
    """One cell of the grid: a model, its bits, and a length of prompt."""

    model: str
    bits: int | None
    prompt_tokens: int

    @property
    def key(self) -> str:
        """How a report names the cell, such as `reader 4-bit 512`."""
        return f"{self.model}{f' {self.bits}-bit' if self.bits else ''} {self.prompt_tokens}"


@dataclass(frozen=True)
class Measured:
    """Figures of one cell.

    Attributes:
        case: which cell.
        new_tokens: tokens generated in each run.
        first_token: seconds to the first token.
        prefill: prompt tokens per second.
        decode: tokens per second after the first.
        load: seconds to load, files in the system's cache.
        peak_bytes: most memory MLX held in a run.
        resident_bytes: memory of the process after a run.
    """

    case: Case
    new_tokens: int
    first_token: Figure
    prefill: Figure
    decode: Figure
    load: Figure
    peak_bytes: Figure
    resident_bytes: Figure

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as JSON holds it."""
        figures = {name: getattr(self, name).as_dict() for name in FIGURES}
        return {"key": self.case.key, "model": self.case.model, "bits": self.case.bits,
                "prompt_tokens": self.case.prompt_tokens, "new_tokens": self.new_tokens, **figures}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One figure now and then: medians, their ratio (now / then), p of no difference, and the verdict."""

    key: str
    figure: str
    then: float
    now: float
    ratio: float
    p: float
    verdict: Verdict


def bench(
    models: Sequence[str], workspace: Workspace | None = None, *, bits: Sequence[int | None] = (None,),
    prompt_lengths: Sequence[int] = (128,), new_tokens: int = 64, runs: int = 10, warm: int = 2,
    settings: ModelSettings | None = None, caching: Caching | None = None,
) -> Iterator[Measured]:  # fmt: skip
    """Measure a grid of models, bits and prompt lengths with the runtime that answers questions.

    One model is in memory at a time.  Runs go round the prompt lengths, so that a disturbance falls on all of them.

    Args:
        models: names, directories, hub ids or `reader`.
        workspace: where names are looked up and quantized versions are kept.
        bits: None for the model as it is, or bits to quantize to.
        prompt_lengths: tokens of the prompts, at least 2 each.
        new_tokens: tokens to generate, at least 2; a stop token does not stop.
        runs: measured runs.
        warm: runs before, which are not counted.
        settings: how to load.
        caching: sizes of steps and caches.

    Raises:
        BadInput: a length that the model's context does not hold, or a number too small to measure.
        NotFound: no such model.
    """
    if new_tokens < 2 or runs < 1 or min(prompt_lengths) < 2:
        raise BadInput("a measurement needs at least one run, 2 prompt tokens and 2 new tokens")
    for name in models:
        for width in bits:
            chosen = (settings or ModelSettings()).model_copy(update={"q_bits": width})
            yield from bench_model(name, width, workspace, prompt_lengths, new_tokens, runs, warm, chosen, caching)


def bench_model(
    name: str, width: int | None, workspace: Workspace | None, prompt_lengths: Sequence[int], new_tokens: int, runs: int,
    warm: int, settings: ModelSettings, caching: Caching | None,
) -> Iterator[Measured]:  # fmt: skip
    """Measure one model at every prompt length."""
    loads: list[float] = []
    for run in range(-1, min(runs, 5)):
        gc.collect()
        start = time.perf_counter()
        model = load(name, workspace, settings=settings)
        if run >= 0:
            loads.append(time.perf_counter() - start)
        if run < min(runs, 5) - 1:
            model.close()
    with model:
        if max(prompt_lengths) + new_tokens > model.context:
            raise BadInput(
                f"{name}: {max(prompt_lengths)} + {new_tokens} tokens are more than its context of {model.context}; shorten the prompt"
            )
        model.tokenizer.eos_ids = frozenset()
        taken: dict[int, list[tuple[float, float, float, float]]] = {length: [] for length in prompt_lengths}
        for run in range(-warm, runs):
            for length in prompt_lengths:
                one = run_once(model, prompt(model, length, run), new_tokens, caching)
                if run >= 0:
                    taken[length].append(one)
        for length, values in taken.items():
            first, decode, peak, resident = (tuple(column) for column in zip(*values, strict=True))
            yield Measured(
                Case(name, width, length), new_tokens, Figure(first), Figure(tuple(length / s for s in first)),
                Figure(tuple((new_tokens - 1) / s for s in decode)), Figure(tuple(loads)), Figure(peak), Figure(resident),
            )  # fmt: skip


def prompt(model: Model, length: int, run: int) -> list[int]:
    """Return a random prompt; the same for the same run and length."""
    draw = random.Random(f"{run} {length}")
    return [draw.randrange(model.tokenizer.vocab_size) for _ in range(length)]


def run_once(
    model: Model, ids: Sequence[int], new_tokens: int, caching: Caching | None
) -> tuple[float, float, float, float]:
    """Generate once; return seconds to the first token, seconds for the rest, peak bytes of MLX, bytes of the process."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    pieces = list(stream(model, ids, Sampling(max_tokens=new_tokens), caching=caching))
    first = pieces[0].prompt_seconds
    return first, pieces[-1].seconds - first, float(mx.get_peak_memory()), float(psutil.Process().memory_info().rss)


def report(measured: Sequence[Measured], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a measurement: machine, versions, settings, and every run of every figure."""
    return {
        "kind": "bench",
        "machine": {
            **machine(),
            "chip": chip(),
            "backend": backend(),
            "memory": psutil.virtual_memory().total,
            "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        },
        "versions": {"mlx": version("mlx"), "mlx-lm": version("mlx-lm"), "mlxrag": __version__},
        "settings": dict(settings),
        "cells": [one.as_dict() for one in measured],
    }


def busy(value: Mapping[str, Any]) -> bool:
    """Return whether other work was waiting for the processors while a report was measured."""
    return float(value["machine"].get("load_per_core", 0.0)) > BUSY


def read_report(path: Path) -> dict[str, Any]:
    """Read a document that `report` made.

    Raises:
        BadInput: another file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["kind"] != "bench":
            raise KeyError("kind")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no measurement; give a file that `mlxrag bench --out` wrote") from error
    found: dict[str, Any] = value
    return found


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Compared]:
    """Compare two measurements, figure by figure of the cells that both have.

    The runs are paired: run i had the same prompt in both.  The test is Wilcoxon's signed-rank test on the logarithms;
    a verdict needs p below 0.05 and medians that differ by more than 2 %.

    Raises:
        Mismatch: they come from different machines, or have no cell in common.
    """
    for key in ("chip", "memory", "backend"):
        if then["machine"].get(key) != now["machine"].get(key):
            raise Mismatch(
                f"the measurements are of different machines ({key}: {then['machine'].get(key)} and {now['machine'].get(key)})"
            )
    old = {(cell["key"], cell["new_tokens"]): cell for cell in then["cells"]}
    both = [
        (old[cell["key"], cell["new_tokens"]], cell)
        for cell in now["cells"]
        if (cell["key"], cell["new_tokens"]) in old
    ]
    if not both:
        raise Mismatch(
            "the measurements have no cell in common: models, bits, prompt lengths and new tokens must be the same"
        )
    return [
        verdict(new["key"], name, was[name]["values"], new[name]["values"]) for was, new in both for name in FIGURES
    ]


def verdict(key: str, figure: str, then: Sequence[float], now: Sequence[float]) -> Compared:
    """Return what the runs of one figure show."""
    before, after = Figure(tuple(then)).median, Figure(tuple(now)).median
    ratio = after / before if before else math.nan
    n = min(len(then), len(now))
    p = 1.0
    if n >= FEWEST:
        p = wilcoxon(differences([math.log(v) for v in then[:n]], [math.log(v) for v in now[:n]])).p
    # Fewer runs cannot reach the level; five or more that do not even overlap are said to differ.
    apart = n < FEWEST and n >= 5 and (max(then[:n]) < min(now[:n]) or min(then[:n]) > max(now[:n]))
    if not math.isfinite(ratio) or abs(ratio - 1) <= ENOUGH or (p >= LEVEL and not apart):
        return Compared(key, figure, before, after, ratio, p, "no difference")
    more = ratio > 1
    if figure.endswith("bytes"):
        return Compared(key, figure, before, after, ratio, p, "larger" if more else "smaller")
    better = more if figure in MORE_IS_BETTER else not more
    return Compared(key, figure, before, after, ratio, p, "faster" if better else "slower")
