"""Predicted against measured peak memory on random small models: `python -m benchmarks.memory_grid [--count 40] [--seed 7]`.

Draws configurations of six architectures, runs a prefill and one decoding step, and compares MLX's peak with what
`mlxrag.model.predict` says. Writes docs/memory-grid.md and fails when an error is outside the promise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from mlxrag.model.predict import footprint, skeleton

import mlx.core as mx  # isort: skip  # after mlxrag, which loads MKL
from mlx_lm.models.cache import make_prompt_cache  # isort: skip

LOW, HIGH = -0.05, 0.10


def draw(rng: random.Random) -> tuple[dict[str, Any], int, int, int]:
    kind = rng.choice(["llama", "qwen3", "qwen2", "gemma3_text", "phi3", "mistral"])
    width, head = rng.choice([128, 256, 384, 512]), rng.choice([32, 64])
    heads = rng.choice([4, 8]) if kind == "qwen3" else width // head
    config: dict[str, Any] = {
        "model_type": kind, "hidden_size": width, "num_hidden_layers": rng.choice([2, 4, 6]),
        "intermediate_size": rng.choice([2, 3, 4]) * width, "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([k for k in (1, 2, 4, heads) if heads % k == 0]), "head_dim": head,
        "rms_norm_eps": 1e-6, "vocab_size": rng.choice([1000, 8000, 32000]), "tie_word_embeddings": rng.random() < 0.6,
        "rope_theta": 10000.0, "max_position_embeddings": 4096, "query_pre_attn_scalar": head,
        "sliding_window": 512 if kind == "gemma3_text" else None, "sliding_window_pattern": 2,
    }  # fmt: skip
    return config, rng.choice([128, 300, 512, 1000, 1500]), rng.choice([128, 256, 512, 2048]), rng.choice([1, 1, 2, 4])


def measure(config: dict[str, Any], tokens: int, step: int, batch: int) -> int:
    """Return MLX's peak in bytes over weights, prefill and one decoding step; the second of two runs."""
    mx.clear_cache()
    base = mx.get_active_memory()
    network = skeleton(config, dtype=mx.float32)
    mx.eval(network.parameters())
    peak = 0
    for _ in range(2):
        cache = make_prompt_cache(network)
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        prompt = mx.zeros((batch, tokens), mx.int32)
        for start in range(0, tokens - 1, step):
            network(prompt[:, start : min(start + step, tokens - 1)], cache=cache)
            mx.eval([layer.state for layer in cache])
        mx.eval(mx.argmax(network(prompt[:, -1:], cache=cache)[:, -1], axis=-1))
        peak = mx.get_peak_memory() - base
        del cache
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows, errors = [], []
    for _ in range(args.count):
        config, tokens, step, batch = draw(rng)
        said = footprint(config, tokens, batch=batch, step=step, dtype=mx.float32)
        measured = measure(config, tokens, step, batch)
        errors.append(said.peak / measured - 1)
        rows.append(
            f"| {config['model_type']} | {config['hidden_size']}x{config['num_hidden_layers']} | {config['vocab_size']} "
            f"| {batch}x{tokens} | {step} | {said.weights / 1e6:.1f} | {said.cache / 1e6:.1f} | {said.work / 1e6:.1f} "
            f"| {said.peak / 1e6:.1f} | {measured / 1e6:.1f} | {errors[-1]:+.1%} |"
        )
        print(rows[-1], flush=True)
    summary = (
        f"{args.count} configurations, seed {args.seed}: error {min(errors):+.1%} to {max(errors):+.1%}, "
        f"median of the absolute error {statistics.median(map(abs, errors)):.1%}."
    )
    print(summary)
    page = [
        "# Predicted against measured memory", "",
        "Made by `python -m benchmarks.memory_grid` on MLX's CPU backend (float32; attention there is not fused, so the "
        "scores count). MB of 10^6 bytes.", "", summary, "",
        "| model | width x layers | vocabulary | rows x tokens | step | weights | cache | work | predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    Path(__file__).resolve().parent.parent.joinpath("docs", "memory-grid.md").write_text("\n".join(page))
    sys.exit(0 if min(errors) >= LOW and max(errors) <= HIGH else 1)


if __name__ == "__main__":
    main()
