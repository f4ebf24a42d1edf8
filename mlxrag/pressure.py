"""What the machine feels, and the ladder that the program steps down under pressure and up again after it.

The sampler reads counters that cost microseconds (Linux: files of /proc; macOS: `kern.memorystatus_vm_pressure_level`
and psutil).  The ladder knows nothing of models: a rung is two functions, one that frees bytes and one that takes them
back.  Hysteresis: down at once, up only after the machine was calm for a while, one rung at a time and only where there
is room for more than what it freed, so that a noisy signal does not make it oscillate.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from mlxrag.machine import installed
from mlxrag.memory import Ledger

ROOM = 1.5
"""A rung is taken back where so many times the bytes that it freed are free."""


class Level(IntEnum):
    """How much pressure there is."""

    CALM = 0
    TIGHT = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """The machine at one moment.

    Attributes:
        level: the judgement.
        available: bytes that could be taken without swapping.
        swap: bytes in swap.
        resident: bytes of this process.
        stalled: share of the last 10 s in which something waited for memory, in [0, 1], or None where it is unknown.
        thermal: share of full speed that heat allows, in [0, 1], or None where it is unknown.
    """

    level: Level
    available: int
    swap: int
    resident: int
    stalled: float | None = None
    thermal: float | None = None


def read() -> Reading:
    """Read the machine now; `python -m benchmarks.soak --cost` measures what that takes."""
    total, available = installed()
    if sys.platform == "darwin":
        import psutil

        told = _sysctl("kern.memorystatus_vm_pressure_level")
        level = {1: Level.CALM, 2: Level.TIGHT, 4: Level.CRITICAL}.get(told or 1, Level.CALM)
        limit = _sysctl("machdep.xcpm.cpu_thermal_level")
        thermal = None if limit is None else max(0.0, 1 - limit / 100)
        resident = int(psutil.Process().memory_info().rss)
        return Reading(level, available, int(psutil.swap_memory().used), resident, None, thermal)
    stalled = _stalled()
    return Reading(judge(available / total, stalled), available, _swap(), resident_bytes(), stalled)


def resident_bytes() -> int:
    """Return the bytes of this process that are in memory (Linux; 0 elsewhere)."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def judge(free_share: float, stalled: float | None) -> Level:
    """Return the level from the share of memory that is available and the share of time stalled (Linux).

    Waiting for memory is a sign of pressure only where memory is short: on a machine with room, it is reclaim at work.
    """
    waiting = (stalled or 0.0) if free_share < 0.25 else 0.0
    if free_share < 0.05 or waiting > 0.3:
        return Level.CRITICAL
    if free_share < 0.12 or waiting > 0.1:
        return Level.TIGHT
    return Level.CALM


@dataclass(frozen=True, slots=True)
class Rung:
    """One step down, and back.

    Attributes:
        name: what is done, for the log: `drop idle caches`.
        down: does it and returns the bytes that are free now, or that the work ahead needs less; 0 when there was
            nothing to do.
        up: undoes it; returns whether it could.
        cost: says what it is known to cost in quality or time, for the log; asked when the step is taken.
        exact: answers stay what they are; a measurement takes no other step.
        lasting: it stays given up until it is taken back; else what was given up comes back by itself when it is used,
            and the step can be taken again.
    """

    name: str
    down: Callable[[], int]
    up: Callable[[], bool]
    cost: Callable[[], str]
    exact: bool = True
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """A step that was taken: direction, rung, bytes freed and its known cost."""

    direction: str
    rung: str
    freed: int
    cost: str
    at: float


@dataclass(slots=True)
class Ladder:
    """The rungs in the order in which they are given up, and how far down the program stands.

    Attributes:
        rungs: cheapest first.
        calm_for: seconds of calm before one rung is taken back.
        room: bytes that are free; a rung is taken back only where they are more than what it freed.  None is no limit.
        exact_only: take no step that changes answers.
        moves: what happened, oldest first.
    """

    rungs: list[Rung]
    calm_for: float = 30.0
    room: Callable[[], int] | None = None
    exact_only: bool = False
    moves: list[Move] = field(default_factory=list)
    _down: list[tuple[int, int]] = field(default_factory=list)
    _calm_since: float | None = None
    _stepping: bool = False

    @property
    def depth(self) -> int:
        """Rungs given up and not taken back."""
        return len(self._down)

    @property
    def given_up(self) -> tuple[str, ...]:
        """Names of the rungs given up and not taken back, in the order they went."""
        return tuple(self.rungs[number].name for number, _ in self._down)

    def observe(self, level: Level, now: float) -> Move | None:
        """React to a level at a time in seconds: at most one step, which is returned.

        A tight machine goes down one rung that frees something; a critical one as well, skipping none.  A calm one
        goes up a rung after `calm_for` seconds without any pressure, and the clock starts anew after each step.
        """
        if level is not Level.CALM:
            self._calm_since = None
            return self._step_down(now)
        if self._calm_since is None:
            self._calm_since = now
        if self._down and now - self._calm_since >= self.calm_for:
            self._calm_since = now
            return self._step_up(now)
        return None

    def relieve(self, missing: int, now: float) -> int:
        """Go down until `missing` bytes are free or the ladder ends; returns the bytes freed."""
        freed = 0
        while freed < missing and (move := self._step_down(now)) is not None:
            self._calm_since = None
            freed += move.freed
        return freed

    def bind(self, ledger: Ledger, clock: Callable[[], float]) -> Callable[[], None]:
        """Let a ledger that is short of bytes step down this ladder before it refuses; returns what undoes that."""
        self.room = ledger.free
        return ledger.on_short("step down the ladder", lambda missing: self.relieve(missing, clock()))

    def _step_down(self, now: float) -> Move | None:
        if self._stepping:  # what a step asks for (another model) is not made room for by another step
            return None
        self._stepping = True
        try:
            return self._next_down(now)
        finally:
            self._stepping = False

    def _next_down(self, now: float) -> Move | None:
        gone = {number for number, _ in self._down}
        for number, rung in enumerate(self.rungs):
            if number in gone or (self.exact_only and not rung.exact):
                continue
            freed = rung.down()
            if freed > 0:
                if rung.lasting:
                    self._down.append((number, freed))
                return self._note(Move("down", rung.name, freed, rung.cost(), now))
        return None

    def _step_up(self, now: float) -> Move | None:
        number, freed = self._down[-1]
        if self.room is not None and self.room() < ROOM * freed:
            return None
        self._stepping = True
        try:
            if not self.rungs[number].up():
                return None
        finally:
            self._stepping = False
        self._down.pop()
        return self._note(Move("up", self.rungs[number].name, 0, "", now))

    def _note(self, move: Move) -> Move:
        self.moves.append(move)
        return move


def _stalled() -> float | None:
    with suppress(OSError, ValueError, IndexError):
        first = Path("/proc/pressure/memory").read_text().splitlines()[0]
        return float(first.split("avg10=")[1].split()[0]) / 100
    return None


def _swap() -> int:
    """Return the bytes in swap (Linux)."""
    with suppress(OSError, KeyError, ValueError):
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return (int(rows["SwapTotal"].split()[0]) - int(rows["SwapFree"].split()[0])) * 1024
    return 0


def _sysctl(name: str) -> int | None:
    """Return an integer that macOS's kernel tells, or None where there is no such one."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return int.from_bytes(bytes(value)[: size.value], sys.byteorder, signed=True)
    return None
