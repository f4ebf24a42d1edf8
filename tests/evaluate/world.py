"""A small real system: six documents indexed, a toy encoder, a toy model; and a dataset over it."""

from __future__ import annotations

import json
from pathlib import Path

from mlxrag.data.dataset import Dataset, freeze
from mlxrag.data.example import Example, example
from mlxrag.model.encode import load_encoder
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.settings import Caching, Encoding, Evaluating, ModelSettings, Retrieval, Sampling, Settings
from mlxrag.workspace import Workspace, open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

FACTS = [
    ("leave", "Every employee has 28 days of paid leave a year.", "How many days of paid leave does every employee have a year?", "28 days"),
    ("ox", "The Ox 60 trailer costs $1,290 and carries 80 kg.", "How much does the Ox 60 trailer cost?", "$1,290"),
    ("shop", "The shop in Fennick opens at 9:30 on Mondays.", "At what time does the shop in Fennick open?", "9:30"),
    ("dogs", "Dogs ride free of charge because the Plover is light.", "Why do dogs ride free of charge?", "the Plover is light"),
    ("returns", "Returns take two weeks and cost $40.", "How long do returns take?", "two weeks"),
    ("council", "The works council meets in Calder Quay on 20 March 2025.", "When does the works council meet?", "20 March 2025"),
]  # fmt: skip


def settings(root: Path, **evaluating: object) -> Settings:
    return Settings(
        retrieval=Retrieval(num_passages=3, retriever="lexical"),
        encoding=Encoding(encoder=str(root / "encoder")),
        model=ModelSettings(model=str(root / "model")),
        sampling=Sampling(max_tokens=8),
        caching=Caching(lookup=False),
        evaluating=Evaluating(resamples=200, **evaluating),  # type: ignore[arg-type]
    )


def make_world(root: Path) -> Workspace:
    """Write documents, encoder and model below a folder, and index the documents."""
    docs = root / "docs"
    docs.mkdir()
    for name, fact, *_ in FACTS:
        (docs / f"{name}.txt").write_text(f"{fact} More about {name} is told here.\n")
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
    write_model(root / "model")
    return ws


def examples(ws: Workspace) -> list[Example]:
    """A question for each document, and two that none answers."""
    with open_index(ws, "documents") as index:
        passages = {p.source.split("/")[-1][:-4]: p for p in index.all_passages()}
    made = [
        example(question, (answer,), (passages[name],), "test", tags=("fact",), evidence=(fact,))
        for name, fact, question, answer in FACTS
    ]
    return [
        *made,
        *(example(q, (), (), "test", tags=("unanswerable",)) for q in ("Who owns the harbour?", "What is the tax?")),
    ]


def dataset(ws: Workspace, name: str = "asked") -> Dataset:
    return freeze(ws, name, [("test", e) for e in examples(ws)])


def write_config(root: Path, path: Path, **more: object) -> Path:
    """Write the settings as TOML."""
    tables = {
        k: v
        for k, v in settings(root).model_dump().items()
        if k in ("retrieval", "encoding", "model", "sampling", "caching", "evaluating")
    }
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        changed = {**values, **(more if table == "sampling" else {})}
        lines += [f"{k} = {json.dumps(v)}" for k, v in changed.items() if v is not None]
    path.write_text("\n".join(lines))
    return path
