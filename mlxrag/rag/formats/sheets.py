"""Excel workbooks (XLSX) -> rows that carry their headers, sheet by sheet.

Formulas are read as the values they had when the file was saved.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.rag.formats.package import fault, opened
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.rows import table


def read_xlsx(raw: Raw) -> Parsed:
    """Read a workbook.

    Raises:
        BadInput: encrypted, damaged, or a zip bomb.
    """
    import python_calamine

    package = opened(raw)
    try:
        book = python_calamine.load_workbook(package)
        names = [sheet.name for sheet in book.sheets_metadata if str(sheet.typ).endswith("WorkSheet")]
        pieces = [
            piece for name in names for piece in _sheet(name, book.get_sheet_by_name(name).iter_rows(), len(names))
        ]
    except python_calamine.PasswordError as error:
        raise BadInput("encrypted: give its --password") from error
    except (python_calamine.CalamineError, ValueError, OSError) as error:
        raise BadInput(f"a damaged workbook: {fault(error)}") from error
    return Parsed("", pieces, {"sheets": str(len(names))})


def _sheet(name: str, rows: Iterable[list[Any]], sheets: int) -> Iterator[Piece]:
    """Yield the tables of a sheet; blank rows part them, and lines with one cell above them are captions."""
    if sheets > 1 or not name.lower().startswith(("sheet", "tabelle", "feuil", "hoja")):
        yield Piece("heading", name, 1)
    block: list[list[str]] = []
    first = 1
    for number, row in enumerate(rows, 1):
        cells = [_shown(cell) for cell in row]
        if not any(cells):
            yield from _block(block, first)
            block = []
            continue
        if not block:
            first = number
        block.append(cells)
    yield from _block(block, first)


def _block(block: list[list[str]], first: int) -> Iterator[Piece]:
    left = min((at for row in block for at, cell in enumerate(row) if cell), default=0)
    block = [row[left:] for row in block]
    while block and sum(bool(cell) for cell in block[0]) == 1 and (len(block) == 1 or len(block[0]) > 1):
        yield Piece("paragraph", next(cell for cell in block[0] if cell), spot=f"row {first}")
        block, first = block[1:], first + 1
    yield from table(block, first=first, spots=True)


def _shown(value: Any) -> str:
    """Return a cell as a person reads it: whole numbers without a point, dates as ISO 8601."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.10g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return one_line(str(value)) if value is not None else ""
