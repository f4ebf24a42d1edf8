"""Planned against measured peak memory of training: `python -m benchmarks.training_grid [--count 40] [--seed 5]`.

Draws small networks of four architectures and training settings (adapters of both kinds and full training, quantized
bases, recomputing or not, five optimizers, dropout, accumulation, questions that share passages, batches of 1 to 4 rows),
trains and compares MLX's peak with what `mlxrag.train.plan` says of the batches. Writes docs/training-grid.md and fails
when an error is outside the promise.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxrag import memory
from mlxrag.data.example import Example, example
from mlxrag.memory import Ledger
from mlxrag.model.beside import stop_ids
from mlxrag.model.load import READER, locate
from mlxrag.model.network import build
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.rag.document import Passage
from mlxrag.settings import Answering, Training
from mlxrag.train.batches import write_store
from mlxrag.train.loop import Base, train
from mlxrag.train.plan import Need, loads, need
from mlxrag.train.shared import can_share
from mlxrag.train.tokens import Encodes, rows

import mlx.core as mx  # isort: skip  # after mlxrag, which loads MKL
import mlx.nn as nn  # isort: skip

LOW, HIGH = -0.05, 0.15
WORDS = "the leave of a worker is counted in days and the trailer carries what the rider wants on every road "


def draw(rng: random.Random, vocabulary: int) -> tuple[dict[str, Any], Training, int, int, bool]:
    """Return a config, training settings, about how many tokens a row has, bits of the base, and whether rows share."""
    head, heads = rng.choice([16, 32, 64]), rng.choice([2, 4, 8])
    width = min(head * heads, 256)
    heads = width // head
    config: dict[str, Any] = {
        "model_type": rng.choice(["llama", "qwen3", "qwen2", "gemma3_text"]), "hidden_size": width,
        "num_hidden_layers": rng.choice([2, 3, 4, 6]), "intermediate_size": rng.choice([2, 3, 4]) * width,
        "num_attention_heads": heads, "num_key_value_heads": rng.choice([k for k in (1, 2, heads) if heads % k == 0]),
        "head_dim": head, "rms_norm_eps": 1e-6, "vocab_size": vocabulary, "tie_word_embeddings": True,
        "rope_theta": 10000.0, "max_position_embeddings": 1024, "query_pre_attn_scalar": head, "sliding_window": 128,
        "sliding_window_pattern": 2,
    }  # fmt: skip
    kinds: list[Any] = ["lora", "lora", "lora", "full", "dora"]
    optimizers: list[Any] = ["adamw", "adamw", "sgd", "adafactor", "lion", "muon"]
    accumulation = rng.choice([1, 1, 1, 2])
    training = Training(
        iters=2 * accumulation, grad_accumulation_steps=accumulation, batch_size=rng.choice([1, 2, 4]),
        rank=rng.choice([2, 4, 8, 16]), fine_tune_type=rng.choice(kinds), num_layers=rng.choice([-1, -1, 1, 2]),
        grad_checkpoint=rng.random() < 0.4, answer_head=rng.random() < 0.5, logits_chunk=rng.choice([0, 128, 1024]),
        optimizer=rng.choice(optimizers), dropout=rng.choice([0.0, 0.0, 0.1]), trunk_cache=rng.random() < 0.2,
        learning_rate=1e-4, val_batches=0,
    )  # fmt: skip
    bits = 0 if training.fine_tune_type == "full" else rng.choice([0, 0, 4, 8])
    return config, training, rng.choice([64, 128, 192, 320]), bits, rng.random() < 0.25


def examples(text: str, sharing: bool) -> Sequence[Any]:
    """Return eight rows over a text, as records or as questions about one passage."""
    if not sharing:
        return [{"prompt": text, "completion": f"{i} days of leave"} for i in range(8)]
    passage = Passage("p", "d", "leave.md", "Leave", "", 0, len(text), text)
    made: list[Example] = [
        example(f"How many days has year {i}?", (f"{i} days",), (passage,), "made") for i in range(8)
    ]
    return made


def predict(network: nn.Module, records: Sequence[Any], training: Training, tokenizer: Encodes) -> Need:
    """Return what the plan says of the largest of these batches."""
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), rows(records, tokenizer, training, Answering()))
        shared = training.shared_context and can_share(network)
        return max((need(network, training, load) for load in loads(store, training, shared)), key=lambda n: n.peak)


def measure(network: nn.Module, records: Sequence[Any], training: Training, tokenizer: Encodes) -> int:
    """Return MLX's peak in bytes while training, the weights included."""
    weights = sum(w.nbytes for _, w in nn.utils.tree_flatten(network.parameters()))
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    with tempfile.TemporaryDirectory() as folder:
        steps = list(train(Base(network, tokenizer, "toy"), records, training, Path(folder)))
    return max(s.peak_bytes or 0 for s in steps) - before + weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    memory.use(Ledger(1 << 40))
    path, _, _ = locate(READER)
    tokenizer = load_tokenizer(path, stop_ids(path, {}), "llama")
    rng = random.Random(args.seed)
    table, errors = [], []
    for _ in range(args.count):
        config, training, length, bits, sharing = draw(rng, tokenizer.vocab_size)
        network = build(config)
        network.set_dtype(mx.float32)
        if bits:
            nn.quantize(network, 32 if config["hidden_size"] % 64 else 64, bits)
        mx.eval(network.parameters())
        text = tokenizer.decode(tokenizer.encode(WORDS * 20)[: length - 16])
        records = examples(text, sharing)
        planned = predict(network, records, training, tokenizer)
        measured = measure(network, records, training, tokenizer)
        errors.append(planned.peak / measured - 1)
        table.append(
            f"| {config['model_type']} | {config['hidden_size']}x{config['num_hidden_layers']} | {bits or 32} "
            f"| {training.fine_tune_type} {'' if training.fine_tune_type == 'full' else training.rank} | {training.num_layers} "
            f"| {training.optimizer} | {training.batch_size}x{length}{' shared' if sharing else ''} "
            f"| {training.grad_accumulation_steps} | {'yes' if training.grad_checkpoint else 'no'} "
            f"| {'answers' if training.answer_head else 'all'}, {training.logits_chunk} | {planned.weights / 1e6:.1f} "
            f"| {planned.trained / 1e6:.1f} | {planned.step / 1e6:.1f} | {planned.peak / 1e6:.1f} | {measured / 1e6:.1f} "
            f"| {errors[-1]:+.1%} |"
        )
        print(table[-1], flush=True)
    summary = (
        f"{args.count} configurations, seed {args.seed}: error {min(errors):+.1%} to {max(errors):+.1%}, median of the "
        f"absolute error {statistics.median(map(abs, errors)):.1%}; {sum(LOW <= e <= HIGH for e in errors)} within "
        f"{LOW:+.0%} and {HIGH:+.0%}."
    )
    print(summary)
    page = [
        "# Planned against measured memory of training", "",
        f"Made by `python -m benchmarks.training_grid --count {args.count} --seed {args.seed}` on MLX's CPU backend "
        "(float32, attention not fused). MB of 10^6 bytes; MLX's peak over all steps of the run.", "", summary, "",
        "| model | width x layers | bits | trains, rank | blocks | optimizer | rows x tokens | batches an update | recomputes "
        "| logits of, at once | weights | trained | step | planned | measured | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|", *table, "",
    ]  # fmt: skip
    Path(__file__).resolve().parent.parent.joinpath("docs", "training-grid.md").write_text("\n".join(page))
    sys.exit(0 if min(errors) >= LOW and max(errors) <= HIGH else 1)


if __name__ == "__main__":
    main()
