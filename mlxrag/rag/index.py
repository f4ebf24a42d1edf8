"""Passages -> index: open, make, list and remove.

An index is mutable, unlike other artefacts, and belongs to one encoder.  `Index` is what searching
and ingesting ask of one; `local.py` is the one that lives in the workspace.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mlxrag.errors import Mismatch, NotFound, nearest
from mlxrag.rag.local import LocalIndex
from mlxrag.rag.store import create_store
from mlxrag.settings import Encoding, Retrieval
from mlxrag.workspace import NAME, Workspace, lock

if TYPE_CHECKING:
    from mlxrag.model.encode import Encoder

Index = LocalIndex


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
        workspace: where.
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
    path = home(workspace, name)
    if rebuild and path.exists():
        with lock(workspace, f"indexes-{name}"):
            shutil.rmtree(path)
    if not (path / "store.sqlite").is_file():
        if not create or encoder is None:
            known = indexes(workspace)
            raise NotFound(
                f"there is no index {name!r} in {workspace.root}{nearest(name, known)}; "
                "make it with `mlxrag ingest PATH...`"
            )
        path.mkdir(parents=True, exist_ok=True)
        settings = (encoding or Encoding()).model_copy(update={"encoder": encoder.name})
        with lock(workspace, f"indexes-{name}"):
            create_store(
                path / "store.sqlite",
                {
                    "fingerprint": encoder.fingerprint,
                    "dimension": str(encoder.dimension),
                    "encoding": settings.model_dump_json(),
                },
            )
    index = LocalIndex(name, path, retrieval or Retrieval())
    if encoder is not None and encoder.fingerprint != index.fingerprint:
        made_with = index.encoding.encoder
        index.close()
        raise Mismatch(
            f"the index {name!r} was made with the encoder {made_with} ({index.fingerprint}), not with {encoder.name} "
            f"({encoder.fingerprint}) as it is set now; use that one, name another --index, or `mlxrag ingest --rebuild PATH...`"
        )
    return index


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
