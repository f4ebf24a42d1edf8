"""The record of the benchmarks -> tables and plots in docs/performance.md.

The page's own words stand between the marks and are not touched; what stands inside them is written anew.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.derived import tables
from benchmarks.interleaved import row

DOCS = Path(__file__).resolve().parent.parent / "docs"
PLOTS = DOCS / "performance"


def write_page(record: Mapping[str, Any]) -> None:
    """Write tables and plots; nothing is drawn of what was not recorded."""
    path = DOCS / "performance.md"
    text = path.read_text(encoding="utf-8")
    for mark, inside in (("measured", measured(record)), ("derived", tables())):
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)",
            lambda m, new=inside: m[1] + new + "\n" + m[2],
            text,
            flags=re.S,
        )
    path.write_text(text, encoding="utf-8")


def measured(record: Mapping[str, Any]) -> str:
    """Return the measured part as Markdown, and draw its plots."""
    found = record["benchmarks"]
    if not found:
        return "Nothing has been recorded yet."
    lines = ["| benchmark | claim | ratio | rounds | target | |", "|---|---|---:|---:|---|---|"]
    lost = ["| benchmark | against | ratio |", "|---|---|---:|"]
    for name, one in found.items():
        for claim, told in one["claims"].items():
            lines.append(f"| {name} {row(claim, told)}")
            if told["target"] is None and told["ratio"] < 1 and "against" in claim:
                lost.append(f"| {name} | {claim} | {told['ratio']:.2f} |")
    where = record["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    loads = [load for one in found.values() for load in one["environment"]["load_average"][:1]]
    took = sum(one["took_seconds"] for one in found.values()) / 60
    parts = [
        f"Recorded {where['when'][:10]} on {where['cpu']} ({where['cores']} cores, one thread used), {where['system'].split()[0]}; load average "
        f"before the benchmarks {min(loads):.1f} to {max(loads):.1f}; {took:.0f} minutes for all. {versions}.",
        "\n".join(lines),
        *(f"![{what}](performance/{file})" for file, what in plots(found).items()),
    ]
    if len(lost) > 2:
        parts.append("Rows of these benchmarks that others win:\n\n" + "\n".join(lost))
    if record["failed"]:
        parts.append(f"Failed and not in the table: {', '.join(record['failed'])}.")
    workloads = "\n".join(f"- {name}: {one['workload']}" for name, one in found.items())
    return "\n\n".join([*parts, "Workloads:\n\n" + workloads])


def plots(found: Mapping[str, Any]) -> dict[str, str]:
    """Draw the ratios against their targets, and time and memory against size; return the files and what they show."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "mlxrag", "font.size": 9, "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    PLOTS.mkdir(exist_ok=True)
    made = {}
    claims = [
        (f"{name}: {claim}", one)
        for name, told in found.items()
        for claim, one in told["claims"].items()
        if isinstance(one["target"], float | int)
    ]
    if claims:
        figure, axes = plt.subplots(figsize=(8, 0.32 * len(claims) + 0.8))
        for at, (_, one) in enumerate(reversed(claims)):
            axes.barh(at, one["ratio"], color="#4c78a8" if one["met"] else "#c44e52", height=0.6)
            axes.plot([one["low"], one["high"]], [at, at], color="black", linewidth=1)
            axes.plot([one["target"]] * 2, [at - 0.4, at + 0.4], color="black", linewidth=2)
        axes.set_yticks(range(len(claims)), [name for name, _ in reversed(claims)])
        axes.set_xscale("log")
        axes.axvline(1, color="grey", linewidth=0.5)
        axes.set_xlabel("times as fast (bar: median, line: rounds, thick mark: target)")
        made["ratios.svg"] = "Ratios, their rounds and their targets"
        save(figure, PLOTS / "ratios.svg")
        plt.close(figure)
    series = found.get("scale", {}).get("series", {})
    if series:
        figure, grid = plt.subplots(1, 2, figsize=(9, 3.6))
        for name, points in series.items():
            x, y = [int(n) for n in points], list(points.values())
            grid[int("MB" in name)].plot(x, [value / y[0] for value in y], marker=".", label=name)
        for axes, title in zip(grid, ("time", "memory and disk"), strict=True):
            axes.set(xscale="log", yscale="log", xlabel="size", ylabel="times the smallest", title=title)
            axes.legend(fontsize=7)
        figure.tight_layout()
        made["scale.svg"] = "Time and memory against size, in logarithms"
        save(figure, PLOTS / "scale.svg")
        plt.close(figure)
    return made


def save(figure: Any, path: Path) -> None:
    """Write a plot without the date, so that equal figures are equal files."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n", encoding="utf-8")
