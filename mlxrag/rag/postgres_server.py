"""A PostgreSQL server with pgvector: connecting, its tables and indexes, its errors as ours.

The driver is the extra `postgres` and is imported when a connection is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from mlxrag.errors import BadInput, Damaged, MlxragError

if TYPE_CHECKING:
    import psycopg

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


def create_postgres(dsn: str, name: str, meta: Mapping[str, str], *, rebuild: bool = False) -> None:
    """Make an empty index, whole or not at all; does nothing where there is one.

    Raises:
        MlxragError: the server cannot be reached, or lacks pgvector.
    """
    schema = f"mlxrag_{name}"
    db = connect(dsn, schema)
    try:
        with translated(shown(dsn)), db.transaction():
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
        with translated(shown(dsn)):
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
    with translated(shown(dsn)):
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


def shown(dsn: str) -> str:
    """Return the address without its user, password and options."""
    return re.sub(r"//[^/]*@", "//", dsn.partition("?")[0])
