"""How many at once: found by measuring real work, remembered per machine and model, smaller where memory is short.

Strategy: work begins with a usual size.  Every full batch is timed; after three of one size the next larger is tried, for
as long as it is at least 5 % faster (the best of three counts, since a busy machine only ever slows one down).  What was
found is written down under the chip, the version of MLX and the model, and the next process begins there.  Memory has the
last word: a batch that is not granted is halved by whoever asks for it.  Results do not depend on any of this.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mlxrag.model.speed import chip
from mlxrag.workspace import write_json

USUAL_ROWS, MOST_ROWS = 16, 64
"""Answers at once that a search for the best number begins with and ends at."""
SAMPLES = 3
STEPS = 16
GAIN = 1.05
FULL = 0.75  # share of the size from which a batch counts as full


@dataclass(slots=True)
class Pace:
    """The size to work with, and what was measured to find it.

    Attributes:
        key: what is done with which model, such as `encode 3f2a...`.
        size: how much to take at once now.
        most: never more.
        settled: the search is over.
        speeds: units per second of each size that was tried, the best.
    """

    key: str
    size: int
    most: int
    settled: bool = False
    speeds: dict[int, float] = field(default_factory=dict)
    _seen: int = 0
    _steps: tuple[int, float] = (0, 0.0)

    def step(self, count: int, seconds: float) -> None:
        """Take down one of many short steps with `count` rows; sixteen in a row with all rows there are a batch."""
        if self.settled or count != self.size:
            self._steps = (0, 0.0)
            return
        steps, total = self._steps[0] + 1, self._steps[1] + seconds
        self._steps = (steps, total) if steps < STEPS else (0, 0.0)
        if steps == STEPS:
            self.note(count, count * STEPS, total)

    def note(self, count: int, units: float, seconds: float) -> None:
        """Take down a batch of `count` that did `units` of work; one that is not full says nothing."""
        if self.settled or count < FULL * self.size or seconds <= 0:
            return
        self.speeds[self.size] = max(self.speeds.get(self.size, 0.0), units / seconds)
        self._seen += 1
        if self._seen < SAMPLES:
            return
        self._seen = 0
        below = self.speeds.get(self.size // 2)
        if (below is None or self.speeds[self.size] >= GAIN * below) and self.size * 2 <= self.most:
            self.size *= 2
            return
        if below is not None and self.speeds[self.size] < GAIN * below:
            self.size //= 2
        self.settled = True
        remember(self)


def pace(key: str, start: int, most: int) -> Pace:
    """Return what was found on this machine, or the beginning of a search.

    Args:
        key: what is done with which model.
        start: size to begin with.
        most: never more.
    """
    told = remembered().get(key)
    if told is not None:
        with suppress(KeyError, TypeError, ValueError):
            speeds = {int(size): float(speed) for size, speed in told["speeds"].items()}
            return Pace(key, max(1, min(int(told["size"]), most)), most, True, speeds)
    return Pace(key, min(start, most), most)


def remembered() -> dict[str, Any]:
    """Return what was found on this machine with this version of MLX, by key."""
    with suppress(OSError, ValueError):
        told = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(told, dict) and told.get("machine") == _machine():
            return dict(told["found"])
    return {}


def remember(found: Pace) -> None:
    """Write down a size that was found."""
    _file().parent.mkdir(parents=True, exist_ok=True)
    table = {**remembered(), found.key: {"size": found.size, "speeds": found.speeds}}
    write_json(_file(), {"machine": _machine(), "found": table})


def forget() -> None:
    """Forget every size, so that they are found anew."""
    _file().unlink(missing_ok=True)


def _file() -> Path:
    return Path.home() / ".mlxrag" / "pace.json"


@cache
def _machine() -> str:
    return f"{chip()}, mlx {metadata.version('mlx')}"
