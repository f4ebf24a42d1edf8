"""The budget: what the machine can give, what is held, what would fit.

Everything resident is written into one ledger before it is allocated: weights, adapters, KV caches, encoders, index
caches, training state.  `reserve` grants or raises `WontFit`; nothing is allocated that was not granted.  Processes on
one machine share a budget through a file that each of them updates under a lock.  This file knows no model: it counts
bytes that others predict.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mlxrag.errors import BadInput, WontFit
from mlxrag.settings import Memory

GB = 1_000_000_000
UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": GB, "TB": 1000**4, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the budget is worked out from; a test plays any machine by making one.

    Attributes:
        system: `Darwin` or `Linux`.
        total: bytes of memory.
        available: bytes that could be taken now without swapping.
        working_set: bytes the GPU may hold (Metal's recommended maximum), or None without a GPU.
        limit: bytes that a control group allows to be taken yet, or None.
    """

    system: str
    total: int
    available: int
    working_set: int | None = None
    limit: int | None = None


def this_machine() -> Machine:
    """Look at the machine now (its own counters, control group; on macOS, Metal's limit)."""
    total, available = installed()
    system = "Darwin" if sys.platform == "darwin" else "Linux"
    working_set = metal_working_set(total) if system == "Darwin" else None
    return Machine(system, total, available, working_set, _cgroup_room())


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


