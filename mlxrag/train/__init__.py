"""Train adapters: plan, batches, loop."""

from mlxrag import device as device  # before any file of the room imports mlx.core
