"""Two processes under `mlx.launch` train what one process trains with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxrag.model.adapter import read_adapter
from tests.toys import write_model
from tests.train.test_loop import texts

LAUNCH = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring", "--"]
ENVIRONMENT = {**os.environ, "MKL_NUM_THREADS": "1"}
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.train.test_loop import base, settings, texts, train
more = {{"dropout": 0.0, "iters": 5, "grad_accumulation_steps": 2, "optimizer": "adam"}}
given = settings(batch_size=int(sys.argv[2]), **more)
list(train(base(), texts(), given, Path(sys.argv[1]), valid=texts(6, 1)))
"""


@pytest.mark.loopback
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Losses, validation and adapter; an accumulation that the last batch ends early included."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(Path(__file__).parent.parent.parent)))
    go = [sys.executable, str(program)]
    subprocess.run([*go, str(tmp_path / "one"), "4"], check=True, env=ENVIRONMENT)
    done = subprocess.run(
        [*LAUNCH, *go, str(tmp_path / "two"), "2"], check=False, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    curves = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        curves.append([(s["train_loss"] or 0.0, s["valid_loss"] or 0.0) for s in lines])
    assert np.allclose(curves[0], curves[1], atol=1e-4)
    a, b = (read_adapter(tmp_path / n / "adapter").weights for n in ("one", "two"))
    assert all(mx.abs(a[k] - b[k]).max().item() < 1e-3 for k in a)


@pytest.mark.loopback
def test_the_command_under_mlx_launch_makes_one_adapter_and_one_document(tmp_path: Path) -> None:
    """The scores are those of one process with twice the batch."""
    model, data = write_model(tmp_path / "toy"), tmp_path / "data"
    data.mkdir()
    for name, many, seed in (("train", 24, 0), ("valid", 6, 1)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts(many, seed)))
    words = f"adapter train --model {model} --data {data} --rank 4 --iters 6 --steps-per-eval 2 --save-every 2 --json"
    command = [sys.executable, "-m", "mlxrag", *words.split(), "--workspace", str(tmp_path / "ws")]

    def go(launch: list[str], name: str, size: int) -> dict[str, float]:
        done = subprocess.run(
            [*launch, *command, "--name", name, "--batch-size", str(size)],
            check=False, env=ENVIRONMENT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert done.stderr.count("batch 0: validation loss") == 1
        scores = said["scores"]
        return {
            "train": scores["train_loss"],
            "base": scores["base"]["valid_loss"],
            "best": scores["best"]["valid_loss"],
        }

    one, two = go([], "one", 4), go(LAUNCH, "two", 2)
    assert one == pytest.approx(two, abs=1e-3)
