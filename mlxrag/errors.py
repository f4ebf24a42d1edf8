"""Every exception raised on purpose.

MlxragError       something the user can put right; the command line prints it in one line
├── BadInput      a file or a value the user gave is wrong; names the place
├── NotFound      no such model, adapter, index or version; names the nearest
├── Mismatch      two things that do not belong together
├── Damaged       something we wrote is not as we wrote it
└── WontFit       the work would not fit in memory; says needed and free
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MlxragError(Exception):
    """Something the user can put right: one sentence that says what, where and what to do."""


class BadInput(MlxragError):
    """A file or a value the user gave is wrong."""


class NotFound(MlxragError):
    """A name that nothing answers to."""


class Mismatch(MlxragError):
    """Two things that do not belong together, such as an adapter and another base."""


class Damaged(MlxragError):
    """Something mlxrag wrote is not as it wrote it."""


class WontFit(MlxragError):
    """The work would not fit in the memory budget; `missing` says by how many bytes, where that is known."""

    def __init__(self, text: str, missing: int = 0) -> None:
        super().__init__(text)
        self.missing = missing


def nearest(given: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest of `known`, or an empty string.

    Example:
        >>> nearest("chunk_token", ["chunk_tokens", "seed"])
        "; did you mean 'chunk_tokens'?"
    """
    close = get_close_matches(given, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
