"""A page to browse examples in: one self-contained HTML file that works offline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from mlxrag.data.example import Example
from mlxrag.workspace import write_text


def write_page(examples: Iterable[Example], path: Path, *, title: str, limit: int = 2000) -> int:
    """Write examples to a page with search, filters by tag, and marked evidence; return how many.

    Args:
        examples: what to show; only the first `limit` are read.
        path: the file, whole or not there.
        title: heading of the page.
        limit: most examples on the page; 2,000 make about 5 MB.
    """
    shown = [
        {
            "example": e,
            "passages": [(p, list(marked(p.text, e.evidence or e.answers))) for p in e.passages],
        }
        for e in islice(examples, limit)
    ]
    tags = sorted({t for row in shown for t in row["example"].tags})  # type: ignore[attr-defined]
    write_text(path, environment().get_template("examples.html").render(title=title, rows=shown, tags=tags))
    return len(shown)


def environment() -> Environment:
    """Return the templates of this room; everything that is put into a page is escaped."""
    return Environment(
        loader=PackageLoader("mlxrag.data", "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def marked(text: str, quotes: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Cut a text into (piece, whether it belongs to a quote); pieces join to the text.

    Example:
        >>> list(marked("at 8:30 from pier 4", ["8:30", "30 from"]))
        [('at ', False), ('8:30 from', True), (' pier 4', False)]
    """
    spans = sorted(
        (m.start(), m.end())
        for q in quotes
        if q.strip()
        for m in re.finditer(re.escape(q.strip()), text, re.IGNORECASE)
    )
    at = 0
    merged: list[list[int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    for start, end in merged:
        if start > at:
            yield text[at:start], False
        yield text[start:end], True
        at = end
    if at < len(text) or not text:
        yield text[at:], False
