"""Later epochs of training the last half of the layers: the frozen trunk's activations kept, against mlx_lm's step.

    MKL_NUM_THREADS=1 python -m benchmarks.sft_epochs

Four rows of 128 tokens, LoRA rank 8 on the last 4 of 8 layers of the network of `rag_sft.py`.  Fails if the losses of
three steps are not the same bits with and without the kept activations.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip
import numpy as np

from benchmarks.rag_sft import SHAPE, TRAINING, mine, network, step, take_turns, theirs
from mlxrag.model.attach import adapter_layers
from mlxrag.train.layers import trainable
from mlxrag.train.loss import Batch, How, batch_loss
from mlxrag.train.parts import first_trained, hidden


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        SHAPE.update(hidden_size=64, intermediate_size=96, head_dim=16, vocab_size=512)
    adapter_layers()
    from mlx_lm.tuner.trainer import default_loss

    rng = np.random.default_rng(0)
    tokens = mx.array(rng.integers(3, SHAPE["vocab_size"], (4, 129)).astype(np.int32))
    learn = mx.ones((4, 128), mx.bool_)
    batch = Batch(0, tokens, learn, mx.arange(512), mx.array(512))
    training = TRAINING.model_copy(update={"num_layers": SHAPE["num_hidden_layers"] // 2})
    on_gpu = mx.default_device() == mx.Device(mx.gpu)

    def kept_loss(net: Any, start: int, trunk: mx.array) -> Any:
        def loss() -> tuple[mx.array, mx.array]:
            total, count = batch_loss(net, How(start=start), batch, (trunk,))
            return total / count, count

        return loss

    curves: dict[str, list[float]] = {}
    for kept in (False, True):
        net = network()
        with trainable(net, training):
            start = first_trained(net)
            trunk = hidden(net, tokens[:, :-1], stop=start)
            mx.eval(trunk)
            go = step(net, kept_loss(net, start, trunk) if kept else mine(net, How(), batch), False)
            curves["kept" if kept else "run again"] = [go() for _ in range(3)]
    assert curves["kept"] == curves["run again"], curves
    net = network()
    with trainable(net, training):
        start = first_trained(net)
        trunk = hidden(net, tokens[:, :-1], stop=start)
        mx.eval(trunk)
        spans = mx.array([[1, 128]] * 4)
        peer = theirs(net, training.num_layers)
        engines = {
            "mlx_lm": step(peer, lambda: default_loss(peer, tokens, spans), True),
            "ours, trunk run again": step(net, mine(net, How(answer_head=False), batch), on_gpu),
            "ours, trunk kept": step(net, kept_loss(net, start, trunk), on_gpu),
        }
        times = take_turns(engines, asked.repeats)
    base = statistics.median(times["mlx_lm"])
    rows = [
        {"engine": name, "seconds": round(statistics.median(t), 4), "low": round(min(t), 4), "high": round(max(t), 4),
         "faster_than_mlx_lm": round(base / statistics.median(t), 2)}
        for name, t in times.items()
    ]  # fmt: skip
    for row in rows:
        print(json.dumps(row))
    print(
        json.dumps({"losses of three steps, kept = run again": curves["kept"], "bytes per token": trunk.shape[-1] * 4})
    )
    if asked.out:
        asked.out.write_text(json.dumps({"shape": SHAPE, "load": os.getloadavg(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
