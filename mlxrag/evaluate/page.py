"""A report as one HTML file: no script, no network, everything escaped; charts are inline SVG."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from mlxrag.evaluate.calibration import Calibration
from mlxrag.evaluate.figures import UNBOUNDED, Figure
from mlxrag.evaluate.report import SLICED, Report

QUADRANTS = (
    ("found, right", "retrieved and answered"),
    ("found, wrong", "reading failure"),
    ("not found, right", "answered without the passage"),
    ("not found, wrong", "retrieval failure"),
)


def to_html(report: Report) -> str:
    """Return the report as a page."""
    return (
        environment()
        .get_template("report.html")
        .render(
            r=report,
            quadrants=QUADRANTS,
            sliced=SLICED,
            reliability=reliability(report.calibration),
            risk=risk_curve(report.calibration),
        )
    )


def environment() -> Environment:
    """Return the templates of this room; everything that is put into a page is escaped."""
    made = Environment(
        loader=PackageLoader("mlxrag.evaluate", "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"num": num, "bar": bar, "share": share, "spread": spread}
    return made


def num(value: Any) -> str:
    """A number for people; `-` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def share(value: int, total: int) -> str:
    """A count as per cent of a total."""
    return f"{100 * value / total:.0f} %" if total else "–"


def bar(f: Figure) -> dict[str, float] | None:
    """Where the mean and the interval stand on a track of 100 units; None for a measure that is no share."""
    if f.mean is None or f.measure in UNBOUNDED:
        return None
    low, high = (f.mean, f.mean) if f.low is None or f.high is None else (f.low, f.high)
    return {"at": 100 * f.mean, "low": 100 * low, "width": max(0.8, 100 * (high - low))}


def spread(counts: tuple[int, ...]) -> list[dict[str, float]]:
    """Bars of a histogram in a box of 100 by 30."""
    top = max(counts, default=0) or 1
    width = 100 / max(1, len(counts))
    return [
        {"x": i * width + 0.5, "y": 30 - 28 * c / top, "width": width - 1, "height": 28 * c / top, "count": c}
        for i, c in enumerate(counts)
    ]


def reliability(c: Calibration) -> list[dict[str, float]]:
    """Points of the reliability curve in a box of 100 by 100, y downwards; the radius grows with the count."""
    top = max((b.n for b in c.bins), default=1)
    return [
        {"x": 100 * b.confidence, "y": 100 - 100 * b.accuracy, "r": 1.5 + 2.5 * b.n / top, "n": b.n} for b in c.bins
    ]


def risk_curve(c: Calibration) -> str:
    """The risk-coverage curve as the points of an SVG polyline in a box of 100 by 100."""
    return " ".join(f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in zip(c.coverage, c.risk, strict=True))
