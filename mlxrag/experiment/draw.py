"""A comparison's report as Markdown and as one HTML page: no script, no network, everything escaped, charts inline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from mlxrag.evaluate.page import environment
from mlxrag.experiment.plan import NEUTRAL

Row = Mapping[str, Any]

WIDTH, HEIGHT, LEFT, BOTTOM = 560.0, 300.0, 52.0, 40.0


def to_html(report: Row) -> str:
    """Return the report as a page."""
    made = environment()
    assert made.loader is not None
    made.loader = ChoiceLoader([PackageLoader("mlxrag.experiment", "templates"), made.loader])
    made.filters |= {"points": points, "p": p_value, "seconds": seconds, "size": size, "short": short}
    return made.get_template("ab.html").render(
        r=report, forest=forest(report["comparisons"], report["settings"]["margin"]),
        scatter=scatter(report["pareto"]), neutral=NEUTRAL,
    )  # fmt: skip


def to_markdown(report: Row) -> str:
    """Return the report as Markdown: verdict, comparisons, costs, slices, examples, assumptions."""
    lines = [f"# {report['title']}", ""]
    lines += [f"**{v}**\n" for v in report["verdicts"]]
    about = report["about"]
    if about.get("dataset"):
        lines.append(
            f"{about.get('asked')} of {about.get('planned')} questions of {about['dataset']} ({about.get('split')})."
        )
    lines += [f"> {w}" for w in (*about.get("warnings", ()), *about.get("departures", ()))]
    lines += [
        "",
        "| measure | B against A | A | B | difference | interval | p | corrected | wins : ties : losses | n |",
    ]
    lines += ["|---|---|---:|---:|---:|---|---:|---:|---|---:|"]
    for c in report["comparisons"]:
        e = c["effect"] or {}
        wtl = f"{e.get('wins')} : {e.get('ties')} : {e.get('losses')}" if e else "–"
        lines.append(
            f"| {c['measure']} | {_cell(c['b'])} against {_cell(c['a'])} | {_num(c['mean_a'])} | {_num(c['mean_b'])} "
            f"| {_num(c['difference'])} | {_num(c['low'])} to {_num(c['high'])} | {p_value(c['p'])} | {p_value(c['corrected'])} "
            f"| {wtl} | {c['n']} |"
        )
    costs = [s for s in report["systems"] if s["cost"]]
    if costs:
        lines += ["", "## Cost", "", "| system | seconds | 90 % | first token | tokens/s | weights | peak | timed |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
        for s in costs:
            c = s["cost"]
            lines.append(
                f"| {_cell(s['name'])} | {seconds(c['seconds'])} | {seconds(c['slow'])} | {seconds(c['first_token'])} "
                f"| {_num(c['tokens_per_second'])} | {size(c['weights'])} | {size(c['peak'])} | {c['n']} |"
            )
    for pair, found in report["slices"].items():
        if found:
            lines += [
                "",
                f"## By kind of question: {_cell(pair)}",
                "",
                "| kind | n | A | B | difference | interval | p (BH) |",
            ]
            lines += ["|---|---:|---:|---:|---:|---|---:|"]
            lines += [
                f"| {_cell(f['slice'])}: {_cell(f['value'])} | {f['n']} | {_num(f['mean_a'])} | {_num(f['mean_b'])} "
                f"| {_num(f['difference'])} | {_num(f['low'])} to {_num(f['high'])} | {p_value(f['corrected'])} |"
                for f in found[:40]
            ]
    for pair, found in report["flips"].items():
        for kind in ("wins", "losses", "ties"):
            if found["examples"][kind]:
                lines += [
                    "",
                    f"## {pair}: {kind} ({found['counts'][kind]})",
                    "",
                    "| question | A | B | should be |",
                    "|---|---|---|---|",
                ]
                lines += [
                    f"| {_cell(x['question'])} | {_cell(x['said_a'])} | {_cell(x['said_b'])} | {_cell(' / '.join(x['answers']))} |"
                    for x in found["examples"][kind]
                ]
    lines += ["", "## What this rests on", ""] + [f"- {a}" for a in report["assumptions"]]
    lines += [f"- Hypothesis: {h}." for h in about.get("hypotheses", ())]
    return "\n".join(lines) + "\n"


def forest(comparisons: Sequence[Row], margin: float) -> list[dict[str, Any]]:
    """Return the places of estimates and intervals on tracks of 200 units with 0 in the middle; one scale for all shares."""
    shares = [c for c in comparisons if c["difference"] is not None and _share(c)]
    reach = max(
        [abs(v) for c in shares for v in (c["low"], c["high"], c["difference"]) if v is not None] + [margin, 0.01]
    )
    found = []
    for c in shares:
        low, high = (c["low"], c["high"]) if c["low"] is not None else (c["difference"], c["difference"])
        found.append({
            "row": c, "at": 100 + 96 * c["difference"] / reach, "low": 100 + 96 * low / reach, "high": 100 + 96 * high / reach,
            "margin": 96 * margin / reach, "reach": reach,
            "tone": {"better": "good", "worse": "bad"}.get(c["decided"], "flat"),
        })  # fmt: skip
    return found


def scatter(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the places of systems in a chart of quality (up) against seconds (right), with error bars and the front."""
    if len(rows) < 2:
        return None
    lows = [r["low"] if r["low"] is not None else r["quality"] for r in rows]
    highs = [r["high"] if r["high"] is not None else r["quality"] for r in rows]
    xs = ticks(0.0, max(r["seconds"] for r in rows) * 1.12)
    ys = ticks(max(0.0, min(lows) - 0.02), min(1.0, max(highs) + 0.02) if max(highs) <= 1 else max(highs) * 1.05)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 12) * (value - xs[0]) / (xs[-1] - xs[0])

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 12) * (value - ys[0]) / (ys[-1] - ys[0])

    points = [
        {"x": x(r["seconds"]), "y": y(r["quality"]), "low": y(low), "high": y(high), "name": r["system"],
         "front": not r["dominated_by"], "right": x(r["seconds"]) < WIDTH * 0.7, "peak": r["peak"]}
        for r, low, high in zip(rows, lows, highs, strict=True)
    ]  # fmt: skip
    front = sorted((p for p in points if p["front"]), key=lambda p: p["x"])
    return {
        "points": points, "front": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in front),
        "xs": [{"at": x(v), "text": f"{v:g}"} for v in xs], "ys": [{"at": y(v), "text": f"{v:g}"} for v in ys],
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM,
    }  # fmt: skip


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that span a range.

    Example:
        >>> ticks(0.0, 0.9)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = max(high - low, 1e-9)
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def points(value: float | None, row: Row | None = None) -> str:
    """A difference in points of a hundred, with its sign; as it is for a measure that is no share."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if row is None or _share(row) else f"{value:+.3g}"


def p_value(value: float | None) -> str:
    """A p-value for people."""
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """Seconds for people."""
    return "–" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def size(value: float | None) -> str:
    """Bytes for people, in powers of 1000."""
    if value is None:
        return "–"
    return (
        f"{value / 1e9:.2f} GB"
        if value >= 1e9
        else f"{value / 1e6:.1f} MB"
        if value >= 1e6
        else f"{value / 1e3:.1f} kB"
    )


def short(value: Any, limit: int = 120) -> str:
    """A setting's value on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _share(c: Row) -> bool:
    return c["measure"] not in NEUTRAL and all(m is None or 0 <= m <= 1 for m in (c["mean_a"], c["mean_b"]))


def _num(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
