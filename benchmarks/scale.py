"""Time and memory against size: passages in the index, questions, adapters, rows of a batch; the exponent of each.

    MKL_NUM_THREADS=1 python -m benchmarks.scale [--largest 1000000] [--repeats 5]

`time ~ size^exponent` by least squares in logarithms; 1 is linear.  Seconds are of the processor (of the wall on a GPU).  Every size of the index is built in a process of its
own, so that its memory is its own.  Texts and vectors are those of `retrieval_speed.py`; networks are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleaved import Timed, environment, finish

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUESTIONS = (8, 16, 32, 64, 128)
ADAPTERS = (1, 2, 4, 8, 16)
ROWS = (1, 2, 4, 8, 16, 32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--checkpoint", default="q3")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", type=int, help="build an index of so many passages here and print what it took")
    parser.add_argument("--search", type=Path, help="search the index in this folder and print what it took")
    args = parser.parse_args()
    if args.index or args.search:
        print(json.dumps(index(args.index) if args.index else search(args.search)))
        return 0
    before = environment()
    series: dict[str, dict[int, float]] = {}
    for size in (n for n in SIZES if n <= args.largest):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "--index", str(size)], capture_output=True, text=True, check=True
        )
        for figure, value in json.loads(done.stdout.splitlines()[-1]).items():
            series.setdefault(f"passages: {figure}", {})[size] = value
        print(f"  {size} passages", file=sys.stderr, flush=True)
    series |= answering(args.checkpoint, args.repeats)
    claims: dict[str, Any] = {}
    limits = {
        "build seconds": 1.15,
        "build peak MB": 1.15,
        "resident MB": 1.15,
        "first answer seconds": 1.1,
        "disk MB": 1.1,
        "hybrid ms": 1.1,
        "seconds": 1.1,
        "KV MB": 1.1,
    }
    for name, points in series.items():
        low, value, high = exponent(points)
        limit = limits.get(name.partition(": ")[2])
        claims[f"exponent of {name}"] = (
            {"ratio": value, "low": low, "high": high},
            None if limit is None else (0.0, limit),
        )
    timed = {name: Timed({f"at {size}": [value] for size, value in points.items()}) for name, points in series.items()}
    workload = f"indexes up to {args.largest} passages of 384 numbers; {args.checkpoint} float32"
    return finish(
        "scale",
        workload,
        timed,
        claims,
        before,
        series={k: {str(n): v for n, v in p.items()} for k, p in series.items()},
    )


def exponent(points: dict[int, float]) -> tuple[float, float, float]:
    """Return the slope in logarithms over all sizes, between the least and the largest of neighbours.

    Example:
        >>> [round(e, 6) for e in exponent({1: 2.0, 10: 20.0, 100: 200.0})]
        [1.0, 1.0, 1.0]
    """
    x, y = [math.log(n) for n in points], [math.log(max(v, 1e-9)) for v in points.values()]
    steps = [(b - a) / (d - c) for a, b, c, d in zip(y, y[1:], x, x[1:], strict=False)]
    slope = statistics.linear_regression(x, y).slope if len(x) > 1 else 0.0
    return min(steps, default=slope), slope, max(steps, default=slope)


def index(size: int) -> dict[str, float]:
    """Build an index of given vectors, and search it in a process that only does that; what both took."""
    from benchmarks.retrieval_speed import make_texts, ours, synthetic
    from benchmarks.retrieval_speed import size as bytes_in

    vectors = synthetic(size, 384)
    texts, words, rng = make_texts(size)
    asked = [" ".join(rng.choice(words[:5000], 7)) for _ in range(30)]
    at = rng.integers(0, size, 30)
    gc.collect()
    before = memory(reset=True)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        began = time.process_time()
        ours(Path(folder), vectors, texts)
        found = {"build seconds": time.process_time() - began}
        found["build peak MB"] = memory(peak=True) - before
        found["disk MB"] = bytes_in(Path(folder)) / 1e6
        np.save(Path(folder) / "questions.npy", vectors[at])
        (Path(folder) / "questions.json").write_text(json.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "--search", folder], capture_output=True, text=True, check=True
        )
    return found | json.loads(done.stdout.splitlines()[-1])


def search(folder: Path) -> dict[str, float]:
    """Search an index that another process built."""
    from mlxrag.rag.index import open_index
    from mlxrag.rag.retrieve import fuse_scores
    from mlxrag.settings import Retrieval
    from mlxrag.workspace import open_workspace

    vectors, asked = np.load(folder / "questions.npy"), json.loads((folder / "questions.json").read_text())
    before = memory()
    began = time.process_time()
    found: dict[str, float] = {}
    taken = []
    with open_index(open_workspace(folder), "speed", retrieval=Retrieval()) as opened:
        for vector, text in zip(vectors, asked, strict=True):
            start = time.process_time()
            ranked = fuse_scores([(0.5, opened.nearest(vector, 100)), (0.5, opened.matching(text, 100))])[:10]
            opened.passages_at([row for row, _ in ranked])
            taken.append(1000 * (time.process_time() - start))
            found.setdefault("first answer seconds", time.process_time() - began)
        found["resident MB"] = memory() - before
    return found | {"hybrid ms": statistics.median(taken[5:])}


def memory(peak: bool = False, reset: bool = False) -> float:
    """Return the megabytes this process has resident, or had at most since the last reset (Linux; elsewhere ever)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        unit = 1e6 if sys.platform == "darwin" else 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) / 1e3


