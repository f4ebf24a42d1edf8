"""Engines that take turns: the one way in which this project measures time.

Each round runs every engine once, in an order that turns, so that a busy moment of the machine falls on all of them;
figures are medians with their spread; what the engines say is compared, and a benchmark whose outputs differ fails.
Load average, versions and settings stand in the JSON beside the figures, and so does the processor time of this process,
which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("MLXRAG_RESULTS") or Path(__file__).resolve().parent / "results")
PACKAGES = ("mlxrag", "mlx", "mlx-lm", "tokenizers", "transformers", "numpy", "torch", "peft", "lancedb", "bm25s")

# An engine runs its workload once and returns what came out, and seconds or further figures by name.
Engine = Callable[[], tuple[Hashable, Mapping[str, float]]]


@dataclass
class Timed:
    """What one engine took, run by run."""

    runs: dict[str, list[float]] = field(default_factory=dict)
    output: Hashable = None

    def median(self, figure: str = "seconds") -> float:
        return statistics.median(self.runs[figure])

    def summary(self) -> dict[str, dict[str, Any]]:
        return {
            figure: {
                "median": statistics.median(values),
                "low": min(values),
                "high": max(values),
                "spread": (max(values) - min(values)) / statistics.median(values) if statistics.median(values) else 0.0,
                "runs": values,
            }
            for figure, values in self.runs.items()
        }


def take_turns(engines: Mapping[str, Engine], repeats: int, warm: int = 1) -> dict[str, Timed]:
    """Run every engine `warm + repeats` times, in turns.

    Engines whose output is None take part in no comparison; the others must all say the same, every time.
    """
    found = {name: Timed() for name in engines}
    names = list(engines)
    for turn in range(warm + repeats):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            began, busy = time.perf_counter(), time.process_time()
            output, figures = engines[name]()
            taken = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
            found[name].output = output
            if turn >= warm:
                for figure, value in {**taken, **figures}.items():
                    found[name].runs.setdefault(figure, []).append(value)
        said = {name: timed.output for name, timed in found.items() if timed.output is not None}
        if len(set(said.values())) > 1:
            first = next(iter(said))
            others = [name for name, output in said.items() if output != said[first]]
            raise SystemExit(f"FAIL: the outputs differ: {first} against {', '.join(others)}")
        print(f"  round {turn + 1}/{warm + repeats}", file=sys.stderr, flush=True)
    return found


def paired(slow: Timed, quick: Timed, figure: str = "seconds") -> dict[str, float]:
    """Return how many times quicker: the ratio of medians, and the least and most of the rounds' own ratios."""
    rounds = [a / b for a, b in zip(slow.runs[figure], quick.runs[figure], strict=True)]
    return {"ratio": slow.median(figure) / quick.median(figure), "low": min(rounds), "high": max(rounds)}


def environment() -> dict[str, Any]:
    """Return what a reader must know of the machine."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": found,
        "threads": os.environ.get("MKL_NUM_THREADS", "not set"),
    }


def finish(
    name: str,
    workload: str,
    timed: Mapping[str, Timed],
    ratios: Mapping[str, tuple[dict[str, float], float | tuple[float, float] | None]],
    before: Mapping[str, Any],
    **facts: Any,
) -> int:
    """Print the table, write `results/NAME.json`, and return the exit code: 1 where a target was missed.

    Args:
        name: of the benchmark.
        workload: in words.
        timed: engines.
        ratios: by what is claimed: the ratio, and the target: at least, or between two, or none.
        before: `environment()` as it was before the runs.
        facts: more for the JSON.
    """
    print(f"\n{name}: {workload}")
    print(
        f"load average {before['load_average'][0]} before, {os.getloadavg()[0]:.2f} after; threads {before['threads']}\n"
    )
    print("| engine | figure | median | low | high |")
    print("|---|---|---:|---:|---:|")
    for engine, one in timed.items():
        for figure, values in one.summary().items():
            print(f"| {engine} | {figure} | {values['median']:.4g} | {values['low']:.4g} | {values['high']:.4g} |")
    claims = {claim: judged(ratio, target) for claim, (ratio, target) in ratios.items()}
    print("\n| claim | ratio | rounds | target | |")
    print("|---|---:|---:|---:|---|")
    for claim, one in claims.items():
        print(row(claim, one))
    RESULTS.mkdir(exist_ok=True)
    value = {
        "benchmark": name, "workload": workload, "environment": {**before, "load_after": [round(x, 2) for x in os.getloadavg()]},
        "engines": {engine: one.summary() for engine, one in timed.items()}, "claims": claims, **facts,
    }  # fmt: skip
    (RESULTS / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    return 0 if all(one["met"] is not False for one in claims.values()) else 1


def judged(ratio: Mapping[str, float], target: float | tuple[float, float] | None) -> dict[str, Any]:
    """Return a claim: a ratio with its rounds, the target (at least, between two, or none), and whether it was met."""
    low, high = target if isinstance(target, tuple) else (target if target is not None else 0.0, float("inf"))
    met = None if target is None else (low or -float("inf")) <= ratio["ratio"] <= high
    return {**ratio, "target": list(target) if isinstance(target, tuple) else target, "met": met}


def row(claim: str, one: Mapping[str, Any]) -> str:
    """Return a line of the table of claims."""
    target = one["target"]
    if isinstance(target, list):
        told = f"<= {target[1]:g}" if not target[0] else f"{target[0]:g} to {target[1]:g}"
    else:
        told = "" if target is None else f">= {target:g}"
    mark = {None: "", True: "ok", False: "MISSED"}[one["met"]]
    return f"| {claim} | {one['ratio']:.2f} | {one['low']:.2f} to {one['high']:.2f} | {told} | {mark} |"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
