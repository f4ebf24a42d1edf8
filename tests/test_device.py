"""MKL is there before MLX is, whichever file is imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FIRST = ["mlxrag.experiment.run", "mlxrag.train.loop", "mlxrag.bench", "mlxrag.evaluate.run", "mlxrag.rag.system"]


@pytest.mark.skipif(not list(Path(sys.prefix, "lib").glob("libmkl_rt.so*")), reason="MKL is not installed")
@pytest.mark.parametrize("module", FIRST)
def test_mkl_is_loaded_before_mlx(module: str) -> None:
    """A process that imports only this module multiplies with MKL."""
    code = f"import {module}; from mlxrag import device; assert device.MKL"
    subprocess.run([sys.executable, "-c", code], check=True)
