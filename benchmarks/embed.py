"""Texts a second of the encoder: batches by token budget against fixed-size batches, and against sentence-transformers.

    MKL_NUM_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.embed

The texts are the passages of the bundled sample documents, of 24 to 160 tokens, in their own order.  The ways take
turns; figures are medians of the processor's time, one thread each.  Fixed batches hold 32 texts, the batch of
sentence-transformers, which sorts its texts too; where that package is installed it encodes them with the same
checkpoint.  All vectors must agree to a cosine of 0.9999.  `--plain` switches off the stand-ins for MLX's slow
functions on the CPU of a Linux machine, to see what they are worth.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip  # loads MKL before mlx
import numpy as np

from mlxrag.model import elementwise
from mlxrag.model.encode import encode, encode_batch, load_encoder, tokenize
from mlxrag.rag.chunk import chunk
from mlxrag.rag.document import Document
from mlxrag.rag.read import find_files, read_files
from mlxrag.settings import Chunking, Reading
from mlxrag.workspace import open_workspace

SAMPLES = Path(__file__).parent.parent / "mlxrag" / "samples" / "documents"
OURS, FIXED, PEER = "by token budget, 1024", "fixed, 32 as they come", "sentence-transformers, sorted, 32"


def fixed(encoder, texts, size=32):
    """Batches of `size` in the order given, each padded to its longest."""
    ids = tokenize(encoder, texts)
    return np.concatenate([encode_batch(encoder, ids[i : i + size]) for i in range(0, len(ids), size)])


def with_peer(path):
    """Return sentence-transformers with the checkpoint as a function of texts, or None where it is not installed."""
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        print(f"left out: {PEER} ({error})")
        return None
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = SentenceTransformer(str(path), device="cpu")
    return lambda encoder, texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--workspace", type=Path, default=Path(".local/benchmarks"))
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    given = parser.parse_args()
    if given.plain:
        elementwise.without_kernels = lambda x: False
    encoder = load_encoder("all-MiniLM-L6-v2", open_workspace(given.workspace))
    documents = [d for d in read_files(find_files([SAMPLES], Reading()), Reading()) if isinstance(d, Document)]
    texts = [p.text for d in documents for p in chunk(d, Chunking(), encoder)][: given.texts]
    tokens = sum(len(ids) for ids in tokenize(encoder, texts))
    ways = {
        OURS: lambda e, t: encode(e, t, batch_tokens=1024),
        "by token budget, 4096": lambda e, t: encode(e, t, batch_tokens=4096),
        FIXED: fixed,
    }
    if peer := with_peer(encoder.path):
        ways[PEER] = peer
    taken = {name: [] for name in ways}
    vectors = {name: run(encoder, texts) for name, run in ways.items()}
    for _ in range(given.repeats):
        for name, run in ways.items():
            start = time.process_time()
            run(encoder, texts)
            taken[name].append(time.process_time() - start)
    print(f"{len(texts)} texts, {tokens} tokens, load {os.getloadavg()[0]:.1f}\n")
    print("| way | texts/s | tokens/s | spread | least cosine |\n|---|---|---|---|---|")
    for name in ways:
        median = statistics.median(taken[name])
        cosine = float((vectors[name] * vectors[OURS]).sum(axis=1).min())
        assert cosine > 0.9999, f"{name} gives other vectors"
        spread = f"{len(texts) / max(taken[name]):.1f} to {len(texts) / min(taken[name]):.1f}"
        print(f"| {name} | {len(texts) / median:.1f} | {tokens / median:.0f} | {spread} | {cosine:.6f} |")
    for other in (FIXED, PEER):
        if other in taken:
            ratios = [b / a for a, b in zip(taken[OURS], taken[other], strict=True)]
            print(f"\n{OURS}: {statistics.median(ratios):.2f} times {other} ({min(ratios):.2f} to {max(ratios):.2f})")
    if given.out:
        rows = [
            {"engine": name, "seconds": statistics.median(t), "low": min(t), "high": max(t)}
            for name, t in taken.items()
        ]
        given.out.write_text(json.dumps({"texts": len(texts), "tokens": tokens, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
