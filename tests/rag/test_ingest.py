"""Ingesting: what is new, changed, renamed and gone; killed in the middle; two at once; a full disk."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlxrag.errors import MlxragError, NotFound
from mlxrag.model.encode import encode, load_encoder
from mlxrag.rag import ingest as module
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.local import context
from mlxrag.rag.retrieve import retrieve
from mlxrag.settings import Chunking, Retrieval, Settings
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

SETTINGS = Settings(chunking=Chunking(chunk_tokens=64, chunk_overlap=0), retrieval=Retrieval(num_passages=3))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ws(tmp_path):
    return open_workspace(tmp_path / "ws")


@pytest.fixture
def encoder(tmp_path, ws):
    return load_encoder(str(write_encoder(tmp_path / "encoder")), ws)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "kiwi.md").write_text("# Kiwi\n\nThe kiwi is a bird that cannot fly.\n")
    (folder / "deep" / "owl.txt").write_text("The owl hunts at night.\n")
    (folder / "blank.txt").write_text("   \n")
    return folder


def run(ws, encoder, *paths, settings=SETTINGS, name="documents"):
    """Ingest and return `{source: outcome}`."""
    with open_index(ws, name, encoder, create=True) as index:
        return {o.source: o.outcome for o in ingest(index, encoder, paths, settings)}


def sources(ws, name="documents"):
    with open_index(ws, name) as index:
        return sorted(document.source for document in index.documents())


def test_files_become_passages_that_are_found(ws, encoder, docs):
    """Each file ends with an outcome, and what was indexed is found with its exact span."""
    assert run(ws, encoder, docs) == {
        "docs/blank.txt": "empty",
        "docs/deep/owl.txt": "indexed",
        "docs/kiwi.md": "indexed",
    }
    with open_index(ws, encoder=encoder) as index:
        hit = retrieve(index, encoder, "bird", SETTINGS.retrieval)[0]
        assert hit.passage.source == "docs/kiwi.md" and hit.rank == 1
        document = next(d for d in index.documents() if d.id == hit.passage.document_id)
        assert document.text[hit.passage.start : hit.passage.end] == hit.passage.text
        assert index.passages([hit.passage.id, "gone"]) == [hit.passage]
        assert index.verify() == []


def test_second_run_reads_nothing(ws, encoder, docs, monkeypatch):
    """Files of the same size and time are neither read nor hashed; a touched one is hashed and not read."""
    run(ws, encoder, docs)
    monkeypatch.setattr(module, "encode", lambda *a: pytest.fail("encoded again"))
    monkeypatch.setattr(module, "chunk", lambda *a: pytest.fail("read again"))
    os.utime(docs / "kiwi.md", ns=(1, 1))
    hashed: list[str] = []
    real = module.sha256_file
    monkeypatch.setattr(module, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    assert sorted(run(ws, encoder, docs).values()) == ["empty", "unchanged", "unchanged"]
    assert hashed == ["kiwi.md"]


def test_changed_file_is_replaced(ws, encoder, docs):
    """New bytes take the place of the old ones; nothing of the old is found any more."""
    run(ws, encoder, docs)
    (docs / "kiwi.md").write_text("# Emu\n\nThe emu runs fast.\n")
    assert run(ws, encoder, docs)["docs/kiwi.md"] == "indexed"
    with open_index(ws, encoder=encoder) as index:
        assert not any("kiwi is" in p.text for p in index.all_passages())
        for retriever in ("dense", "lexical", "hybrid"):
            hits = retrieve(index, encoder, "kiwi emu", Retrieval(retriever=retriever, num_passages=10))
            assert hits and not any("kiwi is" in hit.passage.text for hit in hits)


def test_vanished_files_go_only_below_what_was_ingested(ws, encoder, docs, tmp_path):
    """A file that is gone is removed when its folder is ingested again, and not when another is."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "fox.txt").write_text("The fox is red.")
    run(ws, encoder, docs, other)
    (docs / "kiwi.md").unlink()
    assert "removed" not in run(ws, encoder, other).values()
    assert sources(ws) == ["docs/deep/owl.txt", "docs/kiwi.md", "other/fox.txt"]
    assert run(ws, encoder, docs)["docs/kiwi.md"] == "removed"
    assert sources(ws) == ["docs/deep/owl.txt", "other/fox.txt"]


