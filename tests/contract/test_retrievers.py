"""What every retriever promises, whatever it ranks by."""

from itertools import pairwise

import numpy as np
import pytest

from mlxrag.errors import BadInput, Mismatch
from mlxrag.model.encode import load_encoder
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.retrieve import RETRIEVERS, retrieve, retrieve_many
from mlxrag.settings import Retrieval, Settings
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

ANIMALS = ["owl", "fox", "kiwi", "emu", "bear", "wolf", "hare", "lynx", "mole", "newt", "toad", "wren"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("contract")
    docs = root / "docs"
    docs.mkdir()
    for i, animal in enumerate(ANIMALS):
        name = f"{animal}.{'md' if i % 2 else 'txt'}"
        (docs / name).write_text(f"The {animal} is an animal. It lives in the wood and eats what {animal}s eat.")
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
        yield ws, index, encoder


each = pytest.mark.parametrize("retriever", RETRIEVERS)


@each
def test_hits_are_ranked_best_first(opened, retriever):
    """Ranks count from 1, scores never increase, no passage comes twice, and the list has the length asked for."""
    _, index, encoder = opened
    for k in (1, 5, 12):
        hits = retrieve(index, encoder, "Which animal is the wolf?", Retrieval(retriever=retriever, num_passages=k))
        assert [hit.rank for hit in hits] == list(range(1, k + 1))
        assert all(a.score >= b.score for a, b in pairwise(hits))
        assert len({hit.passage.id for hit in hits}) == k
        assert all(hit.by == retriever for hit in hits)


@each
def test_same_question_same_hits(opened, retriever):
    """Asking alone, again, or among others gives the same list."""
    _, index, encoder = opened
    settings = Retrieval(retriever=retriever, num_passages=4)
    alone = retrieve(index, encoder, "emu", settings)
    many = retrieve_many(index, encoder, ["owl", "emu", "a much longer question about the bear and the hare"], settings)
    for hits in (retrieve(index, encoder, "emu", settings), many[1]):
        assert [h.passage.id for h in hits] == [h.passage.id for h in alone]
        np.testing.assert_allclose([h.score for h in hits], [h.score for h in alone], atol=1e-4)


@each
def test_conditions_are_kept(opened, retriever):
    """Only passages that meet the conditions come; alternatives on one field, all of several fields."""
    _, index, encoder = opened

    def sources(*where):
        settings = Retrieval(retriever=retriever, num_passages=50, where=where)
        return {hit.passage.source for hit in retrieve(index, encoder, "animal", settings)}

    assert sources("source=*.md") == {f"docs/{a}.md" for a in ANIMALS[1::2]}
    assert sources("source=*/OWL.*", "source=*fox*") == {"docs/owl.txt", "docs/fox.md"}
    assert sources("source=*fox*", "format=markdown") == {"docs/fox.md"}
    assert sources("source=*owl*", "format=markdown") == set()
    assert sources("language=en") == sources()


@each
@pytest.mark.parametrize("question", ["", "   ", "?!", "zzz", "x" * 5000, "🙂 \ud800", "the of and"])
def test_any_question_is_survived(opened, retriever, question):
    """Empty, endless, foreign and broken questions give a list, never an error."""
    _, index, encoder = opened
    assert isinstance(retrieve(index, encoder, question, Retrieval(retriever=retriever)), list)


@each
def test_an_empty_index_gives_no_hits(opened, retriever, tmp_path):
    """Nothing is found where nothing is."""
    _, _, encoder = opened
    with open_index(open_workspace(tmp_path), "empty", encoder, create=True) as index:
        assert retrieve(index, encoder, "owl", Retrieval(retriever=retriever)) == []


@each
def test_another_encoder_is_refused(opened, retriever, tmp_path):
    """Vectors of another encoder are never compared; the lexical retriever needs none."""
    ws, index, _ = opened
    other = load_encoder(str(write_encoder(tmp_path / "other", seed=5)), ws)
    for encoder in (other, None):
        if retriever == "lexical":
            assert retrieve(index, encoder, "owl", Retrieval(retriever=retriever))
        else:
            with pytest.raises(Mismatch):
                retrieve(index, encoder, "owl", Retrieval(retriever=retriever))


@pytest.mark.parametrize("where", ["source", "=x", ""])
def test_a_condition_that_is_none_is_said(opened, where):
    """A condition without a field or a sign is BadInput with an example."""
    _, index, encoder = opened
    with pytest.raises(BadInput, match="FIELD=GLOB"):
        retrieve(index, encoder, "owl", Retrieval(where=(where,)))
