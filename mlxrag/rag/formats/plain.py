"""Plain text -> paragraphs with line numbers, and what looks like a heading.

A false heading costs nothing but a wrong place, so the rules are few: underlined lines, chapters, numbered or capital
lines, and short lines alone between blank ones that end like a title.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxrag.errors import BadInput
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import LONGEST_LINE, Parsed, Piece, Raw

_UNDERLINE = re.compile(r"([=~*#^\"'+-])\1{2,}\s*")
_MARKED = re.compile(r"(={1,6}|\*{1,6}) (\S.*)")
_ATTRIBUTE = re.compile(r":[\w!-]+:|//")
_RULE = re.compile(r"[\s*=_~#+.·•-]*")
_CHAPTER = re.compile(
    r"(chapter|part|book|section|appendix|act|scene|kapitel|chapitre|capítulo|第.{1,5}[章節节回])\b", re.I
)
_NUMBERED = re.compile(r"(\d+(?:\.\d+)*)[.)]?\s+\S")
_DATA = re.compile(r"[!-~]{10000}")
_TITLE = re.compile(r"^\s*title:\s*(\S.*)$", re.I | re.M)
_ENDS = ".,;:!?\"'”’»)—-…。，；：！？…"


def read_plain(raw: Raw) -> Parsed:
    """Read plain text in any encoding.

    Raises:
        BadInput: binary, or a line no person wrote.
    """
    text, encoding = decode(raw.data)
    refuse_long_lines(text)
    marked = raw.name.lower().endswith((".adoc", ".asciidoc", ".asc"))
    found = list(paragraphs(text, marked))
    named = _TITLE.search(text[:3000])
    first = next(iter(found), None)
    title = named[1].strip() if named else first.text.strip() if first and first.level else ""
    return Parsed(title, found, {"encoding": encoding})


def refuse_long_lines(text: str) -> None:
    """Refuse text with a line that is data rather than text.

    Raises:
        BadInput: a line has more than LONGEST_LINE characters, or a word has more than a few thousand.
    """
    word = _DATA.search(text)
    if word:
        raise BadInput(
            f"line {text.count(chr(10), 0, word.start()) + 1} has a word of over 10,000 letters: data, not text"
        )
    if len(text) <= LONGEST_LINE:
        return
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            raise BadInput(f"line {number} has {len(line):,} characters: data, not text")


def paragraphs(text: str, marked: bool = False) -> Iterator[Piece]:
    """Yield paragraphs and headings with the number of their first line.

    Args:
        text: any text.
        marked: whether lines such as "== Chapter" are headings, as in AsciiDoc.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").split("\n")
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        end = start
        while end < len(lines) and lines[end].strip():
            end += 1
        group = lines[start:end]
        yield from _group(group, start + 1, end < len(lines), marked)
        start = end


def _group(group: list[str], number: int, followed: bool, marked: bool) -> Iterator[Piece]:
    lines = [(line, at) for at, line in enumerate(group, number) if not (marked and _ATTRIBUTE.match(line))]
    if all(_RULE.fullmatch(line) for line, _ in lines):
        return
    first, at = lines[0]
    under = lines[1][0].strip() if len(lines) > 1 else ""
    mark = _MARKED.fullmatch(first.strip()) if marked else None
    if mark:
        yield Piece("heading", mark[2], len(mark[1]), f"line {at}")
        lines = lines[1:]
    elif _UNDERLINE.fullmatch(under) and len(first.strip()) <= 100 and len(under) * 2 >= len(first.strip()):
        yield Piece("heading", first, 1 if under[0] in "=#*" else 2, f"line {at}")
        lines = lines[2:]
    elif len(group) == 1 and followed and (level := _level(first.strip())):
        yield Piece("heading", first, level, f"line {at}")
        lines = []
    if lines:
        yield Piece("paragraph", "\n".join(line for line, _ in lines), spot=f"line {lines[0][1]}")


def _level(line: str) -> int:
    """Return the level of heading that a line alone looks like, 0 if like none."""
    if len(line) > 72 or not any(character.isalpha() for character in line):
        return 0
    if _CHAPTER.match(line):
        return 1
    if line[-1] in _ENDS and not line.endswith("?"):
        return 0
    numbered = _NUMBERED.match(line)
    if numbered:
        return min(1 + numbered[1].count("."), 6) + 1
    if line.isupper():
        return 1 if len(line) > 3 else 0
    return 3 if line[0].isupper() and ": " not in line and len(line.split()) <= 8 and len(line) <= 60 else 0
