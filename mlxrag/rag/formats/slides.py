"""PowerPoint presentations (PPTX) -> slide titles, texts, tables and speaker's notes, slide by slide."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any
from zipfile import BadZipFile

from mlxrag.errors import BadInput
from mlxrag.rag.formats.package import fault, opened
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.rows import table

_JUNK_TITLES = ("", "powerpoint presentation", "presentation", "slide 1")


def read_pptx(raw: Raw) -> Parsed:
    """Read a presentation.

    Raises:
        BadInput: encrypted, damaged, or a zip bomb.
    """
    import pptx
    from lxml.etree import XMLSyntaxError
    from pptx.exc import PythonPptxError

    package = opened(raw)
    try:
        presentation = pptx.Presentation(package)
        pieces = [
            piece for number, slide in enumerate(presentation.slides, 1) for piece in _slide(slide, f"slide {number}")
        ]
        title = str(presentation.core_properties.title or "")
    except (
        PythonPptxError,
        KeyError,
        ValueError,
        AttributeError,
        IndexError,
        BadZipFile,
        zlib.error,
        XMLSyntaxError,
    ) as error:
        raise BadInput(f"a damaged presentation: {fault(error)}") from error
    if title.strip().lower() in _JUNK_TITLES:
        title = next((piece.text for piece in pieces if piece.level), "")
    return Parsed(title, pieces, {"slides": str(len(presentation.slides))})


def _slide(slide: Any, spot: str) -> Iterator[Piece]:
    title = slide.shapes.title
    heading = one_line(title.text_frame.text) if title is not None and title.has_text_frame else ""
    if heading:
        yield Piece("heading", heading, 1, spot)
    yield from _shapes(slide.shapes, spot, title.shape_id if title is not None else None)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
        if notes:
            yield Piece("paragraph", f"Notes: {notes}", spot=spot)


def _shapes(shapes: Iterable[Any], spot: str, title: int | None) -> Iterator[Piece]:
    for shape in shapes:
        if shape.shape_id == title:
            continue
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes, spot, title)
        elif getattr(shape, "has_table", False):
            rows = [[cell.text for cell in row.cells] for row in shape.table.rows]
            for row in table(rows, header=True if shape.table.first_row else None):
                yield Piece("row", row.text, spot=spot)
        elif getattr(shape, "has_chart", False):
            yield from _chart(shape.chart, spot)
        elif shape.has_text_frame:
            yield from _frame(shape.text_frame, spot)


def _frame(frame: Any, spot: str) -> Iterator[Piece]:
    lines = [(paragraph.level, paragraph.text.replace("\v", "\n").strip()) for paragraph in frame.paragraphs]
    lines = [(level, text) for level, text in lines if text]
    if len(lines) == 1:
        yield Piece("paragraph", lines[0][1], spot=spot)
    elif lines:
        yield Piece("list", "\n".join(f"{'  ' * level}- {one_line(text)}" for level, text in lines), spot=spot)


def _chart(chart: Any, spot: str) -> Iterator[Piece]:
    """Yield the numbers behind a chart, a row for each category."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield Piece("paragraph", chart.chart_title.text_frame.text, spot=spot)
    for plot in chart.plots:
        series = list(plot.series)
        names = ["", *(str(one.name or "") for one in series)]
        rows = [
            [str(category), *(str(one.values[at]) if at < len(one.values) else "" for one in series)]
            for at, category in enumerate(plot.categories)
        ]
        for row in table([names, *rows], header=True):
            yield Piece("row", row.text, spot=spot)
