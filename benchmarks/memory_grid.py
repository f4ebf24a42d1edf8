"""Predicted against measured peak memory on random small models: `python -m benchmarks.memory_grid [--count 32] [--seed 7]`.

Draws configurations of six architectures, a third of them with quantized weights and a quarter with quantized keys and
values, runs a prefill and one decoding step, and compares MLX's peak with what `mlxrag.model.predict` says; then encoders
of the BERT family with a batch of texts each. Writes docs/memory-grid.md and fails when an error is outside the promise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from mlxrag.model.bert import Bert, parameters, shape_of
from mlxrag.model.cache_layers import quantize_cache
from mlxrag.model.predict import footprint, skeleton
from mlxrag.model.sizes import encoder_bytes
from mlxrag.settings import Caching

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


def measure(
    config: dict[str, Any], tokens: int, step: int, batch: int, quantization: dict[str, int] | None, kv_bits: int | None
) -> int:
    """Return MLX's peak in bytes over weights, prefill and one decoding step; the second of two runs."""
    mx.clear_cache()
    base = mx.get_active_memory()
    network = skeleton(config, quantization, mx.float32)
    caching = Caching(kv_bits=kv_bits, kv_group_size=32, quantized_kv_start=0)
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
            quantize_cache(cache, caching)
            mx.eval([layer.state for layer in cache])
        mx.eval(mx.argmax(network(prompt[:, -1:], cache=cache)[:, -1], axis=-1))
        peak = mx.get_peak_memory() - base
        del cache
    return peak


def encoder(rng: random.Random) -> tuple[str, int, int]:
    """Draw an encoder and a batch of texts; return a row of the table, and predicted and measured bytes."""
    head, heads = rng.choice([16, 32, 64]), rng.choice([4, 6, 8, 12])
    config = {
        "model_type": "bert", "hidden_size": head * heads, "intermediate_size": rng.choice([2, 3, 4]) * head * heads,
        "num_hidden_layers": rng.choice([1, 2, 4, 6]), "num_attention_heads": heads, "vocab_size": 1000,
        "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip
    width = rng.choice([32, 64, 128, 256, 400])
    rows = max(2, min(rng.choice([4, 8, 16, 32]), 5000 // width))
    shape = shape_of(config)
    weights = {name: mx.random.normal(size) * 0.02 for name, size in parameters(shape).items()}
    mx.eval(list(weights.values()))
    network, ids, mask = Bert(shape, weights, 0, 64), mx.zeros((rows, width), mx.int32), mx.zeros((rows, 1, 1, width))
    held = sum(w.nbytes for w in weights.values())
    peak = 0
    for _ in range(2):
        mx.synchronize()
        mx.clear_cache()
        base = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(network(ids, mask).sum(axis=1))
        peak = mx.get_peak_memory() - base
    said = encoder_bytes(config, rows, width) + held
    row = (
        f"| bert | {head * heads}x{config['num_hidden_layers']} | {rows}x{width} | {held / 1e6:.1f} "
        f"| {(said - held) / 1e6:.1f} | {said / 1e6:.1f} | {(peak + held) / 1e6:.1f} | {said / (peak + held) - 1:+.1%} |"
    )
    return row, said, peak + held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--encoders", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows, errors, encoders = [], [], []
    for _ in range(args.count):
        config, tokens, step, batch = draw(rng)
        bits = rng.choice([None, None, 4, 8])
        quantization = {"bits": bits, "group_size": 64} if bits else None
        kv_bits = 8 if rng.random() < 0.25 and not config["sliding_window"] else None
        said = footprint(
            config, tokens, batch=batch, step=step, kv_bits=kv_bits, quantization=quantization, dtype=mx.float32
        )
        measured = measure(config, tokens, step, batch, quantization, kv_bits)
        errors.append(said.peak / measured - 1)
        rows.append(
            f"| {config['model_type']} | {config['hidden_size']}x{config['num_hidden_layers']} | {bits or 32} "
            f"| {kv_bits or 32} | {config['vocab_size']} | {batch}x{tokens} | {step} | {said.weights / 1e6:.1f} "
            f"| {said.cache / 1e6:.1f} | {said.work / 1e6:.1f} | {said.peak / 1e6:.1f} | {measured / 1e6:.1f} "
            f"| {errors[-1]:+.1%} |"
        )
        print(rows[-1], flush=True)
    generated = len(errors)
    for _ in range(args.encoders):
        row, said_bytes, real = encoder(rng)
        encoders.append(row)
        errors.append(said_bytes / real - 1)
        print(row, flush=True)
    summary = (
        f"{generated} generating and {len(encoders)} encoding configurations, seed {args.seed}: error {min(errors):+.1%} to {max(errors):+.1%}, "
        f"median of the absolute error {statistics.median(map(abs, errors)):.1%}."
    )
    print(summary)
    page = [
        "# Predicted against measured memory", "",
        "Made by `python -m benchmarks.memory_grid` on MLX's CPU backend (float32; attention there is not fused, so the "
        "scores count). MB of 10^6 bytes.", "", summary, "",
        "| model | width x layers | bits | KV bits | vocabulary | rows x tokens | step | weights | cache | work | predicted "
        "| measured | error |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|", *rows, "", "## Encoders", "",
        "| model | width x layers | rows x tokens | weights | work | predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|", *encoders, "",
    ]  # fmt: skip
    Path(__file__).resolve().parent.parent.joinpath("docs", "memory-grid.md").write_text("\n".join(page))
    sys.exit(0 if min(errors) >= LOW and max(errors) <= HIGH else 1)


if __name__ == "__main__":
    main()
