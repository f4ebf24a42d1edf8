"""The runtime: load, convert, quantize, adapt and run models; with `train` the only rooms that import mlx_lm."""

from mlxrag import device as device  # before any room imports mlx.core
from mlxrag.model import lean

lean.install()
