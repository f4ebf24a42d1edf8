"""Trends and differences as one HTML page: no script, no network, everything escaped, charts inline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from mlxrag.evaluate.page import environment
from mlxrag.experiment.draw import ticks
from mlxrag.tracking.diff import Difference
from mlxrag.tracking.trend import Trend

WIDTH, HEIGHT, LEFT, FLOOR = 640.0, 240.0, 48.0, 196.0


def dashboard(title: str, trends: Sequence[Trend], differences: Sequence[Difference]) -> str:
    """Return the page of trends and differences.

    Args:
        title: at the top.
        trends: measures over versions, with their changes marked.
        differences: pairs of runs side by side.
    """
    shown = [(t, chart(t)) for t in trends]
    return _environment().get_template("dashboard.html").render(title=title, trends=shown, differences=differences)


def chart(t: Trend) -> dict[str, Any]:
    """Return the places of versions, intervals and changes in a chart of a measure (up) over versions (right)."""
    bounds = [v for v in (*t.means, *t.lows, *t.highs) if v is not None] or [0.0, 1.0]
    ys = ticks(min(bounds), max(bounds))
    step = (WIDTH - LEFT - 30) / max(1, len(t.versions) - 1)
    every = max(1, len(t.versions) // 12)

    def x(i: float) -> float:
        return LEFT + 15 + step * i

    def y(value: float) -> float:
        return FLOOR - (FLOOR - 12) * (value - ys[0]) / (ys[-1] - ys[0])

    points = [
        {
            "x": x(i), "y": y(m), "low": y(m if low is None else low), "high": y(m if high is None else high),
            "version": t.versions[i], "label": i % every == 0, "mean": m,
        }
        for i, (m, low, high) in enumerate(zip(t.means, t.lows, t.highs, strict=True))
    ]  # fmt: skip
    return {
        "points": points, "line": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in points),
        "ys": [{"at": y(v), "text": f"{v:g}"} for v in ys],
        "changes": [{"x": x(c.at - 0.5), "difference": c.difference, "p": c.p, "version": t.versions[c.at]} for c in t.changes],
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": FLOOR,
    }  # fmt: skip


def _environment() -> Environment:
    made = environment()
    assert made.loader is not None
    made.loader = ChoiceLoader([PackageLoader("mlxrag.tracking", "templates"), made.loader])
    return made
