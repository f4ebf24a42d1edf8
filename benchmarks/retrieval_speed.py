# ruff: noqa: E402
"""Milliseconds, recall, build time, memory and disk of this index beside LanceDB, faiss, usearch and bm25s.

    pip install 'mlxrag[peers]'
    MKL_NUM_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.retrieval_speed --passages 100000

Every engine answers the same questions in turn, so that a busy moment hits all of them; figures are
medians, one thread each, and the load of the machine is printed beside them.  Texts are 40 to 70
words drawn from a Zipf vocabulary and vectors are clustered at random; or, with `--real FOLDER`, they
are the sentences of SciFact, as all-MiniLM-L6-v2 encodes them, and the questions its claims
(`real_vectors.py`).  Recall is counted against comparing all vectors.  A peer that is not installed
is named and left out.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

for variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LANCE_CPU_THREADS",
):
    os.environ.setdefault(variable, "1")
for variable in ("RUST_LOG", "LANCE_LOG"):
    os.environ.setdefault(variable, "error")  # LanceDB warns on every question

import numpy as np

from benchmarks import real_vectors
from mlxrag.rag.document import Document, Passage
from mlxrag.rag.index import open_index
from mlxrag.rag.retrieve import fuse_scores
from mlxrag.rag.tables import FileRecord
from mlxrag.settings import Retrieval
from mlxrag.workspace import open_workspace

K = 10


def synthetic(n, d, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, d)).astype(np.float32)
    x = centres[rng.integers(0, 200, n)] + 0.9 * rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_texts(n, seed=1):
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i:x}q" for i in range(50_000)])
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(len(words), size=(n, 70), p=share / share.sum())
    lengths = rng.integers(40, 71, n)
    return [" ".join(words[row[:length]]) for row, length in zip(drawn, lengths, strict=True)], words, rng


def ours(folder, x, texts):
    class Stub:
        name, fingerprint, dimension = "stub", "stub", x.shape[1]

    index = open_index(open_workspace(folder), "speed", Stub(), create=True, retrieval=Retrieval())
    for start in range(0, len(x), 100):
        group = texts[start : start + 100]
        source, text = f"d/{start}.txt", "\n".join(group)
        document = Document(f"{start:016x}", source, "", text, "", (), {"language": "en"})
        at, passages = 0, []
        for i, one in enumerate(group):
            passages.append(Passage(f"{start + i:016x}", document.id, source, "", "", at, at + len(one), one))
            at += len(one) + 1
        keys = [f"{start + i:016d}".encode() for i in range(len(group))]
        index.store.put(
            FileRecord(source, "", 0, 0, "", "", "indexed"), document, passages, keys, x[start : start + 100]
        )
    index.catch_up()

    def dense(v, q, k=K):
        return [row - 1 for row, _ in index.nearest(v, k)]

    def lexical(v, q, k=K):
        return [row - 1 for row, _ in index.matching(q, k)]

    def hybrid(v, q):
        ranked = fuse_scores([(0.5, index.nearest(v, 100)), (0.5, index.matching(q, 100))])[:K]
        passages = index.passages_at([row for row, _ in ranked])
        return [row - 1 for row, _ in ranked if row in passages]

    return {"dense": dense, "lexical": lexical, "hybrid": hybrid}


def flat(folder, x, texts):
    def dense(v, q):
        scores = x @ v
        at = np.argpartition(scores, -K)[-K:]
        return at[np.argsort(-scores[at])].tolist()

    return {"dense": dense}


def faiss_flat(folder, x, texts):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    faiss.write_index(index, str(folder / "flat"))
    return {"dense": lambda v, q: index.search(v[None], K)[1][0].tolist()}


def faiss_hnsw(folder, x, texts):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(x.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    index.add(x)
    faiss.write_index(index, str(folder / "hnsw"))
    return {"dense": lambda v, q: index.search(v[None], K)[1][0].tolist()}


def usearch(folder, x, texts):
    from usearch.index import Index

    index = Index(ndim=x.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(x)), x, threads=1)
    index.save(str(folder / "usearch"))
    return {"dense": lambda v, q: index.search(v, K, threads=1).keys.tolist()}


def bm25s(folder, x, texts):
    import bm25s as library

    index = library.BM25()
    index.index(library.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    index.save(str(folder / "bm25s"))

    def lexical(v, q):
        rows, _ = index.retrieve(
            library.tokenize([q], stopwords="en", show_progress=False), k=K, show_progress=False, n_threads=0
        )
        return rows[0].tolist()

    return {"lexical": lexical}


def lancedb(folder, x, texts):
    """LanceDB as its guide has it: a table, a full-text index, and an exhaustive vector search."""
    import lancedb as library
    import pyarrow as pa
    from lancedb.rerankers import RRFReranker

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    table = library.connect(str(folder)).create_table(
        "t", pa.table({"id": pa.array(range(len(x))), "vector": vectors, "text": pa.array(texts)})
    )
    table.create_index("text", config=library.index.FTS())
    reranker = RRFReranker()

    def ids(found):
        return found.limit(K).select(["id"]).to_arrow()["id"].to_pylist()

    return {
        "dense": lambda v, q: ids(table.search(v, query_type="vector").distance_type("dot")),
        "lexical": lambda v, q: ids(table.search(q, query_type="fts")),
        "hybrid": lambda v, q: table.search(query_type="hybrid").vector(v).distance_type("dot").text(q)
        .rerank(reranker).limit(K).to_arrow()["id"].to_pylist(),
    }  # fmt: skip


def lancedb_indexed(folder, x, texts):
    """The same with an IVF index over the vectors."""
    import lancedb as library

    found = lancedb(folder, x, texts)
    table = library.connect(str(folder)).open_table("t")
    table.create_index("vector", config=library.index.IvfPq(distance_type="dot"))
    return {**found, **_lance_refined(table)}


def _lance_refined(table):
    from lancedb.rerankers import RRFReranker

    reranker = RRFReranker()
    return {
        "dense": lambda v, q: table.search(v, query_type="vector").distance_type("dot").nprobes(20).refine_factor(10)
        .limit(K).select(["id"]).to_arrow()["id"].to_pylist(),
        "hybrid": lambda v, q: table.search(query_type="hybrid").vector(v).distance_type("dot").nprobes(20)
        .refine_factor(10).text(q).rerank(reranker).limit(K).to_arrow()["id"].to_pylist(),
    }  # fmt: skip


ENGINES = {
    "mlxrag": (ours, "mlxrag"),
    "numpy, all compared": (flat, "numpy"),
    "faiss flat": (faiss_flat, "faiss-cpu"),
    "faiss HNSW 32, ef 64": (faiss_hnsw, "faiss-cpu"),
    "usearch": (usearch, "usearch"),
    "bm25s": (bm25s, "bm25s"),
    "LanceDB, no vector index": (lancedb, "lancedb"),
    "LanceDB, IVF-PQ refined": (lancedb_indexed, "lancedb"),
}


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--real", type=Path, help="folder of SciFact, for real texts and vectors")
    parser.add_argument("--workspace", type=Path, default=Path(".local/benchmarks"), help="where real vectors are kept")
    parser.add_argument("--only", nargs="*", help="engines to run")
    parser.add_argument("--cpu", action="store_true", help="count processor time, for a machine that is busy")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    given = parser.parse_args()
    if given.real:
        x, questions = real_vectors.vectors(given.real, given.passages, given.workspace)
        texts, asked = real_vectors.texts(given.real)[: len(x)], real_vectors.questions(given.real)
        questions, asked = questions[: given.questions], asked[: given.questions]
    else:
        x = synthetic(given.passages, 384)
        rng = np.random.default_rng(2)
        questions = x[rng.integers(0, len(x), given.questions)] + 0.03 * rng.standard_normal((given.questions, 384))
        questions = (questions / np.linalg.norm(questions, axis=1, keepdims=True)).astype(np.float32)
        texts, words, rng = make_texts(len(x))
        asked = [" ".join(rng.choice(words[:5000], 7)) for _ in range(given.questions)]
    truth = [set(np.argsort(-(x @ v), kind="stable")[:K].tolist()) for v in questions]
    clock = time.process_time if given.cpu else time.perf_counter
    load = os.getloadavg()[0]
    ready, facts = {}, {}
    home = Path(tempfile.mkdtemp(prefix="speed-"))
    try:
        for name, (build, package) in ENGINES.items():
            if given.only and name not in given.only:
                continue
            folder = home / name.replace(" ", "-").replace(",", "")
            folder.mkdir()
            start, before = clock(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                ready[name] = build(folder, x, texts)
            except ImportError as error:
                print(f"left out: {name} ({error})", flush=True)
                continue
            facts[name] = {
                "version": importlib.metadata.version(package),
                "build_s": round(clock() - start, 2),
                "disk_mb": round(size(folder) / 1e6),
                "peak_added_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
            }
            print(f"built {name} in {facts[name]['build_s']} s", flush=True)
        times = {(name, kind): [] for name, kinds in ready.items() for kind in kinds}
        recall = {name: [] for name, kinds in ready.items() if "dense" in kinds}
        for i in range(-3, given.questions):  # three to warm up
            for (name, kind), taken in times.items():
                start = clock()
                found = ready[name][kind](questions[i], asked[i])
                if i >= 0:
                    taken.append((clock() - start) * 1000)
                    if kind == "dense":
                        recall[name].append(len(truth[i] & set(found)) / K)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} to {os.getloadavg()[0]:.1f}"
    )
    print(
        f"\n{len(x)} passages, {'real' if given.real else 'synthetic'} vectors, {given.questions} questions; "
        f"{'processor time' if given.cpu else 'time by the clock'}; {machine}\n"
    )
    print(
        "| engine | dense ms | lexical ms | hybrid ms | recall@10 | build s | disk MB |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for name, fact in facts.items():
        row = {"engine": name, **fact, "recall": statistics.mean(recall[name]) if name in recall else None}
        for kind in ("dense", "lexical", "hybrid"):
            taken = times.get((name, kind))
            row[kind] = round(statistics.median(taken), 3) if taken else None
        rows.append(row)
        cells = [f"{row[kind]:.2f}" if row[kind] is not None else "" for kind in ("dense", "lexical", "hybrid")]
        recalled = f"{row['recall']:.3f}" if row["recall"] is not None else ""
        print(
            f"| {name} {fact['version']} | {' | '.join(cells)} | {recalled} | {fact['build_s']} | {fact['disk_mb']} |"
        )
    if given.out:
        given.out.write_text(json.dumps({"machine": machine, "passages": len(x), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
