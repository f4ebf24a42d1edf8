"""Joining lists, diversity, reranking, and the marks on matching words."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.model.encode import load_encoder
from mlxrag.model.rerank import load_reranker, score_pairs
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.retrieve import diversify, fuse_ranks, fuse_scores, marks, retrieve
from mlxrag.settings import Retrieval, Settings
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder, write_reranker

RANKED = st.lists(st.tuples(st.integers(0, 30), st.floats(-5, 5)), max_size=12, unique_by=lambda p: p[0]).map(
    lambda pairs: sorted(pairs, key=lambda p: -p[1])
)


def test_reciprocal_ranks_by_hand():
    """The worked example: 1/61 + 1/62 wins over 1/61."""
    fused = dict(fuse_ranks([(1.0, [(1, 9.0), (2, 8.0)]), (1.0, [(2, 3.0)])]))
    assert fused[2] == pytest.approx(1 / 62 + 1 / 61) and fused[1] == pytest.approx(1 / 61)


def test_normalized_sum_by_hand():
    """Each list is scaled to 0..1 by its own bounds before it is weighed."""
    fused = dict(fuse_scores([(0.5, [(1, 0.9), (2, 0.7), (3, 0.5)]), (0.5, [(2, 12.0), (4, 4.0)])]))
    assert fused == pytest.approx({1: 0.5, 2: 0.25 + 0.5, 3: 0.0, 4: 0.0})


@given(a=RANKED, b=RANKED)
@pytest.mark.parametrize("fuse", [fuse_ranks, fuse_scores])
def test_fusion_keeps_every_row_once_and_does_not_care_for_order(fuse, a, b):
    """The joined list has the union of the rows, best first, whichever list comes first."""
    one, other = fuse([(0.3, a), (0.7, b)]), fuse([(0.7, b), (0.3, a)])
    assert [row for row, _ in one] == [row for row, _ in other]
    assert {row for row, _ in one} == {row for row, _ in a} | {row for row, _ in b}
    assert all(x[1] >= y[1] for x, y in pairwise(one))


def test_diversity_passes_over_near_copies():
    """With diversity the second choice is unlike the first, though its score is lower."""
    vectors = {1: np.array([1.0, 0.0]), 2: np.array([0.999, 0.04]), 3: np.array([0.0, 1.0])}
    ranked = [(1, 1.0), (2, 0.99), (3, 0.6), (4, 0.5)]
    assert [row for row, _ in diversify(ranked, vectors, 2, 0.0)] == [1, 2]
    assert [row for row, _ in diversify(ranked, vectors, 2, 0.5)] == [1, 3]
    assert len(diversify(ranked, vectors, 9, 0.5)) == 3
    assert diversify([], {}, 3, 0.5) == []


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieve")
    docs = root / "docs"
    docs.mkdir()
    for i in range(6):
        (docs / f"{i}.txt").write_text(f"Kernels of number {i} are compiled. " + "More about them. " * i)
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
        yield ws, index, encoder, root


def test_reranker_decides_the_order(opened):
    """With a cross-encoder the hits come in the order of its scores, and say who ranked them."""
    ws, index, encoder, root = opened
    reranker = load_reranker(str(write_reranker(root / "cross")), ws)
    hits = retrieve(index, encoder, "kernel", Retrieval(num_passages=3), reranker)
    assert len(hits) == 3 and hits[0].by.startswith("hybrid+")
    scores = score_pairs(reranker, "kernel", ["a", "b" * 400, "a"])
    assert scores.shape == (3,) and scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert score_pairs(reranker, "q" * 500, ["t" * 500]).shape == (1,)


def test_diverse_hits_are_still_the_asked_number(opened):
    """Diversity reorders and does not shorten the list."""
    _, index, encoder, _ = opened
    assert len(retrieve(index, encoder, "kernel", Retrieval(num_passages=4, diversity=0.7))) == 4


def test_stop_words_of_the_passages_language_are_not_marked():
    """In an index of several languages, "I" and "a" of an English passage stay unmarked; German ones follow German."""

    class Both:
        languages = staticmethod(lambda: ["en", "de"])

    text = "I write a kernel when the morning is over and the day is not."
    spans = marks(Both, "How do I write a kernel?", text)
    assert [text[a:b] for a, b in spans] == ["write", "kernel"]
    text = "Der Kern wird von den Hunden und der Katze bewacht, die am Haus sind."
    assert [text[a:b] for a, b in marks(Both, "Wer bewacht die Kerne?", text)] == ["Kern", "bewacht"]


def test_marks_are_the_words_of_the_question(opened):
    """A passage's words that share a stem with the question are marked as they stand."""
    _, index, _, _ = opened
    text = "Kernels are compiled by a compiler; numbers follow."
    spans = marks(index, "compile the kernel", text)
    assert [text[a:b] for a, b in spans] == ["Kernels", "compiled", "compiler"]
