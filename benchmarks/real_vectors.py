"""Real passages and questions with their vectors: the sentences of SciFact's abstracts and its 300 claims.

    python -m benchmarks.real_vectors --data ../shared/data/scifact --count 24000

Encoding takes one core some four minutes for 24,000 sentences; what is finished is kept in the workspace, and a
later run, with a larger count too, goes on from there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip  # loads MKL before mlx
import numpy as np

from mlxrag.model.encode import encode, load_encoder
from mlxrag.rag.sentences import sentences
from mlxrag.workspace import open_workspace

TOGETHER = 1024


def texts(folder: Path) -> list[str]:
    """Return every sentence of at least four words, each once, in a fixed random order."""
    found: dict[str, None] = {}
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            found |= {text[a:b]: None for a, b in sentences(text) if text.count(" ", a, b) > 2}
    shuffled = list(found)
    random.Random(0).shuffle(shuffled)
    return shuffled


def questions(folder: Path) -> list[str]:
    """Return the claims."""
    return [line.split("\t")[1] for line in (folder / "queries.tsv").read_text().splitlines()]


def vectors(folder: Path, count: int, workspace: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors `(count, d)` and `(300, d)` float32 of the first sentences and of the claims."""
    encoder = load_encoder("all-MiniLM-L6-v2", open_workspace(workspace))
    kept = workspace / "scifact-sentences.npy"
    done = np.load(kept) if kept.is_file() else np.empty((0, encoder.dimension), np.float16)
    wanted = texts(folder)[:count]
    while len(done) < len(wanted):
        part = encode(encoder, wanted[len(done) : len(done) + TOGETHER], "passage")
        done = np.concatenate([done, part.astype(np.float16)])
        draft = kept.with_name(f".{os.getpid()}.npy")
        np.save(draft, done)
        draft.replace(kept)
        print(f"{len(done)} of {len(wanted)} encoded", flush=True)
    found = done[: len(wanted)].astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True), encode(encoder, questions(folder), "question")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--count", type=int, default=24_000)
    parser.add_argument("--workspace", type=Path, default=Path(".local/benchmarks"))
    given = parser.parse_args()
    vectors(given.data, given.count, given.workspace)


if __name__ == "__main__":
    main()
