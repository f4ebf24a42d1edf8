"""Where MLX computes; import this before `mlx.core`.

The Linux x86-64 wheel of MLX carries the reference BLAS (3 GFLOP/s on one core).  Loading MKL
with its symbols global before `mlx.core` makes float32 matrix products 20 to 90 times faster.
This file is the one place that does it; on macOS and elsewhere it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path


def load_mkl() -> bool:
    """Load MKL for MLX's CPU backend and return whether it is there.

    Does nothing but on Linux x86-64, when `mlx.core` is already imported, or when MLXRAG_MKL=0.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or os.environ.get("MLXRAG_MKL") == "0":
        return False
    if "mlx.core" in sys.modules:
        return False
    libraries = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    if not libraries:
        return False
    # The gnu and intel layers start worker threads that stall each other on busy machines.
    if os.environ.get("MKL_NUM_THREADS", "") == "1":
        os.environ.setdefault("MKL_THREADING_LAYER", "SEQUENTIAL")
    ctypes.CDLL(str(libraries[-1]), mode=ctypes.RTLD_GLOBAL)
    return True


MKL = load_mkl()