def answering(name: str, repeats: int) -> dict[str, dict[int, float]]:
    """Time batches of more questions, more adapters and more rows; their keys and values in memory."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from benchmarks.ab_adapters import write
    from benchmarks.checkpoint import checkpoint, passages
    from benchmarks.peers import opened
    from mlxrag.model.adapter import read_adapter
    from mlxrag.model.attach import adapter_layers
    from mlxrag.model.batch import complete_batch
    from mlxrag.model.batch_cache import as_batch
    from mlxrag.model.generate import Request
    from mlxrag.model.rows import with_adapters
    from mlxrag.settings import Caching

    path = checkpoint(name)
    model, _ = opened(path)
    texts = passages(path)
    found: dict[str, dict[int, float]] = {}

    def requests(count: int) -> list[Request]:
        return [Request(str(i), tuple(texts[i % 8] + texts[10 + i % 150][:20]), 8) for i in range(count)]

    def run(count: int) -> None:
        list(complete_batch(model, requests(count), caching=Caching(decode_concurrency=8)))

    found["questions: seconds"] = in_turns({n: lambda n=n: run(n) for n in QUESTIONS}, repeats)
    caches = {}
    for rows in ROWS:
        one = make_prompt_cache(model.network)
        model.network(mx.array(texts[0])[None], cache=one)
        caches[rows] = as_batch([one] * rows, Caching())
        mx.eval([layer.state for layer in caches[rows]])

    def step(rows: int) -> None:
        for _ in range(8):
            mx.eval(model.network(mx.ones((rows, 1), mx.int32), cache=caches[rows]))

    found["rows: seconds"] = in_turns({n: lambda n=n: step(n) for n in ROWS}, repeats)
    found["rows: KV MB"] = {n: sum(layer.nbytes for layer in cache) / 1e6 for n, cache in caches.items()}
    adapter_layers()
    with tempfile.TemporaryDirectory() as folder:
        adapters = [read_adapter(one) for one in write(Path(folder), model.network, max(ADAPTERS))]

        def beside(count: int) -> Callable[[], None]:
            def go() -> None:
                with with_adapters(model.network, adapters[:count]) as chosen:
                    chosen.select([adapters[i % count].name for i in range(16)])
                    step(16)

            return go

        found["adapters: seconds"] = in_turns({n: beside(n) for n in ADAPTERS}, repeats)
        found["adapters: MB"] = {n: sum(one.nbytes for one in adapters[:n]) / 1e6 for n in ADAPTERS}
    return found


def in_turns(jobs: dict[int, Callable[[], None]], repeats: int) -> dict[int, float]:
    """Return the median seconds of each size, the sizes taking turns."""
    from benchmarks.rag_sft import clock

    taken: dict[int, list[float]] = {size: [] for size in jobs}
    for turn in range(repeats + 1):
        for size, go in jobs.items():
            began = clock()
            go()
            if turn:
                taken[size].append(clock() - began)
    return {size: statistics.median(values) for size, values in taken.items()}


if __name__ == "__main__":
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
