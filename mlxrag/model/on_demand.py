"""Weights that come when they are used and may go in between: encoders and cross-encoders.

What is cheap to keep (tokenizer, configuration, fingerprint) stays with whoever holds it; the weights are written into
the ledger before they are read.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import mlx.core as mx

from mlxrag.memory import Hold, ledger

T = TypeVar("T")
HELPS = "a smaller encoder, --encoder-bits 8 or a larger --memory-budget would help"


class OnDemand(Generic[T]):
    """Something with weights, loaded when it is asked for.

    Args:
        who: what it is called in the ledger.
        size: bytes it takes while it is built.
        build: reads it.
        measure: bytes of it, once it is there.
    """

    def __init__(self, who: str, size: int, build: Callable[[], T], measure: Callable[[T], int]) -> None:
        self.who, self.size, self._build, self._measure = who, size, build, measure
        self._value: T | None = None
        self._hold: Hold | None = None
        self._turn = threading.RLock()
        self._users = 0

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._value is not None

    def get(self) -> T:
        """Return it, loading it where it is not in memory.

        Raises:
            WontFit: there is no room for it now.
        """
        with self._turn:
            if self._value is None:
                hold = ledger().reserve(self.who, "encoder", self.size, helps=HELPS)
                try:
                    self._value = self._build()
                    hold.resize(self._measure(self._value))
                except BaseException:
                    self._value = None
                    hold.release()
                    raise
                self._hold = hold
                weakref.finalize(self, hold.release)  # whoever drops it without a word gives its bytes back too
            return self._value

    @contextmanager
    def using(self) -> Iterator[T]:
        """Yield it, and keep it from being unloaded meanwhile."""
        with self._turn:
            self._users += 1
        try:
            yield self.get()
        finally:
            with self._turn:
                self._users -= 1

    def unload(self) -> int:
        """Let go of the weights and return the bytes that gives back; 0 where they are not in memory, or in use."""
        if not self._turn.acquire(blocking=False):
            return 0  # another thread is loading it
        try:
            if self._value is None or self._hold is None or self._users:
                return 0
            freed = self._hold.size
            self._value = None
            mx.clear_cache()
            self._hold.release()
            return freed
        finally:
            self._turn.release()
