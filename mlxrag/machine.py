"""What the machine can give: memory that is there, what may be taken of it, and the sizes and times people write.

Knows no process and no model; `memory.py` keeps the book of who holds what.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxrag.errors import BadInput
from mlxrag.settings import Memory

GB = 1_000_000_000
UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": GB, "TB": 1000**4, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
UNLIMITED = 1 << 60  # a control group without a limit says a number near 2^63


@dataclass(frozen=True, slots=True)
class Machine:
    """What the budget is worked out from; a test plays any machine by making one.

    Attributes:
        system: `Darwin` or `Linux`.
        total: bytes of memory.
        available: bytes that could be taken now without swapping.
        working_set: bytes the GPU may hold (Metal's recommended maximum), or None without a GPU.
        limit: bytes that a control group allows to be taken yet, or None.
        gpu: bytes of a GPU's own memory, all and free, where MLX computes in such memory (CUDA); else None.
    """

    system: str
    total: int
    available: int
    working_set: int | None = None
    limit: int | None = None
    gpu: tuple[int, int] | None = None


def this_machine() -> Machine:
    """Look at the machine now (its own counters, control group; Metal's limit, CUDA's memory)."""
    total, available = installed()
    system = "Darwin" if sys.platform == "darwin" else "Linux"
    working_set = metal_working_set(total) if system == "Darwin" else None
    return Machine(system, total, available, working_set, group_room(), cuda_memory())


def installed() -> tuple[int, int]:
    """Return the bytes of memory that are there, and that are free or can be freed at once.

    Linux says it in a file; psutil, which knows the other systems, would take longer to import than a model to load.
    """
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int(rows["MemTotal"].split()[0]) * 1024, int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)


def metal_working_set(total: int) -> int:
    """Return Metal's recommended maximum working set in bytes.

    MLX knows it once it is loaded; before that, 2/3 of memory up to 36 GB and 3/4 above, as llama.cpp's logs of
    M1 Pro machines show (16 GB: 11,453 MB; 32 GB: 22,906 MB).
    """
    core = sys.modules.get("mlx.core")
    if core is not None:
        info = core.device_info()
        if "max_recommended_working_set_size" in info:
            return int(info["max_recommended_working_set_size"])
    return total * 2 // 3 if total <= 36 * 1024**3 else total * 3 // 4


def cuda_memory() -> tuple[int, int] | None:
    """Return the bytes of a CUDA GPU, all and free, once MLX is loaded and computes there; None on any other device."""
    core = sys.modules.get("mlx.core")
    if core is None or not hasattr(core, "cuda") or not core.cuda.is_available():
        return None
    if core.default_device() == core.Device(core.cpu):
        return None
    info = core.device_info(core.gpu)
    if "total_memory" not in info:
        return None
    return int(info["total_memory"]), int(info.get("free_memory", info["total_memory"]))


def group_room(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that this process's control groups allow to be taken yet; None where there is no limit.

    Both versions of control groups, and the groups around the process's own: the tightest counts.  A container sees
    its own group as the root.

    Args:
        proc: where the kernel says which groups the process is in.
        root: where the groups are.
    """
    rooms = []
    with suppress(OSError):
        for line in proc.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base = root / "memory" if kinds else root
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
            group = base / path.lstrip("/")
            for folder in [base, *(f for f in (group, *group.parents) if base in f.parents)]:
                with suppress(OSError, ValueError):
                    limit = int((folder / names[0]).read_text())
                    if limit < UNLIMITED:
                        rooms.append(limit - int((folder / names[1]).read_text()))
    return min(rooms, default=None)


def budget(machine: Machine, memory: Memory, held: int = 0, own: int = 0) -> int:
    """Return the bytes that everything mlxrag holds may sum to.

    Unless the setting says otherwise: what is available, and what mlxrag holds of the rest, less a reserve for the
    system; at most 85 % of what the GPU may hold on macOS, 90 % of what the control group allows on Linux, and 90 % of
    what is free of a GPU's own memory.

    Args:
        machine: the machine now.
        memory: the settings.
        held: bytes that mlxrag processes hold already, which are not available any more.
        own: of them, those of this process, which alone count against its control group.

    Raises:
        BadInput: the setting is no size.
    """
    if memory.memory_budget:
        return parse_size(memory.memory_budget)
    room = machine.available + held - parse_size(memory.memory_reserve)
    if machine.working_set is not None:
        room = min(room, machine.working_set * 85 // 100)
    if machine.limit is not None:
        room = min(room, held - own + (machine.limit + own) * 9 // 10)
    if machine.gpu is not None:
        room = min(room, min(machine.gpu[0], machine.gpu[1] + held) * 9 // 10)
    return max(room, 0)


def parse_size(text: str) -> int:
    """Return bytes of a size such as `6GB`, `1.5 GiB` or `800MB`.

    Raises:
        BadInput: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in UNITS:
        raise BadInput(f"{text!r} is no size in memory; write it like 6GB or 800MB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_seconds(text: str) -> float:
    """Return seconds of a time such as `5m`, `90s`, `1h` or `300`.

    Raises:
        BadInput: it is no time.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].lower() not in SECONDS:
        raise BadInput(f"{text!r} is no time; write it like 5m, 90s or 1h")
    return float(match[1]) * SECONDS[match[2].lower()]
