"""Indexes: opened, made, listed, removed; the wrong encoder, damaged files, and derived files that follow."""

import json

import numpy as np
import pytest

from mlxrag.errors import Damaged, Mismatch, NotFound
from mlxrag.rag.document import Document, Passage, document_id, passage_id
from mlxrag.rag.index import indexes, open_index, remove_index
from mlxrag.rag.tables import FileRecord
from mlxrag.settings import Encoding, Retrieval
from mlxrag.workspace import open_workspace

D = 64


class Stub:
    """What `open_index` needs of an encoder."""

    name, fingerprint, dimension = "stub", "f1", D


@pytest.fixture
def ws(tmp_path):
    return open_workspace(tmp_path / "ws")


def make(ws, **options):
    return open_index(ws, "documents", Stub(), create=True, **options)


def vector(i):
    v = np.random.default_rng(i).standard_normal(D).astype(np.float32)
    return v / np.linalg.norm(v)


def put(index, i, text=None, n=1, **meta):
    """Put a document of `n` passages; the vector of a passage follows from its number."""
    text = text or f"animal{i} lives here"
    source = f"docs/{i}.txt"
    document = Document(document_id(source, text), source, f"title {i}", text, "h", (), {"language": "en", **meta})
    passages = [
        Passage(passage_id(document.id, j, len(text)), document.id, source, document.title, "", j, len(text), text[j:])
        for j in range(n)
    ]
    record = FileRecord(source, f"/d/{i}.txt", 1, 1, "h", "m", "indexed")
    keys = [f"{i}/{j}".encode().ljust(16) for j in range(n)]
    index.store.put(record, document, passages, keys, np.stack([vector(1000 * i + j) for j in range(n)]))


def found(index, i, **options):
    rows = [row for row, _ in index.nearest(vector(1000 * i), 1, **options)]
    return [p.source for p in index.passages_at(rows).values()]


def test_an_index_that_is_not_there_names_the_nearest(ws):
    """Opening without making is NotFound, with the nearest name and the command."""
    make(ws).close()
    with pytest.raises(NotFound, match=r"did you mean 'documents'.*mlxrag ingest"):
        open_index(ws, "docments")
    with pytest.raises(NotFound, match="name for an index"):
        open_index(ws, "../evil")
    assert indexes(ws) == ["documents"]
    remove_index(ws, "documents")
    assert indexes(ws) == []
    with pytest.raises(NotFound):
        remove_index(ws, "documents")


def test_another_encoder_is_a_mismatch(ws):
    """An index opens only with the encoder it was made with; rebuilding takes the new one."""
    make(ws, encoding=Encoding(encoder="x", encoder_bits=8)).close()
    other = Stub()
    other.fingerprint = "f2"
    with pytest.raises(Mismatch, match="--rebuild"):
        open_index(ws, "documents", other)
    with open_index(ws, "documents") as index:
        assert index.encoding == Encoding(encoder="stub", encoder_bits=8)
    with open_index(ws, "documents", other, create=True, rebuild=True) as index:
        assert index.fingerprint == "f2"


@pytest.mark.parametrize("harm", ["text", "empty", "header", "middle"])
def test_a_damaged_store_says_how_to_make_it_again(ws, harm):
    """Whatever happened to the database file, the error is Damaged, in one sentence with the command."""
    with make(ws) as index:
        for i in range(40):
            put(index, i, text="long text " * 200)
        path = index.path / "store.sqlite"
    whole = path.read_bytes()
    path.write_bytes(
        {"text": b"not a database", "empty": b"", "header": b"\0" * 100 + whole[100:],
         "middle": whole[:8192] + b"\xff" * 200_000 + whole[208_192:]}[harm]
    )  # fmt: skip
    with pytest.raises(Damaged, match="--rebuild") as error:
        with open_index(ws, "documents") as index:
            assert index.store.faults()
            list(index.all_passages())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("harm", ["state", "folder", "vectors", "lexical", "garbage"])
def test_damaged_derived_files_are_made_again(ws, harm):
    """What is derived is never a reason to fail: it is made again from the store."""
    with make(ws) as index:
        for i in range(5):
            put(index, i)
        index.catch_up()
        state = json.loads((index.path / "derived.json").read_text())
        folder = index.path / state["folder"]
    if harm == "state":
        (index.path / "derived.json").write_text("{")
    elif harm == "folder":
        for file in folder.rglob("*"):
            if file.is_file():
                file.unlink()
    elif harm == "vectors":
        (folder / "vectors").write_bytes(b"")
    elif harm == "lexical":
        (folder / "lexical" / "meta.json").write_text("{")
    else:
        for file in (folder / "lexical").iterdir():
            file.write_bytes(b"garbage")
    with open_index(ws, "documents") as index:
        index.catch_up()
        assert found(index, 3) == ["docs/3.txt"]
        assert [row for row, _ in index.matching("animal3", 5)] == [4]
        assert index.verify() == []


