"""The user's own texts for calibration and measuring: files that are named, or the passages of an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlxrag.settings import Settings
from mlxrag.workspace import Workspace


def own_texts(paths: Sequence[Path], index: str | None, workspace: Workspace, settings: Settings) -> list[str]:
    """Return texts of the files in `paths`, or else of the index; none where there is neither.

    Args:
        paths: files and folders, read like any document.
        index: name of an index; the settings' own is used if it exists and neither is given.
        workspace: where the index is.
        settings: how files are read.

    Raises:
        NotFound: an index that was named does not exist.
        BadInput: not one of the files has text.
    """
    from mlxrag.errors import BadInput, NotFound
    from mlxrag.rag.document import Document
    from mlxrag.rag.find import find_files
    from mlxrag.rag.index import open_index
    from mlxrag.rag.read import read_files

    if paths:
        found = [
            d.text for d in read_files(find_files(paths, settings.reading), settings.reading) if isinstance(d, Document)
        ]
        if not found:
            raise BadInput("none of the files given with --calibration has text that can be read")
        return found
    try:
        with open_index(workspace, index or settings.retrieval.index) as opened:
            return [passage.text for passage in opened.all_passages()]
    except NotFound:
        if index:
            raise
        return []
