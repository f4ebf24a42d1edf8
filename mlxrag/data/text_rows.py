"""Rows of text files: compressed or not, one JSON object a line or one list; a line that is no object is a bad row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxrag.data.example import BadRow
from mlxrag.errors import BadInput


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """Yield (place, row): one object a line, or the items of one list; a line that is no object is a bad row."""
    with open_text(path) as file:
        head = file.read(1)
        file.seek(0)
        if head == "[":
            try:
                items = json.load(file)
            except ValueError as error:
                raise BadInput(f"{path}: is not JSON: {error}") from error
            for number, item in enumerate(items):
                place = f"{path.name}[{number}]"
                yield (
                    place,
                    item if isinstance(item, dict) else BadRow(place, f"a {type(item).__name__}, not an object"),
                )
            return
        for number, line in enumerate(file, 1):
            place = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield place, BadRow(place, f"not JSON: {error}")
                continue
            yield place, row if isinstance(row, dict) else BadRow(place, f"a {type(row).__name__}, not an object")


def open_text(path: Path, newline: str | None = None) -> Any:
    """Open a text, compressed or not; bytes that are not UTF-8 stay visible as surrogates, which `columns.whole` refuses."""
    try:
        if path.suffix == ".gz":
            import gzip

            return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
