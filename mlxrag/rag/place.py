"""Where a span of a document is, in words a reader can follow: "4. Loads and limits, pages 2-3"."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace

from mlxrag.rag.document import Block, Document

_SPOT = re.compile(r"(?:(.*), )?(page|slide|row|cell|line|item|note) (\d+)", re.S)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A heading path, and the first and last page, row or line below it; `word` is empty where there are none."""

    trail: str
    word: str = ""
    low: int = 0
    high: int = 0


def place(document: Document, start: int, end: int) -> str:
    """Return the heading path of a span, with its pages, slides, rows, cells or lines from the first to the last.

    Headings with nothing below them in the span say nothing, nor does one above a deeper one.

    Example: blocks at "Prices, row 4" and "Prices, row 5" give "Prices, rows 4-5".
    """
    first = bisect_right(document.blocks, start, key=lambda block: block.end)
    after = next(
        (at for at, block in enumerate(document.blocks[first:], first) if block.start >= end), len(document.blocks)
    )
    blocks = document.blocks[first:after]
    stretches: list[_Stretch] = []
    for at, block in enumerate(blocks):
        here = _stretch(document.text, block, start, end)
        below = _stretch(document.text, blocks[at + 1], start, end) if at + 1 < len(blocks) else here
        if block.kind == "heading" and below.trail != here.trail:
            continue
        last = stretches[-1] if stretches else None
        if last and last.trail == here.trail and (last.word == here.word or not here.word):
            stretches[-1] = replace(last, high=max(last.high, here.high))
        elif last and ((last.trail == here.trail and not last.word) or here.trail.startswith(f"{last.trail} > ")):
            stretches[-1] = here
        else:
            stretches.append(here)
    names = [name for stretch in stretches if (name := _name(stretch))]
    return "; ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


def _stretch(text: str, block: Block, start: int, end: int) -> _Stretch:
    found = _SPOT.fullmatch(block.place)
    if found is None:
        return _Stretch(block.place)
    low = high = int(found[3])
    if found[2] == "line":
        # The block says its first line; its lines stand in the text as they stood in the file.
        low += text.count("\n", block.start, max(block.start, start))
        high += text.count("\n", block.start, min(block.end, end))
    return _Stretch(found[1] or "", found[2], low, high)


def _name(stretch: _Stretch) -> str:
    if not stretch.word:
        return stretch.trail
    one = stretch.low == stretch.high
    spot = f"{stretch.word} {stretch.low}" if one else f"{stretch.word}s {stretch.low}-{stretch.high}"
    return f"{stretch.trail}, {spot}" if stretch.trail else spot
