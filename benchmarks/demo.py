"""What `make demo` runs: the real commands on the bundled documents, with what the documents say beside each answer.

`python -m benchmarks.demo [--ask-only]`; the workspace is `.demo` in the current directory.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = "mlxrag/samples/documents"
QUESTIONS = (
    ("How many days of paid leave do I get a year?", "28 days (handbook, Markdown)"),
    ("What does the fast charger for the Heron cost extra?", "$129 (product page, HTML; the old price list says $119)"),
    ("When will the new powder line be installed?", "14 July to 8 August (minutes, Word)"),
    ("How far should I stay away from a burning battery?", "five metres (safety sheet, PDF)"),
    ("Who painted the mural in the canteen?", "nothing: it is not in the documents"),
)


def run(*words: str) -> None:
    print(f"\n$ mlxrag {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "mlxrag", *words, "--workspace", ".demo"], check=True, cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ask-only", action="store_true", help="leave out the loop of training and comparing")
    args = parser.parse_args()
    started = time.monotonic()
    print("1. Read 35 documents in 14 formats into an index.", flush=True)
    run("ingest", DOCUMENTS)
    print(
        "\n2. Ask five questions; the answers are the bundled reader's, a small model trained from scratch.", flush=True
    )
    for question, truth in QUESTIONS:
        run("ask", question)
        print(f"   The documents say: {truth}.", flush=True)
    if not args.ask_only:
        print("\n3. The whole loop, short: make questions, measure, train an adapter, compare.", flush=True)
        run("quickstart", "--num-questions", "80", "--iters", "20")
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. What was made lies in .demo; try: mlxrag chat --workspace .demo"
    )


if __name__ == "__main__":
    main()
