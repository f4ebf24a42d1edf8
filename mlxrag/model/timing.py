"""Seconds and bytes of one model: time to the first token, prefill, decoding, memory; medians with their spread.

Every figure comes from several runs after a warm-up and is kept as the list of its values, so that another
measurement can be compared with it run by run.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.model.network import load_network


@dataclass(frozen=True)
class Figure:
    """Values of repeated measurements, in the order they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """An interval that holds the true median with about 95 % certainty, by order statistics.

        With fewer than 6 values no two of them bound the median so surely; then the smallest and the largest are given.
        """
        ordered = sorted(self.values)
        n = len(ordered)
        skip = max(int((n - 1.96 * n**0.5) / 2), 0) if n >= 6 else 0
        return ordered[skip], ordered[n - 1 - skip]

    def as_dict(self) -> dict[str, object]:
        """Return median, interval and values, as a report holds them."""
        low, high = self.interval
        return {"median": self.median, "low": low, "high": high, "values": list(self.values)}


@dataclass(frozen=True)
class Timing:
    """What one model and one prompt length take.

    Attributes:
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens that were generated.
        first_token: seconds from the prompt to the first token.
        prefill: prompt tokens per second.
        decode: tokens per second after the first.
        peak_bytes: most memory MLX held, weights included.
    """

    prompt_tokens: int
    new_tokens: int
    first_token: Figure
    prefill: Figure
    decode: Figure
    peak_bytes: Figure


def time_generation(
    network: nn.Module, prompt_tokens: int, new_tokens: int, runs: int, *, warm: int = 1, step: int = 512, seed: int = 0
) -> Timing:
    """Time greedy generation from a random prompt.

    Args:
        network: an mlx_lm network.
        prompt_tokens: length of the prompt.
        new_tokens: tokens to generate, at least 2.
        runs: measured runs, after `warm` that are not.
        warm: runs before the measured ones.
        step: prompt tokens of one forward pass.
        seed: of the prompts; each run has its own.
    """
    rows = network(mx.array([[0]])).shape[-1]
    taken = []
    for run in range(-warm, runs):
        ids = [random.Random(seed + run).randrange(rows) for _ in range(prompt_tokens)]
        one = once(network, ids, new_tokens, step)
        if run >= 0:
            taken.append(one)
    first, decode, peak = (tuple(values) for values in zip(*taken, strict=True))
    return Timing(
        prompt_tokens, new_tokens, Figure(first), Figure(tuple(prompt_tokens / seconds for seconds in first)),
        Figure(tuple((new_tokens - 1) / seconds for seconds in decode)), Figure(peak),
    )  # fmt: skip


def once(network: nn.Module, ids: Sequence[int], new_tokens: int, step: int) -> tuple[float, float, float]:
    """Generate once and return seconds to the first token, seconds for the others, and the peak of memory in bytes."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    cache = make_prompt_cache(network)
    start = time.perf_counter()
    for at in range(0, len(ids) - 1, step):
        network(mx.array([list(ids[at : min(at + step, len(ids) - 1)])]), cache=cache)
        mx.eval([layer.state for layer in cache])
    token = mx.argmax(network(mx.array([list(ids[-1:])]), cache=cache)[:, -1], axis=-1)
    mx.eval(token)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        # The next step is handed out before this one's token is looked at, as in generation.
        token = mx.argmax(network(token[:, None], cache=cache)[:, -1], axis=-1)
        mx.async_eval(token)
    mx.eval(token)
    return first - start, time.perf_counter() - first, float(mx.get_peak_memory())


def time_loading(path: Path, runs: int, dtype: str = "auto") -> Figure:
    """Time loading a model directory, from the second time on (the files are in the system's cache)."""
    values = []
    for run in range(runs + 1):
        mx.clear_cache()
        start = time.perf_counter()
        network, _, _ = load_network(path, dtype=dtype)
        if run:
            values.append(time.perf_counter() - start)
        del network
        gc.collect()
    return Figure(tuple(values))
