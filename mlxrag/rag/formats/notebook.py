"""Jupyter notebooks -> their Markdown, code and printed output, cell by cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.rag.formats import web
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.markdown import to_html
from mlxrag.rag.formats.piece import Parsed, Piece, Raw

_LONGEST_OUTPUT = 4000


def read_notebook(raw: Raw) -> Parsed:
    """Read a notebook of format 3 or 4; the cells count, whatever else is wrong with it.

    Raises:
        BadInput: not JSON, or no notebook.
    """
    text, _ = decode(raw.data)
    try:
        notebook = json.loads(text)
    except ValueError as error:
        raise BadInput(f"not JSON, so no notebook: {error}") from error
    if not isinstance(notebook, dict):
        raise BadInput("JSON, but no notebook")
    sheets = notebook.get("worksheets")
    cells = notebook.get("cells")
    if cells is None and isinstance(sheets, list):
        cells = [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or ()]
    if cells is None and "nbformat" not in notebook:
        raise BadInput("JSON, but no notebook: it has no cells")
    pieces = [
        piece for number, cell in enumerate(cells or (), 1) if isinstance(cell, dict) for piece in _cell(cell, number)
    ]
    title = next((piece.text for piece in pieces if piece.level), "")
    return Parsed(title, pieces, note="a notebook without cells" if not cells else "")


def _cell(cell: dict[str, Any], number: int) -> Iterator[Piece]:
    kind, spot = cell.get("cell_type"), f"cell {number}"
    source = _joined(cell.get("source", cell.get("input", "")))
    if kind == "markdown" or kind == "html":
        root = to_html(source) if kind == "markdown" else web.parse(source)
        for piece in web.pieces(root) if root is not None else ():
            yield Piece(piece.kind, piece.text, piece.level, spot)
    elif kind == "heading":
        level = cell.get("level")
        yield Piece("heading", source, level if isinstance(level, int) and 0 < level < 7 else 1, spot)
    elif kind == "code":
        yield Piece("code", source, spot=spot)
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            said = _output(output) if isinstance(output, dict) else ""
            if said.strip():
                yield Piece("cell", f"Output:\n{said[:_LONGEST_OUTPUT]}", spot=spot)
    else:
        yield Piece("paragraph", source, spot=spot)


def _output(output: dict[str, Any]) -> str:
    """Return what an output says in plain text; pictures and progress say nothing."""
    if output.get("output_type") == "pyerr" or output.get("output_type") == "error":
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data")
    plain = data.get("text/plain") if isinstance(data, dict) else output.get("text")
    return _joined(plain) if plain is not None else ""


def _joined(lines: Any) -> str:
    if not isinstance(lines, list):
        return str(lines or "")
    # Format 2 keeps lines without their ends.
    bare = len(lines) > 1 and not any(str(line).endswith("\n") for line in lines[:-1])
    return ("\n" if bare else "").join(str(line) for line in lines)
