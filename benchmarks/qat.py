"""Plain training and training that knows of the 4 bits to come, before and after fusing into the 4-bit base.

    MKL_NUM_THREADS=1 python -m benchmarks.qat

The bundled reader in 4 bits (groups of 64), German data sheets (`laboratory.py`), LoRA rank 8 on every linear layer, the
same batches and settings twice: as always, and with `--qat 4`.  For the base, each adapter beside it, and each adapter
fused into 4 bits, 8 bits and half precision: the loss of the test answers, the share of answers whose every token is the
likeliest one (what greedy decoding gives), and what the gate of `adapter fuse` says is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip
import mlx.nn as nn

from benchmarks.laboratory import examples
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import attach, resident
from mlxrag.model.fuse import placed, survival
from mlxrag.model.load import load
from mlxrag.settings import Answering, ModelSettings, Training
from mlxrag.train.batches import Batches, Store, write_store
from mlxrag.train.loop import Base, train
from mlxrag.train.parts import head
from mlxrag.train.shared import shared_hidden
from mlxrag.train.tokens import rows

ROOT = Path(__file__).resolve().parent.parent
KINDS = (("same", "fused, 4 bits"), ("8", "fused, 8 bits"), ("half", "fused, half precision"))


def score(network: nn.Module, batches: Batches) -> dict[str, float]:
    """Loss of the answers' tokens, and the share of answers of which every token is the likeliest."""
    total = tokens = right = answers = 0.0
    for batch in batches:
        inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
        if batch.context is not None and batch.owner is not None:
            logits = head(network, shared_hidden(network, batch.context, inputs, batch.owner))
        else:
            logits = network(inputs)
        loss = (nn.losses.cross_entropy(logits, targets) * batch.learn).sum()
        wrong = ((logits.argmax(-1) != targets) & batch.learn).sum(-1)
        total += loss.item()
        tokens += batch.count.item()
        right += (wrong == 0).sum().item()
        answers += inputs.shape[0]
    return {"loss": round(total / tokens, 4), "exact": round(right / answers, 4)}


def answers_of(store: Store, many: int) -> list[tuple[list[int], int]]:
    """Token ids, and where the answer begins, for the gate."""
    found = (store.row(n) for n in range(min(many, len(store))))
    return [(tokens.tolist(), int(learn.argmax())) for tokens, learn in found]


def main() -> int:
    """Train twice, fuse six times, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--groups", type=int, default=30, help="groups of test questions, six in each")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--model", default="reader")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    learnt = list(examples(200, random.Random(0)))
    tested = list(examples(asked.groups, random.Random(2)))
    given = Training(rank=8, iters=asked.iters, batch_size=6, learning_rate=5e-4, warmup=5, steps_per_eval=10**6)
    lines: list[dict[str, Any]] = []

    def say(**facts: Any) -> None:
        lines.append(facts)
        print(json.dumps(facts), flush=True)

    loading = ModelSettings(load_dtype="float32", q_bits=asked.bits, q_group_size=64)
    with load(asked.model, settings=loading) as model, tempfile.TemporaryDirectory() as root:
        network, base = model.network, Base(model.network, model.tokenizer, model.name)
        store = write_store(Path(root) / "test", rows(tested, model.tokenizer, given, Answering()))
        batches = Batches(store, 6, shared=True, seed=None)
        say(training="none", model="base", **score(network, batches))
        for bits in (0, asked.bits):
            name = f"--qat {bits}" if bits else "plain"
            began = time.process_time()
            for _ in train(base, learnt, given.model_copy(update={"qat": bits}), Path(root) / name):
                pass
            seconds = round(time.process_time() - began, 1)
            adapter = read_adapter(Path(root) / name / "adapter")
            attach(network, adapter)
            say(training=name, model="adapter beside the base", **score(network, batches), seconds=seconds)
            resident(network).use(None)
            for into, called in KINDS:
                made, found = survival(network, adapter, into, answers_of(store, 60))  # type: ignore[arg-type]  # `into` is one of the literals
                mean = sum(layer.cosine for layer in found.layers) / len(found.layers)
                with placed(network, made):
                    say(training=name, model=called, **score(network, batches), kept=round(found.kept or 0.0, 3),
                        likeliest_tokens_agree=round(found.agreement or 0.0, 3), cosine=round(mean, 3))  # fmt: skip
                mx.clear_cache()
    if asked.out:
        asked.out.write_text(json.dumps({"load": os.getloadavg(), "rows": lines}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
