"""Documents -> passages: spans short enough for the encoder, cut where a reader would cut.

The laws, tested with hypothesis: `document.text[p.start:p.end] == p.text`; every character that is not blank lies in
some passage; no passage has more than `chunk_tokens` of the encoder's tokens, nor more than the encoder takes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from tokenizers import Tokenizer

from mlxrag.rag.document import Block, Document, Passage, passage_id
from mlxrag.rag.place import place
from mlxrag.rag.ruler import Ruler, measure, untruncated
from mlxrag.rag.sentences import sentences
from mlxrag.settings import Chunking

Span = tuple[int, int]
Unit = tuple[int, int, bool]
"""A span that is not cut, and whether it is prose: passages of prose overlap, those of rows and code do not."""
Level = Callable[[str, int, int], Iterator[Span]]
"""A way to cut `text[start:end]` into smaller spans."""


class Encoder(Protocol):
    """What chunking needs of an encoder."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose tokens are counted."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text that it encodes whole, its own special tokens not counted."""


def chunk(document: Document, chunking: Chunking, encoder: Encoder) -> list[Passage]:
    """Return the passages of a document, in order.

    Time grows with the text, which is tokenized twice: whole, to cut it, and in passages, to be sure of their length.

    Args:
        document: any document; one without text has no passages.
        chunking: how to cut, and the length of passages and overlaps.
        encoder: gives the tokenizer and the most tokens it takes.
    """
    tokenizer = untruncated(encoder.tokenizer)
    limit = min(chunking.chunk_tokens, encoder.max_tokens)
    ruler = measure(document.text, tokenizer, limit)
    overlap = min(chunking.chunk_overlap, limit // 2)
    spans = CHUNKERS[chunking.chunker](document, ruler, overlap)
    passages: list[Passage] = []
    for start, end in sorted(_held(ruler, tokenizer, spans)):
        # Halves of overlapping spans may lie within each other.
        if not passages or end > passages[-1].end:
            passages.append(_passage(document, start, end))
    return passages


def by_structure(document: Document, ruler: Ruler, overlap: int) -> Iterator[Span]:
    """Cut at headings and between blocks; blocks too long at lines or sentences; join tiny neighbours.

    A heading goes with what follows it.  Sections that need more than one passage are cut evenly rather than into full
    ones and a rest, and prose overlaps by whole sentences.
    """
    tiny = ruler.limit // 8
    held: Span | None = None
    for section in _sections(document):
        for span in _pack(ruler, [unit for block in section for unit in _units(ruler, block)], overlap):
            if held and min(ruler.cost(*held), ruler.cost(*span)) < tiny and ruler.fits(held[0], span[1]):
                held = (held[0], span[1])
                continue
            if held:
                yield held
            held = span
    if held:
        yield held


def by_sentences(document: Document, ruler: Ruler, overlap: int) -> Iterator[Span]:
    """Fill passages with whole sentences, wherever headings are."""
    whole = _cut(ruler, 0, len(document.text), (sentences, _by_line, _by_word))
    return _pack(ruler, [(start, end, True) for start, end in whole], overlap, even=False)


def by_tokens(document: Document, ruler: Ruler, overlap: int) -> Iterator[Span]:
    """Cut every `limit` tokens, at a blank where one is near, and begin again about `overlap` tokens before."""
    start = 0
    while start < len(document.text):
        end = ruler.longest(start)
        yield start, end
        if end == len(document.text):
            return
        back = bisect_left(ruler.starts, end) - overlap
        begin = ruler.starts[back] if overlap and back > 0 else end
        blank = _WORD.search(document.text, begin, end)
        begin = blank.end() if blank else begin
        start = begin if start < begin < end else end


CHUNKERS: dict[str, Callable[[Document, Ruler, int], Iterable[Span]]] = {
    "structure": by_structure,
    "sentences": by_sentences,
    "tokens": by_tokens,
}


def _sections(document: Document) -> Iterator[list[Block]]:
    """Yield runs of blocks that begin with a heading, text between blocks included."""
    section: list[Block] = []
    at, place = 0, ""
    for block in (*document.blocks, Block(len(document.text), len(document.text), "paragraph", "")):
        if document.text[at : block.start].strip():
            section.append(Block(at, block.start, "paragraph", place))
        # A heading right below another one stays in its section.
        if block.kind == "heading" and any(above.kind != "heading" for above in section):
            yield section
            section = []
        if block.end > block.start:
            section.append(block)
        at, place = block.end, block.place
    if section:
        yield section


def _units(ruler: Ruler, block: Block) -> Iterator[Unit]:
    """Yield the spans a block is not cut within."""
    prose = block.kind in ("paragraph", "list", "heading")
    for start, end in _cut(ruler, block.start, block.end, _LEVELS.get(block.kind, _LEVELS["paragraph"])):
        yield start, end, prose


def _pack(ruler: Ruler, units: Sequence[Unit], overlap: int, even: bool = True) -> Iterator[Span]:
    """Join neighbouring units into passages, none above the limit; of nearly equal cost if `even`."""
    if not units:
        return
    total = ruler.cost(units[0][0], units[-1][1])
    target = -(-total // -(-total // ruler.limit)) if even else ruler.limit
    start, end, before = units[0]
    for low, high, prose in units[1:]:
        if ruler.fits(start, high) and ruler.cost(start, end) < target:
            end, before = high, prose
            continue
        yield start, end
        begin = _overlapped(ruler, start, end, overlap) if overlap and prose and before else low
        start = begin if begin < low and ruler.fits(begin, high) else low
        end, before = high, prose
    yield start, end


def _overlapped(ruler: Ruler, start: int, end: int, overlap: int) -> int:
    """Return where the last sentences of a span begin that have at most `overlap` tokens; `end` if none."""
    begin = end
    for low, _ in reversed(list(sentences(ruler.text, start, end))):
        if low <= start or ruler.cost(low, end) > overlap:
            break
        begin = low
    return begin


def _cut(ruler: Ruler, start: int, end: int, levels: Sequence[Level]) -> Iterator[Span]:
    """Yield spans that fit: the whole one, else what the first level makes of it, cut by the next where too long."""
    if ruler.fits(start, end):
        if ruler.text[start:end].strip():
            yield start, end
    elif levels:
        for low, high in levels[0](ruler.text, start, end):
            yield from _cut(ruler, low, high, levels[1:])
    else:
        while start < end:
            stop = min(ruler.longest(start), end)
            if ruler.text[start:stop].strip():
                yield start, stop
            start = stop


def _split(at: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for found in at.finditer(text, start, end):
        if found.start() > begin:
            yield begin, found.start() if not found[0].strip() else found.end()
        begin = found.end()
    if begin < end:
        yield begin, end


_WORD = re.compile(r"\s+")
_by_blank_line = partial(_split, re.compile(r"\n[ \t]*\n"))
_by_line = partial(_split, re.compile(r"\n"))
_by_value = partial(_split, re.compile(r"; | \| "))
_by_word = partial(_split, _WORD)
_LEVELS: dict[str, tuple[Level, ...]] = {
    "paragraph": (_by_blank_line, sentences, _by_line),
    "list": (_by_line, sentences),
    "code": (_by_blank_line, _by_line),
    "cell": (_by_blank_line, _by_line),
    "row": (_by_value, sentences),
}
"""How blocks that are too long are cut: the first way that gives pieces, then the next for pieces still too long."""


def _held(ruler: Ruler, tokenizer: Tokenizer, spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans without blanks around; those whose own tokens are more than counted, in halves."""
    waiting = [span for start, end in spans if (span := _bare(ruler.text, start, end))]
    lengths = [
        len(encoding)
        for encoding in tokenizer.encode_batch([ruler.text[a:b] for a, b in waiting], add_special_tokens=False)
    ]
    for (start, end), length in zip(waiting, lengths, strict=True):
        if length <= ruler.limit or end - start == 1:
            yield start, end
            continue
        # A byte-level tokenizer may count differently within a longer text.
        middle = (start + end) // 2
        blank = ruler.text.rfind(" ", start, middle)
        cut = blank if blank > start + (end - start) // 4 else middle
        yield from _held(ruler, tokenizer, [(start, cut), (cut, end)])


def _bare(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _passage(document: Document, start: int, end: int) -> Passage:
    return Passage(
        id=passage_id(document.id, start, end),
        document_id=document.id,
        source=document.source,
        title=document.title,
        place=place(document, start, end),
        start=start,
        end=end,
        text=document.text[start:end],
    )
