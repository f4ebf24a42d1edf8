"""Kill -9 in the middle of `quickstart` and of `ab run`, go on, and compare the figures with those of undisturbed runs.

    MKL_NUM_THREADS=1 python -m benchmarks.killed [--docs DIR] [--num-questions 60] [--iters 12]

The loop is killed once within every step that takes longer than a second: the command of the step and everything below
it get SIGKILL at a random moment, and the same line is typed again.  The losses of the training, the scores of both
evaluations, and every figure of the comparison that is not a time must be those of a loop that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DOCUMENTS = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"
STEPS = ("Read", "Question", "Measure", "Train", "Measure again", "Compare", "Advise")
COMMAND = [sys.executable, "-m", "mlxrag"]


def loop(workspace: Path, args: argparse.Namespace) -> list[str]:
    return [*COMMAND, "quickstart", str(args.docs), "--num-questions", str(args.num_questions), "--iters", str(args.iters),
            "--workspace", str(workspace)]  # fmt: skip


def killed_in(command: list[str], workspace: Path, step: int, part: float) -> bool:
    """Start the loop, kill it and all it started `part` of the way into a step; False where it was over before that."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{step}. "):
            break
    time.sleep(part)
    over = process.poll() is not None
    if not over:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return not over


def answers(workspace: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the loop and what its steps answered."""
    (file,) = workspace.glob("quickstart/*/steps.json")
    return file.parent, {title: done["answer"] for title, done in json.loads(file.read_text()).items()}


def figures(workspace: Path) -> dict[str, Any]:
    """Return all that must not depend on when and how often the loop was stopped."""
    _, steps = answers(workspace)
    report = json.loads((Path(steps["Compare"]["path"]) / "report.json").read_text())
    return {
        "questions": steps["Question"]["version"], "before": steps["Measure"]["figures"], "after": steps["Measure again"]["figures"],
        "training": {k: v for k, v in steps["Train"]["scores"].items() if k in ("train_loss", "base", "best", "iterations")},
        "comparison": [report[k] for k in ("comparisons", "slices", "flips")],
    }  # fmt: skip


def same_ab(workspace: Path, rng: random.Random, seconds: float) -> bool:
    """Kill `ab run` of the loop's two systems in the middle, go on, and hold its figures against the loop's."""
    folder, steps = answers(workspace)
    data = f"{steps['Question']['name']}@{steps['Question']['version']}"
    command = [*COMMAND, "ab", "run", str(folder / "base.toml"), str(folder / "tuned.toml"), "--data", data, "--split", "test",
               "--block-questions", "4", "--name", "killed", "--workspace", str(workspace), "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(rng.uniform(0.3, 0.9) * seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    died = process.wait() == -signal.SIGKILL
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(f"ab run: killed {died}; figures the same: {answer['comparisons'] == steps['Compare']['comparisons']}")
    return bool(answer["comparisons"] == steps["Compare"]["comparisons"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=DOCUMENTS)
    parser.add_argument("--num-questions", type=int, default=60)
    parser.add_argument("--iters", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder).resolve() / "whole", Path(folder).resolve() / "stopped"
        took: dict[int, float] = {}
        process = subprocess.Popen(loop(whole, args), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        began, at = time.monotonic(), 0
        for line in process.stderr:
            if line[:1].isdigit() and ". " in line[:4]:
                now = time.monotonic()
                took[at] = now - began
                at, began = int(line.split(".")[0]), now
        took[at] = time.monotonic() - began
        if process.wait():
            raise SystemExit("FAIL: the loop did not end well")
        for step in [s for s in range(1, len(STEPS) + 1) if took.get(s, 0.0) > 1.0]:
            died = killed_in(loop(stopped, args), stopped, step, rng.uniform(0.2, 0.9) * took[step])
            print(f"{step}. {STEPS[step - 1]}: {took[step]:.0f} s undisturbed; killed: {died}", flush=True)
        subprocess.run(loop(stopped, args), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        one, other = figures(whole), figures(stopped)
        for name in one:
            print(f"{name}: {'the same' if one[name] == other[name] else 'DIFFERENT'}")
        return 0 if one == other and same_ab(stopped, rng, took[STEPS.index("Compare") + 1]) else 1


if __name__ == "__main__":
    sys.exit(main())
