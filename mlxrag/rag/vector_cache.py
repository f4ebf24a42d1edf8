"""Vectors of texts that were encoded before, by any index of the workspace, on disk and within a limit.

An index keeps the vectors of its own passages; this keeps them beyond that: after a rebuild, in a second index, or when
a file comes back.  Vectors are bound to the encoder's fingerprint and the hash of the text, as float16, which is how the
indexes keep them.  The least recently used go first when the limit is reached.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROW = 64  # bytes that a row takes besides its vector, about
MOST = 500  # parameters of one query

SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    encoder TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, used REAL NOT NULL, PRIMARY KEY (encoder, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS vectors_used ON vectors(used);
"""


@dataclass(slots=True)
class VectorCache:
    """A cache that is open; close it.

    Attributes:
        limit: most bytes of vectors.
        asked: texts that were looked up.
        found: of them, those that were there.
    """

    limit: int
    _db: sqlite3.Connection
    asked: int = 0
    found: int = 0

    def close(self) -> None:
        """Drop what is beyond the limit, the least recently used first, and close."""
        with suppress(sqlite3.Error), self._db:
            count, size = self._db.execute("SELECT count(*), coalesce(sum(length(value)), 0) FROM vectors").fetchone()
            over = size + ROW * count - self.limit
            if count and over > 0:
                drop = min(count, -(-over * count // (size + ROW * count)))
                self._db.execute(
                    "DELETE FROM vectors WHERE (encoder, key) IN (SELECT encoder, key FROM vectors ORDER BY used LIMIT ?)",
                    (drop,),
                )
        self._db.close()

    def get(self, encoder: str, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors `(d,)` float16 that are known, by key.

        Args:
            encoder: fingerprint of the encoder.
            keys: hashes of texts.
        """
        self.asked += len(keys)
        known: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), MOST):
            part = list(keys[start : start + MOST])
            marks = ",".join("?" * len(part))
            with suppress(sqlite3.Error), self._db:
                rows = self._db.execute(
                    f"SELECT key, value FROM vectors WHERE encoder = ? AND key IN ({marks})", [encoder, *part]
                ).fetchall()
                known |= {key: np.frombuffer(value, "<f2") for key, value in rows}
                self._db.execute(
                    f"UPDATE vectors SET used = ? WHERE encoder = ? AND key IN ({marks})", [time.time(), encoder, *part]
                )
        self.found += len(known)
        return known

    def put(self, encoder: str, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Keep vectors; where the disk is full or another process writes, they are simply not kept."""
        if not self.limit:
            return
        now = time.time()
        rows = [(encoder, key, value.astype("<f2").tobytes(), now) for key, value in vectors.items()]
        with suppress(sqlite3.Error), self._db:
            self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)


def open_vectors(folder: Path, mebibytes: int) -> VectorCache:
    """Open the cache in a folder, making it where there is none; a damaged one is begun anew.

    Args:
        folder: the workspace's `cache`.
        mebibytes: most of vectors on disk; 0 keeps none.
    """
    if not mebibytes:
        return VectorCache(0, _connect(Path(":memory:")))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vectors.sqlite"
    try:
        return VectorCache(mebibytes << 20, _connect(file))
    except sqlite3.DatabaseError:
        file.unlink(missing_ok=True)
        return VectorCache(mebibytes << 20, _connect(file))


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=5.0)
    try:
        db.executescript(SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
