"""Compare systems with statistics, and say what to change next."""

from mlxrag import device as device  # before any file of the room imports mlx.core
