"""Passages to a full-text index on disk, and a question to its best rows by BM25.

Derived from the store and rebuildable; terms come ready from `words.py`, so that tantivy only
counts them.  BM25 has tantivy's constants, k1 = 1.2 and b = 0.75.

Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework; tantivy, `query/bm25.rs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tantivy

HEAP = 64_000_000
"""Bytes a writer may hold before it writes a segment."""


def schema() -> tantivy.Schema:
    """Return the fields: the row, and the terms with their frequencies (no positions)."""
    building = tantivy.SchemaBuilder()
    building.add_integer_field("row", indexed=True, fast=True)
    building.add_text_field("terms", tokenizer_name="spaces", index_option="freq")
    return building.build()


SCHEMA = schema()


def open_lexical(path: Path) -> tantivy.Index:
    """Open the index in a directory, or make an empty one there.

    Raises:
        ValueError: its files are damaged; `OSError` likewise.  Both mean: build it again.
    """
    path.mkdir(parents=True, exist_ok=True)
    index = tantivy.Index(SCHEMA, path=str(path))
    index.register_tokenizer("spaces", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    return index


def write(index: tantivy.Index, gone: Iterable[int], new: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Remove rows and add rows, all or nothing; adding a row that is there replaces it.

    Args:
        index: the index.
        gone: rows to remove.
        new: rows with their terms.
    """
    writer = index.writer(heap_size=HEAP, num_threads=1)
    try:
        for row in gone:
            writer.delete_documents_by_term("row", int(row))
        for row, terms in new:
            writer.delete_documents_by_term("row", int(row))
            writer.add_document(tantivy.Document(row=int(row), terms=" ".join(terms)))
        writer.commit()
        writer.wait_merging_threads()
    except BaseException:
        writer.rollback()
        raise


def search(
    searcher: tantivy.Searcher, terms: Sequence[str], k: int, allowed: np.ndarray | None = None
) -> list[tuple[int, float]]:
    """Return the best rows for the terms, best first, and rows of equal score in ascending order.

    Args:
        searcher: a snapshot of the index.
        terms: of the question; one that stands twice counts twice.
        k: how many to return, at most.
        allowed: rows that may be returned, ascending; None is all.

    Returns:
        `(row, score)`, scores above 0.
    """
    total = searcher.num_docs
    if not terms or not total:
        return []
    clauses = [(tantivy.Occur.Should, tantivy.Query.term_query(SCHEMA, "terms", t, index_option="freq")) for t in terms]
    query = tantivy.Query.boolean_query(clauses)
    # Tantivy breaks ties by position in its segments; a few more let us break them by row.
    want = k + 16
    while True:
        hits = searcher.search(query, min(want, total), count=False).hits
        rows = searcher.fast_field_values("row", [address for _, address in hits])
        found = [(int(row or 0), float(score or 0.0)) for row, (score, _) in zip(rows, hits, strict=True)]
        if allowed is not None:
            found = [pair for pair in found if _holds(allowed, pair[0])]
        if len(found) >= k or len(hits) < want:
            return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]
        want *= 8


def _holds(rows: np.ndarray, row: int) -> bool:
    at = int(np.searchsorted(rows, row))
    return at < len(rows) and int(rows[at]) == row