def test_a_file_is_in_the_index_once(ws, encoder, docs):
    """Ingested again from a folder further down, a file goes by its new source and not by both."""
    run(ws, encoder, docs)
    assert run(ws, encoder, docs / "deep") == {"deep/owl.txt": "indexed", "docs/deep/owl.txt": "removed"}
    assert sources(ws) == ["deep/owl.txt", "docs/kiwi.md"]


def test_moved_folder_keeps_its_sources(ws, encoder, docs, tmp_path):
    """A folder that was moved is the same to the index; what did not come along is removed."""
    run(ws, encoder, docs)
    moved = tmp_path / "elsewhere" / "docs"
    moved.parent.mkdir()
    shutil.move(docs, moved)
    (moved / "deep" / "owl.txt").unlink()
    assert run(ws, encoder, moved) == {
        "docs/blank.txt": "empty", "docs/kiwi.md": "unchanged", "docs/deep/owl.txt": "removed",
    }  # fmt: skip


def test_renamed_file_is_not_encoded_again(ws, encoder, docs, monkeypatch):
    """A text that has a vector keeps it under any name, and in any number of files."""
    run(ws, encoder, docs)
    (docs / "deep" / "owl.txt").rename(docs / "deep" / "owl2.txt")
    texts = []
    real = encode
    monkeypatch.setattr(module, "encode", lambda e, t, *a: texts.extend(t) or real(e, t, *a))
    (docs / "kiwi copy.md").write_text((docs / "kiwi.md").read_text())
    assert run(ws, encoder, docs)["docs/deep/owl.txt"] == "removed"
    # The file's name is its title, and the title is part of what is encoded.
    assert [text.splitlines()[0] for text in texts] == ["owl2"]


def test_changed_settings_cut_again_and_reuse_vectors(ws, encoder, docs):
    """Other chunk sizes make files new, though their bytes are the same."""
    run(ws, encoder, docs)
    other = SETTINGS.model_copy(update={"chunking": Chunking(chunk_tokens=32, chunk_overlap=0)})
    assert run(ws, encoder, docs, settings=other)["docs/kiwi.md"] == "indexed"


def test_stored_vectors_are_the_encoders(ws, encoder, docs):
    """What the index holds of a passage is what the encoder makes of it, to half precision."""
    run(ws, encoder, docs)
    with open_index(ws, encoder=encoder) as index:
        rows, stored = next(index.store.rows_with_vectors(0))
        passages = index.store.passages_at(rows.tolist())
        fresh = encode(encoder, [context(passages[row]) for row in rows.tolist()])
    np.testing.assert_allclose(stored, fresh, atol=1e-3)


def test_missing_path_is_said(ws, encoder, tmp_path):
    """A path that does not exist is one sentence, and nothing is changed."""
    with pytest.raises(NotFound):
        run(ws, encoder, tmp_path / "nowhere")


def many(folder, n):
    folder.mkdir()
    for i in range(n):
        (folder / f"{i:03}.txt").write_text(f"Document number {i}. " + " ".join(f"word{i}x{j}" for j in range(40)))
    return folder


PROGRAM = """
import sys
from pathlib import Path
from mlxrag.model.encode import load_encoder
from mlxrag.rag import ingest as module
from mlxrag.rag.index import open_index
from mlxrag.settings import Chunking, Settings
from mlxrag.workspace import open_workspace

module.TOGETHER = 8
ws = open_workspace(sys.argv[1])
encoder = load_encoder(sys.argv[2], ws)
settings = Settings(chunking=Chunking(chunk_tokens=64, chunk_overlap=0))
with open_index(ws, "documents", encoder, create=True) as index:
    for outcome in module.ingest(index, encoder, [Path(p) for p in sys.argv[3:]], settings):
        print(outcome.outcome, flush=True)
"""


