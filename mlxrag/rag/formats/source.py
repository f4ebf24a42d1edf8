"""Source code and configuration -> pieces that begin where a definition begins, with their line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw
from mlxrag.rag.formats.plain import refuse_long_lines

_DEFINITION = re.compile(
    r"(?:export\s+|default\s+|public\s+|private\s+|protected\s+|internal\s+|static\s+|abstract\s+|final\s+|async\s+|pub(?:\(\w+\))?\s+"
    r"|inline\s+|constexpr\s+|virtual\s+|template\s*<[^>]*>\s*|open\s+|data\s+|unsafe\s+)*"
    r"(?:def|class|func|fn|function|fun|struct|enum|trait|impl|interface|protocol|extension|module|namespace|object|type"
    r"|sub|record|kernel|message|service|(?i:create\s+(?:table|view|index|function)))\s+([\w:.<>$-]+)"
)
_SECTION = re.compile(r"\[+([\w.\" -]+)\]+\s*(?:[#;].*)?")


def read_source(raw: Raw) -> Parsed:
    """Read code in any language, cut before top-level definitions and after blank lines at the margin.

    Raises:
        BadInput: binary, or minified to a line no person wrote.
    """
    text, encoding = decode(raw.data)
    refuse_long_lines(text)
    return Parsed(raw.name, list(pieces(text)), {"encoding": encoding})


def pieces(text: str) -> Iterator[Piece]:
    """Yield code in pieces; a piece that defines something has its name as the spot, before the line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = 0
    for number in [*range(1, len(lines)), len(lines)]:
        at_margin = number == len(lines) or (lines[number][:1].strip() and not lines[number - 1].strip())
        if at_margin and any(line.strip() for line in lines[start:number]):
            group = lines[start:number]
            skipped = next(offset for offset, line in enumerate(group) if line.strip())
            named = next(
                (
                    found[1].rstrip(":")
                    for line in group
                    if (found := _DEFINITION.match(line) or _SECTION.fullmatch(line.strip()))
                ),
                "",
            )
            spot = f"line {start + skipped + 1}"
            yield Piece("code", "\n".join(group), spot=f"{named}, {spot}" if named else spot)
            start = number
