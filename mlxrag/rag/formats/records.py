"""JSON and JSON Lines -> one row per record, its values under their keys.

A record is an object in a list, or a line: "name: Ox 60; price: $12; services: sales, repair".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, shorten
from mlxrag.rag.formats.plain import refuse_long_lines

_DEEPEST = 60


def read_json(raw: Raw) -> Parsed:
    """Read a JSON document.

    Raises:
        BadInput: not JSON (names the line), or nested too deeply.
    """
    text, encoding = decode(raw.data)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise BadInput("nested too deeply") from error
    except json.JSONDecodeError as error:
        try:
            return _lines(text, encoding)
        except BadInput:
            raise BadInput(f"not JSON: line {error.lineno}: {error.msg}") from error
    title = value.get("title") or value.get("name") if isinstance(value, dict) else ""
    return Parsed(title if isinstance(title, str) else "", _pieces(value, "", 1), {"encoding": encoding})


def read_jsonl(raw: Raw) -> Parsed:
    """Read JSON Lines; a line that is no JSON is kept as text.

    Raises:
        BadInput: not even the first line is JSON.
    """
    text, encoding = decode(raw.data)
    return _lines(text, encoding)


def _lines(text: str, encoding: str) -> Parsed:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    pieces: list[Piece] = []
    broken = 0
    for position, (number, line) in enumerate(lines):
        try:
            said = flat(json.loads(line))
        except RecursionError as error:
            raise BadInput(f"line {number} is nested too deeply") from error
        except ValueError as error:
            if position == 0:
                raise BadInput(f"not JSON Lines: line {number}: {error}") from error
            refuse_long_lines(line)
            said, broken = line, broken + 1
        pieces.append(Piece("row", said, spot=f"line {number}"))
    return Parsed("", pieces, {"encoding": encoding} | ({"lines_not_json": str(broken)} if broken else {}))


def _pieces(value: Any, name: str, level: int) -> Iterator[Piece]:
    """Yield a value: simple members of an object as one row, lists of objects as records, the rest under headings."""
    if level > _DEEPEST:
        raise BadInput("nested too deeply")
    if isinstance(value, Mapping):
        simple = {key: member for key, member in value.items() if _is_simple(member)}
        if simple:
            yield Piece("row", flat(simple))
        for key, member in value.items():
            if key not in simple:
                yield Piece("heading", key or "(no name)", level)
                yield from _pieces(member, key, level + 1)
    elif isinstance(value, list) and not all(map(_is_simple, value)):
        for number, member in enumerate(value, 1):
            yield Piece("row", flat(member), spot=f"item {number}")
    elif isinstance(value, list):
        for number, member in enumerate(value, 1):
            yield Piece("row", _shown(member), spot=f"item {number}")
    else:
        yield Piece("row", _shown(value))


def flat(value: Any, name: str = "", depth: int = 0) -> str:
    """Return a value in one line, members of inner objects under dotted names.

    Example:
        >>> flat({"dealer": "Pedal Barn", "open": {"sun": False}, "services": ["sales", "repair"]})
        'dealer: Pedal Barn; open.sun: false; services: sales, repair'
    """
    if depth > _DEEPEST:
        raise BadInput("nested too deeply")
    if isinstance(value, Mapping):
        parts = (flat(member, f"{name}.{key}" if name else str(key), depth + 1) for key, member in value.items())
        return "; ".join(part for part in parts if part)
    if isinstance(value, list):
        if all(_is_plain(member) for member in value):
            text = ", ".join(_shown(member) for member in value)
            return f"{name}: {text}" if name and text else text
        return "; ".join(part for member in value if (part := flat(member, name, depth + 1)))
    text = _shown(value)
    return f"{name}: {text}" if name and text else text


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Mapping | list)


def _is_simple(value: Any) -> bool:
    """Return whether a value reads well in one line: no object, and a list only of few short words."""
    if isinstance(value, list):
        return len(value) <= 20 and all(_is_plain(member) and len(str(member)) <= 80 for member in value)
    return _is_plain(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    # Pictures and keys in base64 tell a reader nothing.
    return shorten(text, 200) if len(text) > 1000 and " " not in text else text
