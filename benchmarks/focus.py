"""How often what the model is shown holds the answer, against how many words it has to read: passages or sentences.

    python -m benchmarks.focus [--squad dev-v1.1.json.gz]

Two materials: 240 questions over the first paragraphs of twelve articles of SQuAD 1.1's development set (none of those
that the reader is measured on; `--num-sentences` was chosen here), where the file is at hand, and the sample documents
with their 200 answerable questions.  Takes some five minutes on two quiet cores.
"""

import argparse
import gzip
import json
import random
import tempfile
from pathlib import Path

from benchmarks import reader_eval
from mlxrag.model.encode import load_encoder
from mlxrag.rag.focus import focus
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.retrieve import retrieve_many
from mlxrag.settings import Retrieval, Settings
from mlxrag.workspace import open_workspace

WAYS = [(1, 0), (2, 0), (3, 0), (5, 0), (4, 2), (4, 3), (4, 4)]


def squad(path, folder, articles=12, paragraphs=20, seed=0):
    """Write the paragraphs down as documents; return one question a paragraph."""
    data, r, askings = json.loads(gzip.decompress(path.read_bytes()))["data"], random.Random(seed), []
    held = {int(i * len(data) / reader_eval.HELD_OUT) for i in range(reader_eval.HELD_OUT)}
    for article in [a for i, a in enumerate(data) if i not in held][:articles]:
        shown = article["paragraphs"][:paragraphs]
        name = f"{article['title']}.txt"
        (folder / name).write_text("\n\n".join(p["context"] for p in shown), encoding="utf-8")
        for paragraph in shown:
            asked = r.choice(paragraph["qas"])
            answers = tuple({a["text"] for a in asked["answers"]})
            askings.append(reader_eval.Asking(asked["question"], answers, name, paragraph["context"]))
    return askings


def table(name, documents, askings, folder):
    """Print the rows of one material."""
    workspace = open_workspace(folder)
    encoder = load_encoder("all-MiniLM-L6-v2", workspace)
    with open_index(workspace, "documents", encoder, create=True) as index:
        for _ in ingest(index, encoder, [documents], Settings()):
            pass
        questions = [asking.question for asking in askings]
        found = retrieve_many(index, encoder, questions, Retrieval(num_passages=max(n for n, _ in WAYS)))
    for passages, sentences in WAYS:
        held = words = 0
        for asking, hits in zip(askings, found, strict=True):
            shown = focus(hits[:passages], asking.question, encoder, sentences) if sentences else hits[:passages]
            held += any(reader_eval.holds(hit.passage, asking) for hit in shown)
            words += sum(len(hit.passage.text.split()) for hit in shown)
        count = len(askings)
        print(f"| {name} | {passages} | {sentences or 'all'} | {held / count:.3f} | {words / count:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=Path, default=reader_eval.SQUAD)
    args = parser.parse_args()
    print("| material | passages | sentences | holds the answer | words shown |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.squad.is_file():
            (folder / "squad").mkdir()
            table("SQuAD, 12 articles", folder / "squad", squad(args.squad, folder / "squad"), folder / "a")
        askings = [asking for asking in reader_eval.read_questions() if asking.answers]
        table("samples", reader_eval.DOCUMENTS, askings, folder / "b")


if __name__ == "__main__":
    main()
