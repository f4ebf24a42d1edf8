"""Lines of text on a page, and the tables that stand among them.

Strategy: a line with wide gaps has cells; two or more such lines that follow each other are a table if their cells
stand below each other.  A line whose first column is empty continues the row above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Cell:
    """A stretch of text between wide gaps, from `left` to `right` in points."""

    left: float
    right: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text on a page, measured in points from the lower left corner.

    Attributes:
        text: what it says.
        page: number of its page, from 1.
        width: width of its page.
        left: where it begins.
        right: where it ends.
        base: height of its first character.
        foot: height of its last one; lower than `base` where a hyphenated word joined two lines.
        size: size of its type.
        bold: whether it begins in bold type.
        cells: its stretches between wide gaps; one where there are none.
    """

    text: str
    page: int
    width: float
    left: float
    right: float
    base: float
    foot: float
    size: float
    bold: bool
    cells: tuple[Cell, ...]


def tables(lines: Sequence[Line]) -> Iterator[tuple[int, int, list[list[str]]]]:
    """Yield the tables of a page as first line, line after the last, and rows of equal length."""
    at = 0
    while at < len(lines):
        end = _run(lines, at)
        rows = _rows(lines[at:end]) if end - at > 1 else []
        if len(rows) > 1:
            yield at, end, rows
        at = max(end, at + 1)


def _run(lines: Sequence[Line], at: int) -> int:
    """Return the line after the last of the table that may begin at a line; `at` itself if none does."""
    if len(lines[at].cells) < 2:
        return at
    columns = [(cell.left, cell.right) for cell in lines[at].cells]
    end = last = at + 1
    while end < len(lines) and -lines[end].size < lines[end - 1].base - lines[end].base < 4 * lines[end].size:
        line = lines[end]
        places = [_column(columns, cell) for cell in line.cells]
        if len(line.cells) > 1:
            if None in places and len(columns) > 1 and len(line.cells) != len(columns):
                break
            if len(set(places)) < len(places) and None not in places:
                break
            columns = _widened(columns, line.cells)
            last = end + 1
        elif not _continues(lines[end - 1], line, columns, places[0]):
            break
        else:
            last = end + 1
        end += 1
    return last if last > at + 1 else at


def _continues(above: Line, line: Line, columns: Sequence[tuple[float, float]], column: int | None) -> bool:
    """Return whether a line with one cell goes on with a cell above: close below it, within a column but the first."""
    if not column or above.foot - line.base > 1.6 * line.size:
        return False
    return line.left > columns[column][0] - line.size / 2 and line.left > columns[column - 1][1]


def _column(columns: Sequence[tuple[float, float]], cell: Cell) -> int | None:
    """Return the column a cell overlaps most, None if none."""
    overlaps = [min(right, cell.right) - max(left, cell.left) for left, right in columns]
    best = max(range(len(columns)), key=overlaps.__getitem__)
    return best if overlaps[best] > 0 else None


def _widened(columns: list[tuple[float, float]], cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """Return the columns with room for the cells; one that stands in a gap is a column of its own."""
    wider = list(columns)
    for cell in cells:
        column = _column(wider, cell)
        if column is None:
            wider.append((cell.left, cell.right))
            wider.sort()
        else:
            left, right = wider[column]
            wider[column] = (min(left, cell.left), max(right, cell.right))
    return wider


def _rows(lines: Sequence[Line]) -> list[list[str]]:
    columns: list[tuple[float, float]] = [(cell.left, cell.right) for cell in lines[0].cells]
    for line in lines[1:]:
        if len(line.cells) > 1:
            columns = _widened(columns, line.cells)
    if any(after[0] < before[1] for before, after in pairwise(columns)):
        return []
    rows: list[list[str]] = []
    for line in lines:
        texts = [""] * len(columns)
        for cell in line.cells:
            column = _column(columns, cell) or 0
            texts[column] = f"{texts[column]} {cell.text}".strip()
        if rows and not texts[0]:
            rows[-1] = [f"{above} {text}".strip() for above, text in zip(rows[-1], texts, strict=True)]
        else:
            rows.append(texts)
    return rows
