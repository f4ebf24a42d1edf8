"""The report of a training run: losses and measures over the batches, one self-contained HTML file.

Drawn as SVG by hand: no script, nothing loaded from elsewhere, dark and light, and readable without colour.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxrag.train.step import Step
from mlxrag.workspace import write_text

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 34
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #6b7280; --line: #d5d9df; --a: #2563eb; --b: #d97706; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ad; --line: #3a4048; --a: #6ea8fe; --b: #fbbf24; --paper: #15181c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } text { fill: var(--soft); font-size: 12px; }
.a { stroke: var(--a); fill: none; stroke-width: 1.6 } .b { stroke: var(--b); fill: none; stroke-width: 2; stroke-dasharray: 5 3 }
.dot { fill: var(--b) } .grid { stroke: var(--line) } table { border-collapse: collapse } td, th { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }
"""


def write_report(path: Path, name: str, steps: Sequence[Step], settings: Mapping[str, Any]) -> None:
    """Write the report of a run.

    Args:
        path: the HTML file.
        name: of the adapter.
        steps: as they came.
        settings: shown in a table.
    """
    train = [(s.iteration, s.train_loss) for s in steps if s.train_loss is not None]
    valid = [(s.iteration, s.valid_loss) for s in steps if s.valid_loss is not None]
    best = next((s.iteration for s in reversed(steps) if s.best), None)
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        "<h2>Loss</h2>",
        chart(smoothed(train), valid, "loss, nats per token", best),
    ]
    names = dict.fromkeys(n for s in steps for n in s.measures or {})
    for measure in names:
        points = [(s.iteration, s.measures[measure]) for s in steps if s.measures and measure in s.measures]
        parts += [f"<h2>{html.escape(measure)}</h2>", chart([], points, f"{measure} on validation questions", best)]
    rows = [(s.iteration, s.valid_loss, dict(s.measures or {}), s.best) for s in steps if s.valid_loss is not None]
    if rows:
        head = "".join(f"<th>{html.escape(n)}</th>" for n in ("batch", "validation loss", *names, "best"))
        body = "".join(
            f"<tr><td>{i}</td><td>{loss:.4f}</td>"
            + "".join(f"<td>{scored.get(n, float('nan')):.4f}</td>" for n in names)
            + f"<td>{'yes' if is_best else ''}</td></tr>"
            for i, loss, scored, is_best in rows
        )
        parts.append(f"<h2>Validations</h2><table><tr>{head}</tr>{body}</table>")
    shown = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in settings.items())
    parts.append(f"<h2>Settings</h2><table>{shown}</table>")
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(name)}</title><style>{STYLE}</style><body>"
    write_text(path, page + "\n".join(parts) + "</body></html>\n")


def smoothed(points: Sequence[tuple[int, float]], most: int = 300) -> list[tuple[int, float]]:
    """Return at most `most` points, each the mean of its neighbours."""
    size = max(1, len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def chart(
    line: Sequence[tuple[int, float]], checks: Sequence[tuple[int, float]], label: str, best: int | None = None
) -> str:
    """Return an SVG: training as a line, validation dashed with dots, the kept weights as a vertical line."""
    every = [*line, *checks]
    if not every:
        return "<p>Nothing was measured.</p>"
    xs, ys = [x for x, _ in every], [y for _, y in every]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    low, high = min(ys), max(ys)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def at(x: float, y: float) -> str:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{html.escape(label)} over batches'>"]
    for i in range(5):
        y = low + (high - low) * i / 4
        down = at(left, y).partition(",")[2]
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{down}' y2='{down}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{float(down) + 4:.1f}' text-anchor='end'>{y:.3g}</text>")
        x = left + (right - left) * i / 4
        parts.append(f"<text x='{at(x, low).partition(',')[0]}' y='{HEIGHT - 14}' text-anchor='middle'>{x:.0f}</text>")
    if best is not None:
        across = at(best, low).partition(",")[0]
        parts.append(
            f"<line class='grid' x1='{across}' x2='{across}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' stroke-width='3'/>"
        )
        parts.append(f"<text x='{across}' y='{TOP + 10}' text-anchor='middle'>kept</text>")
    if line:
        parts.append(f"<polyline class='a' points='{' '.join(at(x, y) for x, y in line)}'/>")
    if checks:
        parts.append(f"<polyline class='b' points='{' '.join(at(x, y) for x, y in checks)}'/>")
        for x, y in checks:
            across, down = at(x, y).split(",")
            parts.append(f"<circle class='dot' cx='{across}' cy='{down}' r='3'><title>{x}: {y:.4f}</title></circle>")
    parts.append(
        f"<text x='{LEFT}' y='{HEIGHT - 1}'>{html.escape(label)}; line: training, dashed: validation</text></svg>"
    )
    return "".join(parts)
