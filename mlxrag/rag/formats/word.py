"""Word documents (DOCX) -> headings, paragraphs, lists and rows.

python-docx opens the package and knows the styles; the body is walked here, because content controls, text boxes and
tracked insertions hold text that its paragraphs leave out.  Deleted text, headers, footers and comments are not read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any
from zipfile import BadZipFile

from mlxrag.errors import BadInput
from mlxrag.rag.formats.package import fault, opened, xml
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.rows import table

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HEADING = re.compile(r"heading (\d)", re.I)
_JUNK_TITLE = re.compile(r"(word document|document\d*|untitled|dokument\d*)?\s*", re.I)
_UNREAD = frozenset(f"{_W}{name}" for name in ("del", "moveFrom", "instrText", "delText", "pPr", "rPr", "txbxContent"))
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_NOTES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"


def read_docx(raw: Raw) -> Parsed:
    """Read a Word document.

    Raises:
        BadInput: encrypted, damaged, or a zip bomb.
    """
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import XMLSyntaxError

    package = opened(raw)
    try:
        document = docx.Document(package)
        body = document.element.body
        numbers = _Numbers(document)
        pieces = list(_blocks(body, document, numbers))
        pieces += _notes(document, numbers)
    except (OpcError, KeyError, ValueError, AttributeError, BadZipFile, zlib.error, XMLSyntaxError) as error:
        raise BadInput(f"a damaged Word document: {fault(error)}") from error
    title, author = _facts(document)
    if not title:
        title = next((piece.text for piece in pieces if piece.level == 1), "")
    return Parsed(title, pieces, {"author": author} if author else {})


class _Numbers:
    """Counts the numbered paragraphs of a document, list by list."""

    def __init__(self, document: Any) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._formats: dict[tuple[str, int], str] = {}
        try:
            root = document.part.numbering_part.element
        except (KeyError, NotImplementedError):
            return
        abstract = {}
        for entry in root.iter(f"{_W}abstractNum"):
            levels = {}
            for level in entry.iter(f"{_W}lvl"):
                form = level.find(f"{_W}numFmt")
                levels[int(level.get(f"{_W}ilvl") or 0)] = form.get(f"{_W}val") if form is not None else "bullet"
            abstract[entry.get(f"{_W}abstractNumId")] = levels
        for entry in root.iter(f"{_W}num"):
            target = entry.find(f"{_W}abstractNumId")
            for level, form in abstract.get(target.get(f"{_W}val") if target is not None else "", {}).items():
                self._formats[entry.get(f"{_W}numId"), level] = form

    def marker(self, number: str, level: int) -> str:
        """Return what stands before the next paragraph of a list: "- ", or its number."""
        if self._formats.get((number, level), "bullet") in ("bullet", "none"):
            return "- "
        self._counts[number, level] = count = self._counts.get((number, level), 0) + 1
        for other in [key for key in self._counts if key[0] == number and key[1] > level]:
            del self._counts[other]
        return f"{count}. "


def _blocks(parent: Any, document: Any, numbers: _Numbers) -> Iterator[Piece]:
    items: list[str] = []
    for element in parent:
        pieces = list(_block(element, document, numbers))
        for piece in pieces:
            if piece.kind == "list":
                items.append(piece.text)
                continue
            if items:
                yield Piece("list", "\n".join(items))
                items = []
            yield piece
    if items:
        yield Piece("list", "\n".join(items))


def _block(element: Any, document: Any, numbers: _Numbers) -> Iterator[Piece]:
    if element.tag == f"{_W}p":
        yield from _paragraph(element, document, numbers)
    elif element.tag == f"{_W}tbl":
        yield from _table(element)
    elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml", f"{_W}smartTag", f"{_W}moveTo"):
        yield from _blocks(element, document, numbers)


def _paragraph(element: Any, document: Any, numbers: _Numbers) -> Iterator[Piece]:
    text = _text(element).strip()
    style = _style(element, document)
    heading = _HEADING.match(style)
    if text and (heading or style == "Title"):
        yield Piece("heading", text, int(heading[1]) if heading else 1)
    elif text and _is_bold(element) and len(text) <= 100 and text[-1] not in ".,;:":
        yield Piece("heading", text, 6)
    elif text:
        number, level = _number(element, document)
        if number or style.startswith("List "):
            marker = numbers.marker(number, level) if number else "- "
            yield Piece("list", f"{'  ' * level}{marker}{one_line(text)}")
        else:
            yield Piece("paragraph", text)
    for box in element.iter(f"{_W}txbxContent"):
        # The same text box stands twice: for new programs, and as a fallback for old ones.
        if not any(above.tag == _FALLBACK for above in box.iterancestors()):
            yield from _blocks(box, document, numbers)


def _is_bold(element: Any) -> bool:
    """Return whether all of a paragraph is in bold type by hand, as where people do without heading styles."""
    runs = [run for run in element.iter(f"{_W}r") if any((text.text or "").strip() for text in run.iter(f"{_W}t"))]
    marks = [run.find(f"{_W}rPr/{_W}b") for run in runs]
    return bool(runs) and all(mark is not None and mark.get(f"{_W}val", "1") not in ("0", "false") for mark in marks)


def _style(element: Any, document: Any) -> str:
    """Return the English name of a paragraph's style, or of the first one it is based on that is a heading."""
    found = element.find(f"{_W}pPr/{_W}pStyle")
    outline = element.find(f"{_W}pPr/{_W}outlineLvl")
    if outline is not None and (outline.get(f"{_W}val") or "9") in "01234567":
        return f"heading {int(outline.get(f'{_W}val')) + 1}"
    style = _styles(document).get(found.get(f"{_W}val")) if found is not None else None
    name = str(style.name or "") if style is not None else ""
    for _ in range(10):
        if style is None or _HEADING.match(str(style.name)) or style.name == "Title":
            break
        style = style.base_style
    return str(style.name) if style is not None else name


