"""nDCG@10 and recall@100 of every retriever on SciFact, measured by ir_measures.

    python -m benchmarks.retrieval --data ../shared/data/scifact

The folder holds corpus.jsonl.gz, queries.tsv and qrels.txt in the layout of BEIR (5,183 abstracts,
300 questions).  A document is one passage, title and abstract, cut at the encoder's 256 tokens, as
in the published figures.  Encoding the corpus takes 6 minutes on two quiet cores; a second run
finds the index in the workspace and takes seconds.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import ir_measures
from ir_measures import RR, R, nDCG

from mlxrag.model.encode import encode, load_encoder
from mlxrag.rag.document import Document, document_id
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import add_documents
from mlxrag.rag.retrieve import RETRIEVERS
from mlxrag.settings import Encoding, Retrieval, Settings
from mlxrag.workspace import open_workspace

MEASURES = [nDCG @ 10, R @ 100, RR @ 10]
PUBLISHED = {"lexical": "0.679 (Anserini), 0.687 (bm25s)", "dense": "0.6451 (MTEB)"}


def corpus(folder):
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = row["text"]
            yield Document(document_id(row["_id"], text), row["_id"], row["title"], text, "", (), {"language": "en"})


def variants():
    yield "lexical", Retrieval(retriever="lexical")
    yield "dense", Retrieval(retriever="dense")
    for constant in (10, 60):
        yield f"hybrid, ranks, k = {constant}", Retrieval(fusion="rrf", rrf_k=constant)
    for weight in (0.3, 0.4, 0.5, 0.6, 0.7):
        yield f"hybrid, scores, dense weight {weight}", Retrieval(fusion="sum", dense_weight=weight)
    for candidates in (200, 1000):
        yield f"hybrid, scores, {candidates} candidates", Retrieval(fusion="sum", candidates=candidates)


def run(index, questions, vectors, retrieval):
    """Return scored documents of all questions, and the median milliseconds of one."""
    found, times = [], []
    for (number, question), vector in zip(questions, vectors, strict=True):
        start = time.perf_counter()
        ranked = RETRIEVERS[retrieval.retriever](index, question, vector, retrieval, 100, None)[:100]
        passages = index.passages_at([row for row, _ in ranked])
        times.append(time.perf_counter() - start)
        found += [ir_measures.ScoredDoc(number, passages[row].source, score) for row, score in ranked]
    return found, sorted(times)[len(times) // 2] * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--workspace", type=Path, default=Path(".local/benchmarks"))
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    given = parser.parse_args()
    ws = open_workspace(given.workspace)
    encoder = load_encoder(given.encoder, ws)
    questions = [line.split("\t") for line in (given.data / "queries.tsv").read_text().splitlines()]
    judged = list(ir_measures.read_trec_qrels(str(given.data / "qrels.txt")))
    rows = []
    with open_index(ws, f"scifact-{encoder.fingerprint}", encoder, create=True) as index:
        documents = list(corpus(given.data))
        if index.counts()["documents"] < len(documents):
            settings = Settings(encoding=Encoding(encoder=given.encoder))
            there = {document.source for document in index.documents()}
            left = [document for document in documents if document.source not in there]
            start = time.perf_counter()
            for i, _ in enumerate(add_documents(index, encoder, left, settings, whole=True), 1):
                if i % 512 == 0:
                    print(f"{i} of {len(left)} encoded in {time.perf_counter() - start:.0f} s", flush=True)
        vectors = encode(encoder, [question for _, question in questions], "question")
        for name, retrieval in variants():
            found, ms = run(index, questions, vectors, retrieval)
            scores = ir_measures.calc_aggregate(MEASURES, judged, found)
            rows.append({"retriever": name, **{str(m): round(scores[m], 4) for m in MEASURES}, "ms": round(ms, 2)})
    print("| retriever | nDCG@10 | R@100 | RR@10 | ms | published nDCG@10 |\n|---|---|---|---|---|---|")
    for row in rows:
        figures = " | ".join(f"{row[str(m)]:.4f}" for m in MEASURES)
        print(f"| {row['retriever']} | {figures} | {row['ms']:.2f} | {PUBLISHED.get(row['retriever'], '')} |")
    if given.out:
        given.out.write_text(json.dumps({"encoder": given.encoder, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
