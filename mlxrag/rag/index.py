"""Passages -> index: open, make, list and remove.

An index is mutable, unlike other artefacts, and belongs to one encoder.  It lives in a directory of
the workspace (`local.py`) or, for a team, in PostgreSQL (`postgres.py`); both promise the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mlxrag.errors import BadInput, Mismatch, NotFound, nearest
from mlxrag.rag.local import LocalIndex
from mlxrag.rag.postgres import PostgresIndex
from mlxrag.rag.postgres_server import create_postgres, postgres_indexes
from mlxrag.rag.sqlite import create_store
from mlxrag.settings import Encoding, Retrieval
from mlxrag.workspace import NAME, Workspace, lock

if TYPE_CHECKING:
    from mlxrag.model.encode import Encoder

Index = LocalIndex | PostgresIndex


def in_postgres(store: str) -> bool:
    """Return whether a store is the address of a PostgreSQL server.

    Raises:
        BadInput: it is neither that nor empty.
    """
    if store and not store.startswith(("postgresql://", "postgres://")):
        raise BadInput(f"the store {store!r} is not known; leave it empty, or write postgresql://USER@HOST/DATABASE")
    return bool(store)


def open_index(
    workspace: Workspace,
    name: str = "documents",
    encoder: Encoder | None = None,
    *,
    encoding: Encoding | None = None,
    retrieval: Retrieval | None = None,
    create: bool = False,
    rebuild: bool = False,
) -> Index:
    """Open an index.

    Args:
        workspace: where, unless `retrieval.store` is elsewhere.
        name: what it is called.
        encoder: what it is searched or filled with, to be checked against what it was made with.
        encoding: the settings of `encoder`, recorded in a new index.
        retrieval: how it is searched; the defaults unless given.
        create: make it where there is none; needs `encoder`.
        rebuild: throw away what is there; needs `create`.

    Raises:
        NotFound: there is no such index, and `create` is false; says the nearest.
        Mismatch: it was made with another encoder.
        Damaged: its files cannot be read.
    """
    retrieval = retrieval or Retrieval()
    path, shared = home(workspace, name), in_postgres(retrieval.store)
    known = postgres_indexes(retrieval.store) if shared else indexes(workspace)
    if name not in known or rebuild:
        if not create or encoder is None:
            place = "the database" if shared else workspace.root
            raise NotFound(
                f"there is no index {name!r} in {place}{nearest(name, known)}; make it with `mlxrag ingest PATH...`"
            )
        settings = (encoding or Encoding()).model_copy(update={"encoder": encoder.name})
        meta = {
            "fingerprint": encoder.fingerprint,
            "dimension": str(encoder.dimension),
            "encoding": settings.model_dump_json(),
        }
        if shared:
            create_postgres(retrieval.store, name, meta, rebuild=rebuild)
        else:
            with lock(workspace, f"indexes-{name}"):
                if rebuild and path.exists():
                    shutil.rmtree(path)
                path.mkdir(parents=True, exist_ok=True)
                create_store(path / "store.sqlite", meta)
    index = PostgresIndex(retrieval.store, name, retrieval) if shared else LocalIndex(name, path, retrieval)
    if encoder is not None and encoder.fingerprint != index.fingerprint:
        index.close()
        raise Mismatch(wrong_encoder(index, encoder))
    return index


def wrong_encoder(index: Index, encoder: Encoder) -> str:
    """Return the sentence for an encoder that is not the one the index was made with."""
    made_with = index.encoding.encoder
    if made_with == encoder.name:
        told = f"with other files or settings of the encoder {made_with}, or by another version of mlxrag"
    else:
        told = f"with the encoder {made_with}, not with {encoder.name}"
    return (
        f"the index {index.name!r} was made {told} ({index.fingerprint}, now {encoder.fingerprint}); use that one, "
        "name another --index, or make it again with `mlxrag ingest --rebuild PATH...`"
    )


def indexes(workspace: Workspace) -> list[str]:
    """Return the names of the indexes in a workspace, sorted."""
    return sorted(path.parent.name for path in (workspace.root / "indexes").glob("*/store.sqlite"))


def remove_index(workspace: Workspace, name: str) -> None:
    """Remove an index with everything in it.

    Raises:
        NotFound: there is no such index.
    """
    if name not in indexes(workspace):
        raise NotFound(f"there is no index {name!r} in {workspace.root}{nearest(name, indexes(workspace))}")
    with lock(workspace, f"indexes-{name}"):
        shutil.rmtree(home(workspace, name))


def home(workspace: Workspace, name: str) -> Path:
    """Return the directory of an index.

    Raises:
        NotFound: the name cannot be that of an index.
    """
    if not NAME.fullmatch(name):
        raise NotFound(f"{name!r} is no name for an index: use letters, digits, '.', '_' and '-'")
    return workspace.root / "indexes" / name