def start(ws, encoder, *paths):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ws.root), str(encoder.path), *map(str, paths)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "MKL_NUM_THREADS": "1"},
    )  # fmt: skip


def test_killed_in_the_middle_it_opens_and_goes_on(ws, encoder, tmp_path):
    """After SIGKILL at two moments the index opens, answers with what was finished, and the next run does the rest."""
    folder = many(tmp_path / "many", 60)
    before = 0
    for lines in (1, 30):
        process = start(ws, encoder, folder)
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with open_index(ws, encoder=encoder) as index:
            now = index.counts()["documents"]
            assert now >= before and index.verify() == []
            before = now
            assert (
                retrieve(index, encoder, "word0x1", Retrieval(retriever="lexical"))[0].passage.source == "many/000.txt"
            )
    assert 0 < before < 60
    outcomes = run(ws, encoder, folder)
    assert sorted(outcomes.values()).count("unchanged") >= before and len(outcomes) == 60
    assert len(sources(ws)) == 60


def test_two_processes_at_once_do_not_harm_each_other(ws, encoder, tmp_path):
    """Two processes ingest overlapping folders while a third searches; in the end everything is there once."""
    one, two = many(tmp_path / "one", 30), many(tmp_path / "two", 30)
    processes = [start(ws, encoder, one, two), start(ws, encoder, two)]
    for process in processes:
        process.stdout.readline()
    with open_index(ws, encoder=encoder) as index:
        while any(process.poll() is None for process in processes):
            hits = retrieve(index, encoder, "document number word1x1", Retrieval(num_passages=5))
            assert all(hit.passage.text for hit in hits)
            time.sleep(0.05)
        for process in processes:
            process.stdout.close()
            assert process.returncode == 0
        assert index.counts()["documents"] == 60
        assert index.verify() == []


def test_full_disk_is_one_sentence_and_loses_nothing(ws, encoder, docs, tmp_path, monkeypatch):
    """When the database cannot grow, what was finished stays, and the run goes on once there is room."""
    run(ws, encoder, docs)
    big = many(tmp_path / "big", 30)
    with open_index(ws, encoder=encoder) as index:
        pages = index.store._one("PRAGMA page_count")
        index.store._db.execute(f"PRAGMA max_page_count = {pages + 8}")
        with pytest.raises(MlxragError, match="disk is full") as error:
            list(ingest(index, encoder, [big], SETTINGS))
        assert "\n" not in str(error.value) and not isinstance(error.value.__cause__, MlxragError)
        assert isinstance(error.value.__cause__, sqlite3.Error)
    assert "docs/kiwi.md" in sources(ws)
    run(ws, encoder, big)
    assert len(sources(ws)) == 32


def test_full_disk_while_deriving(ws, encoder, docs, monkeypatch):
    """When only the derived files do not fit, that is said too; they are made when there is room."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mlxrag.rag.vectors.append", full)
        with pytest.raises(MlxragError, match="disk is full"):
            run(ws, encoder, docs)
    with open_index(ws, encoder=encoder) as index:
        assert retrieve(index, encoder, "owl", Retrieval(retriever="lexical"))[0].passage.source == "docs/deep/owl.txt"


def test_memory_does_not_grow_with_the_corpus(ws, encoder, monkeypatch):
    """Twice the documents take no more memory at once: they pass through in groups."""
    import tracemalloc

    from mlxrag.rag.document import Document, document_id

    monkeypatch.setattr(module, "TOGETHER", 16)
    monkeypatch.setattr(module, "encode", lambda e, texts, *a: np.ones((len(texts), 64), np.float32) / 8)

    def documents(n):
        for i in range(n):
            text = f"number {i} " + "some words of a document " * 40
            yield Document(document_id(f"d/{i}", text), f"d/{i}", "", text, "", (), {"language": "en"})

    def peak(n):
        with open_index(ws, f"of-{n}", encoder, create=True) as index:
            tracemalloc.start()
            for _ in module.add_documents(index, encoder, documents(n), SETTINGS, whole=True):
                pass
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

    peak(16)
    assert peak(1200) < 1.2 * peak(600)
