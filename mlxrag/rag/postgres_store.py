"""The part of an index in PostgreSQL that is written: the counterpart of `store.Store`, which says what each method promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxrag.errors import MlxragError
from mlxrag.rag import tables
from mlxrag.rag.document import Document, Passage, mended
from mlxrag.rag.local import context
from mlxrag.rag.postgres_server import connect, shown, translated
from mlxrag.rag.tables import Accepts, FileRecord
from mlxrag.rag.words import terms

if TYPE_CHECKING:
    import psycopg


class PostgresStore:
    """An open connection to the schema of one index; close it when done."""

    def __init__(self, dsn: str, name: str):
        self.where = shown(dsn)
        self.schema = f"mlxrag_{name}"
        self._db = connect(dsn, self.schema)
        self._lock = f"mlxrag {name}"
        try:
            self.meta: Mapping[str, str] = dict(self.all("SELECT key, value FROM meta"))
        except MlxragError:
            self._db.close()
            raise

    def close(self) -> None:
        """Let the connection go."""
        self._db.close()

    def put(
        self,
        record: FileRecord,
        document: Document | None,
        passages: Sequence[Passage] = (),
        keys: Sequence[bytes] = (),
        vectors: np.ndarray | None = None,
    ) -> None:
        """Replace everything that is known of a file, in one transaction; see `store.Store.put`."""
        with self._write() as db:
            self._forget(db, record.source)
            db.execute(sql(tables.REMEMBER), tables.file_row(record, clean))
            if document is None:
                return
            found = db.execute(
                sql(f"{tables.ADD_DOCUMENT} RETURNING number"), tables.document_row(document, clean)
            ).fetchone()
            if not passages:
                return
            assert vectors is not None and found is not None
            language = str(document.meta.get("language", ""))
            rows, length = [], 0
            for p, key, vector in zip(passages, keys, vectors, strict=True):
                counted = Counter(clean(term) for term in terms(context(p), language))
                length += counted.total()
                rows.append(
                    (p.id, found[0], clean(p.place), p.start, p.end, clean(p.text), key, literal(vector),
                     list(counted), list(counted.values()), counted.total())
                )  # fmt: skip
            db.cursor().executemany(
                'INSERT INTO passages (id, document, place, start, "end", text, key, vector, terms, counts, length) '
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                rows,
            )
            db.execute("UPDATE totals SET passages = passages + %s, length = length + %s", (len(rows), length))

    def touch(self, record: FileRecord) -> None:
        """Remember a new path or time of a file whose bytes are unchanged."""
        with self._write() as db:
            db.execute(sql(tables.TOUCH), tables.touched_row(record))

    def forget(self, sources: Sequence[str]) -> None:
        """Remove files with all that is known of them."""
        with self._write() as db:
            for source in sources:
                self._forget(db, source)

    def keep(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors before their file is finished, so that work on a long file is not lost."""
        with self._write() as db:
            rows = [(key, literal(vector)) for key, vector in zip(keys, vectors, strict=True)]
            db.cursor().executemany("INSERT INTO kept VALUES (%s, %s) ON CONFLICT DO NOTHING", rows)

    def tidy(self) -> None:
        """Drop vectors that were kept for files that are finished."""
        with self._write() as db:
            db.execute("DELETE FROM kept")

    def file(self, source: str) -> FileRecord | None:
        """Return what is known of a file."""
        found = self.all(tables.FILE, (source,))
        return FileRecord(*found[0]) if found else None

    def files(self) -> list[FileRecord]:
        """Return what is known of every file, by source."""
        return [FileRecord(*row) for row in self.all(tables.FILES)]

    def cached(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors `(d,)` float16 that are kept for these hashes."""
        query = """
            SELECT key, vector::real[] FROM kept WHERE key = ANY(?)
            UNION ALL (SELECT DISTINCT ON (key) key, vector::real[] FROM passages WHERE key = ANY(?))
        """
        return {bytes(k): np.array(v, np.float16) for k, v in self.all(query, (list(keys), list(keys)))}

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        found = self.all("SELECT (SELECT count(*) FROM documents), (SELECT passages FROM totals)")
        return {"documents": int(found[0][0]), "passages": int(found[0][1])}

    def rows_where(self, accepts: Accepts) -> np.ndarray:
        """Return the rows `(m,)` int64, ascending, of documents whose facts are accepted."""
        kept = tables.accepted(self.all(tables.FACTS), accepts)
        rows = self.all("SELECT row FROM passages WHERE document = ANY(?) ORDER BY row", (kept,))
        return np.array([row for (row,) in rows], np.int64)

    def _forget(self, db: psycopg.Connection[Any], source: str) -> None:
        found = db.execute(sql(tables.FIND_DOCUMENT), (source,)).fetchone()
        if found:
            gone = db.execute("DELETE FROM passages WHERE document = %s RETURNING length", found).fetchall()
            db.execute(sql(tables.DROP_DOCUMENT), found)
            total = (len(gone), sum(length for (length,) in gone))
            db.execute("UPDATE totals SET passages = passages - %s, length = length - %s", total)
        db.execute(sql(tables.DROP_FILE), (source,))

    @contextmanager
    def _write(self) -> Iterator[psycopg.Connection[Any]]:
        with translated(self.where), self._db.transaction():
            # Writers take turns, so that rows are numbered in the order of their commits.
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._lock,))
            yield self._db

    def all(self, query: str, values: Any = ()) -> list[Any]:
        """Return the rows of a query, with `?` or `%(name)s` where a value goes."""
        with translated(self.where):
            return self._db.execute(sql(query), values).fetchall()

    def run(self, statement: str) -> None:
        """Run a statement without values."""
        with translated(self.where):
            self._db.execute(sql(statement))


def sql(query: str) -> Any:
    """Return a query with the driver's mark where a value goes."""
    return query.replace("?", "%s")


def clean(text: str) -> str:
    """Return text that PostgreSQL can hold: it has no NUL either."""
    return mended(text).replace("\0", "\ufffd")


def literal(vector: np.ndarray) -> str:
    """Return a vector as pgvector reads it; 7 digits hold a float16 exactly."""
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"
