"""A domain that the bundled reader does not know, before and after training an adapter for it, on held-out questions.

    MKL_NUM_THREADS=1 python -m benchmarks.domain [--workspace DIRECTORY]

The questions are those of `laboratory.py`: German data sheets of invented devices.  The commands that are run are shown.
Fails unless the adapter's share of correct answers on the test questions is at least a tenth above the reader's own and
a paired test (sign flips over documents) finds it better.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.laboratory import write

TRAIN = ("--rank", "16", "--learning-rate", "5e-4", "--warmup", "5", "--batch-size", "6", "--iters", "300",
         "--steps-per-eval", "75", "--steps-per-report", "25", "--val-batches", "5")  # fmt: skip


def run(workspace: Path, *words: str) -> Any:
    """Run a command and return the document it prints."""
    print(f"$ mlxrag {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "mlxrag", *words, "--workspace", str(workspace), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def main() -> int:
    """Do it and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, help="where it is kept; nowhere unless given")
    parser.add_argument("--model", default="reader")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return demonstrate(asked.workspace or Path(scratch) / "workspace", Path(scratch), asked.model, asked.out)


def demonstrate(workspace: Path, scratch: Path, model: str, out: Path | None) -> int:
    """Make, train, answer, compare; return 1 where the adapter did not do what it should."""
    began = time.monotonic()
    write(scratch / "laboratory")
    run(workspace, "data", "import", str(scratch / "laboratory"), "--format", "mlxrag", "--name", "laboratory")
    made = run(workspace, "adapter", "train", "--model", model, "--data", "laboratory", "--name", "laboratory", *TRAIN)
    asking = ("--data", "laboratory", "--split", "test", "--gold", "--max-tokens", "24", "--model", model)
    run(workspace, "eval", "run", *asking, "--name", "before")
    run(workspace, "eval", "run", *asking, "--adapter-path", "laboratory", "--name", "after")
    report = run(workspace, "ab", "report", "before", "after", "--primary", "correct")
    found = next(c for c in report["comparisons"] if c["measure"] == "correct")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    value = {
        "questions": found["n"],
        "groups": found["documents"],
        "before": round(found["mean_a"], 3),
        "after": round(found["mean_b"], 3),
        "difference": [round(found[k], 3) for k in ("difference", "low", "high")],
        "p": found["p"],
        "validation_loss": [round(made["scores"][k]["valid_loss"], 3) for k in ("base", "best")],
        "minutes": round((time.monotonic() - began) / 60, 1),
        "processor_minutes": round((used.ru_utime + used.ru_stime) / 60, 1),
        "load": os.getloadavg(),
    }
    print(report["verdicts"][0])
    print(json.dumps(value))
    if out is not None:
        out.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return 0 if found["mean_b"] >= 1.1 * found["mean_a"] and found["decided"] == "better" else 1


if __name__ == "__main__":
    sys.exit(main())