def _styles(document: Any) -> dict[str, Any]:
    known: dict[str, Any] | None = getattr(document, "_mlxrag_styles", None)
    if known is None:
        known = {style.style_id: style for style in document.styles if hasattr(style, "base_style")}
        document._mlxrag_styles = known
    return known


def _number(element: Any, document: Any) -> tuple[str, int]:
    """Return the list a paragraph belongs to, by itself or by its style, and its level; "" for none."""
    properties = element.find(f"{_W}pPr/{_W}numPr")
    if properties is None:
        found = element.find(f"{_W}pPr/{_W}pStyle")
        style = _styles(document).get(found.get(f"{_W}val")) if found is not None else None
        properties = style.element.find(f"{_W}pPr/{_W}numPr") if style is not None else None
    if properties is None:
        return "", 0
    number, level = properties.find(f"{_W}numId"), properties.find(f"{_W}ilvl")
    value = number.get(f"{_W}val") if number is not None else "0"
    return "" if value == "0" else str(value), min(int(level.get(f"{_W}val") or 0), 8) if level is not None else 0


def _text(element: Any) -> str:
    parts: list[str] = []
    for child in element:
        tag = child.tag
        if tag == f"{_W}t":
            parts.append(child.text or "")
        elif tag in (f"{_W}tab", f"{_W}ptab"):
            parts.append("\t")
        elif tag in (f"{_W}br", f"{_W}cr"):
            parts.append("\n")
        elif tag == f"{_W}noBreakHyphen":
            parts.append("-")
        elif tag == f"{_W}p":
            parts.append(f"{_text(child)}\n")
        elif tag not in _UNREAD and tag != _FALLBACK:
            parts.append(_text(child))
    return "".join(parts)


def _table(element: Any) -> Iterator[Piece]:
    rows: list[list[str]] = []
    header: bool | None = None
    for row in element.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is not element:
            continue
        if not rows and row.find(f"{_W}trPr/{_W}tblHeader") is not None:
            header = True
        cells: list[str] = []
        for cell in row.iter(f"{_W}tc"):
            if next(cell.iterancestors(f"{_W}tr")) is not row:
                continue
            span = cell.find(f"{_W}tcPr/{_W}gridSpan")
            merge = cell.find(f"{_W}tcPr/{_W}vMerge")
            down = merge is not None and (merge.get(f"{_W}val") or "continue") == "continue"
            text = rows[-1][len(cells)] if down and rows and len(cells) < len(rows[-1]) else one_line(_text(cell))
            wide = span.get(f"{_W}val") or "1" if span is not None else "1"
            cells += [text] * (min(int(wide), 60) if wide.isdigit() else 1)
        rows.append(cells)
    if len(rows) == 1 or all(len(row) < 2 for row in rows):
        for row in rows:
            for cell in row:
                yield Piece("paragraph", cell)
        return
    yield from table(rows, header=header)


def _notes(document: Any, numbers: _Numbers) -> Iterator[Piece]:
    for kind in ("footnotes", "endnotes"):
        for relation in document.part.rels.values():
            if relation.reltype != f"{_NOTES}{kind}" or relation.is_external:
                continue
            for number, note in enumerate(xml(relation.target_part.blob).iter(f"{_W}{kind[:-1]}")):
                text = one_line(_text(note)) if note.get(f"{_W}type") is None else ""
                if text:
                    yield Piece("paragraph", f"{kind[:-1].capitalize()}: {text}", spot=f"note {number}")


def _facts(document: Any) -> tuple[str, str]:
    try:
        title, author = str(document.core_properties.title or ""), str(document.core_properties.author or "")
    except (KeyError, ValueError, AttributeError):
        return "", ""
    return "" if _JUNK_TITLE.fullmatch(title) else title, author if author != "python-docx" else ""
