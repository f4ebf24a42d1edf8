"""HTML -> headings, paragraphs, lists, code and rows, in the order a reader sees them.

Knows nothing of style sheets: what only they hide is read.  Markdown and books pass through here as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlxrag.rag.formats.encoding import decode
from mlxrag.rag.formats.piece import Parsed, Piece, Raw, one_line
from mlxrag.rag.formats.rows import row_text, table

_CHARSET = re.compile(rb"<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*[\"']?\s*([\w:.-]+)", re.I)
_SKIPPED = frozenset(
    "script style template noscript svg canvas nav head iframe object embed audio video select datalist button"
    " textarea dialog map math-alttext".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer form"
    " h1 h2 h3 h4 h5 h6 header hr html legend li main menu ol option p pre section summary table tbody td tfoot th thead"
    " tr ul".split()
)
_LISTS = frozenset(("ul", "ol", "dl", "menu", "dir"))
_BREAK = "\u2028"
_BLANKS = re.compile(r"[ \t\r\n\f\xa0]+")
_WIDEST_SPAN = 60


def read_html(raw: Raw) -> Parsed:
    """Read an HTML page, without its navigation, scripts and hidden parts.

    Raises:
        BadInput: binary.
    """
    charset = _CHARSET.search(raw.data[:4096])
    text, encoding = decode(raw.data, charset[1].decode("ascii") if charset else None)
    root = parse(text)
    if root is None:
        return Parsed("", (), {"encoding": encoding})
    language = root.get("lang") or ""
    return Parsed(
        title(root), list(pieces(root)), {"encoding": encoding} | ({"language": language} if language else {})
    )


def parse(text: str) -> Any:
    """Return the root element of an HTML text, or None where it holds no element."""
    from lxml import etree

    # Depth and text length are not limited here: the process that parses is.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_pis=False)
    data = text.replace("\0", "").encode("utf-8", "replace")
    return etree.fromstring(data, parser) if data.strip() else None


def title(root: Any) -> str:
    """Return the only first-level heading, or else what the title element says."""
    headings = [one_line("".join(element.itertext())) for element in root.iter("{*}h1")]
    if len(headings) == 1 and headings[0]:
        return headings[0].rstrip("¶# ")
    for element in root.iter("{*}title"):
        return one_line("".join(element.itertext()))
    return ""


def pieces(root: Any) -> Iterator[Piece]:
    """Yield what an element holds, in order.

    Strategy: one walk without recursion, since hostile pages nest deeply.  Inline text gathers until a block begins or
    ends; list items gather until the outermost list ends or something else comes between.
    """
    from lxml import etree

    inline: list[str] = []
    items: list[str] = []
    markers: list[str] = []
    counters: list[int] = []
    walk = etree.iterwalk(root, events=("start", "end", "comment", "pi"))

    def flush() -> Iterator[Piece]:
        text = _collapse("".join(inline))
        inline.clear()
        if not text:
            return
        if counters:
            indent = "  " * (len(counters) - 1)
            mark = markers[-1] if markers else ""
            if markers:
                markers[-1] = " " * min(len(mark), 2)
            items.append(
                "\n".join(
                    f"{indent}{mark if not n else ' ' * len(mark)}{line}" for n, line in enumerate(text.split("\n"))
                )
            )
        else:
            yield Piece("paragraph", text)

    def close_list() -> Iterator[Piece]:
        if items:
            yield Piece("list", "\n".join(items))
            items.clear()

    for event, element in walk:
        if event in ("comment", "pi"):
            inline.append(element.tail or "")
            continue
        tag = _name(element)
        skipped = tag in _SKIPPED or _hidden(element)
        level = int(tag[1]) if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456" else 0
        own = tag == "pre" or (tag == "table" and not skipped and _is_data(element))
        if event == "start":
            if skipped:
                walk.skip_subtree()
                continue
            if tag in _BLOCKS:
                yield from flush()
            if level or own or tag == "table":
                yield from close_list()
            if own:
                yield from _table(element) if tag == "table" else _code(element)
                walk.skip_subtree()
                continue
            if tag in _LISTS:
                counters.append(_start(element))
            elif tag in ("li", "dt", "dd"):
                markers.append(_marker(element, tag, counters))
            elif tag == "br":
                inline.append(_BREAK)
            elif tag == "img":
                inline.append(f" {element.get('alt') or ''} ")
            inline.append(element.text or "")
            continue
        if not skipped and not own:
            if level:
                text = _collapse("".join(inline)).rstrip("¶# ")
                inline.clear()
                yield Piece("heading", text, level)
            elif tag in _BLOCKS:
                yield from flush()
            if tag in _LISTS and counters:
                counters.pop()
                if not counters:
                    yield from close_list()
            elif tag in ("li", "dt", "dd") and markers:
                markers.pop()
        inline.append((element.tail if element is not root else "") or "")
    yield from flush()
    yield from close_list()


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _hidden(element: Any) -> bool:
    if "hidden" in element.attrib or element.get("aria-hidden") == "true" or element.get("role") == "navigation":
        return True
    style = element.get("style") or ""
    return "headerlink" in (element.get("class") or "") or (
        "none" in style and re.search(r"display\s*:\s*none", style) is not None
    )


def _collapse(text: str) -> str:
    lines = _BLANKS.sub(" ", text).split(_BREAK)
    return "\n".join(line.strip() for line in lines).strip()


def _start(element: Any) -> int:
    if _name(element) != "ol":
        return -1
    start = element.get("start") or "1"
    return int(start) - 1 if start.isdigit() and len(start) < 9 else 0


def _marker(element: Any, tag: str, counters: list[int]) -> str:
    if tag == "dt" or not counters:
        return ""
    if tag == "dd":
        return "  "
    if counters[-1] < 0:
        return "- "
    counters[-1] += 1
    return f"{counters[-1]}. "


def _code(element: Any) -> Iterator[Piece]:
    for line_break in element.iter("{*}br"):
        line_break.tail = "\n" + (line_break.tail or "")
    yield Piece("code", "".join(element.itertext()))


def _is_data(element: Any) -> bool:
    """Return whether a table holds data, and is not there to lay out a page."""
    if element.get("role") == "presentation" or next(element.iterdescendants("{*}table"), None) is not None:
        return False
    rows = [[cell for cell in row if _name(cell) in ("td", "th")] for row in element.iter("{*}tr")]
    if not any(len(row) > 1 for row in rows):
        return False
    return all(sum(map(len, cell.itertext())) <= 2000 for row in rows for cell in row)


def _table(element: Any) -> Iterator[Piece]:
    names: list[str] = []
    body: list[list[str]] = []
    marked = False
    carried: dict[int, tuple[int, str]] = {}
    for part in element:
        if _name(part) == "caption":
            yield Piece("paragraph", _collapse("".join(part.itertext())))
    for row in element.iter("{*}tr"):
        cells = _cells(row, carried)
        kinds = [_name(cell) for cell in row if _name(cell) in ("td", "th")]
        heads = _name(row.getparent()) == "thead" or (kinds and all(kind == "th" for kind in kinds))
        if heads and not body:
            # Two header rows name a column together: "Price dealer".
            wide = max(len(names), len(cells))
            above, below = names + [""] * (wide - len(names)), cells + [""] * (wide - len(cells))
            names = [one_line(a if a == b else f"{a} {b}") for a, b in zip(above, below, strict=True)]
            marked = True
        else:
            body.append(cells)
    if marked and body:
        for cells in body:
            yield Piece("row", row_text(cells, names))
    else:
        # Without a marked header, two columns are as likely names and values.
        plain = max(map(len, body), default=0) < 3 or next(element.iter("{*}th"), None) is not None
        yield from table(body or [names], header=False if plain else None)


def _cells(row: Any, carried: dict[int, tuple[int, str]]) -> list[str]:
    """Return the texts of a row, with cells that span columns or rows repeated."""
    cells: list[str] = []

    def fill() -> None:
        while len(cells) in carried:
            left, text = carried[len(cells)]
            if left > 1:
                carried[len(cells)] = (left - 1, text)
            else:
                del carried[len(cells)]
            cells.append(text)

    for cell in row:
        if _name(cell) not in ("td", "th"):
            continue
        fill()
        text = one_line(" ".join(piece.text for piece in pieces(cell)) if len(cell) else cell.text or "")
        down = _span(cell.get("rowspan"))
        for _ in range(_span(cell.get("colspan"))):
            if down > 1:
                carried[len(cells)] = (down - 1, text)
            cells.append(text)
    fill()
    return cells


def _span(value: str | None) -> int:
    return min(max(int(value), 1), _WIDEST_SPAN) if value and value.isdigit() and len(value) < 9 else 1
