"""What both stores write and read alike: the record of a file, queries that are the same SQL, rows back to values.

The queries have `?` where a value goes, as SQLite wants it; PostgreSQL's driver wants `%s`.
Knows of no connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

from mlxrag.rag.document import Block, Document

State = Literal["indexed", "empty", "refused"]
Accepts = Callable[[Mapping[str, str]], bool]
"""Decides by the facts of a document: `source`, `title` and what else is known of it, such as `format`."""

REMEMBER = "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
TOUCH = "UPDATE files SET path = ?, size = ?, mtime_ns = ? WHERE source = ?"
DROP_FILE = "DELETE FROM files WHERE source = ?"
FILE = "SELECT * FROM files WHERE source = ?"
FILES = "SELECT * FROM files ORDER BY source"
ADD_DOCUMENT = "INSERT INTO documents (id, source, title, sha256, meta, blocks, text) VALUES (?, ?, ?, ?, ?, ?, ?)"
FIND_DOCUMENT = "SELECT number FROM documents WHERE source = ?"
DROP_DOCUMENT = "DELETE FROM documents WHERE number = ?"
DOCUMENTS = "SELECT * FROM documents WHERE number > ? ORDER BY number LIMIT 16"
FACTS = "SELECT number, source, title, meta FROM documents"
PASSAGE = """
SELECT p.row, p.id, d.id, d.source, d.title, p.place, p.start, p."end", p.text
FROM passages p JOIN documents d ON d.number = p.document
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What was known of a file when it was last ingested.

    Attributes:
        source: the name of the ingested folder and the path below it.
        path: where it lay, absolute.
        size: bytes.
        mtime_ns: time of change, nanoseconds.
        sha256: hash of its bytes.
        settings: hash of the settings that it was read, cut and encoded with.
        state: what became of it.
        reason: why it was refused.
    """

    source: str
    path: str
    size: int
    mtime_ns: int
    sha256: str
    settings: str
    state: State
    reason: str = ""


def file_row(record: FileRecord, clean: Callable[[str], str]) -> tuple[Any, ...]:
    """Return the values of `REMEMBER`; `clean` makes text what the database can hold."""
    return (*astuple(record)[:-1], clean(record.reason))


def touched_row(record: FileRecord) -> tuple[Any, ...]:
    """Return the values of `TOUCH`."""
    return record.path, record.size, record.mtime_ns, record.source


def document_row(document: Document, clean: Callable[[str], str]) -> tuple[Any, ...]:
    """Return the values of `ADD_DOCUMENT`; `clean` makes text what the database can hold."""
    meta = {key: clean(str(value)) for key, value in document.meta.items()}
    blocks = [(block.start, block.end, block.kind, clean(block.place)) for block in document.blocks]
    return (
        document.id, document.source, clean(document.title), document.sha256, json.dumps(meta), json.dumps(blocks),
        clean(document.text),
    )  # fmt: skip


def document_of(row: tuple[Any, ...]) -> Document:
    """Return the document of a row of `DOCUMENTS`."""
    _, id_, source, title, sha256, meta, blocks, text = row
    return Document(id_, source, title, text, sha256, tuple(Block(*block) for block in _json(blocks)), _json(meta))


def accepted(rows: Iterable[tuple[Any, ...]], accepts: Accepts) -> list[int]:
    """Return the numbers of the documents, rows of `FACTS`, whose facts are accepted."""
    return [n for n, source, title, meta in rows if accepts({**_json(meta), "source": source, "title": title})]


def _json(value: Any) -> Any:
    """Return what a column of JSON holds; PostgreSQL's driver has parsed it already."""
    return json.loads(value) if isinstance(value, str) else value
