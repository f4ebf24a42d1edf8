"""The report of a sweep as one HTML file: a picture of loss against bytes, and the table it is drawn from.

No script, no font and no picture from anywhere else; it opens from a mail or a disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlxrag.model.sweep import ORIGINAL, AnswerScore, Pick, Row, front, kl_of, size, valid

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 24, 58
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #6a737d; --line: #d0d7de; --paper: #fff; --mark: #0b6bcb; --pick: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #8b949e; --line: #30363d; --paper: #0d1117; --mark: #58a6ff; --pick: #ff9d5c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1240px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } p { margin: .3rem 0; max-width: 75ch; }
.why { border-left: 4px solid var(--pick); padding: .4rem .8rem; margin: 1rem 0; } .soft, caption, footer { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.reason { text-align: left; white-space: normal; color: var(--soft); }
tr.front td:first-child { font-weight: 600; color: var(--mark); } tr.pick td:first-child { font-weight: 700; color: var(--pick); }
td small { color: var(--soft); display: block; } svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .dim { fill: var(--soft); }
"""


def page(name: str, rows: Sequence[Row], pick: Pick, facts: Mapping[str, Any]) -> str:
    """Return the whole document.

    Args:
        name: of the model.
        rows: the original first.
        pick: what was picked and why.
        facts: label -> text, shown at the end: machine, versions, texts, runs.
    """
    best = {row.recipe for row in front(rows)}
    chosen = f'<p class="why"><b>Picked: {escape(pick.recipe)}</b>, {escape(pick.why)}.</p>' if pick.recipe else (
        f'<p class="why">{escape(pick.why[:1].upper() + pick.why[1:])}.</p>')  # fmt: skip
    notes = "".join(f"<p>{escape(label)}: {escape(str(text))}</p>" for label, text in facts.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Quantization of {escape(name)}</title><style>{STYLE}</style></head><body>
<h1>Quantization of {escape(name)}</h1>
<p class="soft">What each way to make the weights smaller costs, on your own texts. Down and to the left is better.</p>
{chosen}
{picture(rows, pick.recipe)}
<h2>Figures</h2><div class="wide">{table(rows, best, pick.recipe)}</div>
<p class="soft">KL: how far the predictions of the next token are from the original's, in nats per token (0 is equal), &plusmn; standard
error over pieces of text. Same first choice: share of tokens whose likeliest next token is the original's. Speed and memory:
median of the runs, with their spread. Bold names are on the front: nothing is both smaller and closer.</p>
<footer>{notes}</footer></body></html>
"""


def picture(rows: Sequence[Row], picked: str) -> str:
    """Return an SVG of KL (logarithmic) against bytes, with the Pareto front as a line."""
    shown = [row for row in valid(rows) if row.recipe != ORIGINAL]
    if not shown:
        return ""
    base = next((row.nbytes for row in rows if row.recipe == ORIGINAL), max(row.nbytes for row in shown))
    floor = 10 ** math.floor(math.log10(max(min((kl_of(row) for row in shown if kl_of(row) > 0), default=1e-6), 1e-9)))
    top = 10 ** math.ceil(math.log10(max(max(kl_of(row) for row in shown), floor * 10)))
    right = max(base, max(row.nbytes for row in shown)) * 1.02
    left = min(row.nbytes for row in shown) * 0.85

    def at(nbytes: float, kl: float) -> tuple[float, float]:
        share = (math.log10(max(kl, floor)) - math.log10(floor)) / (math.log10(top) - math.log10(floor))
        x = LEFT + max(nbytes - left, 0) / (right - left) * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    parts = [axes(at, floor, top, (left, right), base)]
    line = [at(row.nbytes, kl_of(row)) for row in front(rows) if row.recipe != ORIGINAL]
    points = " ".join(f"{x},{y}" for x, y in line)
    parts.append(
        f'<polyline points="{points}" fill="none" stroke="var(--mark)" stroke-width="1.5" stroke-dasharray="5 4"/>'
    )
    places = [at(row.nbytes, kl_of(row)) for row in shown]
    taken = [(x - 5, y + 5, 10.0) for x, y in places]  # labels keep off the points
    best = {row.recipe for row in front(rows)}
    for row in sorted(shown, key=lambda row: row.nbytes):
        assert row.quality is not None
        x, y = at(row.nbytes, kl_of(row))
        error = 0.0 if math.isnan(row.quality.kl_error) else 1.96 * row.quality.kl_error
        _, high = at(row.nbytes, kl_of(row) + error)
        _, low = at(row.nbytes, max(kl_of(row) - error, floor))
        color = "var(--pick)" if row.recipe == picked else "var(--mark)" if row.recipe in best else "var(--soft)"
        parts.append(f'<line x1="{x}" x2="{x}" y1="{high}" y2="{low}" stroke="{color}" stroke-width="1"/>')
        title = f"{row.recipe}: {size(row.nbytes)}, KL {kl_of(row):.3g}"
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="{6 if row.recipe == picked else 4.5}" fill="{color}"><title>{escape(title)}</title></circle>'
        )
        parts.append(label(row.recipe, x, y, taken, color if row.recipe == picked else "var(--ink)"))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss of quality against bytes of the weights">{"".join(parts)}</svg>'


def axes(at: Any, floor: float, top: float, span: tuple[float, float], base: int) -> str:
    """Return axes, grid and their words; `span` is the bytes at the left and right end."""
    left, right = span
    parts = []
    for power in range(round(math.log10(floor)), round(math.log10(top)) + 1):
        x, y = at(0, 10.0**power)
        parts.append(f'<line x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="var(--line)"/>')
        parts.append(f'<text class="dim" x="{x - 8}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>')
    step = nice((right - left) / 6)
    for i in range(math.ceil(left / step), int(right / step) + 1):
        x, y = at(i * step, floor)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{y}" y2="{y + 5}" stroke="var(--soft)"/>')
        parts.append(f'<text class="dim" x="{x}" y="{y + 20}" text-anchor="middle">{tick(i * step, right)}</text>')
    x, y = at(base, top)
    parts.append(
        f'<line x1="{x}" x2="{x}" y1="{y}" y2="{HEIGHT - BOTTOM}" stroke="var(--soft)" stroke-dasharray="2 4"/>'
    )
    parts.append(f'<text class="dim" x="{x - 6}" y="{y + 12}" text-anchor="end">original</text>')
    unit = "GB" if right >= 1e9 else "MB"
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">weights, {unit}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">KL to the original, nats per token</text>'
    )
    return "".join(parts)


def label(text: str, x: float, y: float, taken: list[tuple[float, float, float]], color: str) -> str:
    """Return a label beside a point, moved to where no other label stands."""
    width = 6.6 * len(text)
    places = [
        (x + 9, y - 8),
        (x + 9, y + 16),
        (x - 9 - width, y - 8),
        (x - 9 - width, y + 16),
        (x + 9, y - 24),
        (x + 9, y + 32),
    ]
    inside = [(a, b) for a, b in places if a > LEFT and a + width < WIDTH - 4 and TOP < b < HEIGHT - BOTTOM]
    for a, b in inside or places:
        if all(a + width < left or a > left + wide or abs(b - base) > 13 for left, base, wide in taken):
            break
    taken.append((a, b, width))
    return f'<text x="{a:.1f}" y="{b:.1f}" style="fill:{color}">{escape(text)}</text>'


def nice(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `step`."""
    power = 10 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step)


