"""Question -> Hits: by vectors, by words, by both; made diverse, and read again by a cross-encoder where asked.

Knows the index only through what `nearest`, `matching`, `passages_at` and `vectors_at` promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxrag.errors import BadInput, Mismatch, nearest
from mlxrag.rag.document import Hit
from mlxrag.rag.index import Index, wrong_encoder
from mlxrag.rag.words import language_of, matches, question_terms
from mlxrag.settings import Retrieval

if TYPE_CHECKING:
    from mlxrag.model.encode import Encoder
    from mlxrag.model.rerank import Reranker

Ranked = list[tuple[int, float]]
"""Rows with scores, best first."""
Where = tuple[Any, Callable[[Mapping[str, str]], bool]] | None
Retriever = Callable[[Index, str, np.ndarray | None, Retrieval, int, Where], Ranked]

POOL = 4
"""Diversity chooses among this many times the passages asked for."""


def retrieve(
    index: Index, encoder: Encoder | None, question: str, retrieval: Retrieval, reranker: Reranker | None = None
) -> list[Hit]:
    """Return the passages that answer a question best, best first.

    Args:
        index: where to look.
        encoder: the index's; None does for the lexical retriever.
        question: any text.
        retrieval: how to look, and how many to return.
        reranker: a cross-encoder that reads the first hits again.

    Raises:
        Mismatch: the encoder is not the index's, or there is none and the retriever needs it.
        BadInput: a condition of `where` that is none.
    """
    return retrieve_many(index, encoder, [question], retrieval, reranker)[0]


def retrieve_many(
    index: Index,
    encoder: Encoder | None,
    questions: Sequence[str],
    retrieval: Retrieval,
    reranker: Reranker | None = None,
) -> list[list[Hit]]:
    """Return the hits of each question, in the order of the questions; they are encoded together."""
    vectors: Sequence[np.ndarray | None] = [None] * len(questions)
    if retrieval.retriever != "lexical":
        if encoder is None:
            raise Mismatch(f"the {retrieval.retriever} retriever needs the encoder of the index {index.name!r}")
        if encoder.fingerprint != index.fingerprint:
            raise Mismatch(wrong_encoder(index, encoder))
        from mlxrag.model.encode import encode

        vectors = list(encode(encoder, questions, "question"))
    where = conditions(retrieval.where)
    return [
        _hits(index, question, vector, retrieval, where, reranker)
        for question, vector in zip(questions, vectors, strict=True)
    ]


def dense(index: Index, question: str, vector: np.ndarray | None, retrieval: Retrieval, k: int, where: Where) -> Ranked:
    """Rank by the cosine of the question's vector and the passage's."""
    assert vector is not None
    return index.nearest(vector, k, where)


def lexical(
    index: Index, question: str, vector: np.ndarray | None, retrieval: Retrieval, k: int, where: Where
) -> Ranked:
    """Rank by BM25 over stemmed words."""
    return index.matching(question, k, where)


def hybrid(
    index: Index, question: str, vector: np.ndarray | None, retrieval: Retrieval, k: int, where: Where
) -> Ranked:
    """Rank by both, joined by `retrieval.fusion`."""
    depth = max(k, retrieval.candidates)
    halves = [
        (retrieval.dense_weight, dense(index, question, vector, retrieval, depth, where)),
        (1 - retrieval.dense_weight, lexical(index, question, vector, retrieval, depth, where)),
    ]
    if retrieval.fusion == "rrf":
        return fuse_ranks(halves, retrieval.rrf_k)
    return fuse_scores(halves)


RETRIEVERS: dict[str, Retriever] = {"hybrid": hybrid, "dense": dense, "lexical": lexical}


def fuse_ranks(lists: Sequence[tuple[float, Ranked]], constant: int = 60) -> Ranked:
    """Join weighted lists by reciprocal rank: the score is the sum of `weight / (constant + rank)`.

    Source: Cormack, Clarke and Büttcher 2009, Reciprocal rank fusion outperforms Condorcet.

    Example:
        >>> fuse_ranks([(0.5, [(7, 0.9), (8, 0.8)]), (0.5, [(8, 12.0)])], constant=1)[0][0]
        8
    """
    total: dict[int, float] = {}
    for weight, ranked in lists:
        for rank, (row, _) in enumerate(ranked, 1):
            total[row] = total.get(row, 0.0) + weight / (constant + rank)
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


def fuse_scores(lists: Sequence[tuple[float, Ranked]]) -> Ranked:
    """Join weighted lists by the sum of their scores, each list scaled to 0..1; a row that a list lacks has 0 from it.

    Source: the convex combination of Bruch, Gai and Ingber 2023 (arXiv:2210.11934), with the
    smallest and largest score of each list as its bounds.
    """
    total: dict[int, float] = {}
    for weight, ranked in lists:
        if not ranked:
            continue
        high, low = ranked[0][1], ranked[-1][1]
        span = high - low
        for row, score in ranked:
            share = (score - low) / span if span > 0 else 1.0
            total[row] = total.get(row, 0.0) + weight * share
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


def diversify(ranked: Ranked, vectors: Mapping[int, np.ndarray], k: int, diversity: float) -> Ranked:
    """Return `k` rows chosen one by one, each for its score and for being unlike those before it.

    Args:
        ranked: candidates, best first.
        vectors: of each row, length 1.
        k: how many to choose.
        diversity: weight of being unlike, in [0, 1]; scores are scaled to 0..1 first.

    Source: maximal marginal relevance, Carbonell and Goldstein 1998.
    """
    rows = [row for row, _ in ranked if row in vectors]
    if not rows:
        return []
    matrix = np.stack([vectors[row] for row in rows])
    scores = np.array([score for row, score in ranked if row in vectors], np.float64)
    span = scores.max() - scores.min()
    scaled = (scores - scores.min()) / span if span > 0 else np.ones(len(scores))
    nearest_chosen = np.zeros(len(rows))
    left = np.ones(len(rows), bool)
    chosen: Ranked = []
    while len(chosen) < min(k, len(rows)):
        value = np.where(left, (1 - diversity) * scaled - diversity * nearest_chosen, -np.inf)
        best = int(value.argmax())
        left[best] = False
        chosen.append((rows[best], float(value[best])))
        nearest_chosen = np.maximum(nearest_chosen, matrix @ matrix[best])
    return chosen


def conditions(where: Sequence[str]) -> Where:
    """Parse `FIELD=GLOB` conditions.

    Conditions on one field are alternatives; those on several fields must all hold.  Letters of
    either case match.  In a glob `*` goes across `/`.

    Returns:
        A key for the whole condition, and the function that decides; None where there is no condition.

    Raises:
        BadInput: a condition without `=` or a field.
    """
    wanted: dict[str, list[str]] = {}
    for condition in where:
        field, sign, glob = condition.partition("=")
        if not sign or not field.strip():
            raise BadInput(f"--where {condition!r}: write FIELD=GLOB, such as source=*.md or format=pdf")
        wanted.setdefault(field.strip(), []).append(glob.strip().casefold())
    if not wanted:
        return None

    def accepts(facts: Mapping[str, str]) -> bool:
        return all(
            any(fnmatchcase(str(facts.get(field, "")).casefold(), glob) for glob in globs)
            for field, globs in wanted.items()
        )

    return tuple(where), accepts


def marks(index: Index, question: str, text: str) -> list[tuple[int, int]]:
    """Return the spans of a passage's text that share a term with the question.

    The passage's own language decides: what is a stop word in it is not marked, though the index holds other
    languages in which it is none.  A single letter, such as "I", is not marked either.
    """
    found = index.languages()
    told = language_of(text)
    languages = [told] if told in found else found[:1]
    wanted = {term for term in question_terms(question, languages) if len(term) > 1 or not term.isascii()}
    return list(matches(text, wanted, languages))


def _hits(
    index: Index,
    question: str,
    vector: np.ndarray | None,
    retrieval: Retrieval,
    where: Where,
    reranker: Reranker | None,
) -> list[Hit]:
    if retrieval.retriever not in RETRIEVERS:
        raise BadInput(f"no retriever {retrieval.retriever!r}{nearest(retrieval.retriever, RETRIEVERS)}")
    k = retrieval.num_passages
    by: str = retrieval.retriever
    pool = max(k, retrieval.rerank_depth) if reranker else k
    if retrieval.diversity:
        pool = max(pool, POOL * k)
    ranked = RETRIEVERS[retrieval.retriever](index, question, vector, retrieval, pool, where)[:pool]
    passages = index.passages_at([row for row, _ in ranked])
    if reranker is not None:
        from mlxrag.model.rerank import score_pairs
        from mlxrag.rag.local import context

        rows = [row for row, _ in ranked if row in passages]
        scores = score_pairs(reranker, question, [context(passages[row]) for row in rows])
        ranked = sorted(zip(rows, scores.tolist(), strict=True), key=lambda pair: -pair[1])
        by = f"{by}+{reranker.name}"
    if retrieval.diversity:
        ranked = diversify(ranked, index.vectors_at([row for row, _ in ranked]), k, retrieval.diversity)
    found = [(passages[row], score) for row, score in ranked if row in passages][:k]
    return [Hit(passage, score, by, rank) for rank, (passage, score) in enumerate(found, 1)]
