"""Texts a second of the encoder: batches by token budget against fixed-size batches and against one text at a time.

    MKL_NUM_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/embed.py

The texts are the passages of the bundled sample documents, in their own order.  The ways take
turns; figures are medians.  Where torch and transformers are installed, the same checkpoint runs
in them too, sorted and in batches of 32; all vectors must agree to a cosine of 0.9999.  `--plain`
switches off the stand-ins for MLX's slow functions on the CPU of a Linux machine, to see what they are worth.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from mlxrag.model import elementwise
from mlxrag.model.encode import encode, encode_batch, load_encoder, tokenize
from mlxrag.rag.chunk import chunk
from mlxrag.rag.document import Document
from mlxrag.rag.read import find_files, read_files
from mlxrag.settings import Chunking, Reading
from mlxrag.workspace import open_workspace

SAMPLES = Path(__file__).parent.parent / "mlxrag" / "samples" / "documents"


def fixed(encoder, texts, size=16):
    """Batches of `size` in the order given, each padded to its longest."""
    ids = tokenize(encoder, texts)
    return np.concatenate([encode_batch(encoder, ids[i : i + size]) for i in range(0, len(ids), size)])


def with_torch(path):
    """Return the reference as a function of texts, or None where torch is not installed."""
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        return None
    torch.set_grad_enabled(False)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    def run(encoder, texts):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), encoder.dimension), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = tokenizer(
                [texts[i] for i in rows], truncation=True, max_length=256, padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][:, :, None]
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[rows] = (pooled / pooled.norm(dim=1, keepdim=True)).numpy()
        return vectors

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=120)
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
        f"sorted, {budget} tokens": (lambda e, t, b=budget: encode(e, t, batch_tokens=b)) for budget in (1024, 4096)
    }
    ways |= {"fixed 16, as they come": fixed, "one by one": lambda e, t: fixed(e, t, 1)}
    if reference := with_torch(encoder.path):
        ways["torch, sorted, 32"] = reference
    taken = {name: [] for name in ways}
    vectors = {name: run(encoder, texts) for name, run in ways.items()}
    for _ in range(given.repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run(encoder, texts)
            taken[name].append(time.perf_counter() - start)
    first = next(iter(vectors.values()))
    print(f"{len(texts)} texts, {tokens} tokens, load {os.getloadavg()[0]:.1f}\n")
    print("| way | texts/s | tokens/s | spread | cosine |\n|---|---|---|---|---|")
    for name in ways:
        median = statistics.median(taken[name])
        cosine = float((vectors[name] * first).sum(axis=1).min())
        assert cosine > 0.9999, f"{name} gives other vectors"
        spread = f"{len(texts) / max(taken[name]):.1f} to {len(texts) / min(taken[name]):.1f}"
        print(f"| {name} | {len(texts) / median:.1f} | {tokens / median:.0f} | {spread} | {cosine:.6f} |")
    if given.out:
        rows = [
            {"engine": name, "seconds": statistics.median(t), "low": min(t), "high": max(t)}
            for name, t in taken.items()
        ]
        given.out.write_text(json.dumps({"texts": len(texts), "tokens": tokens, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
