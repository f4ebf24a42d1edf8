"""How often the passage with the answer is found, by chunker and length of passages.

    python -m benchmarks.chunking

The sample documents are cut in each way, and their 200 answerable questions (benchmarks/reader_questions.jsonl) are
looked up.  A passage counts if it is from the right file and holds one of the accepted answers.  Takes three minutes on
two quiet cores.
"""

import json
import re
import tempfile
from pathlib import Path

from mlxrag.model.encode import load_encoder
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.retrieve import retrieve_many
from mlxrag.settings import Chunking, Retrieval, Settings
from mlxrag.workspace import open_workspace

HERE = Path(__file__).resolve().parent
VARIANTS = [
    Chunking(),
    Chunking(chunk_overlap=0),
    Chunking(chunk_overlap=48),
    Chunking(chunk_tokens=96),
    Chunking(chunk_tokens=240),
    Chunking(chunker="sentences"),
    Chunking(chunker="tokens"),
]


def plain(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


def main():
    questions = [json.loads(line) for line in (HERE / "reader_questions.jsonl").open(encoding="utf-8")]
    questions = [question for question in questions if question["answerable"]]
    with tempfile.TemporaryDirectory() as folder:
        workspace = open_workspace(Path(folder))
        encoder = load_encoder("all-MiniLM-L6-v2", workspace)
        print("| chunker | tokens | overlap | passages | retriever | recall@1 | recall@3 | recall@5 | MRR@10 |")
        print("|---|---:|---:|---:|---|---:|---:|---:|---:|")
        for number, chunking in enumerate(VARIANTS):
            settings = Settings(chunking=chunking)
            with open_index(workspace, f"variant-{number}", encoder, create=True) as index:
                outcomes = list(ingest(index, encoder, [HERE.parent / "mlxrag" / "samples" / "documents"], settings))
                passages = sum(outcome.passages for outcome in outcomes)
                for retriever in ("dense", "hybrid"):
                    retrieval = Retrieval(retriever=retriever, num_passages=10)
                    found = retrieve_many(index, encoder, [question["question"] for question in questions], retrieval)
                    ranks = [rank_of(question, hits) for question, hits in zip(questions, found, strict=True)]
                    recalls = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 3, 5)]
                    mrr = sum(1 / rank for rank in ranks if rank <= 10) / len(ranks)
                    cells = [chunking.chunker, chunking.chunk_tokens, chunking.chunk_overlap, passages, retriever]
                    print(
                        f"| {' | '.join(map(str, cells))} | {' | '.join(f'{value:.3f}' for value in [*recalls, mrr])} |",
                        flush=True,
                    )


def rank_of(question, hits):
    """Return the rank of the first passage with an answer, or infinity."""
    answers = [plain(answer) for answer in question["answers"]]
    for hit in hits:
        if hit.passage.source.endswith(question["source"]) and any(
            answer in plain(hit.passage.text) for answer in answers
        ):
            return hit.rank
    return float("inf")


if __name__ == "__main__":
    main()
