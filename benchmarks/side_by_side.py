"""The same training in mlx_lm's own trainer and in ours: loss curves, time and memory of the plain step.

    MKL_NUM_THREADS=1 python -m benchmarks.side_by_side

The bundled reader, German data sheets as chats (`laboratory.py`), LoRA rank 8 on every linear layer, AdamW, a constant
step size, the same batches in the same order.  `mlx_lm.tuner.trainer.train` gets the batches through its argument
`iterate_batches`; its own iterator would also count the padding token after each row (its mask runs to `steps <=
lengths`).  Ours runs with every switch off, and once more as it comes.  Engines take turns, each round from the start.
Fails if the tokens that mlx_lm makes of the chats are others, or a loss of the plain step differs by more than 1e-3.

The clock is the processor time of the process (of the wall on a GPU); the first batch of a round, in which kernels are
compiled, does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip
import mlx.optimizers as optim
import numpy as np

from benchmarks.laboratory import examples
from benchmarks.rag_sft import clock
from mlxrag.model.attach import adapter_layers
from mlxrag.model.load import load
from mlxrag.settings import Answering, ModelSettings, Training
from mlxrag.train.batches import Batches, write_store
from mlxrag.train.loop import Base, train
from mlxrag.train.tokens import Record, conversation, rows

ROOT = Path(__file__).resolve().parent.parent
PLAIN = {"shared_context": False, "answer_head": False, "logits_chunk": 0}


class Curve:
    """Losses of a run and the time of its batches, as mlx_lm's trainer and our loop tell them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.last = clock()

    def on_train_loss_report(self, facts: dict[str, Any]) -> None:
        """Take what mlx_lm says after a batch."""
        self.note(facts["train_loss"])

    def on_val_loss_report(self, facts: dict[str, Any]) -> None:
        """Nothing: there is no validation."""

    def note(self, loss: float) -> None:
        """Note a loss and the time since the last one."""
        now = clock()
        self.seconds.append(now - self.last)
        self.losses.append(loss)
        self.last = clock()


def theirs(model: Any, batches: Batches, training: Training, folder: Path) -> Curve:
    """Train with mlx_lm's trainer."""
    from mlx_lm.tuner.trainer import TrainingArgs
    from mlx_lm.tuner.trainer import train as their_train
    from mlx_lm.tuner.utils import linear_to_lora_layers, remove_lora_layers

    def given(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        for i in range(training.iters):
            batch = batches.at(i)
            learn = np.array(batch.learn)
            yield batch.tokens, mx.array([[int(r.argmax()) + 1, int(np.flatnonzero(r)[-1]) + 1] for r in learn])

    model.freeze()
    mx.random.seed(training.train_seed)
    linear_to_lora_layers(model, -1, {"rank": training.rank, "scale": training.scale, "dropout": 0.0})
    optimizer = optim.AdamW(training.learning_rate, weight_decay=training.weight_decay)
    args = TrainingArgs(
        batch_size=training.batch_size, iters=training.iters, steps_per_report=1, steps_per_save=10**9,
        adapter_file=str(folder / "adapters.safetensors"),
    )  # fmt: skip
    curve = Curve()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        their_train(model, optimizer, [], None, args, iterate_batches=given, training_callback=curve)
    remove_lora_layers(model)
    return curve


def ours(base: Base, records: Sequence[Record], training: Training, folder: Path) -> Curve:
    """Train with our loop; on a GPU its step is compiled, too."""
    curve = Curve()
    for step in train(base, records, training, folder):
        if step.train_loss is not None:
            curve.note(step.train_loss)
    return curve


def main() -> int:
    """Take turns and say what came out."""
    import random

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iters", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default=str(ROOT / "models" / "reader"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    adapter_layers()
    from mlx_lm.tuner.datasets import ChatDataset
    from mlx_lm.utils import load_tokenizer

    found = list(examples(8, random.Random(0)))
    chats = [{"messages": conversation(e, Answering())} for e in found]
    common = {"rank": 8, "iters": asked.iters, "batch_size": 4, "learning_rate": 3e-4, "lr_schedule": "constant",
              "clip": 0.0, "steps_per_eval": 10**6, "save_every": 10**6}  # fmt: skip
    plain, whole = Training(**common, **PLAIN), Training(**common)
    times: dict[str, list[float]] = {}
    curves: dict[str, Curve] = {}
    peaks: dict[str, int] = {}
    with (
        load(asked.model, settings=ModelSettings(load_dtype="float32")) as model,
        tempfile.TemporaryDirectory() as root,
    ):
        base = Base(model.network, model.tokenizer, "reader")
        store = write_store(Path(root) / "store", rows(chats, model.tokenizer, plain, Answering()))
        dataset = ChatDataset(chats, load_tokenizer(Path(asked.model)), mask_prompt=True)
        for number, chat in enumerate(chats):
            tokens, learn = store.row(number)
            same = dataset.process(chat)
            assert (tokens.tolist(), int(learn.argmax())) == (list(same[0]), same[1]), number
        batches = Batches(store, plain.batch_size, seed=plain.train_seed)
        for turn in range(asked.repeats):
            engines = {
                "mlx_lm's trainer": lambda at: theirs(model.network, batches, plain, at),
                "ours, every switch off": lambda at: ours(base, chats, plain, at),
                "ours, as it comes": lambda at: ours(base, found, whole, at),
            }
            for name, go in engines.items():
                folder = Path(root) / f"{turn}-{len(curves)}-{name[:4]}{len(name)}"
                folder.mkdir()
                mx.clear_cache()
                mx.reset_peak_memory()
                curves[name] = go(folder)
                peaks[name] = mx.get_peak_memory()
                times.setdefault(name, []).extend(curves[name].seconds[1:])
    first, second = (curves[name] for name in list(curves)[:2])
    apart = max(abs(a - b) for a, b in zip(first.losses, second.losses, strict=True))
    reference = statistics.median(times["mlx_lm's trainer"])
    lines = [
        {"engine": name, "seconds": round(statistics.median(t), 4), "low": round(min(t), 4), "high": round(max(t), 4),
         "of_mlx_lm": round(statistics.median(t) / reference, 3), "peak_mb": round(peaks[name] / 1e6, 1),
         "losses": [round(x, 5) for x in curves[name].losses]}
        for name, t in times.items()
    ]  # fmt: skip
    for line in lines:
        print(json.dumps(line))
    print(json.dumps({"largest difference of a loss, mlx_lm and ours with every switch off": apart}))
    if asked.out:
        asked.out.write_text(json.dumps({"load": os.getloadavg(), "rows": lines, "apart": apart}, indent=1) + "\n")
    return 0 if apart < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
