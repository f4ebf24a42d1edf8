"""Documents -> passages: spans short enough for the encoder, cut where a reader would cut.

The laws, tested with hypothesis: `document.text[p.start:p.end] == p.text`; every character that is not blank lies in
some passage; no passage has more than `chunk_tokens` of the encoder's tokens, nor more than the encoder takes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from tokenizers import Tokenizer

from mlxrag.rag.document import Block, Document, Passage, passage_id
from mlxrag.rag.sentences import sentences
from mlxrag.settings import Chunking

CHARACTERS_PER_TOKEN = 16
"""A passage has at most this many characters per allowed token: encoders read a word of a million letters as one token."""
_SLICE = 20_000
_SPOT = re.compile(r"(?:(.*), )?(page|slide|row|cell|line|item|part) (\d+)", re.S)

Span = tuple[int, int]


class Encoder(Protocol):
    """What chunking needs of an encoder."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose tokens are counted."""

    @property
    def max_tokens(self) -> int:
        """Most tokens the encoder takes, special tokens included."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """Lengths of spans of one text, in tokens.

    Attributes:
        text: the text.
        starts: first character of each token, never decreasing.
        ends: one past the last character of each token.
        limit: most tokens of a passage.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]
    limit: int

    def cost(self, start: int, end: int) -> int:
        """Return how many tokens `text[start:end]` has, or more where they are overlong."""
        tokens = bisect_left(self.starts, end) - bisect_right(self.ends, start)
        return max(tokens, -(-(end - start) // CHARACTERS_PER_TOKEN))

    def fits(self, start: int, end: int) -> bool:
        """Return whether the span may be a passage."""
        return self.cost(start, end) <= self.limit


def chunk(document: Document, chunking: Chunking, encoder: Encoder) -> list[Passage]:
    """Return the passages of a document, in order.

    Takes about 1 s per 2 MB of text, nearly all of it the tokenizer's.

    Args:
        document: any document; one without text has no passages.
        chunking: how to cut, and the length of passages and overlaps.
        encoder: gives the tokenizer and the most tokens it takes.
    """
    tokenizer = _plain(encoder.tokenizer)
    most = max(encoder.max_tokens - encoder.tokenizer.num_special_tokens_to_add(False), 1)
    limit = min(chunking.chunk_tokens, most)
    ruler = measure(document.text, tokenizer, limit)
    overlap = min(chunking.chunk_overlap, limit // 2)
    spans = CHUNKERS[chunking.chunker](document, ruler, overlap)
    return [_passage(document, start, end) for start, end in _held(ruler, tokenizer, spans)]


def measure(text: str, tokenizer: Tokenizer, limit: int) -> Ruler:
    """Tokenize a text in slices and return the ruler that counts its spans."""
    cuts = [0]
    while cuts[-1] < len(text):
        ahead = min(cuts[-1] + _SLICE, len(text))
        line_end = text.rfind("\n", cuts[-1], ahead) if ahead < len(text) else -1
        blank = line_end if line_end > 0 else text.rfind(" ", cuts[-1], ahead) if ahead < len(text) else -1
        cuts.append(blank + 1 if blank >= cuts[-1] else ahead)
    starts: list[int] = []
    ends: list[int] = []
    for first in range(0, len(cuts) - 1, 64):
        group = list(zip(cuts[first : first + 64], cuts[first + 1 : first + 65], strict=False))
        encoded = tokenizer.encode_batch([text[start:end] for start, end in group], add_special_tokens=False)
        for (start, _), encoding in zip(group, encoded, strict=True):
            for low, high in encoding.offsets:
                if high > low:
                    starts.append(start + low)
                    ends.append(start + high)
    # Byte-level tokens of one character share its span; bisection needs both lists in order.
    return Ruler(text, starts, sorted(ends), limit)


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
    whole = Block(0, len(document.text), "paragraph", "")
    return _pack(
        ruler, list(_cut(ruler, whole.start, whole.end, (_by_sentence, _by_line, _by_word))), overlap, even=False
    )


def by_tokens(document: Document, ruler: Ruler, overlap: int) -> Iterator[Span]:
    """Cut every `limit` tokens, at a blank where one is near, and begin again `overlap` tokens before."""
    text, first, count = ruler.text, 0, len(ruler.starts)
    reached = 0
    while first < count or reached < len(text.rstrip()):
        start = min(ruler.starts[first] if first < count else reached, reached)
        if first >= count and not text[reached:].strip():
            return
        end = _longest(ruler, start)
        yield start, end
        if end >= len(text.rstrip()):
            return
        reached = end
        following = bisect_left(ruler.starts, end)
        first = max(following - overlap, bisect_right(ruler.starts, start))
        first = first if first < count and ruler.starts[first] < end else following
        reached = min(ruler.starts[first], end) if first < count else end


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


def _units(ruler: Ruler, block: Block) -> Iterator[tuple[int, int, bool]]:
    """Yield the spans a block must not be cut within, and whether they are prose, which may overlap."""
    prose = block.kind in ("paragraph", "list", "heading")
    for start, end in _cut(ruler, block.start, block.end, _LEVELS.get(block.kind, _LEVELS["paragraph"])):
        yield start, end, prose


def _pack(
    ruler: Ruler, units: Sequence[tuple[int, int] | tuple[int, int, bool]], overlap: int, even: bool = True
) -> Iterator[Span]:
    """Join neighbouring units into passages of nearly equal cost, none above the limit."""
    if not units:
        return
    total = ruler.cost(units[0][0], units[-1][1])
    target = -(-total // -(-total // ruler.limit)) if even else ruler.limit
    start, end = units[0][0], units[0][1]
    for position in range(1, len(units)):
        low, high = units[position][:2]
        if ruler.fits(start, high) and ruler.cost(start, end) < target:
            end = high
            continue
        yield start, end
        prose = len(units[position]) < 3 or bool(units[position][2:] == (True,) == units[position - 1][2:])
        begin = _overlapped(ruler, start, end, overlap) if prose and overlap else low
        start = begin if begin < low and ruler.fits(begin, high) else low
        end = high
    yield start, end


def _overlapped(ruler: Ruler, start: int, end: int, overlap: int) -> int:
    """Return where the last sentences of a span begin that have at most `overlap` tokens; `end` if none."""
    begin = end
    for low, _ in reversed(list(sentences(ruler.text, start, end))):
        if low <= start or ruler.cost(low, end) > overlap:
            break
        begin = low
    return begin


def _cut(
    ruler: Ruler, start: int, end: int, levels: Sequence[Callable[[str, int, int], Iterator[Span]]]
) -> Iterator[Span]:
    """Yield spans that fit: the whole one, else what the first level makes of it, cut by the next where too long."""
    if ruler.fits(start, end):
        if ruler.text[start:end].strip():
            yield start, end
    elif levels:
        for low, high in levels[0](ruler.text, start, end):
            yield from _cut(ruler, low, high, levels[1:])
    else:
        while start < end:
            stop = min(_longest(ruler, start), end)
            if ruler.text[start:stop].strip():
                yield start, stop
            start = stop


def _longest(ruler: Ruler, start: int) -> int:
    """Return the end of the longest passage that begins at `start`, at a blank if there is one in its last quarter."""
    first = bisect_right(ruler.ends, start)
    last = first + ruler.limit
    end = ruler.starts[last] if last < len(ruler.starts) else len(ruler.text)
    end = max(min(end, start + ruler.limit * CHARACTERS_PER_TOKEN), start + 1)
    if end >= len(ruler.text):
        return len(ruler.text)
    low = start + (end - start) * 3 // 4
    for position in range(end, max(low, start + 1), -1):
        if ruler.text[position - 1].isspace():
            return position
    return end


def _by_blank_line(text: str, start: int, end: int) -> Iterator[Span]:
    yield from _split(_BLANK_LINE, text, start, end)


def _by_line(text: str, start: int, end: int) -> Iterator[Span]:
    yield from _split(_LINE, text, start, end)


def _by_value(text: str, start: int, end: int) -> Iterator[Span]:
    yield from _split(_VALUE, text, start, end)


def _by_word(text: str, start: int, end: int) -> Iterator[Span]:
    yield from _split(_WORD, text, start, end)


def _by_sentence(text: str, start: int, end: int) -> Iterator[Span]:
    return sentences(text, start, end)


_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LINE = re.compile(r"\n")
_VALUE = re.compile(r"; | \| ")
_WORD = re.compile(r"\s+")
_LEVELS: dict[str, tuple[Callable[[str, int, int], Iterator[Span]], ...]] = {
    "paragraph": (_by_blank_line, _by_sentence, _by_line),
    "list": (_by_line, _by_sentence),
    "code": (_by_blank_line, _by_line),
    "cell": (_by_blank_line, _by_line),
    "row": (_by_value, _by_sentence),
}


def _split(at: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for found in at.finditer(text, start, end):
        if found.start() > begin:
            yield begin, found.start() if not found[0].strip() else found.end()
        begin = found.end()
    if begin < end:
        yield begin, end


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


@lru_cache(maxsize=4)
def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer without truncation and padding, which checkpoints often carry."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


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


def place(document: Document, start: int, end: int) -> str:
    """Return where a span is: heading path, and pages, rows, cells or lines from the first to the last.

    Example: blocks at "Prices, row 4" and "Prices, row 5" give "Prices, rows 4-5".
    """
    first = bisect_right(document.blocks, start, key=lambda block: block.end)
    trails: list[list[str | int]] = []
    for block in document.blocks[first:]:
        if block.start >= end:
            break
        found = _SPOT.fullmatch(block.place)
        trail, word, number = (found[1] or "", found[2], int(found[3])) if found else (block.place, "", 0)
        low = high = number
        if word == "line":
            low += document.text.count("\n", block.start, max(block.start, start))
            high += document.text.count("\n", block.start, min(block.end, end))
        if trails and trails[-1][0] == trail and trails[-1][1] == word:
            trails[-1][3] = high
        elif (trails and str(trail).startswith(f"{trails[-1][0]} > ")) or (trails and not trails[-1][0] and not word):
            trails[-1] = [trail, word, low, high]
        else:
            trails.append([trail, word, low, high])
    names = [_spot(*entry) for entry in trails]
    names = [name for name in names if name]
    return "; ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


def _spot(trail: str | int, word: str | int, low: str | int, high: str | int) -> str:
    spot = "" if not word else f"{word} {low}" if low == high else f"{word}s {low}-{high}"
    return f"{trail}, {spot}" if trail and spot else str(trail) or spot
