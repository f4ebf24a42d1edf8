"""MLX's own limits, set from the ledger: once, for what is planned, and given back at the end.

Wiring the whole recommended working set for a small model is what froze 16 GB machines (exo#1672, mlx#3186): pages that
are wired cannot be given to anyone else.  So the wired limit is what the plan needs and a margin, never more.
"""

from __future__ import annotations

import atexit

import mlx.core as mx

from mlxrag.machine import this_machine
from mlxrag.memory import Ledger

MARGIN = 1 << 30
MOST_CACHED = 1 << 30  # freed buffers that MLX keeps for reuse


def limits_for(budget: int, planned: int, working_set: int | None) -> dict[str, int]:
    """Return the limits in bytes: `memory`, `cache`, and `wired` where there is a GPU.

    Args:
        budget: bytes that everything may hold.
        planned: bytes that weights and caches will hold.
        working_set: what the GPU may hold, or None.
    """
    limits = {"memory": budget, "cache": min(MOST_CACHED, budget // 8)}
    if working_set is not None:
        limits["wired"] = min(planned + MARGIN, budget, working_set)
    return limits


def apply_limits(ledger: Ledger) -> dict[str, int]:
    """Set MLX's limits for what the ledger holds now; a later call with a larger plan raises the wired limit only."""
    working_set = this_machine().working_set if mx.metal.is_available() else None
    limits = limits_for(ledger.size, ledger.held, working_set)
    mx.set_memory_limit(limits["memory"])
    mx.set_cache_limit(limits["cache"])
    wired = limits.get("wired", 0)
    if wired > _wired[-1]:
        if _wired[-1] == 0:
            atexit.register(mx.set_wired_limit, 0)
        mx.set_wired_limit(wired)
        _wired.append(wired)
    return limits


_wired = [0]