def test_derived_files_follow_without_being_made_anew(ws):
    """Adding, replacing and removing a document keeps the folder; a search sees it at once, in every open index."""
    with make(ws) as index, open_index(ws, "documents") as reader:
        for i in range(6):
            put(index, i)
        assert found(reader, 5) == ["docs/5.txt"]
        folders = list(index.path.glob("derived-*"))
        put(index, 2, text="something else entirely")
        index.store.forget(["docs/4.txt"])
        put(index, 9)
        assert found(reader, 9) == ["docs/9.txt"]
        assert found(reader, 4) != ["docs/4.txt"]
        assert reader.matching("animal2 animal4", 5) == []
        assert len(reader.nearest(vector(0), 99)) == 6
        assert list(index.path.glob("derived-*")) == folders
        assert reader.verify() == []


def test_many_removals_make_the_derived_files_anew(ws):
    """When most rows are dead the files are made anew and hold the living only."""
    with make(ws) as index:
        for i in range(12):
            put(index, i, n=200, text="w " * 300)
        index.catch_up()
        index.store.forget([f"docs/{i}.txt" for i in range(11)])
        index.catch_up()
        state = json.loads((index.path / "derived.json").read_text())
        assert state["count"] == 200 and len(list(index.path.glob("derived-*"))) == 1
        assert found(index, 11) == ["docs/11.txt"]


def test_form_changes_with_size_and_finds_the_same(ws):
    """Crossing the limit turns the vectors into signs and bytes, and the nearest stays the nearest."""
    with make(ws) as index:
        for i in range(30):
            put(index, i, n=10, text="w " * 20)
        index.catch_up()
        exact = [index.nearest(vector(i * 1000), 5) for i in range(30)]
    with open_index(ws, "documents", retrieval=Retrieval(exact_below=100, rescore_depth=300)) as index:
        index.catch_up()
        assert json.loads((index.path / "derived.json").read_text())["form"] == "signs"
        for i in range(30):
            hits = index.nearest(vector(i * 1000), 5)
            assert hits[0][0] == exact[i][0][0]
            # A byte a component may swap two scores that differ by less than its rounding.
            np.testing.assert_allclose([s for _, s in hits], [s for _, s in exact[i]], atol=0.01)


def test_searching_while_another_process_derives_uses_what_is_there(ws):
    """A reader does not wait for a writer's turn: it answers from the former state."""
    import fcntl

    with make(ws) as index, open_index(ws, "documents") as reader:
        put(index, 1)
        assert found(reader, 1) == ["docs/1.txt"]
        with (index.path / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            put(index, 2)
            assert found(reader, 2) == ["docs/1.txt"]
        assert found(reader, 2) == ["docs/2.txt"]


def test_conditions_reach_every_search(ws):
    """A condition on a document's facts limits vectors and words alike."""
    with make(ws) as index:
        for i in range(8):
            put(index, i, text=f"common word{i}", format="pdf" if i % 2 else "md")
        where = ("pdf", lambda facts: facts["format"] == "pdf")
        assert len(index.nearest(vector(0), 99, where)) == 4
        assert len(index.matching("common", 99, where)) == 4
        assert index.matching("common", 2, ("none", lambda facts: False)) == []


def test_equal_texts_share_a_vector_and_orphans_go(ws):
    """A vector is kept once per text, stays while any passage has it, and is dropped after."""
    with make(ws) as index:
        put(index, 1)
        index.store.keep([b"orphan".ljust(16)], vector(5)[None])
        assert index.store.cached([b"orphan".ljust(16), b"1/0".ljust(16)]).keys() == {
            b"orphan".ljust(16),
            b"1/0".ljust(16),
        }
        index.store.tidy()
        assert index.store.cached([b"orphan".ljust(16), b"1/0".ljust(16)]).keys() == {b"1/0".ljust(16)}


def test_odd_characters_survive(ws):
    """Text with NUL, lone surrogates and astral letters keeps its length, so that spans stay right."""
    text = "a\0b \ud800 🙂 z" + "\n"
    with make(ws) as index:
        put(index, 1, text=text)
        (passage,) = index.all_passages()
        assert len(passage.text) == len(text) and passage.text.replace("\ufffd", "\ud800") == text
        (document,) = index.documents()
        assert document.text[passage.start : passage.end] == passage.text
