"""What tracking costs a run: training and evaluation with MLflow on, against the same with it off.

    MKL_NUM_THREADS=1 python -m benchmarks.tracking [--iters 24] [--num 60] [--repeats 5]

The real commands in processes of their own, in turns, on the bundled documents and the bundled reader; losses and
scores must be the same.  The clock is the command's, from its start to its end, and so is the processor time, to which
the process that mirrors does not belong; what that one took is a figure of its own.  It runs at the lowest priority and
is waited for, off the clock, so that it never meets the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.interleaved import Engine, environment, finish, paired, take_turns

DOCUMENTS = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"


def call(workspace: Path, *words: str, track: bool) -> tuple[Any, dict[str, float]]:
    """Run a command; return its answer, and seconds and processor time of its own and of the mirror's."""
    environ = {**os.environ, "MLXRAG_TRACK": str(track).lower()}
    command = [sys.executable, "-m", "mlxrag", *words, "--workspace", str(workspace), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"FAIL: mlxrag {' '.join(words)} ended with {process.returncode}")
    figures = {"seconds": took, "processor": usage.ru_utime + usage.ru_stime, "mirror_processor": mirrored(workspace)}
    return json.loads(out), figures


def mirrored(workspace: Path) -> float:
    """Wait until the mirror of a workspace has ended, and return its processor time."""
    spent = 0.0
    while found := [p for p in psutil.process_iter(["cmdline"]) if _mirrors(p, workspace)]:
        for process in found:
            try:
                spent = max(spent, sum(process.cpu_times()[:2]))
            except psutil.Error:
                continue
        time.sleep(0.2)
    return spent


def _mirrors(process: psutil.Process, workspace: Path) -> bool:
    line = process.info["cmdline"] or ()
    return "mlxrag.tracking" in line and str(workspace) in line


def training(workspace: Path, iters: int, track: bool) -> Engine:
    def run() -> tuple[Hashable, dict[str, float]]:
        answer, figures = call(
            workspace, "adapter", "train", "--model", "reader", "--data", "q", "--name", "a", "--iters", str(iters),
            "--steps-per-eval", str(iters // 2), "--in-process", track=track,
        )  # fmt: skip
        return json.dumps([answer["scores"][k] for k in ("train_loss", "base", "best")]), figures

    return run


def evaluation(workspace: Path, num: int, track: bool) -> Engine:
    def run() -> tuple[Hashable, dict[str, float]]:
        answer, figures = call(workspace, "eval", "run", "--data", "q", "--model", "reader", "--index", "documents",
                               "--num", str(num), "--name", "e", track=track)  # fmt: skip
        return json.dumps([answer["figures"][k]["mean"] for k in ("correct", "f1", "exact")]), figures

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iters", type=int, default=24, help="batches of the training")
    parser.add_argument("--num", type=int, default=60, help="questions of the evaluation")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder).resolve()
        call(workspace, "ingest", str(DOCUMENTS), track=True)
        call(workspace, "data", "make", "--name", "q", "--index", "documents", "--round-trip", "none", "--num-questions",
             str(2 * args.num), track=True)  # fmt: skip
        before = environment()
        ratios: dict[str, tuple[dict[str, float], tuple[float, float] | None]] = {}
        timed = {}
        for what, make, size in (("training", training, args.iters), ("evaluation", evaluation, args.num)):
            engines = {
                f"{what}, {word}": make(workspace, size, word == "tracked") for word in ("tracked", "not tracked")
            }
            found = take_turns(engines, args.repeats)
            timed |= found
            tracked, plain = found.values()
            ratios[f"{what}: processor time, tracked to not"] = (paired(tracked, plain, "processor"), (0.0, 1.02))
            ratios[f"{what}: seconds, tracked to not"] = (paired(tracked, plain, "seconds"), (0.0, 1.02))
        workload = f"adapter train of {args.iters} batches and eval run of {args.num} questions, bundled reader"
        return finish("tracking", workload, timed, ratios, before)


if __name__ == "__main__":
    sys.exit(main())
