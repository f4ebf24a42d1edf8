"""A file of JSON lines that only grows, so that a job killed at any moment can go on.

Knows nothing of what the rows mean.  Rules: a row is one line and one `write`; a torn last line (the process
died inside it) is cut off when the file is opened again; `fsync` after every `keep` rows and at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mlxrag.errors import Damaged


class Journal:
    """An open journal; a context manager.

    Args:
        path: the file; made when it is not there.
        keep: rows between two fsyncs; what a power cut may cost (a killed process loses nothing).
    """

    def __init__(self, path: Path, keep: int = 32) -> None:
        self.path = path
        self.keep = keep
        self._since = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        _mend(path)
        self._file = path.open("ab", buffering=0)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; NaN is refused with ValueError, as JSON has none."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        self._file.write(line)
        self._since += 1
        if self._since >= self.keep:
            self.sync()

    def sync(self) -> None:
        """Put what was added on the disk."""
        os.fsync(self._file.fileno())
        self._since = 0

    def close(self) -> None:
        """Put everything on the disk and let go of the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal in order; nothing where there is no file; a torn last line is left out.

    Raises:
        Damaged: a line before the last is not JSON.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise Damaged(f"{path}:{number}: is not a row; remove {path.parent} and start again") from error


def _mend(path: Path) -> None:
    """Cut a torn last line off."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        size = file.seek(0, os.SEEK_END)
        # Lines are a few kilobytes; look back in growing steps for the last newline.
        step = 1 << 16
        while True:
            start = max(0, size - step)
            file.seek(start)
            at = file.read(size - start).rfind(b"\n")
            if at >= 0 or start == 0:
                file.truncate(start + at + 1 if at >= 0 else 0)
                return
            step *= 2
