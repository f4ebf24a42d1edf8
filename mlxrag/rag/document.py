"""Documents, passages and hits: text with exact spans.

Knows nothing of files, encoders or models.  The one law: `document.text[p.start:p.end] == p.text`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SURROGATE = re.compile("[\ud800-\udfff]")

BlockKind = Literal["heading", "paragraph", "list", "code", "table", "row", "cell"]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document's text that belongs together.

    Attributes:
        start: first character in the document's text.
        end: one past the last character.
        kind: what the piece is; chunkers keep code and rows whole where they fit.
        place: where a reader finds it: heading path, page, sheet and row, cell or line.
    """

    start: int
    end: int
    kind: BlockKind
    place: str


@dataclass(frozen=True, slots=True)
class Document:
    """One source as plain text, with its blocks in order and without overlap.

    Attributes:
        id: hash of `source` and `text`.
        source: name of the ingested folder and the path below it, with forward slashes.
        title: what the document calls itself, or its file name.
        text: the whole text, newlines as `\\n`.
        sha256: hash of the bytes it was read from.
        blocks: pieces of the text, in order.
        meta: more that was known, such as `format`, `language` or `pages`.
    """

    id: str
    source: str
    title: str
    text: str
    sha256: str
    blocks: tuple[Block, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """A span of a document, short enough for the encoder.

    Attributes:
        id: hash of the document's id and the span.
        document_id: the document it is from.
        source: the document's source.
        title: the document's title.
        place: heading path, page, row, cell or line; empty where there is none.
        start: first character in the document's text.
        end: one past the last character.
        text: `document.text[start:end]`.
    """

    id: str
    document_id: str
    source: str
    title: str
    place: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a retriever found.

    Attributes:
        passage: what was found.
        score: higher is better; comparable only within one list.
        by: name of the retriever.
        rank: 1 for the best.
    """

    passage: Passage
    score: float
    by: str
    rank: int


def mended(text: str) -> str:
    """Return text that UTF-8 can hold: lone surrogates become U+FFFD, one for one, so that spans stay."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def document_id(source: str, text: str) -> str:
    """Return 16 hex digits that stand for a document's source and text."""
    return hashlib.sha256(f"{source}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def passage_id(document: str, start: int, end: int) -> str:
    """Return 16 hex digits that stand for a span of the document with this id."""
    return hashlib.sha256(f"{document}\0{start}\0{end}".encode()).hexdigest()[:16]
