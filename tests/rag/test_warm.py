"""Popular passages are made ready on disk, up to a limit, and found by a later process."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxrag.errors import BadInput
from mlxrag.rag.asked import LARGEST, note, popular
from mlxrag.rag.document import Hit, Passage
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.system import ask, open_system
from mlxrag.rag.warm import warm
from mlxrag.settings import Caching, Encoding, ModelSettings, Retrieval, Sampling, Settings
from mlxrag.workspace import Workspace, open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model


@pytest.fixture
def world(tmp_path: Path) -> tuple[Workspace, Settings]:
    """A workspace with an index of four documents, and settings of a toy system."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for i, fact in enumerate(
        ["Leave is 28 days.", "The ox costs 1,290 euro.", "The shop opens at nine.", "Dogs ride free."]
    ):
        (docs / f"{i}.txt").write_text(f"{fact} {'More of it is told here. ' * 3}")
    ws = open_workspace(tmp_path / "ws")
    settings = Settings(
        retrieval=Retrieval(num_passages=2, retriever="lexical"),
        encoding=Encoding(encoder=str(write_encoder(tmp_path / "encoder"))),
        model=ModelSettings(model=str(write_model(tmp_path / "model"))),
        sampling=Sampling(max_tokens=4),
        caching=Caching(lookup=False),
    )
    from mlxrag.model.encode import load_encoder

    encoder = load_encoder(settings.encoding.encoder, ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], settings))
    return ws, settings


def test_what_was_warmed_is_read_by_the_next_process_and_changes_nothing(world: tuple[Workspace, Settings]) -> None:
    """The tokens of instruction and passages are not processed again; the answer is the same."""
    ws, settings = world
    with open_system(settings, ws) as system:
        first = ask(system, "ox costs")
        ask(system, "ox costs")
        ask(system, "shop opens")
        sets = list(warm(system, 100_000_000))
        assert [one.asked for one in sets] == [2, 1] and all(one.seconds > 0 for one in sets)
        again = list(warm(system, 100_000_000, count=1))
        assert [one.seconds for one in again] == [0.0]
    with open_system(settings, ws) as system:
        later = ask(system, "ox costs")
    assert later.text == first.text
    assert later.usage["reused_tokens"] >= sets[0].tokens - 1 and later.usage["cache"]["seconds_saved"] >= 0


def test_the_limit_holds(world: tuple[Workspace, Settings]) -> None:
    """Sets that would go beyond it are left out, and nothing is written."""
    ws, settings = world
    with open_system(settings, ws) as system:
        ask(system, "ox costs")
        assert list(warm(system, 1000)) == []
        assert system.store.folder is not None and not list(system.store.folder.glob("*.safetensors"))


def test_another_instruction_does_not_use_what_was_warmed(world: tuple[Workspace, Settings]) -> None:
    """It begins with other tokens."""
    ws, settings = world
    with open_system(settings, ws) as system:
        ask(system, "ox costs")
        sets = list(warm(system, 100_000_000))
    other = settings.model_copy(update={"retrieval": settings.retrieval.model_copy(update={"num_passages": 1})})
    with open_system(other, ws) as system:
        assert ask(system, "shop opens").usage["reused_tokens"] < sets[0].tokens


def test_with_nothing_asked_yet_it_says_so(world: tuple[Workspace, Settings]) -> None:
    """There is no log."""
    ws, settings = world
    with open_system(settings, ws) as system, pytest.raises(BadInput, match="ask some first"):
        list(warm(system, 1))


def test_the_log_is_counted_by_index_and_order_and_stays_small(tmp_path: Path) -> None:
    """A broken line is passed over; beyond the largest size the older half goes."""

    def hits(*ids: str) -> list[Hit]:
        return [Hit(Passage(i, "d", "s", "", "", 0, 1, "x"), 1.0, "by", 1) for i in ids]

    note(tmp_path, "a", hits("1", "2"))
    note(tmp_path, "a", hits("2", "1"))
    note(tmp_path, "b", hits("1", "2"))
    with (tmp_path / "asked.jsonl").open("a") as log:
        log.write('{"index": "a", "pass\n')
    note(tmp_path, "a", hits("2", "1"))
    assert popular(tmp_path, "a") == [(("2", "1"), 2), (("1", "2"), 1)]
    (tmp_path / "asked.jsonl").write_text("x" * 99 + "\n" + ("y" * 99 + "\n") * (LARGEST // 100))
    note(tmp_path, "a", hits("1"))
    assert (tmp_path / "asked.jsonl").stat().st_size < 0.6 * LARGEST and popular(tmp_path, "a") == [(("1",), 1)]
