"""What killed processes left, taken away by itself: once a day, after a command that made something.

Only what no living process can want: drafts and temporary files that carry the number of a process that is gone, all a
day old at the least, and downloads cut short that nobody has gone on with for a week.  Caches keep to their own limits as
they are written.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from mlxrag.workspace import KINDS, MARKER, Workspace, alive

DAY = 86_400.0
WEEK = 7 * DAY
STAMP = "tidied"
OF_A_PROCESS = re.compile(r"\.draft-(\d+)-[0-9a-f]+|\..+\.(\d+)(?:\.safetensors)?")
"""Names of drafts, of files being written, and of keys and values being written."""


def tidy_daily(workspace: Workspace, downloads: Path | None = None) -> list[Path]:
    """Take away what was left, at most once a day; returns what went.

    Args:
        workspace: where to look.
        downloads: the hub's cache; its usual place unless given.

    Cost: 0.1 ms where it was done within a day; else a walk over the workspace.
    """
    stamp = workspace.root / "cache" / STAMP
    now = time.time()
    if stamp.is_file() and now - stamp.stat().st_mtime < DAY:
        return []
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    if downloads is None:
        from huggingface_hub import constants

        downloads = Path(constants.HF_HUB_CACHE)
    return [*_take(_left(workspace.root, now)), *_parts(downloads, now)]


def _left(root: Path, now: float) -> Iterator[Path]:
    """Find drafts and temporary files of processes that are gone.

    In mlxrag's own folders only: a workspace may be a folder that holds a person's other things.
    """
    places: list[tuple[str, list[str], list[str]]] = [
        (str(root), [], [path.name for path in root.glob(f".{MARKER}.*")])
    ]
    for folder, folders, files in chain(places, *(os.walk(root / name) for name in (*KINDS, "cache"))):
        for name in (*folders, *files):
            found = OF_A_PROCESS.fullmatch(name)
            path = Path(folder, name)
            with suppress(OSError):
                if found and not alive(int(found[1] or found[2])) and now - path.lstat().st_mtime > DAY:
                    yield path
        folders[:] = [name for name in folders if not name.startswith(".draft-")]


def _take(found: Iterator[Path]) -> Iterator[Path]:
    for path in found:
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            yield path


def _parts(downloads: Path, now: float) -> Iterator[Path]:
    """Take away our halves of downloads; one that a process is at is locked."""
    for path in downloads.glob("models--*/blobs/*.part"):
        with suppress(OSError):
            if now - path.stat().st_mtime < WEEK:
                continue
            with path.open("ab") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            yield path
