"""All benchmarks of speed by one command: they run one after the other, and docs/performance.md says what came out.

    MKL_NUM_THREADS=1 python -m benchmarks.all [--only NAME...] [--quick] [--compare [FILE]] [--page-only]

Each benchmark is a process of its own and writes `results/NAME.json`; together they become `results/all.json`, the
tables and plots of docs/performance.md.  `--compare` says for each claim whether it is better, the same or worse than in
an earlier `all.json` (the one that is there before the run, unless FILE is given).  Exit code 0: nothing failed and nothing
is worse; 1: a benchmark failed (outputs that differ fail), or something is worse; 3: all ran, but a target was missed.
`--quick` runs small sizes to see that everything works; with it, or with results elsewhere, no page is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import verdict
from benchmarks.interleaved import RESULTS, environment, row
from benchmarks.others import READ
from benchmarks.page import write_page

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LANCE_CPU_THREADS",
    "TOKIO_WORKER_THREADS",
)


@dataclass(frozen=True)
class Job:
    """A benchmark, its arguments, those of a quick run, and how long it may take in seconds."""

    name: str
    module: str
    args: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    limit: int = 900


JOBS = (
    Job("cold_start", "cold_start", (), ("--repeats", "1")),
    Job("generate", "generate", (), ("--checkpoint", "q3", "--repeats", "1")),
    Job("rag_questions", "rag_questions", (), ("--checkpoint", "q3", "--repeats", "1")),
    Job("rag_ttft", "rag_ttft", (), ("--checkpoint", "q3", "--repeats", "1")),
    Job(
        "lookup_decode", "lookup_decode", ("--answers", "2"), ("--checkpoint", "q3", "--repeats", "1", "--answers", "1")
    ),
    Job("ab_adapters", "ab_adapters", (), ("--quick", "--repeats", "1")),
    Job("rag_sft", "rag_sft", (), ("--quick", "--repeats", "1")),
    Job("sft_epochs", "sft_epochs", (), ("--quick", "--repeats", "1")),
    Job("retrieval_speed_10k", "retrieval_speed", ("--passages", "10000"), ("--passages", "1000", "--questions", "5")),
    Job(
        "retrieval_speed_100k", "retrieval_speed", ("--passages", "100000"), ("--passages", "2000", "--questions", "5")
    ),
    Job("plain_peers", "plain_peers", (), ("--checkpoint", "q3", "--repeats", "1")),
    Job("embed", "embed", (), ("--texts", "20", "--repeats", "1")),
    Job("scale", "scale", (), ("--largest", "10000", "--repeats", "1")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", choices=[job.name for job in JOBS], help="run these; others keep their results"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, no page")
    parser.add_argument("--compare", nargs="?", const=True, metavar="FILE", help="against an earlier all.json")
    parser.add_argument("--page-only", action="store_true", help="run nothing, write the page from what was recorded")
    parser.add_argument(
        "--torch-python", default=os.environ.get("MLXRAG_TORCH_PYTHON"), help="a Python with torch and peft"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSON files go")
    args = parser.parse_args()
    record = args.results / "all.json"
    before = json.loads(record.read_text()) if record.is_file() else {"benchmarks": {}}
    if args.page_only:
        write_page(before)
        return 0
    args.results.mkdir(parents=True, exist_ok=True)
    kept = before["benchmarks"] if args.only else {}
    done: dict[str, Any] = dict(kept)
    failed = []
    began = time.perf_counter()
    for job in JOBS:
        if args.only and job.name not in args.only:
            continue
        if job.name == "plain_peers" and not args.torch_python:
            print("left out: plain_peers (no --torch-python)")
            continue
        found = run(job, args)
        if found is None:
            failed.append(job.name)
        else:
            done[job.name] = found
    value = {
        "environment": environment(), "minutes": round((time.perf_counter() - began) / 60, 1), "failed": failed,
        "benchmarks": {job.name: done[job.name] for job in JOBS if job.name in done},
    }  # fmt: skip
    record.write_text(json.dumps(value, indent=1) + "\n")
    summary(value)
    if not args.quick and args.results == RESULTS:
        write_page(value)
    worse = False
    if args.compare:
        old = before if args.compare is True else json.loads(Path(args.compare).read_text())
        worse = verdict(old, value)
    if failed or worse:
        return 1
    missed = [
        claim for one in value["benchmarks"].values() for claim in one["claims"].values() if claim["met"] is False
    ]
    return 3 if missed else 0


def run(job: Job, args: argparse.Namespace) -> dict[str, Any] | None:
    """Run one benchmark and return what it found in the common form; None where it failed."""
    own, raw = args.results / f"{job.name}.json", args.results / f"{job.name}.raw.json"
    command = [sys.executable, "-m", f"benchmarks.{job.module}", *(job.quick if args.quick else job.args)]
    if job.name in READ:
        command += ["--out", str(raw)]
    if job.name == "plain_peers":
        command += ["--torch-python", args.torch_python]
    if job.name == "rag_sft" and args.torch_python:
        command += ["--peft-python", args.torch_python]
    environ = {
        **os.environ,
        **dict.fromkeys(ONE_THREAD, "1"),
        "MLXRAG_RESULTS": str(args.results),
        "LANCE_LOG": "error",
    }
    print(f"\n=== {job.name}", flush=True)
    here, start = environment(), time.perf_counter()
    try:
        code = subprocess.run(command, cwd=ROOT, env=environ, timeout=job.limit, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"FAIL: {job.name} took more than {job.limit} s")
        return None
    seconds = round(time.perf_counter() - start, 1)
    if job.name in READ and code == 0 and raw.is_file():
        value = {"benchmark": job.name, "environment": here, **READ[job.name](json.loads(raw.read_text()))}
        own.write_text(json.dumps(value, indent=1) + "\n")
        raw.unlink()
    elif job.name in READ or code not in (0, 1) or not own.is_file() or own.stat().st_mtime < time.time() - seconds - 1:
        print(f"FAIL: {job.name} ended with {code} and left no result")
        return None
    value = json.loads(own.read_text())
    return {**value, "took_seconds": seconds}


def summary(value: dict[str, Any]) -> None:
    print("\n| benchmark | claim | ratio | rounds | target | |\n|---|---|---:|---:|---|---|")
    for name, one in value["benchmarks"].items():
        for claim, told in one["claims"].items():
            print(f"| {name} {row(claim, told)}")
    for name in value["failed"]:
        print(f"| {name} | FAILED | | | | |")
    print(f"\n{value['minutes']} minutes, load average {value['environment']['load_average']}")


if __name__ == "__main__":
    sys.exit(main())
