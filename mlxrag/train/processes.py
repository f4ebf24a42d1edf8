"""The processes of one training that `mlx.launch` starts: who writes, what memory each may take, waiting for each other.

One process is the ordinary case, in which nothing here does anything.
"""

from __future__ import annotations

import hashlib
import socket
from typing import Any

import mlx.core as mx


def alone() -> bool:
    """Return whether this process is the only one of the job."""
    return mx.distributed.init().size() == 1


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return mx.distributed.init().rank() == 0


def together() -> None:
    """Wait until every process has come here."""
    if not alone():
        mx.eval(mx.distributed.all_sum(mx.array(1)))


def share_of(room: int) -> int:
    """Return how many bytes of `room` each process may take, the same in all of them, so that all choose alike.

    Processes on one machine divide what is free; the machine with the least decides.

    Args:
        room: free bytes of the machine, as this process sees it.
    """
    if alone():
        return room
    here = int.from_bytes(hashlib.sha256(socket.gethostname().encode()).digest()[:4], "big") >> 1
    machines: Any = mx.distributed.all_gather(mx.array([here], mx.int32)).tolist()
    megabytes = mx.array(max(room, 0) // machines.count(here) >> 20, mx.int32)
    least: Any = mx.distributed.all_min(megabytes).item()
    return int(least) << 20
