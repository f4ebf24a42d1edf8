"""From the start of a process to its first token: `mlxrag generate` against `mlx_lm generate`.

    MKL_NUM_THREADS=1 python -m benchmarks.cold_start [--model DIR] [--repeats 7]

Both commands run as a user runs them, on the same random Qwen3 of 29 M parameters (files in the system's cache), with
its chat template; the clock stops when the first letter of the answer is on stdout, and again when the process has
ended.  One run more of each says 24 tokens, which must be the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from benchmarks.checkpoint import checkpoint
from benchmarks.interleaved import Engine, environment, finish, paired, take_turns

PROMPT = "Every employee has 28 days of paid leave. How many days of leave are there?"
BAR = b"==========\n"


def command(package: str, model: str, tokens: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        package,
        "generate",
        "--model",
        model,
        "--prompt",
        PROMPT,
        "--max-tokens",
        str(tokens),
    ]


def first_token(package: str, model: str) -> Engine:
    def run() -> tuple[None, dict[str, float]]:
        began = time.perf_counter()
        process = subprocess.Popen(
            command(package, model, 3),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        seen = b""
        while len(seen) <= len(BAR):  # the line of signs, and then a letter of the answer
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                break
            seen += part
        first = time.perf_counter() - began
        process.stdout.read()
        if process.wait():
            raise SystemExit(f"FAIL: {package} ended with {process.returncode}")
        return None, {"first_token": first, "whole": time.perf_counter() - began}

    return run


def answer(package: str, model: str) -> str:
    done = subprocess.run(command(package, model, 24), capture_output=True, text=True, check=True)
    return done.stdout.split("=" * 10)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model directory instead of the random one")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    model = args.model or str(checkpoint("q30"))
    before = environment()
    ours, theirs = answer("mlxrag", model), answer("mlx_lm", model)
    if ours != theirs or not ours.strip():
        raise SystemExit(f"FAIL: the outputs differ:\n{ours!r}\n{theirs!r}")
    engines = {"mlxrag generate": first_token("mlxrag", model), "mlx_lm generate": first_token("mlx_lm", model)}
    timed = take_turns(engines, args.repeats, warm=1)
    ratio = paired(timed["mlx_lm generate"], timed["mlxrag generate"], "first_token")
    workload = "process start to first token, Qwen3 29 M float32, short prompt with chat template"
    return finish("cold_start", workload, timed, {"against mlx_lm generate": (ratio, 5.0)}, before, model=model)


if __name__ == "__main__":
    sys.exit(main())
