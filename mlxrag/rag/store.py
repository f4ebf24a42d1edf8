"""The truth of an index: files, documents, passages and vectors in one SQLite database.

Rules:
- One file of the user's is one transaction, so a process may die at any moment and nothing is half there.
- Write-ahead logging lets any number of processes read while one writes; writers take turns.
- Rows of passages are numbered upwards and never reused, and every removed row is noted, so that
  whatever is derived from this database (see `local.py`) can tell what it has missed.
- A vector is kept under the hash of the text it was made from: equal text is encoded once, whatever
  file it stands in and whatever that file is called.

Knows nothing of searching.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlxrag.rag import tables
from mlxrag.rag.document import Document, Passage, mended
from mlxrag.rag.sqlite import connect, translate
from mlxrag.rag.tables import Accepts, FileRecord

MANY = 500
"""Values in one SQL statement; older SQLite allows 999."""


class Store:
    """An open database; close it when done.

    Attributes:
        path: the database file.
        meta: facts of the index: format, encoder, fingerprint, dimension.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self._db = connection
        self.meta: Mapping[str, str] = dict(connection.execute("SELECT key, value FROM meta"))

    def close(self) -> None:
        """Let the database go."""
        self._db.close()

    # --- writing -------------------------------------------------------------------------------

    def put(
        self,
        record: FileRecord,
        document: Document | None,
        passages: Sequence[Passage] = (),
        keys: Sequence[bytes] = (),
        vectors: np.ndarray | None = None,
    ) -> None:
        """Replace everything that is known of a file, in one transaction.

        Args:
            record: what to remember of the file.
            document: its text, or None where it has none.
            passages: its passages, in order.
            keys: hash of each passage's encoded text.
            vectors: `(len(passages), d)`, rows of length 1; kept as float16.
        """
        with self._write() as db:
            self._forget(db, record.source)
            db.execute(tables.REMEMBER, tables.file_row(record, mended))
            if document is None:
                return
            number = db.execute(tables.ADD_DOCUMENT, tables.document_row(document, mended)).lastrowid
            if not passages:
                return
            assert vectors is not None
            numbers = self._keep(db, keys, vectors)
            db.executemany(
                'INSERT INTO passages (id, document, place, start, "end", text, vector) VALUES (?, ?, ?, ?, ?, ?, ?)',
                [
                    (p.id, number, mended(p.place), p.start, p.end, mended(p.text), numbers[key])
                    for p, key in zip(passages, keys, strict=True)
                ],
            )

    def touch(self, record: FileRecord) -> None:
        """Remember a new path or time of a file whose bytes are unchanged."""
        with self._write() as db:
            db.execute(tables.TOUCH, tables.touched_row(record))

    def forget(self, sources: Sequence[str]) -> None:
        """Remove files with all that is known of them."""
        with self._write() as db:
            for source in sources:
                self._forget(db, source)

    def keep(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors before their file is finished, so that work on a long file is not lost."""
        with self._write() as db:
            self._keep(db, keys, vectors)

    def tidy(self) -> None:
        """Drop vectors that no passage has, and give back disk space when much is free.

        Safe beside other writers: a file's transaction brings its own vectors along.
        """
        with self._write() as db:
            db.execute("DELETE FROM vectors WHERE number NOT IN (SELECT vector FROM passages)")
        free = self._one("PRAGMA freelist_count")
        if free > 1000 and free * 4 > self._one("PRAGMA page_count"):
            with self._translated():
                self._db.execute("VACUUM")

    def _forget(self, db: sqlite3.Connection, source: str) -> None:
        found = db.execute(tables.FIND_DOCUMENT, (source,)).fetchone()
        if found:
            db.execute("INSERT INTO removed (row) SELECT row FROM passages WHERE document = ? ORDER BY row", found)
            db.execute("DELETE FROM passages WHERE document = ?", found)
            db.execute(tables.DROP_DOCUMENT, found)
        db.execute(tables.DROP_FILE, (source,))

    def _keep(self, db: sqlite3.Connection, keys: Sequence[bytes], vectors: np.ndarray) -> dict[bytes, int]:
        rows = zip(keys, vectors.astype("<f2"), strict=True)
        db.executemany("INSERT OR IGNORE INTO vectors (key, value) VALUES (?, ?)", [(k, v.tobytes()) for k, v in rows])
        return dict(self._in(db, "SELECT key, number FROM vectors WHERE key IN ({})", keys))

    # --- reading -------------------------------------------------------------------------------

    def file(self, source: str) -> FileRecord | None:
        """Return what is known of a file."""
        found = self._all(tables.FILE, (source,))
        return FileRecord(*found[0]) if found else None

    def files(self) -> list[FileRecord]:
        """Return what is known of every file, by source."""
        return [FileRecord(*row) for row in self._all(tables.FILES)]

    def cached(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors `(d,)` float16 that are kept for these hashes."""
        with self._translated():
            rows = list(self._in(self._db, "SELECT key, value FROM vectors WHERE key IN ({})", keys))
        return {key: np.frombuffer(value, "<f2") for key, value in rows}

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        return {
            "documents": self._one("SELECT count(*) FROM documents"),
            "passages": self._one("SELECT count(*) FROM passages"),
        }

    def mark(self) -> tuple[int, int]:
        """Return the highest row ever given and the number of removals: equal marks mean equal content."""
        last = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'passages'")
        gone = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'removed'")
        return (last[0][0] if last else 0), (gone[0][0] if gone else 0)

    def removed(self, after: int) -> np.ndarray:
        """Return the rows `(m,)` int64 whose removal has a higher number than `after`."""
        found = self._all("SELECT row FROM removed WHERE number > ? ORDER BY number", (after,))
        return np.array([row for (row,) in found], np.int64)

    def rows_with_vectors(self, after: int, size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows above `after` `(n,)` int64 and their vectors `(n, d)` float16, in order of rows, `size` at a time."""
        while True:
            found = self._all(
                "SELECT p.row, v.value FROM passages p JOIN vectors v ON v.number = p.vector "
                "WHERE p.row > ? ORDER BY p.row LIMIT ?",
                (after, size),
            )
            if not found:
                return
            after = found[-1][0]
            yield (
                np.array([r for r, _ in found], np.int64),
                np.frombuffer(b"".join(v for _, v in found), "<f2").reshape(len(found), -1),
            )

    def passages_after(self, row: int, size: int = 256) -> Iterator[tuple[int, Passage, str]]:
        """Yield rows above `row` with their passage and its document's language, in order, `size` at a time."""
        query = tables.PASSAGE.replace("SELECT", "SELECT json_extract(d.meta, '$.language'),")
        while found := self._all(f"{query} WHERE p.row > ? ORDER BY p.row LIMIT ?", (row, size)):
            row = found[-1][1]
            yield from ((found_row, Passage(*rest), code or "") for code, found_row, *rest in found)

    def languages(self) -> list[str]:
        """Return the languages of the documents, the commonest first."""
        query = "SELECT json_extract(meta, '$.language') AS code, count(*) AS n FROM documents GROUP BY code ORDER BY n DESC"
        return [code or "" for code, _ in self._all(query)]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read as of one moment, whatever others write meanwhile."""
        with self._translated():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    def passages_at(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the passages of these rows; one that is gone is left out."""
        with self._translated():
            found = self._in(self._db, f"{tables.PASSAGE} WHERE p.row IN ({{}})", rows)
            return {row[0]: Passage(*row[1:]) for row in found}

    def passages_named(self, ids: Sequence[str]) -> dict[str, Passage]:
        """Return the passages with these ids; one that is gone is left out."""
        with self._translated():
            found = self._in(self._db, f"{tables.PASSAGE} WHERE p.id IN ({{}})", ids)
            return {row[1]: Passage(*row[1:]) for row in found}

    def vectors_at(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the vectors `(d,)` float32 of these rows."""
        query = "SELECT p.row, v.value FROM passages p JOIN vectors v ON v.number = p.vector WHERE p.row IN ({})"
        with self._translated():
            return {row: np.frombuffer(v, "<f2").astype(np.float32) for row, v in self._in(self._db, query, rows)}

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the order they were indexed."""
        number = 0
        while found := self._all(tables.DOCUMENTS, (number,)):
            number = found[-1][0]
            yield from map(tables.document_of, found)

    def rows_where(self, accepts: Accepts) -> np.ndarray:
        """Return the rows `(m,)` int64, ascending, of documents whose facts are accepted."""
        kept = tables.accepted(self._all(tables.FACTS), accepts)
        with self._translated():
            rows = self._in(self._db, "SELECT row FROM passages WHERE document IN ({})", kept)
            return np.sort(np.array([row for (row,) in rows], np.int64))

    def faults(self) -> list[str]:
        """Return what SQLite finds wrong with the file; reads all of it."""
        try:
            found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check(5)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    # --- inside --------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                # A full disk may have ended the transaction already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._translated():
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str) -> int:
        return int(self._all(query)[0][0])

    @staticmethod
    def _in(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> Iterator[Any]:
        for start in range(0, len(values), MANY):
            part = values[start : start + MANY]
            yield from db.execute(query.format(",".join("?" * len(part))), list(part))


def open_store(path: Path) -> Store:
    """Open a database that exists.

    Raises:
        Damaged: it is no database, or of another format.
    """
    try:
        return Store(path, connect(path))
    except sqlite3.Error as error:
        raise translate(error, path) from error
