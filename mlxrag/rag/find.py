"""Paths the user gave -> files to read, each with the name it keeps in the index.

A source is the name of the given folder and the path below it ("handbook/leave.md"), so that an index can move with
its documents.  Files come in the order of their sources.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

from mlxrag.errors import NotFound, nearest

SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__", "__MACOSX", "site-packages", "venv"))
_SKIPPED_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r"))


class Choice(Protocol):
    """Which files are wanted; `settings.Reading` is one."""

    @property
    def include(self) -> tuple[str, ...]:
        """Globs of which a path must match one, if any are given."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Globs of which a path may match none."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it is.
        source: what it is called in the index, with forward slashes.
        fault: why it cannot be read, where that is known already; empty otherwise.
    """

    path: Path
    source: str
    fault: str = ""


def find_files(paths: Iterable[str | Path], reading: Choice) -> Iterator[SourceFile]:
    """Yield the files below the given paths, sorted by source.

    Hidden files and folders, dependencies (node_modules, virtual environments) and files of the file manager are
    passed over; a file given by its own path is always wanted.  Links are followed, but not in circles.

    Raises:
        NotFound: a path does not exist; all such paths at once, before anything is yielded.
    """
    roots = source_roots(paths)
    return _walk_all(roots, reading)


def source_roots(paths: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return each given path with the source it begins with, sorted; paths inside another one are left out.

    Two folders of the same name are told apart by the folders above them.

    Raises:
        NotFound: a path does not exist; names the nearest that does.
    """
    given = [Path(path).expanduser() for path in paths]
    missing = [path for path in given if not os.path.lexists(path)]
    if missing:
        raise NotFound("; ".join(f"{path}: no such file or folder{_near(path)}" for path in missing))
    found = sorted({Path(os.path.normpath(path.absolute())) for path in given})
    found = [path for path in found if not any(above in path.parents for above in found)]
    names = {path: 1 if path.is_dir() else 2 for path in found}
    while True:
        sources = {path: "/".join(path.parts[-depth:]).strip("/") for path, depth in names.items()}
        twice = {path for path in found for other in found if path != other and sources[path] == sources[other]}
        if not twice:
            return sorted(((path, sources[path] or "root") for path in found), key=lambda root: root[1])
        names = {path: depth + (path in twice) for path, depth in names.items()}


def wanted(relative: str, reading: Choice) -> bool:
    """Return whether the globs let a path below its root through; they match the path, its name or a folder above it."""
    path = PurePosixPath(relative)
    names = [
        relative,
        path.name,
        *(str(above) for above in path.parents if above.name),
        *(a.name for a in path.parents if a.name),
    ]

    def matches(globs: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, glob.rstrip("/")) for name in names for glob in globs)

    return (not reading.include or matches(reading.include)) and not matches(reading.exclude)


def _walk_all(roots: list[tuple[Path, str]], reading: Choice) -> Iterator[SourceFile]:
    for path, source in roots:
        if path.is_dir():
            yield from _walk(path, source, "", (os.path.realpath(path),), reading)
        else:
            yield SourceFile(path, source, _fault(path))


def _walk(folder: Path, source: str, below: str, above: tuple[str, ...], reading: Choice) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as entries:
            listed = [(entry.name + "/" * _is_folder(entry), entry) for entry in entries]
    except OSError as error:
        yield SourceFile(folder, source, f"cannot be listed: {(error.strerror or 'unreadable').lower()}")
        return
    for name, entry in sorted(listed, key=lambda item: item[0]):
        bare = name.rstrip("/")
        # Office programs lock a file by a neighbour named "~$...".
        if bare.startswith((".", "~$")) or bare.lower() in _SKIPPED_FILES:
            continue
        path, inner, relative = folder / bare, f"{source}/{_shown(bare)}", f"{below}{bare}"
        if not name.endswith("/"):
            if wanted(relative, reading):
                yield SourceFile(path, inner, _fault(path))
            continue
        if bare in SKIPPED_FOLDERS or (path / "pyvenv.cfg").exists():
            continue
        real = os.path.realpath(path)
        if entry.is_symlink() and (real in above or any(folder.startswith(real + os.sep) for folder in above)):
            yield SourceFile(path, inner, "a link to a folder it lies in")
            continue
        yield from _walk(path, inner, f"{relative}/", (*above, real), reading)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _fault(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist"
    except OSError as error:
        return "a link that leads to itself" if error.errno == errno.ELOOP else str(error.strerror).lower()
    return "" if stat.S_ISREG(mode) else "not a regular file (a pipe, socket or device)"


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8")


def _near(path: Path) -> str:
    try:
        known = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, known)
