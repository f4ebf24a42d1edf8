"""What a format reader takes and gives, and how pieces become one text with exact blocks.

Strategy: a reader only says, in order, "this is a heading of level 2", "this is a row, number 7".  Cleaning the
characters, joining the pieces and counting the spans happen here, once, so that no reader can get a span wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from mlxrag.errors import BadInput
from mlxrag.rag.document import Block, BlockKind

LONGEST_LINE = 200_000
"""Characters; what has longer lines is data, not text that a person wrote."""
LONGEST_TEXT = 64_000_000
"""Characters one document may hold."""

_CONTROLS = dict.fromkeys(chain(range(9), (11,), range(14, 32), range(127, 160)))
_UNSEEN = dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF, 0xFFFE, 0xFFFF))
_SPACES = dict.fromkeys((0xA0, 0x2007, 0x202F), " ")
_LINE_ENDS = {0x0C: "\n", 0x85: "\n", 0x2028: "\n", 0x2029: "\n\n"}
_LIGATURES = dict(zip(range(0xFB00, 0xFB07), ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True))
# Bullets of the symbol fonts that office programs use.
_SYMBOLS = {0xF0B7: "•", 0xF0A7: "▪", 0xF0D8: "▸", 0xF0FC: "✓"}
_TABLE = {**_SYMBOLS, **_CONTROLS, **_UNSEEN, **_SPACES, **_LINE_ENDS, **_LIGATURES}
_SURROGATES = re.compile("[\ud800-\udfff]")
_LINE_TAILS = re.compile(r"[ \t]+(?=\n|$)")
_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True, slots=True)
class Raw:
    """The bytes of a file.

    Attributes:
        name: file name; readers take the ending from it, and the title where there is no better one.
        data: its bytes.
        password: for encrypted formats; empty where none was given.
    """

    name: str
    data: bytes
    password: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text that belongs together.

    Attributes:
        kind: what it is.
        text: its text, not yet cleaned.
        level: depth of a heading, 1 is the outermost; 0 for all else.
        spot: where it is beside the heading path: "page 3", "row 7", "line 12".
    """

    kind: BlockKind
    text: str
    level: int = 0
    spot: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reader found in a file.

    Attributes:
        title: what the document calls itself; empty where it does not.
        pieces: its text, in order.
        meta: more that was known, such as `encoding`, `author` or `pages`.
        note: why there is no text, where there is none.
    """

    title: str
    pieces: Iterable[Piece]
    meta: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def clean(text: str) -> str:
    """Return `text` in composed characters, with `\\n` ends, and without what nobody sees.

    Keeps tabs and indentation, and the joiners that Persian, Indic scripts and emoji need.

    Example:
        >>> clean("ﬁne \\r\\ntext\\x00")
        'fine\\ntext'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_TABLE)
    text = _SURROGATES.sub("\ufffd", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _BLANK_LINES.sub("\n\n\n", _LINE_TAILS.sub("", text)).strip("\n")


def assemble(parsed: Parsed) -> tuple[str, tuple[Block, ...]]:
    """Join pieces to one text and say where each one lies.

    Pieces are a blank line apart, rows and cells of a table one line end.  The place of a block is the path of headings
    above it, without the title, then its spot.

    Returns:
        text: the whole text.
        blocks: one for each piece that holds more than blanks, in order and without overlap.
    """
    parts: list[str] = []
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    length = 0
    before: BlockKind | None = None
    title = one_line(parsed.title)
    for piece in parsed.pieces:
        text = clean(piece.text)
        if piece.kind != "code":
            text = text.strip()
        if not text.strip():
            continue
        if piece.level:
            text = one_line(text)
            path = [(level, name) for level, name in path if level < piece.level]
            path.append((piece.level, shorten(text, 80)))
        if parts:
            gap = "\n" if before == piece.kind == "row" else "\n\n"
            parts.append(gap)
            length += len(gap)
        names = [name for _, name in path]
        if names and names[0] == shorten(title, 80):
            names = names[1:]
        trail = " > ".join(names)
        place = f"{trail}, {piece.spot}" if trail and piece.spot else trail or piece.spot
        blocks.append(Block(length, length + len(text), piece.kind, place))
        parts.append(text)
        length += len(text)
        before = piece.kind
        if length > LONGEST_TEXT:
            raise BadInput(f"holds more than {LONGEST_TEXT:,} characters of text: split it")
    return "".join(parts), tuple(blocks)


def one_line(text: str) -> str:
    """Return `text` with every run of blanks as one space."""
    return " ".join(text.split())


def shorten(text: str, limit: int) -> str:
    """Return `text`, cut after a word with "…" where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = text[: limit - 1]
    return (head[: head.rfind(" ")] if " " in head[limit // 2 :] else head).rstrip(" ,;:") + "…"
