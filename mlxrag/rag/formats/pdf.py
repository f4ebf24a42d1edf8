"""PDF -> paragraphs and headings, page by page.

A PDF holds characters at positions, nothing else.  Strategy: PDFium gives lines in reading order; a wider gap or a
short line ends a paragraph; larger or bold short lines are headings; lines that return at the edge of most pages are
running heads and are left out.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.rag.formats.grid import Cell, Line, tables
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.rows import table

_JUNK_TITLE = re.compile(
    r"(untitled|document\d*|microsoft word - |powerpoint presentation|.*\.(docx?|dvi|indd|tex|qxd|pptx?|pdf)$)", re.I
)
_NUMBER = re.compile(r"[\W\d]*(page|seite|p\.)?[\W\d]*(of|von|/)?[\W\d]*|[ivxlc]{1,6}", re.I)
_SOFT_HYPHEN = re.compile("[\ufffe\x02\xad]\r?\n?")
_BULLET = re.compile(r"[•◦▪‣●○■–\-*\uf0b7\uf0a7\uf0d8]\s|\(?(\d{1,3}|[a-z])[.)]\s")
_LEADERS = re.compile(r"(?:\s?\.){4,}\s?")
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f]")


def read_pdf(raw: Raw) -> Parsed:
    """Read a PDF's text.

    Raises:
        BadInput: encrypted and no or a wrong password, damaged, or its fonts do not say which characters they draw.
    """
    import pypdfium2 as pdfium

    document = _open(raw)
    try:
        pages: list[list[Line]] = []
        images = 0
        for number in range(len(document)):
            try:
                page = document[number]
                lines = list(_lines(page, number + 1))
                if not lines:
                    images += any(True for _ in page.get_objects([pdfium.raw.FPDF_PAGEOBJ_IMAGE], max_depth=2))
                page.close()
            except pdfium.PdfiumError:  # a damaged page among good ones
                lines = []
            pages.append(lines)
        facts = document.get_metadata_dict(skip_empty=True)
    finally:
        document.close()
    blank = sum(not lines for lines in pages)
    meta = {"pages": str(len(pages))} | ({"author": facts["Author"]} if "Author" in facts else {})
    if blank == len(pages):
        what = "images only" if images else "no text"
        hint = ": recognize its text (OCR) first" if images else ""
        return Parsed("", (), meta, f"{what} on {len(pages)} page{'s' * (len(pages) != 1)}{hint}")
    if blank:
        meta["pages_without_text"] = str(blank)
    text = "".join(line.text for lines in pages for line in lines)
    if len(_UNREADABLE.findall(text)) * 3 > len(text):
        raise BadInput("its fonts do not say which characters they draw: recognize its text (OCR) first")
    pages = _without_running_heads(pages)
    pieces = list(_pieces(pages))
    return Parsed(_title(facts.get("Title", ""), pieces), pieces, meta)


def _open(raw: Raw) -> Any:
    import pypdfium2 as pdfium

    try:
        return pdfium.PdfDocument(raw.data)
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium.raw.FPDF_ERR_SECURITY:
            raise BadInput("encrypted in a way that cannot be read") from error
        if error.err_code != pdfium.raw.FPDF_ERR_PASSWORD:
            raise BadInput("a damaged PDF") from error
        if not raw.password:
            raise BadInput("encrypted: give its --password") from error
    try:
        return pdfium.PdfDocument(raw.data, password=raw.password)
    except pdfium.PdfiumError as error:
        raise BadInput("encrypted, and --password does not open it") from error


def _lines(page: Any, number: int) -> Iterator[Line]:
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    text = text_page.get_text_range(errors="replace")
    buffer, flags = ctypes.create_string_buffer(256), ctypes.c_int()
    at = 0
    for line in _SOFT_HYPHEN.sub(lambda found: "\u2029" * len(found[0]), text).split("\n"):
        length = len(line) + 1
        bare = line.replace("\u2029", "").strip()
        if bare:
            first = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, at + len(line) - len(line.lstrip()))
            last = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, at + len(line.rstrip()) - 1)
            left, base, right, _ = text_page.get_charbox(max(first, 0), loose=True)
            _, foot, far, _ = text_page.get_charbox(max(last, 0), loose=True)
            size = pdfium.FPDFText_GetFontSize(text_page, first)
            pdfium.FPDFText_GetFontInfo(text_page, first, buffer, 256, flags)
            bold = b"bold" in buffer.value.lower() or b"black" in buffer.value.lower()
            cells = _cells(text_page, first, last - first + 1, size) if abs(foot - base) < size else ()
            text, right = _LEADERS.sub(" … ", bare), max(far, right)
            cells = cells or (Cell(left, right, text),)
            yield Line(text, number, page.get_width(), left, right, base, foot, round(size, 1), bold, cells)
        at += length
    text_page.close()


def _cells(text_page: Any, first: int, count: int, size: float) -> tuple[Cell, ...]:
    """Return the stretches of a line between gaps wider than its type is high."""
    boxes: list[list[float]] = []
    for number in range(text_page.count_rects(first, count)):
        left, bottom, right, top = text_page.get_rect(number)
        if boxes and -size < left - boxes[-1][2] < size:
            boxes[-1][1:] = min(bottom, boxes[-1][1]), max(right, boxes[-1][2]), max(top, boxes[-1][3])
        else:
            boxes.append([left, bottom, right, top])
    if len(boxes) < 2:
        return ()
    return tuple(Cell(box[0], box[2], _LEADERS.sub(" … ", one_line(text_page.get_text_bounded(*box)))) for box in boxes)


def _without_running_heads(pages: list[list[Line]]) -> list[list[Line]]:
    """Return the pages without page numbers, and without edge lines that most pages share but for digits."""
    seen = Counter(key for lines in pages for key in {_edge_key(line) for line in _edges(lines)})
    enough = max(2, min(len(pages) // 2, 10))

    def runs(line: Line, lines: list[Line]) -> bool:
        return line in _edges(lines) and (_NUMBER.fullmatch(line.text) is not None or seen[_edge_key(line)] >= enough)

    # A page of few lines is all edge.
    return [[line for line in lines if len(lines) < 5 or not runs(line, lines)] for lines in pages]


def _edges(lines: list[Line]) -> list[Line]:
    return [*lines[:2], *lines[-2:]]


def _edge_key(line: Line) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "0", line.text.lower())


def _pieces(pages: list[list[Line]]) -> Iterator[Piece]:
    sizes: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    larger = sorted((size for size in sizes if size > body * 1.12), reverse=True)
    mostly_bold = sum(line.bold for lines in pages for line in lines) * 3 > sum(map(len, pages))
    for lines in pages:
        at = 0
        for first, after, rows in [*tables(lines), (len(lines), len(lines), [])]:
            for group in _paragraphs(lines[at:first], body):
                level = _level(group, body, larger, mostly_bold)
                spot = f"page {group[0].page}"
                if level:
                    yield Piece("heading", " ".join(line.text for line in group), level, spot)
                else:
                    yield Piece("paragraph", _flow(group, lines), spot=spot)
            for row in table(rows, header=_has_header(lines[first:after], rows)):
                yield Piece("row", row.text, spot=f"page {lines[first].page}")
            at = after


def _has_header(lines: list[Line], rows: list[list[str]]) -> bool | None:
    """Return whether the first line of a table stands out by bold type; None to judge by the words."""
    if lines and lines[0].bold != lines[-1].bold:
        return lines[0].bold
    return False if rows and len(rows[0]) < 3 else None


def _paragraphs(lines: list[Line], body: float) -> Iterator[list[Line]]:
    steps = [above.foot - line.base for above, line in pairwise(lines)]
    gaps = Counter(round(step) for step in steps if step > 0)
    usual = gaps.most_common(1)[0][0] if gaps else body * 1.2
    widest = max((line.right for line in lines), default=0.0)
    group: list[Line] = []
    for line in lines:
        if group:
            above = group[-1]
            gap = above.foot - line.base
            apart = gap > max(usual, above.size * 1.2) * 1.35 + 1 or gap < -usual
            other = abs(above.size - line.size) > 0.6 or above.bold != line.bold
            # A sentence that ends well before the margin ends its paragraph.
            ended = above.text[-1] in ".!?:" and above.right < widest * 0.85 and line.left >= above.left - 1
            if (
                apart
                or (other and (above.bold or above.size > body or line.size > body))
                or ended
                or _BULLET.match(line.text)
            ):
                yield group
                group = []
        group.append(line)
    if group:
        yield group


def _level(group: list[Line], body: float, larger: list[float], mostly_bold: bool) -> int:
    """Return the level of heading a paragraph is: by the rank of its size, then bold; 0 for text."""
    length = sum(len(line.text) for line in group)
    if (
        length > 160
        or " … " in group[0].text
        or len(group) > 3
        or not any(character.isalpha() for line in group for character in line.text)
    ):
        return 0
    size = group[0].size
    if size > body * 1.12:
        return min(larger.index(size) + 1, 5)
    bold = all(line.bold for line in group) and not mostly_bold
    return 6 if bold and len(group) == 1 and length <= 100 and group[0].text[-1] not in ".,;" else 0


def _flow(group: list[Line], lines: list[Line]) -> str:
    """Join the lines of a paragraph: full lines run on, short ones (verse, tables) keep their ends."""
    rights = sorted(line.right for line in lines)
    # Where no two other lines reach the margin, the page has short lines only.
    justified = len(rights) > 2 and rights[-3] > rights[-1] * 0.93
    widest = rights[-1] if justified else max(rights[-1], lines[0].width * 0.7)
    parts = []
    for line, below in zip(group, [*group[1:], None], strict=True):
        parts.append(line.text)
        if below is not None:
            room = widest - line.right
            word = below.text.split(" ", 1)[0]
            width = (line.right - line.left) / max(len(line.text), 1) * (len(word) + 2)
            parts.append(" " if room <= max(width, (widest - line.left) * 0.12) else "\n")
    return "".join(parts)


def _title(given: str, pieces: list[Piece]) -> str:
    given = one_line(given)
    if given and not _JUNK_TITLE.match(given):
        return given
    opening = [piece for piece in pieces[:8] if piece.level]
    best = min(opening, key=lambda piece: piece.level, default=None)
    return one_line(best.text) if best and best.level < 6 else ""
