"""From the start of a process to its first token: `mlxrag generate` against `mlx_lm generate`.

    MKL_NUM_THREADS=1 python -m benchmarks.cold_start [--model DIR] [--repeats 7]

Both commands run as a user runs them, on the same random Qwen3 of 29 M parameters (files in the system's cache), with
its chat template; the clock stops when the first letter of the answer is on stdout, and again when the process has
ended.  Python's compiled files are kept in a folder of their own, as an installation keeps them; the first runs, which
make them, are not counted.  Processor time is shown beside the clock, since it suffers less where other work goes on.
One run more of each says 24 tokens, which must be the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

from benchmarks.checkpoint import checkpoint, home
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


def environ() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPYCACHEPREFIX": str(home() / "pyc")}


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def first_token(package: str, model: str) -> Engine:
    def run() -> tuple[None, dict[str, float]]:
        before, began = spent(), time.perf_counter()
        process = subprocess.Popen(
            command(package, model, 3), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ()
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
        return None, {"first_token": first, "processor": spent() - before}

    return run


def answer(package: str, model: str) -> str:
    done = subprocess.run(command(package, model, 24), capture_output=True, text=True, check=True, env=environ())
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
    slow, quick = timed["mlx_lm generate"], timed["mlxrag generate"]
    ratios = {
        "time to the first token": (paired(slow, quick, "first_token"), 5.0),
        "processor time of the whole run": (paired(slow, quick, "processor"), None),
    }
    workload = "process start to first token, Qwen3 29 M float32, short prompt with chat template"
    return finish("cold_start", workload, timed, ratios, before, model=model)


if __name__ == "__main__":
    sys.exit(main())