def tick(nbytes: float, right: float) -> str:
    """Return a byte count in the unit of the axis."""
    return f"{nbytes / (1e9 if right >= 1e9 else 1e6):.3g}"


def table(rows: Sequence[Row], best: set[str], picked: str) -> str:
    """Return the table of figures."""
    answers = any(row.answers for row in rows)
    heads = ["recipe", "bits/weight", "size", "perplexity", "KL mean", "KL p99", "same first choice", "prefill tok/s", "decode tok/s",
             "peak MB", *(["answers"] if answers else [])]  # fmt: skip
    lines = []
    for row in rows:
        kind = "pick" if row.recipe == picked else "front" if row.recipe in best and row.recipe != ORIGINAL else ""
        if row.reason or row.quality is None or row.speed is None:
            cells = (
                f'<td>{escape(row.recipe)}</td><td class="reason" colspan="{len(heads) - 1}">{escape(row.reason)}</td>'
            )
        else:
            cells = "".join(f"<td>{cell}</td>" for cell in figures(row, answers))
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def figures(row: Row, answers: bool) -> list[str]:
    """Return the cells of a row, each with its spread below."""
    assert row.quality is not None and row.speed is not None
    q, s = row.quality, row.speed
    cells = [
        escape(row.recipe),
        f"{row.bits_per_weight:.2f}",
        size(row.nbytes),
        f"{q.perplexity.value:.4g}<small>&plusmn; {q.perplexity.standard_error:.2g}</small>",
        f"{q.kl_mean:.3g}<small>&plusmn; {q.kl_error:.2g}</small>",
        f"{q.kl_p99:.3g}<small>{q.kl_p99_low:.2g} to {q.kl_p99_high:.2g}</small>",
        f"{q.top1:.3f}<small>&plusmn; {q.top1_error:.2g}</small>",
        spread(s.prefill, ",.0f"),
        spread(s.decode, ",.1f"),
        spread(s.peak_bytes, ",.1f", 1e6),
    ]
    if answers:
        cells.append(answered(row.answers))
    return cells


def answered(score: AnswerScore | None) -> str:
    """Return a score of answers, its interval where there is one, and how many questions it is over."""
    if score is None or score.value is None:
        return "&ndash;"
    bounds = f"{score.low:.3f} to {score.high:.3f}, " if score.low is not None and score.high is not None else ""
    failed = f", {score.failed} failed" if score.failed else ""
    return f"{score.value:.3f}<small>{bounds}n = {score.questions}{failed}</small>"


def spread(figure: Any, form: str, unit: float = 1.0) -> str:
    """Return a median with its interval below."""
    low, high = figure.interval
    text = f"{figure.median / unit:{form}}"
    return text if low == high else f"{text}<small>{low / unit:{form}} to {high / unit:{form}}</small>"
