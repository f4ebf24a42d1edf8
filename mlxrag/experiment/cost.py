"""What a comparison will take and what its systems took: seconds and bytes, said to be unknown where they are.

Time is measured on questions that are asked one by one, the systems in turn, so that a machine that slows down slows
down all of them.  Knows nothing of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxrag import machine
from mlxrag.experiment.plan import Variant
from mlxrag.experiment.statistics import differences, mean_interval
from mlxrag.model.checkpoint import read_config
from mlxrag.model.load import READER, locate
from mlxrag.model.pace import USUAL_ROWS
from mlxrag.model.predict import Footprint, footprint
from mlxrag.model.speed import has_gpu
from mlxrag.workspace import Workspace, artefacts

INSTRUCTION = 150  # tokens of a prompt beside its passages, about
WORDS_TO_TOKENS = 1.35  # an encoder's tokens to a model's, about, with titles


@dataclass(frozen=True, slots=True)
class Spent:
    """What one system took, over questions asked one by one.

    Attributes:
        variant: the system.
        n: questions timed.
        seconds: median for a whole answer.
        slow: 90 % quantile of it.
        first_token: median until the first token; None where it is not known.
        tokens_per_second: generated tokens over the seconds of whole answers; None without tokens.
        answer_tokens: mean length of an answer.
        weights: bytes of the model's weights, adapter included.
        peak: most bytes that MLX held in one of the questions.
    """

    variant: str
    n: int
    seconds: float
    slow: float
    first_token: float | None
    tokens_per_second: float | None
    answer_tokens: float
    weights: int
    peak: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long B takes as A: geometric mean over questions timed in turn, with its interval."""

    a: str
    b: str
    n: int
    ratio: float
    low: float | None
    high: float | None


def spent(rows: Iterable[Mapping[str, Any]]) -> list[Spent]:
    """Summarize timing rows (`variant`, `example_id`, `seconds`, `first_token_seconds`, `answer_tokens`, `weights`, `peak`)."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["seconds"] is not None:
            by_variant.setdefault(row["variant"], []).append(row)
    found = []
    for name, own in by_variant.items():
        seconds = np.array([r["seconds"] for r in own])
        firsts = [r["first_token_seconds"] for r in own if r.get("first_token_seconds") is not None]
        tokens = sum(r["answer_tokens"] for r in own)
        found.append(
            Spent(
                name, len(own), float(np.median(seconds)), float(np.quantile(seconds, 0.9)),
                float(np.median(firsts)) if firsts else None, float(tokens / seconds.sum()) if tokens else None,
                tokens / len(own), max(r["weights"] for r in own), max(r["peak"] for r in own),
            )
        )  # fmt: skip
    return found


def ratio(rows: Sequence[Mapping[str, Any]], a: str, b: str, seed: int = 0) -> Ratio | None:
    """Return how many times as long B takes, by the questions that both were timed on; None without any."""
    times: dict[str, dict[str, float]] = {a: {}, b: {}}
    for row in rows:
        if row["variant"] in times and row["seconds"] is not None:
            times[row["variant"]][row["example_id"]] = math.log(max(row["seconds"], 1e-9))
    both = [i for i in times[a] if i in times[b]]
    if not both:
        return None
    d = differences([times[a][i] for i in both], [times[b][i] for i in both])
    found = mean_interval(d, resamples=1999, seed=seed, span=float(np.ptp(d.values)) or 1.0)
    low, high = (None if v is None else math.exp(v) for v in (found.low, found.high))
    return Ratio(a, b, len(both), math.exp(found.estimate), low, high)


def predicted(variant: Variant, workspace: Workspace) -> Footprint:
    """Return the bytes that answering with a system will take, from its config alone."""
    tables = variant.settings
    path, _, _ = locate(tables.model.model or READER, workspace)
    tokens = INSTRUCTION + int(WORDS_TO_TOKENS * tables.retrieval.num_passages * tables.chunking.chunk_tokens)
    half = {"float32": mx.float32, "bfloat16": mx.bfloat16}.get(tables.model.load_dtype, mx.float16)
    # On a CPU half precision is loaded as float32 unless it is told to be kept.
    on_cpu = not has_gpu() and tables.model.load_dtype == "auto"
    return footprint(
        read_config(path), tokens + tables.sampling.max_tokens, batch=tables.caching.decode_concurrency or USUAL_ROWS,
        step=tables.caching.prefill_step_size, kv_bits=tables.caching.kv_bits, dtype=mx.float32 if on_cpu else half,
    )  # fmt: skip


def foreseen(
    variants: Sequence[Variant], groups: Sequence[Sequence[Variant]], questions: int, workspace: Workspace,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what a comparison will cost: bytes for each system, whether all fit at once, and time where it is known.

    Args:
        variants: the systems.
        groups: those that share a base.
        questions: how many each is asked.
        workspace: where earlier runs are looked up.
        seconds: variant -> seconds per question, from a pilot; looked up in earlier runs of the same model unless given.
    """
    sizes = {v.name: predicted(v, workspace) for v in variants}
    room = machine.budget(machine.this_machine(), variants[0].settings.memory)
    weights = [max(sizes[v.name].weights for v in group) for group in groups]
    work = max(size.cache + size.work for size in sizes.values())
    together = sum(weights) + work <= room
    basis = "pilot"
    known = dict(seconds or {})
    if not known:
        basis = "earlier runs of the same model"
        known = {v.name: s for v in variants if (s := _earlier(v, workspace)) is not None}
    total = sum(known.values()) * questions if len(known) == len(variants) else None
    return {
        "bytes": {name: size.peak for name, size in sizes.items()},
        "weights": {name: size.weights for name, size in sizes.items()},
        "peak": (sum(weights) if together else max(weights)) + work,
        "budget": room,
        "fits": (sum(weights) if together else max(weights)) + work <= room,
        "together": together,
        "bases": [[v.name for v in group] for group in groups],
        "seconds_per_question": known or None,
        "seconds": total,
        "basis": basis if known else "not known; --pilot-questions measures it",
    }


def _earlier(variant: Variant, workspace: Workspace) -> float | None:
    """Return seconds per question of the newest evaluation of the same model."""
    _, name, version = locate(variant.settings.model.model or READER, workspace)
    wanted = f"{name}@{version}" if version else name
    for run in reversed(artefacts(workspace, "runs")):
        facts = run.manifest
        system = facts.get("system")
        if facts.get("what") != "evaluation" or not isinstance(system, Mapping):
            continue
        if (
            str(system.get("model", "")).partition("+")[0] == wanted
            and facts.get("examples")
            and facts.get("answer_seconds")
        ):
            return float(facts["answer_seconds"]) / int(facts["examples"])
    return None
