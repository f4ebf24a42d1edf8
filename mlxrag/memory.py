"""The ledger: who holds what of one budget, and what would fit.

Everything resident is written into one ledger before it is allocated: weights, adapters, KV caches, encoders, training
state, the work of the step ahead.  `reserve` grants or raises `WontFit`; nothing is allocated that was not granted.
Processes on one machine share a budget through a file that each of them updates under a lock.  This file knows no
model: it counts bytes that others predict.

A budget can fall while a step is computed, which nobody can interrupt, so there are two numbers: the target is what there
is now, and the budget in force (`Ledger.size`) comes down to it as fast as bytes are given back.  Nothing is granted
beyond the target.  Long work calls `look` at its safe points (between steps, tokens, batches), and none is passed above
the target: what is idle is given up at once, and if that is not enough the work itself has to let go.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mlxrag.errors import WontFit
from mlxrag.machine import GB, budget, this_machine

EVERY = 0.05  # seconds between looks at the machine
POLL = 0.1  # seconds after which a waiting request looks whether another process gave something back


class Hold:
    """Bytes granted to someone; give them back with `release` or by leaving a `with` block."""

    def __init__(self, ledger: Ledger, who: str, kind: str, size: int) -> None:
        self.who, self.kind, self.size = who, kind, size
        self._ledger = ledger

    def resize(self, size: int, *, helps: str = "", relief: bool = True, wait: float = 0.0) -> None:
        """Take more or less.

        Args:
            size: bytes from now on.
            helps: settings that would make it fit, for the message.
            relief: whether others give up something for it; what is merely convenient to keep asks for none.
            wait: seconds to wait for others to give back, or for the budget to grow, where either can happen.

        Raises:
            WontFit: more than there is; the hold stays as it was.
        """
        self._ledger.change(self, size, helps, relief, wait)

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
        source: says what the budget is now, given the bytes that all processes hold; None keeps it as it is.

    Attributes:
        target: the budget as it was when the source was last asked, in bytes.
        relief: what frees bytes when a request does not fit, by name, cheapest first; given how many are missing, each
            returns how many it freed.
        peak: the most bytes that this process has held.
    """

    def __init__(self, size: int, shared: Path | None = None, source: Callable[[int], int] | None = None) -> None:
        self.target, self._shared = size, shared
        self.source = source
        self._holds: list[Hold] = []
        self._turn = threading.Condition(threading.RLock())
        self._next_look = 0.0
        self.relief: list[tuple[str, Callable[[int], int]]] = []
        self.peak = 0

    @property
    def size(self) -> int:
        """The budget in force, in bytes: the target, or what all processes hold while that is still more."""
        with self._turn, self._others() as others:
            return max(self.target, self.held + others)

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
            return self.target - self.held - others

    def set_size(self, size: int) -> None:
        """Fix the budget; if less than what is held remains, relief is asked for the difference."""
        with self._turn:
            self.source, self.target = None, max(size, 0)
            self.refresh()

    def refresh(self) -> int:
        """Take up the budget that there is now, and return the bytes that are free after relief; see `free`."""
        with self._turn:
            with self._others() as others:
                self._ask(others)
                free = self.target - self.held - others
            if free < 0:
                self._relieve(-free)
                free = self.free()
            self._turn.notify_all()
            return free

    def look(self, every: float = EVERY) -> None:
        """Take up the budget that there is now, at a safe point of long work; at most once in `every` seconds.

        Raises:
            WontFit: more is held than that, and nothing idle is left to give up; the work has to let go of its own.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + every
        free = self.refresh()
        if free < 0 and self.held:
            raise WontFit(f"the budget has shrunk to {_mb(self.target)}{self._holders()}", -free)

    def wait_for(self, needed: Callable[[], int], seconds: float) -> bool:
        """Wait until so many bytes are free; at once where nothing can change that: a fixed budget nobody else holds of.

        Args:
            needed: bytes, asked for anew at each look.
            seconds: how long at most.

        Returns:
            Whether they are free.
        """
        until = time.monotonic() + seconds
        while needed() > self.free():
            if self._fixed() or time.monotonic() >= until:
                return False
            time.sleep(POLL)
            self.refresh()
        return True

    def _fixed(self) -> bool:
        with self._turn, self._others() as others:
            return self.source is None and not others

    def on_short(self, name: str, relieve: Callable[[int], int]) -> Callable[[], None]:
        """Ask `relieve` too when a request does not fit, after those that are asked already; returns what ends that.

        Args:
            name: what it does.
            relieve: given the bytes that are missing, frees some and returns how many.
        """
        entry = (name, relieve)
        self.relief.append(entry)
        return lambda: self.relief.remove(entry) if entry in self.relief else None

    def reserve(self, who: str, kind: str, size: int, *, wait: float = 0.0, helps: str = "") -> Hold:
        """Grant `size` bytes, asking for relief and then waiting where there is too little.

        Args:
            who: holder, as a person should read it, such as `reader v1`.
            kind: weights, adapter, cache, encoder, index, training or scratch.
            size: bytes, at least 0.
            wait: seconds to wait for others to give back, or for the budget to grow.
            helps: settings that would make it fit, for the message.

        Raises:
            WontFit: needed and free bytes, who holds what, and what would help.
        """
        hold = Hold(self, who, kind, 0)
        until = time.monotonic() + wait
        with self._turn:
            self._holds.append(hold)
            try:
                while not self._grant(hold, size):
                    left = until - time.monotonic()
                    if left <= 0:
                        raise self._refusal(who, size, helps)
                    self._turn.wait(min(left, POLL))
            except BaseException:
                self._holds.remove(hold)
                raise
        return hold

    def change(self, hold: Hold, size: int, helps: str = "", relief: bool = True, wait: float = 0.0) -> None:
        """Resize a hold; see `Hold.resize`."""
        until = time.monotonic() + wait
        with self._turn:
            while self._take(hold, size) if not relief else not self._grant(hold, size):
                if time.monotonic() >= until or self._fixed():
                    raise self._refusal(hold.who, size, helps)
                self._turn.wait(POLL)
            self._turn.notify_all()

    def drop(self, hold: Hold) -> None:
        """Give back a hold; see `Hold.release`."""
        with self._turn:
            if hold in self._holds:
                self._holds.remove(hold)
                hold.size = 0
                with self._others():
                    pass
                self._turn.notify_all()

    def _grant(self, hold: Hold, size: int) -> bool:
        missing = self._take(hold, size)
        return not missing or (self._relieve(missing) and not self._take(hold, size))

    def _take(self, hold: Hold, size: int) -> int:
        """Give a hold its size if that fits the budget of this moment, and return 0; else return how much is missing.

        Looking and taking are one step under the lock of the shared file, so that two processes cannot take the same.
        """
        with self._others() as others:
            if size > hold.size:
                self._ask(others)
                missing = size - hold.size - (self.target - self.held - others)
                if missing > 0:
                    return missing
            hold.size = size
            self.peak = max(self.peak, self.held)
            return 0

    def _ask(self, others: int) -> None:
        """Take up what the source says; where more is held, the next safe point of every thread looks again."""
        if self.source is not None:
            self.target = max(self.source(self.held + others), 0)
        if self.held + others > self.target:
            self._next_look = 0.0

    def _relieve(self, missing: int) -> bool:
        """Ask the rungs in `relief` in order until `missing` bytes are free; a rung returns the bytes it gave back."""
        if missing <= 0:
            return True
        wanted = self.free() + missing
        for _, rung in list(self.relief):
            if self.free() >= wanted:
                break
            rung(wanted - self.free())
        return self.free() >= wanted

    def _refusal(self, who: str, size: int, helps: str) -> WontFit:
        free = max(self.free(), 0)
        said = f"{who} needs {_mb(size)} and {_mb(free)} of the budget of {_mb(self.target)} are free{self._holders()}"
        return WontFit(said + (f"; {helps}" if helps else "; a larger --memory-budget would help"), size - free)

    def _holders(self) -> str:
        holders = ", ".join(f"{h.who} {_mb(h.size)}" for h in self.holds()[:4] if h.size)
        others = self.target - self.held - self.free()
        parts = [f"held by {holders}"] if holders else []
        return "".join(f"; {p}" for p in [*parts, *([f"{_mb(others)} by other mlxrag processes"] if others else [])])

    @contextmanager
    def _others(self) -> Iterator[int]:
        """Yield what other living processes hold, in bytes, under the lock of the shared file; then write what is held here.

        What is changed within is seen by the others at once.  Not to be entered twice by one thread.
        """
        if self._shared is None:
            yield 0
            return
        self._shared.parent.mkdir(parents=True, exist_ok=True)
        with self._shared.open("a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            table = _living(handle.read())
            own = table.pop(os.getpid(), [])
            yield sum(size for holds in table.values() for _, _, size in holds)
            mine = [(hold.who, hold.kind, hold.size) for hold in self.holds() if hold.size]
            if mine != own:
                handle.truncate(0)
                handle.write(json.dumps({**table, **({os.getpid(): mine} if mine else {})}))


def ledger() -> Ledger:
    """Return the ledger of this process; made from the machine and `MLXRAG_MEMORY_BUDGET` the first time."""
    if _current:
        return _current[-1]
    from mlxrag import settings

    table = settings.read().memory
    held = sum(size for holds in held_by_processes().values() for _, _, size in holds)
    source = None if table.memory_budget else lambda now: budget(this_machine(), table, now, _current[-1].held)
    _current.append(Ledger(budget(this_machine(), table, held), _shared(), source))
    return _current[-1]


def held_by_processes() -> dict[int, list[tuple[str, str, int]]]:
    """Return what the living mlxrag processes of this user hold, by process id: holder, kind and bytes."""
    with suppress(OSError):
        return _living(_shared().read_text())
    return {}


def figures() -> dict[str, int]:
    """Return what a run's record says of memory: the budget in force, and the most that this process held, in bytes."""
    return {"budget": ledger().size, "peak_held": ledger().peak}


def use(new: Ledger) -> None:
    """Make `new` the ledger of this process; a command calls it once with the user's budget, a test with a small one."""
    _current.clear()
    _current.append(new)


_current: list[Ledger] = []


def _shared() -> Path:
    return Path.home() / ".mlxrag" / "budget.json"


def _living(text: str) -> dict[int, list[tuple[str, str, int]]]:
    """Read the shared file, without processes that are gone; one that was cut short counts for nothing."""
    try:
        table = {int(pid): [(str(w), str(k), int(s)) for w, k, s in holds] for pid, holds in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {pid: holds for pid, holds in table.items() if _alive(pid)}


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
