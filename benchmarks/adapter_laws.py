"""What must hold exactly, on the bundled reader: kill and resume, swapping, mixed batches, out to PEFT and back.

    MKL_NUM_THREADS=1 python -m benchmarks.adapter_laws

Three adapters are trained for a few batches on German data sheets (`laboratory.py`): LoRA of rank 8, LoRA of rank 4 on
the last three layers, DoRA of rank 8.  The first is trained twice, once killed with SIGKILL in the middle.  Prints a
line for each law and fails if one does not hold.  The same laws are tests at toy size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # loads MKL before mlx

import mlx.core as mx  # isort: skip

from benchmarks.laboratory import examples
from mlxrag.data.example import to_row
from mlxrag.model.adapter import Adapter, read_adapter
from mlxrag.model.attach import Adapters, fingerprint, resident
from mlxrag.model.load import load
from mlxrag.model.peft import import_adapter
from mlxrag.model.peft_export import export_adapter
from mlxrag.model.rows import with_adapters
from mlxrag.settings import ModelSettings
from mlxrag.train.step import STEPS, read_steps

KINDS = {
    "a": ("--rank", "8"),
    "b": ("--rank", "4", "--num-layers", "3", "--seed", "1"),
    "c": ("--rank", "8", "--fine-tune-type", "dora", "--seed", "2"),
}


def train(workspace: Path, data: Path, model: str, name: str, kind: str, iters: int, kill: int = 0) -> None:
    """Train an adapter by the command; with `kill` it dies once so many lines of steps are written."""
    words = ["adapter", "train", "--model", model, "--data", str(data), "--name", name, *KINDS[kind], "--batch-size", "6",
             "--iters", str(iters), "--save-every", "4", "--steps-per-eval", "4", "--val-batches", "1", "--dropout", "0.1",
             "--learning-rate", "1e-3", "--load-dtype", "float32", "--workspace", str(workspace), "--in-process"]  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-m", "mlxrag", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while kill and started.poll() is None:
        lines = [line for f in workspace.glob(f"adapters/{name}/.training-*/{STEPS}") for line in f.open()]
        if len(lines) >= kill:
            os.kill(started.pid, signal.SIGKILL)
        try:
            started.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    if started.wait() not in (0, -signal.SIGKILL if kill else 0):
        raise SystemExit(f"training {name} ended with {started.returncode}")


def swapped(network: Any, words: mx.array, found: dict[str, Adapter]) -> dict[str, Any]:
    """Base -> a -> b -> c -> none, against the base and against a fresh placement of b."""
    before = network(words)
    with Adapters(network) as here:
        logits = {}
        for name in found:
            here.use(here.add(found[name]))
            logits[name] = network(words)
            mx.eval(logits[name])
        here.use(None)
        after = network(words)
    with Adapters(network) as fresh:
        fresh.use(fresh.add(found["b"]))
        alone = network(words)
        mx.eval(alone)
    mx.eval(before, after)
    changed = min(mx.abs(x - before).max().item() for x in logits.values())
    return {
        "after none, bits of the base": mx.array_equal(before, after).item(),
        "b, bits of a fresh b": mx.array_equal(logits["b"], alone).item(),
        "least change by an adapter": round(changed, 3),
    }


def mixed(network: Any, words: mx.array, found: dict[str, Adapter]) -> dict[str, Any]:
    """Rows with a, b, c and none in one batch, against each alone."""
    names: list[str | None] = [*found, None]
    alone = []
    with Adapters(network) as here:
        for adapter in found.values():
            here.add(adapter)
        for name in names:
            here.use(found[name].name if name else None)
            alone.append(network(words))
            mx.eval(alone[-1])
        here.use(None)
    resident(network)
    with with_adapters(network, list(found.values())) as rows:
        rows.select([found[name].name if name else None for name in names])
        together = network(mx.repeat(words, len(names), 0))
        mx.eval(together)
    return {"largest difference": mx.abs(together - mx.concatenate(alone)).max().item()}


def main() -> int:
    """Train, look at each law, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reader")
    parser.add_argument("--iters", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    lines: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data, workspace = root / "data", root / "workspace"
        data.mkdir()
        for part, many, seed in (("train", 12, 0), ("valid", 1, 1)):
            made = examples(many, random.Random(seed))
            (data / f"{part}.jsonl").write_text("".join(json.dumps(to_row(e)) + "\n" for e in made))
        for name in KINDS:
            train(workspace, data, asked.model, name, name, asked.iters)
        train(workspace, data, asked.model, "killed", "a", asked.iters, kill=7)
        died = not (workspace / "adapters" / "killed" / "v1").exists()
        train(workspace, data, asked.model, "killed", "a", asked.iters)
        whole, again = (workspace / "adapters" / name / "v1" for name in ("a", "killed"))
        curves = [
            [(s.iteration, s.train_loss, s.valid_loss) for s in read_steps(folder / STEPS)] for folder in (whole, again)
        ]
        weights = [(folder / "adapters.safetensors").read_bytes() for folder in (whole, again)]
        lines["killed and gone on"] = {
            "killed": died, "same curve": curves[0] == curves[1], "same bytes": weights[0] == weights[1],
        }  # fmt: skip
        found = {name: read_adapter(workspace / "adapters" / name / "v1") for name in KINDS}
        with load(asked.model, settings=ModelSettings(load_dtype="float32")) as model:
            words = mx.array([model.tokenizer.encode("Wie heiß darf der Autoklav Torvel 12 höchstens werden?")])
            lines["swapped"] = swapped(model.network, words, found)
            lines["mixed in one batch"] = mixed(model.network, words, found)
            for name in ("a", "c"):
                export_adapter(found[name], root / f"peft-{name}", model.network)
                base = {"name": "reader", "fingerprint": fingerprint(model.network)}
                made_of = import_adapter(root / f"peft-{name}", model.network, root / f"back-{name}", base)
                back = read_adapter(root / f"back-{name}").weights
                same = all(mx.array_equal(back[k], w).item() for k, w in found[name].weights.items())
                lines[f"out to PEFT and back, {found[name].kind}"] = {
                    "same bits": same, "logits differ from PEFT's formula by": made_of.difference,
                }  # fmt: skip
    for law, facts in lines.items():
        print(json.dumps({"law": law, **facts}))
    if asked.out:
        asked.out.write_text(json.dumps(lines, indent=1) + "\n")
    kept = all(value is not False for facts in lines.values() for value in facts.values())
    return 0 if kept and lines["mixed in one batch"]["largest difference"] < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
