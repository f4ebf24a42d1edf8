"""A small workspace: an index of six documents, a toy model with two adapters, and a dataset."""

from __future__ import annotations

from pathlib import Path

from mlxrag.data.dataset import freeze
from mlxrag.data.example import Example, example
from mlxrag.model.encode import load_encoder
from mlxrag.rag.document import Passage
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.settings import Settings
from mlxrag.workspace import Workspace, open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model
from tests.toys import write_adapter

ANIMALS = {
    "kiwi": ("New Zealand", "worms"),
    "owl": ("the forest", "mice"),
    "puffin": ("the cliffs", "fish"),
    "heron": ("the river", "frogs"),
    "raven": ("the tower", "anything"),
    "wren": ("the hedge", "spiders"),
}


def build(root: Path) -> Workspace:
    """Write documents, index, model, adapters and dataset below `root`."""
    docs = root / "docs"
    docs.mkdir(parents=True)
    for animal, (home, food) in ANIMALS.items():
        text = f"# {animal.title()}\n\nThe {animal} lives in {home}.\n\nThe {animal} eats {food}.\n"
        (docs / f"{animal}.md").write_text(text)
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        for outcome in ingest(index, encoder, [docs], Settings()):
            assert outcome.outcome == "indexed", outcome
        passages = {Path(p.source).stem: p for p in index.all_passages()}
    write_model(root / "model")
    from mlxrag.model.load import load

    with load(root / "model", ws) as model:
        for seed, name in ((1, "calm"), (2, "wild")):
            write_adapter(root / name, model.network, seed=seed, size=0.3)
    freeze(ws, "birds", [*_examples(passages)])
    return ws


def _examples(passages: dict[str, Passage]) -> list[tuple[str, Example]]:
    found = []
    for n, (animal, (home, food)) in enumerate(ANIMALS.items()):
        split = "valid" if n == 0 else "test"
        gold = (passages[animal],)
        for i, (question, answer, tag) in enumerate(
            (
                (f"Where does the {animal} live?", home, "place"),
                (f"What does the {animal} eat?", food, "food"),
                (f"Which bird lives in {home}?", animal, "bird"),
            )
        ):
            if n or i < 2:
                found.append((split, example(question, (answer,), gold, "test", tags=(tag,))))
    return found


def config(path: Path, root: Path, **more: object) -> Path:
    """Write a system's config file; `more` are keys of [retrieval] and [model] that it changes."""
    retrieval = {
        "retriever": "lexical",
        "num_passages": 1,
        **{k: v for k, v in more.items() if k in ("retriever", "num_passages")},
    }
    model = {"model": str(root / "model"), **{k: v for k, v in more.items() if k == "adapter_path"}}
    sampling = {"max_tokens": 6, **{k: v for k, v in more.items() if k in ("max_tokens", "temp")}}
    evaluating = {"measures": ["chrf", "f1", "hit_at_1", "answer_words"], "right_by": "chrf"}
    lines = []
    for table, values in (
        ("retrieval", retrieval),
        ("model", model),
        ("sampling", sampling),
        ("evaluating", evaluating),
    ):
        lines.append(f"[{table}]")
        lines += [f"{k} = {_toml(v)}" for k, v in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
