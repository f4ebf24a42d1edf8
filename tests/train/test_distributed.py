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
    environment = {**os.environ, "MKL_NUM_THREADS": "1"}
    launch = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring", "--"]
    go = [sys.executable, str(program)]
    subprocess.run([*go, str(tmp_path / "one"), "4"], check=True, env=environment)
    done = subprocess.run(
        [*launch, *go, str(tmp_path / "two"), "2"], check=False, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    curves = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        curves.append([(s["train_loss"] or 0.0, s["valid_loss"] or 0.0) for s in lines])
    assert np.allclose(curves[0], curves[1], atol=1e-4)
    a, b = (read_adapter(tmp_path / n / "adapter").weights for n in ("one", "two"))
    assert all(mx.abs(a[k] - b[k]).max().item() < 1e-3 for k in a)
