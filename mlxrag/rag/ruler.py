"""Lengths of spans of a text, in an encoder's tokens, without encoding each span."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 16
"""A span counts as at least one token per so many characters: encoders read a word of a million letters as one."""
_SLICE = 20_000
_SLICES = 64


@dataclass(frozen=True, slots=True)
class Ruler:
    """Where the tokens of one text begin and end.

    Attributes:
        text: the text.
        starts: first character of each token, never decreasing.
        ends: one past the last character of each token, never decreasing.
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

    def longest(self, start: int) -> int:
        """Return the end of the longest passage from `start`, after a blank if there is one in its last quarter."""
        last = bisect_right(self.ends, start) + self.limit
        end = self.starts[last] if last < len(self.starts) else len(self.text)
        end = max(min(end, start + self.limit * CHARACTERS_PER_TOKEN), start + 1)
        if end >= len(self.text):
            return len(self.text)
        low = max(start + (end - start) * 3 // 4, start + 1)
        return next((at for at in range(end, low, -1) if self.text[at - 1].isspace()), end)


def measure(text: str, tokenizer: Tokenizer, limit: int) -> Ruler:
    """Tokenize a text, in slices that end at a line or a word, and return the ruler for its spans.

    Args:
        text: any text.
        tokenizer: without truncation, see `untruncated`.
        limit: most tokens of a passage.
    """
    cuts = [0]
    while cuts[-1] < len(text):
        ahead = min(cuts[-1] + _SLICE, len(text))
        if ahead < len(text):
            blank = max(text.rfind("\n", cuts[-1], ahead), text.rfind(" ", cuts[-1], ahead))
            ahead = blank + 1 if blank >= cuts[-1] else ahead
        cuts.append(ahead)
    starts: list[int] = []
    ends: list[int] = []
    for first in range(0, len(cuts) - 1, _SLICES):
        group = list(zip(cuts[first : first + _SLICES], cuts[first + 1 : first + _SLICES + 1], strict=False))
        encoded = tokenizer.encode_batch([text[start:end] for start, end in group], add_special_tokens=False)
        for (start, _), encoding in zip(group, encoded, strict=True):
            for low, high in encoding.offsets:
                if high > low:
                    starts.append(start + low)
                    ends.append(start + high)
    # Byte-level tokens within one character share its span, not always in order.
    return Ruler(text, sorted(starts), sorted(ends), limit)


@lru_cache(maxsize=4)
def untruncated(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer without truncation and padding, which checkpoints often carry."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
