"""Lines of the standard input, with something to do when none comes for a while."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable


class Lines:
    """Reads the standard input itself, since a buffered reader does not say whether a line lies ready in it."""

    def __init__(self) -> None:
        self._pending = b""
        self._ended = False

    def next(self, after: float, idle: Callable[[], None]) -> str | None:
        """Return the next line without its end, or None at the end of the input.

        Args:
            after: seconds without a line after which `idle` is called, once; 0 is never.
            idle: what to do then.
        """
        try:
            handle = sys.stdin.fileno()
        except (io.UnsupportedOperation, ValueError):
            line = sys.stdin.readline()  # no file, such as in a test
            return line.strip() if line else None
        while b"\n" not in self._pending and not self._ended:
            if after and not select.select([handle], [], [], after)[0]:
                idle()
                after = 0
            chunk = os.read(handle, 1 << 16)
            self._pending += chunk
            self._ended = not chunk
        line, end, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace").strip() if line or end else None
