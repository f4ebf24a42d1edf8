"""Tables -> rows that each stand alone, and files of delimited values (CSV, TSV).

A row is written with its headers, "Trailer: Ox 60; One day: $12", because a passage may hold one row without the
header row, and because small models read that more reliably than columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from mlxrag.errors import BadInput
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import LONGEST_LINE, Parsed, Piece, Raw, one_line

_NUMBER = re.compile(r"[^\w]*\d[\d.,:/\-\s%]*[^\w]*\w{0,3}")
_DELIMITERS = ",;\t|"


def read_delimited(raw: Raw) -> Parsed:
    """Read comma-, semicolon-, tab- or bar-separated values.

    Raises:
        BadInput: binary, or one field is longer than any text.
    """
    text, encoding = decode(raw.data)
    csv.field_size_limit(LONGEST_LINE)
    delimiter = "\t" if raw.name.lower().endswith(".tsv") else _delimiter(text)
    return Parsed("", _checked(text, delimiter), {"encoding": encoding})


def table(
    rows: Iterable[Sequence[str]], header: bool | None = None, first: int = 1, spots: bool = False
) -> Iterator[Piece]:
    """Yield one piece per row that is not blank.

    Args:
        rows: the cells of each row.
        header: whether the first row names the columns; None to judge by its looks.
        first: number of the first row, for its spot.
        spots: whether rows get a spot ("row 7").
    """
    ahead = ([one_line(cell) for cell in row] for row in rows)
    sample = list(islice(ahead, 50))
    if not sample:
        return
    named = looks_like_header(sample) if header is None else header and len(sample) > 1
    names = sample[0] if named else []
    for number, row in enumerate(chain(sample[named:], ahead), first + named):
        line = row_text(row, names)
        if line:
            yield Piece("row", line, spot=f"row {number}" if spots else "")


def row_text(row: Sequence[str], names: Sequence[str]) -> str:
    """Return a row as "name: value; name: value", without the empty cells.

    Example:
        >>> row_text(["Ox 60", "$12", ""], ["Trailer", "One day", "Remark"])
        'Trailer: Ox 60; One day: $12'
        >>> row_text(["Weight", "12 kg"], [])
        'Weight: 12 kg'
    """
    if not any(names):
        filled = [cell for cell in row if cell]
        if len(row) == 2 and len(filled) == 2:
            return f"{filled[0].rstrip(':')}: {filled[1]}"
        return " | ".join(filled)
    cells = []
    for column, cell in enumerate(row):
        name = names[column].rstrip(":") if column < len(names) else ""
        if cell:
            cells.append(f"{name}: {cell}" if name and name != cell else cell)
    return "; ".join(cells)


def looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns: short, different, no numbers, and as wide as the rows below."""
    if len(rows) < 2:
        return False
    names = [cell for cell in rows[0] if cell]
    width = max(sum(bool(cell) for cell in row) for row in rows[1:])
    if len(names) < 2 or len(names) < width - 1 or len(set(names)) < len(names):
        return False
    if any(len(name) > 60 or _NUMBER.fullmatch(name) for name in names):
        return False
    if len(rows[0]) > 2:
        return True
    # In two columns a first row such as "Weight, 12 kg" is as likely data: the column below must look different.
    below = [row[1] for row in rows[1:] if len(row) > 1 and row[1]]
    return not any(character.isdigit() for character in "".join(names)) and (
        all(any(character.isdigit() for character in cell) for cell in below) or len(below) > 2
    )


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first lines into the same number of fields, more than one."""
    lines = text[:20_000].splitlines()[:50]
    best, chosen = 0.0, ","
    for delimiter in _DELIMITERS:
        widths = [len(row) for row in _rows(lines, delimiter) if row]
        if not widths or max(widths) == 1:
            continue
        usual = max(set(widths), key=widths.count)
        score = widths.count(usual) / len(widths) * (usual > 1) + usual / 1000
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _checked(text: str, delimiter: str) -> Iterator[Piece]:
    lines = text.splitlines(keepends=True)
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:
        delimiter = lines.pop(0)[4]
    try:
        yield from table(_rows(lines, delimiter), spots=True)
    except csv.Error as error:
        reason = f"a field has more than {LONGEST_LINE:,} characters" if "limit" in str(error) else str(error)
        raise BadInput(f"not a table of values: {reason}") from error