def budget(machine: Machine, memory: Memory) -> int:
    """Return the bytes that everything mlxrag holds may sum to.

    Unless the setting says otherwise: what is available less a reserve for the system, at most 85 % of what the GPU
    may hold on macOS, and at most what the control group allows on Linux.

    Raises:
        BadInput: the setting is no size.
    """
    if memory.memory_budget:
        return parse_size(memory.memory_budget)
    room = machine.available - parse_size(memory.memory_reserve)
    if machine.working_set is not None:
        room = min(room, machine.working_set * 85 // 100)
    if machine.limit is not None:
        room = min(room, machine.limit * 9 // 10)
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


class Hold:
    """Bytes granted to someone; give them back with `release` or by leaving a `with` block."""

    def __init__(self, ledger: Ledger, who: str, kind: str, size: int) -> None:
        self.who, self.kind, self.size = who, kind, size
        self._ledger = ledger

    def resize(self, size: int, *, helps: str = "") -> None:
        """Take more or less.

        Raises:
            WontFit: more than there is; the hold stays as it was.
        """
        self._ledger.change(self, size, helps)

    def release(self) -> None:
        """Give everything back; a second time does nothing."""
        self._ledger.drop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Ledger:
    """Who holds what of one budget; safe between threads, and between processes through `shared`.

    Args:
        size: the budget in bytes.
        shared: file in which processes of this machine write what they hold; None keeps it to this process.
    """

    def __init__(self, size: int, shared: Path | None = None) -> None:
        self._size, self._shared = size, shared
        self._holds: list[Hold] = []
        self._turn = threading.Condition(threading.RLock())
        self.relief: list[tuple[str, Callable[[int], int]]] = []

    @property
    def size(self) -> int:
        """The budget in bytes."""
        return self._size

    @property
    def held(self) -> int:
        """Bytes that this process holds."""
        with self._turn:
            return sum(hold.size for hold in self._holds)

    def holds(self) -> list[Hold]:
        """Return what this process holds, largest first."""
        with self._turn:
            return sorted(self._holds, key=lambda hold: -hold.size)

    def free(self) -> int:
        """Return the bytes that could be granted now; below 0 after the budget has shrunk under what is held."""
        with self._turn, self._others() as others:
            return self._size - self.held - sum(others.values())

    def set_size(self, size: int) -> None:
        """Change the budget; if less than what is held remains, relief is asked for the difference."""
        with self._turn:
            self._size = size
            self._relieve(-self.free())
            self._turn.notify_all()

    def reserve(self, who: str, kind: str, size: int, *, wait: float = 0.0, helps: str = "") -> Hold:
        """Grant `size` bytes, asking for relief and then waiting where there is too little.

        Args:
            who: holder, as a person should read it, such as `reader v1`.
            kind: weights, adapter, cache, encoder, index, training or scratch.
            size: bytes, at least 0.
            wait: seconds to wait for others to give back.
            helps: settings that would make it fit, for the message.

        Raises:
            WontFit: needed and free bytes, who holds what, and what would help.
        """
        hold = Hold(self, who, kind, 0)
        with self._turn:
            self._holds.append(hold)
            try:
                if not self._grant(hold, size) and not (
                    wait and self._turn.wait_for(lambda: self._grant(hold, size), wait)
                ):
                    raise self._refusal(who, size, helps)
            except BaseException:
                self._holds.remove(hold)
                raise
        return hold

    def change(self, hold: Hold, size: int, helps: str = "") -> None:
        """Resize a hold; see `Hold.resize`."""
        with self._turn:
            if not self._grant(hold, size):
                raise self._refusal(hold.who, size, helps)
            self._turn.notify_all()

    def drop(self, hold: Hold) -> None:
        """Give back a hold; see `Hold.release`."""
        with self._turn:
            if hold in self._holds:
                self._holds.remove(hold)
                hold.size = 0
                self._publish()
                self._turn.notify_all()

    def _grant(self, hold: Hold, size: int) -> bool:
        missing = size - hold.size - self.free()
        if size > hold.size and missing > 0 and not self._relieve(missing):
            return False
        hold.size = size
        self._publish()
        return True

    def _relieve(self, missing: int) -> bool:
        """Ask the rungs in `relief` in order until `missing` bytes are free; a rung returns the bytes it gave back."""
        target = self.free() + missing
        for _, rung in self.relief:
            if self.free() >= target:
                break
            rung(target - self.free())
        return self.free() >= target

    def _refusal(self, who: str, size: int, helps: str) -> WontFit:
        holders = ", ".join(f"{h.who} {_mb(h.size)}" for h in self.holds()[:4] if h.size)
        others = self._size - self.held - self.free()
        parts = [f"{who} needs {_mb(size)} and {_mb(max(self.free(), 0))} of the budget of {_mb(self._size)} are free"]
        if holders:
            parts.append(f"held by {holders}")
        if others:
            parts.append(f"{_mb(others)} by other mlxrag processes")
        return WontFit("; ".join(parts) + (f"; {helps}" if helps else "; a larger --memory-budget would help"))

    def _publish(self) -> None:
        with self._others(publish=True):
            pass

    @contextmanager
    def _others(self, publish: bool = False) -> Iterator[dict[int, int]]:
        """Yield what other living processes hold, by process id."""
        if self._shared is None:
            yield {}
            return
        self._shared.parent.mkdir(parents=True, exist_ok=True)
        with self._shared.open("a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            try:
                table = {int(pid): int(size) for pid, size in json.loads(handle.read() or "{}").items()}
            except (ValueError, AttributeError):
                table = {}
            others = {pid: size for pid, size in table.items() if pid != os.getpid() and _alive(pid)}
            yield others
            if publish:
                handle.truncate(0)
                handle.write(json.dumps({**others, os.getpid(): self.held}))


def ledger() -> Ledger:
    """Return the ledger of this process; made from the machine and `MLXRAG_MEMORY_BUDGET` the first time."""
    if _current:
        return _current[-1]
    from mlxrag import settings

    table = settings.read().memory
    _current.append(Ledger(budget(this_machine(), table), _shared()))
    return _current[-1]


def held_by_processes() -> dict[int, int]:
    """Return what the living mlxrag processes of this user hold, in bytes by process id."""
    with suppress(OSError, ValueError, AttributeError):
        told = json.loads(_shared().read_text())
        return {int(pid): int(size) for pid, size in told.items() if _alive(int(pid)) and size}
    return {}


def _shared() -> Path:
    return Path.home() / ".mlxrag" / "budget.json"


def use(new: Ledger) -> None:
    """Make `new` the ledger of this process; a command calls it once with the user's budget, a test with a small one."""
    _current.clear()
    _current.append(new)


_current: list[Ledger] = []


def _cgroup_room() -> int | None:
    root = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text())
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _mb(size: int) -> str:
    return f"{size / GB:.2f} GB" if size >= GB else f"{size / 1e6:.0f} MB"
