"""Numbers on disk, for jobs over more examples than memory should hold.

A column grows row by row in a temporary file and is then mapped into memory: the system may take its pages back at
any time, so what a job really holds stays the same however many rows there are.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

BLOCK = 1 << 12


class Column:
    """Rows of one shape, written once and in order; closed when they are taken out.

    Args:
        dtype: of the numbers.
        shape: of a row; `()` for one number.
    """

    def __init__(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `rows`
        self._held: list[Any] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: ArrayLike) -> None:
        """Append a row."""
        self._held.append(row)
        self._count += 1
        if len(self._held) == BLOCK:
            self._flush()

    def rows(self) -> np.ndarray:
        """Return all rows `(len, *shape)`, mapped from the file and not to be written to; nothing can be added after."""
        self._flush()
        with self._file:
            if not self._count:
                return np.empty((0, *self._shape), self._dtype)
            self._file.flush()
            return np.memmap(self._file, self._dtype, "r", shape=(self._count, *self._shape))

    def _flush(self) -> None:
        if self._held:
            self._file.write(np.asarray(self._held, self._dtype).tobytes())
            self._held = []
