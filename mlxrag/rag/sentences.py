"""Text -> the spans of its sentences, in any script that marks their ends.

Strategy: a sentence ends after a mark that white space follows, unless the mark belongs to an abbreviation, an initial
or a number, or after a full-width mark.  Thai and other scripts without marks fall to the caller, who cuts at blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ENDS = re.compile(
    r"[.!?…؟۔।]+[\"'”’»)\]]*(?=\s)"  # scripts that put a blank between sentences
    r"|[。！？｡]+[」』”’）\"]*"  # Chinese and Japanese
    r"|\n[ \t]*\n"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs no nos fig figs eq sec ch vol pp p ed eds al etc cf ca approx dept est inc ltd co corp"
    " jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun e.g i.e u.s u.k a.m p.m"
    " bzw usw z.b d.h nr abs str dr.-ing m mme mlle sra sres av núm art".split()
)
_WORD = re.compile(r"[\w.’'-]*$")


def sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the spans of the sentences of `text[start:end]`, in order, blanks between them left out.

    Example:
        >>> text = "Dr. Vale costs $3.50. Ask him!"
        >>> [text[a:b] for a, b in sentences(text)]
        ['Dr. Vale costs $3.50.', 'Ask him!']
    """
    end = len(text) if end is None else end
    begin = start
    for mark in _ENDS.finditer(text, start, end):
        if not _is_end(text, begin, mark.start(), mark.end(), end):
            continue
        yield from _trimmed(text, begin, mark.end())
        begin = mark.end()
    yield from _trimmed(text, begin, end)


def _is_end(text: str, begin: int, mark: int, after: int, end: int) -> bool:
    if text[mark] != ".":
        return True
    tail = text[after : min(after + 40, end)].lstrip()
    if tail and tail[0].islower():
        return False
    if after - mark > 1 or not tail:
        return True
    found = _WORD.search(text, max(begin, mark - 30), mark)
    word = found[0] if found else ""
    if word.lower() in _ABBREVIATIONS:
        return False
    # "J. R. R. Tolkien" and the "1." of a list
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return not (initial or (word.isdigit() and begin >= mark - len(word) - 1))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end
