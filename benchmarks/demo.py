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
    ("leftover vacation from last year, when does it expire?", "31 March (handbook, Markdown)"),
    ("What does the fast charger for the Heron cost extra?", "$129 (product page, HTML; the old price list says $119)"),
    ("Campaign price of a Wren 2 with the baby hammock?", "$849 (slides, PowerPoint)"),
    ("Why won't the airline let me take the battery as luggage?", "it exceeds 160 Wh (safety sheet, PDF)"),
    ("Which insurance company pays for the recall?", "nothing: it is not in the documents"),
)
"""Such as it can answer; of 200 others it answers four in ten (`make reader-eval`)."""


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
        "\n2. Ask five questions, chosen from those the bundled reader gets right; of 200 it gets four in ten.",
        flush=True,
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
