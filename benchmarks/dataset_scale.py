"""Time and memory of a dataset of many examples: write, read, draw, ask, split, audit, compare, clean, augment, export.

    python benchmarks/dataset_scale.py --examples 1000000

Each step runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path


def examples(count: int) -> Iterator:
    from mlxrag.data.example import example
    from mlxrag.rag.document import Passage, document_id, passage_id

    words = [
        f"{a}{b}"
        for a in ("ka", "lo", "mi", "ru", "te", "sa", "no", "vi", "pe", "du")
        for b in ("ran", "sel", "tor", "bin", "mak", "lun", "fer", "gos", "wit", "had")
    ]
    per_passage, per_document = 5, 50
    for i in range(count):
        if i % per_passage == 0:
            rng = random.Random(i // per_passage)
            number = i // per_document
            source = f"documents/{number}.md"
            document = document_id(source, str(number))
            text = " ".join(rng.choices(words, k=120))
            start = i % per_document * 1000
            passage = Passage(
                passage_id(document, start, start + len(text)),
                document,
                source,
                f"Document {number}",
                "Part",
                start,
                start + len(text),
                text,
            )
        at = text.split()[i % per_passage * 20 : i % per_passage * 20 + 4]
        yield (
            "all",
            example(
                f"What comes after {' '.join(at[:2])} in example {i}?",
                (" ".join(at[2:]),),
                (passage,),
                "scale",
                tags=(f"t{i % 4}",),
            ),
        )


def step(name: str, root: Path, count: int) -> dict[str, float]:
    """Do one step, and return its seconds, peak memory, and the most of it that was not mapped from files."""
    from mlxrag.data.audit import audit
    from mlxrag.data.augment import augment
    from mlxrag.data.clean import boilerplate_of, clean, repeats
    from mlxrag.data.dataset import freeze, open_dataset, sample, split_by_document
    from mlxrag.data.diff import difference
    from mlxrag.data.export import write_examples
    from mlxrag.data.store import ById
    from mlxrag.evaluate import run
    from mlxrag.rag.answer import Answer
    from mlxrag.workspace import Workspace

    ws = Workspace(root)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = [anonymous()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    if name == "write":
        freeze(ws, "scale", examples(count))
    elif name == "read":
        assert sum(1 for _ in open_dataset(ws, "scale").split()) == count
    elif name == "draw 10,000 at random":
        rows, rng = open_dataset(ws, "scale").split(), random.Random(0)
        for _ in range(10_000):
            rows[rng.randrange(count)]
    elif name == "sample 1,000, stratified":
        assert len(sample(open_dataset(ws, "scale").split(), 1000)) == min(1000, count)
    elif name == "ask what answers at once":
        # All that an evaluation does before its report, but for retrieval and the model.
        run.ask_many = lambda _, questions: (Answer(q.question, "yes") for q in questions)  # type: ignore[assignment]  # answers at once, in place of a model
        asked = ById(open_dataset(ws, "scale").split())
        assert sum(1 for _ in run.answer_all(None, asked.values(), root / "run")) == count  # type: ignore[arg-type]  # and so takes no system
    elif name == "split by document":
        dataset = open_dataset(ws, "scale")
        freeze(ws, "parts", split_by_document(dataset, {"train": 0.8, "valid": 0.1, "test": 0.1}))
    elif name == "audit":
        assert "document in two splits" not in audit(open_dataset(ws, "parts")).times
    elif name == "diff":
        assert difference(open_dataset(ws, "scale"), open_dataset(ws, "clean")).same > 0.9 * count
    elif name == "clean":
        rows = open_dataset(ws, "scale").split()
        cleaned = clean(rows, boilerplate=boilerplate_of(rows), repeated=repeats(rows))
        freeze(ws, "clean", (("all", one.after) for one in cleaned if one.after is not None))
    elif name == "augment by case":
        made = augment(open_dataset(ws, "scale").split(), ["case"])
        freeze(ws, "more", (("all", one.example) for one in made if not one.refused))
    elif name == "export as chat":
        write_examples(open_dataset(ws, "scale").split(), root / "chat.jsonl", "chat")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    ended.set()
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1024 if sys.platform == "linux" else 1024 * 1024
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / unit),
        "before_mb": round(base / unit),
        "held_mb": round(most[0] / 1024),
    }


def anonymous() -> int:
    """Return the kilobytes of this process that are mapped from no file; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("RssAnon")))


STEPS = (
    "write", "read", "draw 10,000 at random", "sample 1,000, stratified", "ask what answers at once", "split by document",
    "audit", "clean", "diff", "augment by case", "export as chat",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--step", choices=STEPS, help="this one alone, on what earlier ones left in --root")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(given.step, given.root, given.examples)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in STEPS:
            command = [sys.executable, __file__, "--step", name, "--root", folder, "--examples", str(given.examples)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{name:26} {done.stdout.strip()}", flush=True)
        size = sum(p.stat().st_size for p in Path(folder, "datasets", "scale").rglob("*.arrow"))
        print(f"on disk: {size / 1e6:.0f} MB, {size / given.examples:.0f} bytes an example")


if __name__ == "__main__":
    main()
