"""The SQLite database of an index: its tables, opening it, and its errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from mlxrag.errors import Damaged, MlxragError

FORMAT = "1"
WAIT = 120.0
"""Seconds to wait for another writer; a transaction holds one file's passages, so its turn is short."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    source TEXT PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL, settings TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    sha256 TEXT NOT NULL, meta TEXT NOT NULL, blocks TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE vectors (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    document INTEGER NOT NULL REFERENCES documents(number), place TEXT NOT NULL,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, text TEXT NOT NULL,
    vector INTEGER NOT NULL REFERENCES vectors(number)
);
CREATE INDEX passages_document ON passages(document);
CREATE INDEX passages_vector ON passages(vector);
CREATE TABLE removed (number INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL);
"""


def create_store(path: Path, meta: Mapping[str, str]) -> None:
    """Make an empty database that is there whole or not at all; does nothing where there is one.

    To be called by one process at a time.
    """
    if path.exists():
        return
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    try:
        db = connect(new)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            db.executemany("INSERT INTO meta VALUES (?, ?)", [*meta.items(), ("format", FORMAT)])
        finally:
            db.close()
        new.rename(path)  # another process that looks for it never finds half of it
    except sqlite3.Error as error:
        raise translate(error, path) from error


def translate(error: sqlite3.Error, path: Path) -> MlxragError:
    """Return one of our errors for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
        return MlxragError(
            f"{path}: the disk is full; free some space and run the same command: what was finished is kept"
        )
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return MlxragError(f"{path}: another process has been writing for {WAIT:.0f} seconds; wait for it to end")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return MlxragError(f"{path}: cannot be opened for writing ({error}); check who may write there")
    return Damaged(f"{path}: the index cannot be read ({error}); make it again with `mlxrag ingest --rebuild PATH...`")


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that waits for other writers and begins no transaction by itself."""
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    # With a write-ahead log, NORMAL keeps the database whole in any crash; a power cut may cost the last file.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = OFF")
    return db
