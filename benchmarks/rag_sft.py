"""Training on several questions about the same passages: our step, switch by switch, against mlx_lm's and PEFT's.

    MKL_NUM_THREADS=1 python benchmarks/rag_sft.py [--peft-python PYTHON_WITH_PEFT] [--quick]

Four question/answer pairs of 48 tokens on a 256-token context, LoRA rank 8 on every linear layer of a random Qwen3 of
29 M parameters in float32, AdamW's state included.  Engines take turns in one process (PEFT in its own, which needs
torch, transformers and peft); medians of the repeats.  Fails if losses or gradients differ.

On a CPU the clock is the processor time of the process, one thread each, so that other work on the machine does not
count; on a GPU it is the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3

from mlxrag.model.attach import adapter_layers
from mlxrag.settings import Training
from mlxrag.train.layers import trainable
from mlxrag.train.loss import Batch, How, batch_loss

SHAPE = {
    "model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "rms_norm_eps": 1e-6, "vocab_size": 8192,
    "max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip
RANK, SCALE = 8, 2.0
TRAINING = Training(rank=RANK, scale=SCALE, learning_rate=1e-4)


def network(shape: dict[str, Any] = SHAPE) -> nn.Module:
    mx.random.seed(0)
    made = qwen3.Model(qwen3.ModelArgs.from_dict(shape))
    made.set_dtype(mx.float32)
    mx.eval(made.parameters())
    return made


def theirs(net: nn.Module, num_layers: int = -1) -> nn.Module:
    """A network of the same arrays with mlx_lm's own lora layers, in which ours are as long as `trainable` holds."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    made = network()
    made.freeze()
    linear_to_lora_layers(made, num_layers, {"rank": RANK, "scale": SCALE, "dropout": 0.0})
    made.update(net.parameters())
    return made.train()


def batches(pairs: int, context: int, own: int, answer: int) -> tuple[Batch, Batch, mx.array]:
    """The same rows whole, as a context with what follows it, and as mlx_lm takes them (spans of what is learnt)."""
    rng = np.random.default_rng(0)
    shared = rng.integers(3, SHAPE["vocab_size"], (1, context))
    after = rng.integers(3, SHAPE["vocab_size"], (pairs, own + 1))
    learn = np.zeros((pairs, own), bool)
    learn[:, own - answer :] = True

    def make(tokens: np.ndarray, wanted: np.ndarray, **more: Any) -> Batch:
        places = np.flatnonzero(wanted.reshape(-1)).astype(np.int32)
        return Batch(0, mx.array(tokens), mx.array(wanted), mx.array(places), mx.array(len(places)), **more)

    whole = make(
        np.concatenate([np.repeat(shared, pairs, 0), after], 1),
        np.concatenate([np.zeros((pairs, context), bool), learn], 1),
    )
    split = make(after, learn, context=mx.array(shared), owner=mx.array(np.zeros(pairs, np.int32)))
    spans = mx.array([[context + own - answer + 1, context + own]] * pairs)
    return whole, split, spans


def step(
    net: nn.Module, loss: Callable[..., tuple[mx.array, mx.array]], compiled: bool, *given: Any
) -> Callable[[], float]:
    """A whole training step: loss, gradients, clipped nowhere, AdamW."""
    optimizer = optim.AdamW(1e-4)
    optimizer.init(net.trainable_parameters())
    state = [net.state, optimizer.state, mx.random.state]
    gradient = nn.value_and_grad(net, loss)

    def one() -> mx.array:
        (value, _), gradients = gradient()
        optimizer.update(net, gradients)
        return value

    run = partial(mx.compile, inputs=state, outputs=state)(one) if compiled else one

    def go() -> float:
        value = run()
        mx.eval(state, value)
        return value.item()

    return go


