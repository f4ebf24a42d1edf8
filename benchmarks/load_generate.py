"""Load a model and generate from it: mlxrag's path and mlx_lm's, interleaved, on the same model and prompts.

    python benchmarks/load_generate.py --model models/reader --runs 15
    python benchmarks/load_generate.py --model models/reader --cold --runs 7

Each run loads the model, generates greedily from one prompt, and gives the model back; the two take turns, and who
begins alternates.  With --cold each run is a process of its own, imports included.  Prints medians and the ratio of
medians (mlx_lm's seconds / ours: above 1 is faster than mlx_lm), and fails if the tokens differ or the ratio is below 0.97.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
LEAST = 0.97


def ours(path: str, ids: list[int], new_tokens: int) -> tuple[list[int], float, float]:
    """Return tokens, seconds to load and seconds to generate by mlxrag."""
    from mlxrag.model.generate import stream
    from mlxrag.model.load import load
    from mlxrag.settings import ModelSettings, Sampling

    start = time.perf_counter()
    model = load(path, settings=ModelSettings(load_dtype="keep"))
    loaded = time.perf_counter()
    model.tokenizer.eos_ids = frozenset()
    tokens = [piece.token for piece in stream(model, ids, Sampling(max_tokens=new_tokens))]
    done = time.perf_counter()
    model.close()
    return tokens, loaded - start, done - loaded


def theirs(path: str, ids: list[int], new_tokens: int) -> tuple[list[int], float, float]:
    """Return tokens, seconds to load and seconds to generate by mlx_lm."""
    with contextlib.redirect_stderr(io.StringIO()):
        import_module("mlxrag.device")  # the same BLAS for both
        from mlx_lm.generate import stream_generate
        from mlx_lm.utils import load

    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        network, tokenizer = load(path)
    loaded = time.perf_counter()
    tokenizer.eos_token_ids = set()
    tokens = [out.token for out in stream_generate(network, tokenizer, ids, max_tokens=new_tokens)]
    done = time.perf_counter()
    return tokens, loaded - start, done - loaded


SIDES = {"mlxrag": ours, "mlx_lm": theirs}


def run(side: str, path: str, ids: list[int], new_tokens: int, cold: bool) -> dict[str, object]:
    """Run one side once, here or in a fresh process."""
    gc.collect()
    start = time.perf_counter()
    if cold:
        job = json.dumps({"side": side, "path": path, "ids": ids, "new_tokens": new_tokens})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)
        tokens, load, generate = json.loads(done.stdout.splitlines()[-1])
    else:
        tokens, load, generate = SIDES[side](path, ids, new_tokens)
    return {"tokens": tokens, "load": load, "generate": generate, "whole": time.perf_counter() - start}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/reader")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        job = json.loads(asked.job)
        print(json.dumps(SIDES[job["side"]](job["path"], job["ids"], job["new_tokens"])))
        return
    rows = json.loads(Path(asked.model, "config.json").read_text())["vocab_size"]
    taken: dict[str, list[dict[str, object]]] = {side: [] for side in SIDES}
    equal = True
    for number in range(-1, asked.runs):
        draw = random.Random(number)
        ids = [draw.randrange(rows) for _ in range(asked.prompt_tokens)]
        found = {}
        for side in sorted(SIDES, reverse=number % 2 == 0):
            found[side] = run(side, asked.model, ids, asked.new_tokens, asked.cold)
            if number >= 0:  # the first round warms up
                taken[side].append(found[side])
        equal = equal and found["mlxrag"]["tokens"] == found["mlx_lm"]["tokens"]
    report: dict[str, object] = {"model": asked.model, "runs": asked.runs, "cold": asked.cold, "equal": equal,
                                 "prompt_tokens": asked.prompt_tokens, "new_tokens": asked.new_tokens,
                                 "load_per_core": os.getloadavg()[0] / (os.cpu_count() or 1)}  # fmt: skip
    slow = []
    for figure in ("load", "generate", "whole"):
        medians = {side: statistics.median(float(one[figure]) for one in taken[side]) for side in SIDES}  # type: ignore[arg-type]
        ratio = medians["mlx_lm"] / medians["mlxrag"]
        report[figure] = {**medians, "ratio": ratio}
        print(f"{figure:10s} mlxrag {medians['mlxrag']:.4f} s   mlx_lm {medians['mlx_lm']:.4f} s   ratio {ratio:.3f}")
        if ratio < LEAST:
            slow.append(figure)
    print("tokens are equal" if equal else "TOKENS DIFFER")
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=1) + "\n")
    if slow or not equal:
        sys.exit(f"slower than mlx_lm in {', '.join(slow)}" if slow else 1)


if __name__ == "__main__":
    main()
