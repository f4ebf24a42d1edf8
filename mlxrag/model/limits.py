"""MLX's own limits, set from the ledger: for what is planned, no more, and given back at the end.

Wiring the whole recommended working set for a small model is what froze 16 GB machines (exo#1672, mlx#3186): pages that
are wired cannot be given to anyone else.  So the wired limit is what the plan needs and a margin, never more, and it is
raised when a plan needs more but never toggled.  Buffers that MLX has freed and keeps for reuse are memory too: they are
in the ledger.
"""

from __future__ import annotations

import atexit

import mlx.core as mx

from mlxrag.machine import this_machine
from mlxrag.memory import Hold, Ledger

MARGIN = 1 << 30
MOST_CACHED = 1 << 30  # freed buffers that MLX keeps for reuse
SHARE_CACHED = 16  # of the budget
FREED = "freed buffers for reuse"


def limits_for(budget: int, planned: int, working_set: int | None) -> dict[str, int]:
    """Return the limits in bytes: `memory`, `cache`, and `wired` where there is a GPU.

    Args:
        budget: bytes that everything may hold.
        planned: bytes that weights and caches will hold.
        working_set: what the GPU may hold, or None.
    """
    limits = {"memory": budget, "cache": min(MOST_CACHED, budget // SHARE_CACHED)}
    if working_set is not None:
        limits["wired"] = min(planned + MARGIN, budget, working_set)
    return limits


def apply_limits(ledger: Ledger) -> dict[str, int]:
    """Set MLX's limits for what the ledger holds now; a later call with a larger plan raises the wired limit only.

    The cache of freed buffers gets at most a quarter of what is free, which is held, and is the first to give way where
    a request does not fit.
    """
    working_set = this_machine().working_set if mx.metal.is_available() else None
    limits = limits_for(ledger.target, ledger.held, working_set)
    hold = _kept(ledger)
    if hold is None:
        hold = ledger.reserve(FREED, "scratch", 0)
        if not any(name == FREED for name, _ in ledger.relief):
            ledger.relief.insert(0, (FREED, lambda missing: shrink_cache(ledger, missing)))
    limits["cache"] = max(0, min(limits["cache"], (ledger.free() + hold.size) // 4))
    hold.resize(limits["cache"])
    mx.set_memory_limit(limits["memory"])
    mx.set_cache_limit(limits["cache"])
    wired = limits.get("wired", 0)
    if wired > _wired[-1]:
        if _wired[-1] == 0:
            atexit.register(mx.set_wired_limit, 0)
        mx.set_wired_limit(wired)
        _wired.append(wired)
    return limits


def shrink_cache(ledger: Ledger, missing: int | None = None) -> int:
    """Let MLX keep fewer freed buffers, and return the bytes of the budget that gives back.

    Args:
        ledger: where they are held.
        missing: how many bytes are wanted; all of them unless given.
    """
    hold = _kept(ledger)
    if hold is None:
        mx.clear_cache()
        return 0
    before = hold.size
    hold.resize(0 if missing is None else max(0, before - missing))
    mx.set_cache_limit(hold.size)
    mx.clear_cache()
    return before - hold.size


def _kept(ledger: Ledger) -> Hold | None:
    return next((hold for hold in ledger.holds() if hold.who == FREED), None)


_wired = [0]