def gradients(net: nn.Module, loss: Callable[..., tuple[mx.array, mx.array]]) -> tuple[float, dict[str, mx.array]]:
    (value, _), found = nn.value_and_grad(net, loss)()
    flat = dict(tree_flatten(found))
    mx.eval(value, flat)
    return value.item(), flat


def mine(net: nn.Module, how: How, batch: Batch) -> Callable[[], tuple[mx.array, mx.array]]:
    def loss() -> tuple[mx.array, mx.array]:
        total, count = batch_loss(net, how, batch)
        return total / count, count

    return loss


def clock() -> float:
    """Seconds: of the processor on a CPU, of the wall on a GPU."""
    return time.perf_counter() if mx.default_device() == mx.Device(mx.gpu) else time.process_time()


def take_turns(engines: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    for go in engines.values():
        go()
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, go in engines.items():
            began = clock()
            go()
            times[name].append(clock() - began)
    return times


def peft_step(python: str, case: dict[str, int], repeats: int) -> list[float]:
    given = json.dumps({"shape": SHAPE, "rank": RANK, "alpha": RANK * SCALE, "repeats": repeats, **case})
    script = str(Path(__file__).with_name("peft_step.py"))
    done = subprocess.run([python, script, given], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peft-python")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        SHAPE.update(hidden_size=64, num_hidden_layers=2, intermediate_size=96, head_dim=16, vocab_size=512)
    case = {"pairs": 4, "context": 256, "own": 48, "answer": 24}
    whole, split, spans = batches(**case)
    adapter_layers()
    from mlx_lm.tuner.trainer import default_loss

    net = network()
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    plain = How(answer_head=False)
    with trainable(net, TRAINING):
        mx.random.seed(1)
        for _, module in net.named_modules():
            if "lora_b" in module:
                module.lora_b = mx.random.normal(module.lora_b.shape) * 0.02
        mx.eval(net.parameters())
        peer = theirs(net)
        ways: dict[str, tuple[nn.Module, Callable[[], tuple[mx.array, mx.array]], bool]] = {
            "mlx_lm": (peer, lambda: default_loss(peer, whole.tokens, spans), True),
            "ours, every switch off": (net, mine(net, plain, whole), on_gpu),
            "ours, answer-only head": (net, mine(net, How(), whole), on_gpu),
            "ours, shared context": (net, mine(net, plain, split), on_gpu),
            "ours, both": (net, mine(net, How(), split), on_gpu),
        }
        expected = gradients(*ways["mlx_lm"][:2])
        differs: dict[str, float] = {}
        for name, (which, loss, _) in ways.items():
            value, found = gradients(which, loss)
            assert abs(value - expected[0]) < 1e-4, (name, value, expected[0])
            differs[name] = max(mx.abs(found[k] - expected[1][k]).max().item() for k in found)
            assert differs[name] < 1e-6, (name, differs[name])
        largest = max(mx.abs(g).max().item() for g in expected[1].values())
        peaks = {}
        steps = {name: step(*way) for name, way in ways.items()}
        for name, go in steps.items():
            go()
            mx.clear_cache()
            mx.reset_peak_memory()
            go()
            peaks[name] = mx.get_peak_memory()
        times = take_turns(steps, asked.repeats)
    if asked.peft_python:
        times["PEFT on torch"] = peft_step(asked.peft_python, case, asked.repeats)
    base = statistics.median(times["mlx_lm"])
    rows = [
        {
            "engine": name,
            "seconds": round(statistics.median(found), 4),
            "low": round(min(found), 4),
            "high": round(max(found), 4),
            "faster_than_mlx_lm": round(base / statistics.median(found), 2),
            "peak_mb": round(peaks[name] / 1e6) if name in peaks else None,
            "gradient_differs": differs.get(name),
        }
        for name, found in times.items()
    ]
    for row in rows:
        print(json.dumps(row))
    report = {
        "case": case,
        "shape": SHAPE,
        "rank": RANK,
        "largest_gradient": largest,
        "load": os.getloadavg(),
        "rows": rows,
    }
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
