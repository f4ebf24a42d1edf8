"""Planned against measured peak memory of training: `python -m benchmarks.training_grid [--count 30] [--seed 5]`.

Draws small networks and training settings (adapters of both kinds and full training, recomputing or not, five optimizers,
batches of 1 to 4 rows), trains two steps and compares MLX's peak with what `mlxrag.train.plan` says. Writes
docs/training-grid.md. The plan carries a margin of a quarter on purpose: an estimate too low ends a process.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from mlxrag import memory
from mlxrag.memory import Ledger
from mlxrag.model.beside import stop_ids
from mlxrag.model.load import READER, locate
from mlxrag.model.network import build
from mlxrag.model.tokenizer import load_tokenizer
from mlxrag.settings import Training
from mlxrag.train.loop import Base, train
from mlxrag.train.plan import need, sizes

import mlx.core as mx  # isort: skip  # after mlxrag, which loads MKL

WORDS = "the leave of a worker is counted in days and the trailer carries what the rider wants on every road "


def draw(rng: random.Random, vocabulary: int) -> tuple[dict[str, Any], Training, int]:
    """Return a config, training settings and about how many tokens a row has."""
    head, heads = rng.choice([16, 32, 64]), rng.choice([2, 4, 8])
    width = min(head * heads, 256)
    heads = width // head
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": rng.choice([2, 3, 4, 6]),
        "intermediate_size": rng.choice([2, 3, 4]) * width, "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([k for k in (1, 2, heads) if heads % k == 0]), "head_dim": head,
        "rms_norm_eps": 1e-6, "vocab_size": vocabulary, "tie_word_embeddings": True, "max_position_embeddings": 1024,
    }  # fmt: skip
    kinds: list[Any] = ["lora", "lora", "lora", "full", "dora"]
    optimizers: list[Any] = ["adamw", "adamw", "sgd", "adafactor", "lion"]
    training = Training(
        iters=2, batch_size=rng.choice([1, 2, 4]), rank=rng.choice([2, 4, 8, 16]), fine_tune_type=rng.choice(kinds),
        num_layers=rng.choice([-1, -1, 1, 2]), grad_checkpoint=rng.random() < 0.4, answer_head=rng.random() < 0.5,
        logits_chunk=rng.choice([0, 128, 1024]), optimizer=rng.choice(optimizers), learning_rate=1e-4, val_batches=0,
    )  # fmt: skip
    return config, training, rng.choice([64, 128, 192, 320])


def measure(config: dict[str, Any], training: Training, length: int, tokenizer: Any) -> tuple[int, int]:
    """Return planned and measured peak in bytes, the weights included."""
    network = build(config)
    network.set_dtype(mx.float32)
    mx.eval(network.parameters())
    prompt = tokenizer.decode(tokenizer.encode(WORDS * 20)[: length - 16])
    records = [{"prompt": prompt, "completion": f"{i} days of leave"} for i in range(8)]
    base = Base(network, tokenizer, "toy", config)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    with tempfile.TemporaryDirectory() as folder:
        steps = list(train(base, records, training, Path(folder)))
    found = sizes(network, config, training, length)
    return need(found, training).peak, max(s.peak_bytes or 0 for s in steps) - before + found.weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    memory.use(Ledger(1 << 40))
    path, _, _ = locate(READER)
    tokenizer = load_tokenizer(path, stop_ids(path, {}), "llama")
    rng = random.Random(args.seed)
    rows, errors = [], []
    for _ in range(args.count):
        config, training, length = draw(rng, tokenizer.vocab_size)
        planned, measured = measure(config, training, length, tokenizer)
        errors.append(planned / measured - 1)
        rows.append(
            f"| {training.fine_tune_type} | {training.optimizer} | {'yes' if training.grad_checkpoint else 'no'} "
            f"| {config['hidden_size']}x{config['num_hidden_layers']} | {training.num_layers} "
            f"| {training.batch_size}x{length} | {planned / 1e6:.1f} | {measured / 1e6:.1f} | {errors[-1]:+.0%} |"
        )
        print(rows[-1], flush=True)
    summary = (
        f"{args.count} configurations, seed {args.seed}: {min(errors):+.0%} to {max(errors):+.0%}, median "
        f"{statistics.median(errors):+.0%}; {sum(-0.05 <= e <= 0.15 for e in errors)} within -5 % and +15 %."
    )
    print(summary)
    page = [
        "# Planned against measured memory of training", "",
        "Made by `python -m benchmarks.training_grid` on MLX's CPU backend (float32). MB of 10^6 bytes; the plan carries a "
        "margin of a quarter.", "", summary, "",
        "| trains | optimizer | recomputes | width x layers | blocks trained | rows x tokens | planned | measured | error |",
        "|---|---|---|---|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    Path(__file__).resolve().parent.parent.joinpath("docs", "training-grid.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()
