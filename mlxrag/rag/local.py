"""An index in a directory of the workspace: the store, and what is derived from it for searching.

```
indexes/<name>/store.sqlite     the truth (store.py)
indexes/<name>/derived.json     which folder is valid, and up to where it has followed the store
indexes/<name>/derived-<n>/     vectors (vectors.py) and full text (lexical.py)
```

Rule: whatever stands in the derived folder can be made again from the store.  It follows by
appending; it is made anew when it is missing, damaged, a quarter dead, or of the wrong form.  The
state file is written last, so that a process that dies leaves the former state valid.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tantivy

from mlxrag.errors import MlxragError
from mlxrag.memory import ledger
from mlxrag.rag import lexical, vectors
from mlxrag.rag.document import Document, Passage
from mlxrag.rag.store import Store, open_store
from mlxrag.rag.tables import Accepts
from mlxrag.rag.words import question_terms, terms
from mlxrag.settings import Encoding, Retrieval
from mlxrag.workspace import write_json

DEAD = 0.25
"""Share of removed rows at which the derived files are made anew."""

SPOT = re.compile(r"(^|, )(page|slide|row|cell|line|item|part) \d+$")
"""The end of a place that is a number and no heading."""

LEAD = 200
"""Characters of title and headings at most; they take room from the passage where it is as long as the encoder allows."""
WAIT = 30.0
"""Seconds to wait for room for what of an index is not mapped from its files."""


class LocalIndex:
    """An open index in a directory.  A context manager; one process may open it many times.

    Attributes:
        name: what it is called.
        path: its directory.
        store: the truth.
        fingerprint: of the encoder that made its vectors.
        dimension: length of a vector.
        encoding: the settings of that encoder.
    """

    def __init__(self, name: str, path: Path, retrieval: Retrieval):
        self.name = name
        self.path = path
        self.store: Store = open_store(path / "store.sqlite")
        self.fingerprint = self.store.meta["fingerprint"]
        self.dimension = int(self.store.meta["dimension"])
        self.encoding = Encoding.model_validate_json(self.store.meta["encoding"])
        self._exact_below = retrieval.exact_below
        self._depth = retrieval.rescore_depth
        self._opened: tuple[int, int, str] | None = None
        self._one_thread = threading.RLock()
        self._allowed: dict[Any, np.ndarray] = {}
        self._languages: list[str] = []
        self._hold = ledger().reserve(f"index {name}", "index", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        self.store.close()
        self._hold.release()
        self._opened = None

    # --- searching -----------------------------------------------------------------------------

    def nearest(
        self, question: np.ndarray, k: int, where: tuple[Any, Accepts] | None = None
    ) -> list[tuple[int, float]]:
        """Return `(row, cosine)` of the passages closest to a vector `(d,)` of length 1, best first.

        Args:
            question: the question's vector.
            k: how many, at most.
            where: a key that stands for a condition, and the condition on a document's facts.

        Raises:
            Mismatch: the vector has another length than the index's.
        """
        self._follow()
        rows, scores = vectors.nearest(self._matrix, question, k, self._depth, self._rows(where))
        return [(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]

    def matching(self, question: str, k: int, where: tuple[Any, Accepts] | None = None) -> list[tuple[int, float]]:
        """Return `(row, BM25)` of the passages that share words with a question, best first."""
        self._follow()
        return lexical.search(self._searcher, question_terms(question, self._languages), k, self._rows(where))

    def languages(self) -> list[str]:
        """Return the languages of the documents, the commonest first."""
        self._follow()
        return self._languages

    def passages_at(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Return the passages of these rows; one that has been removed is left out."""
        return self.store.passages_at(rows)

    def vectors_at(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the vectors `(d,)` float32 of these rows."""
        return self.store.vectors_at(rows)

    def _rows(self, where: tuple[Any, Accepts] | None) -> np.ndarray | None:
        if where is None:
            return None
        key, accepts = where
        if key not in self._allowed:
            self._allowed = {key: self.store.rows_where(accepts)}
        return self._allowed[key]

    # --- reading -------------------------------------------------------------------------------

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in this order; one that is gone is left out."""
        found = self.store.passages_named(ids)
        return [found[i] for i in ids if i in found]

    def all_passages(self) -> Iterator[Passage]:
        """Yield every passage, in the order they were indexed."""
        return (passage for _, passage, _ in self.store.passages_after(0))

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the order they were indexed."""
        return self.store.documents()

    def counts(self) -> dict[str, int]:
        """Return how many documents and passages there are."""
        return self.store.counts()

    def verify(self) -> list[str]:
        """Return what is wrong with the files, in words; reads all of them."""
        faults = [f"{self.path / 'store.sqlite'}: {fault}" for fault in self.store.faults()]
        if not faults:
            self.catch_up()
            n = self.store.counts()["passages"]
            alive = len(self._matrix.rows) if self._matrix.alive is None else int(self._matrix.alive.sum())
            if alive != n or self._searcher.num_docs != n:
                faults.append(
                    f"{self.path}: {n} passages, {alive} vectors and {self._searcher.num_docs} texts do not agree"
                )
        return faults

    # --- following the store -------------------------------------------------------------------

    def catch_up(self, wait: bool = True) -> None:
        """Bring the derived files up to the store.

        Args:
            wait: whether to wait for another process that is doing so; if not, what it has
                finished is used.
        """
        try:
            with self._turn(wait) as ours:
                if ours:
                    self._build()
        except (OSError, ValueError) as error:  # tantivy's errors are ValueErrors
            if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
                raise MlxragError(
                    f"{self.path}: the disk is full; free some space and run the same command again"
                ) from error
            raise
        for attempt in range(5):
            try:
                self._open()
                return
            except (OSError, ValueError):
                if attempt == 4:
                    raise
                time.sleep(0.05)  # another process has just put a new folder in place of this one

    def _follow(self) -> None:
        """Search what is there now: cheap when nothing has changed, a catch-up when something has."""
        with self._one_thread:
            self._follow_alone()

    def _follow_alone(self) -> None:
        if self._opened is None or self._opened[:2] != self.store.mark():
            try:
                self.catch_up(wait=self._opened is None and not self._state())
            except OSError as error:
                if not self._state():
                    raise MlxragError(
                        f"{self.path}: cannot be written: {error.strerror}; the index needs it once"
                    ) from error
                self._open()  # a read-only place: search what was derived when it could be written

    def _build(self) -> None:
        state = self._state()
        form: vectors.Form = "exact" if self.store.counts()["passages"] < self._exact_below else "signs"
        if (
            state
            and (state["form"], state["row"], state["removed"]) == (form, *self.store.mark())
            and self._sound(state)
        ):
            return
        with self.store.snapshot():
            mark = self.store.mark()
            gone = self.store.removed(state["removed"]) if state else np.empty(0, np.int64)
            n = self.store.counts()["passages"]
            dead = (state["count"] + max(0, mark[0] - state["row"]) - n) if state else 0
            if not state or state["form"] != form or dead > max(DEAD * n, 1000) or not self._sound(state):
                number = max([0, *(int(p.name.split("-")[1]) for p in self.path.glob("derived-*"))]) + 1
                state = {
                    "folder": f"derived-{number}",
                    "form": form,
                    "count": 0,
                    "row": 0,
                    "removed": mark[1],
                    "base": mark[1],
                }
                gone = np.empty(0, np.int64)
            folder = self.path / state["folder"]
            text = lexical.open_lexical(folder / "lexical")
            new = self.store.rows_with_vectors(state["row"])
            count = vectors.append(folder, form, self.dimension, state["count"], new)
            lexical.write(
                text, gone, ((row, _terms(p, code)) for row, p, code in self.store.passages_after(state["row"]))
            )
        state |= {"count": count, "row": mark[0], "removed": mark[1]}
        write_json(self.path / "derived.json", state)
        for old in self.path.glob("derived-*"):
            if old.name != state["folder"]:
                shutil.rmtree(old, ignore_errors=True)

    def _open(self) -> None:
        state = self._state()
        assert state is not None
        folder = self.path / state["folder"]
        opened = (state["row"], state["removed"], state["folder"])
        if self._opened == opened:
            return
        removed = self.store.removed(state["base"])
        self._matrix = vectors.open_matrix(folder, state["form"], self.dimension, state["count"], removed)
        # What is mapped the system can take back; what is not is ours.
        held = [a for a in (self._matrix.rows, *self._matrix.arrays.values()) if not isinstance(a, np.memmap)]
        self._hold.resize(sum(a.nbytes for a in held), wait=WAIT)
        text = lexical.open_lexical(folder / "lexical")
        text.reload()
        self._searcher: tantivy.Searcher = text.searcher()
        self._languages = self.store.languages()
        self._allowed = {}
        self._opened = opened

    def _state(self) -> dict[str, Any] | None:
        try:
            state = json.loads((self.path / "derived.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def _sound(self, state: Mapping[str, Any]) -> bool:
        """Return whether the derived files can be opened; if not, they are made again."""
        folder = self.path / state["folder"]
        try:
            vectors.open_matrix(folder, state["form"], self.dimension, state["count"], np.empty(0, np.int64))
            lexical.open_lexical(folder / "lexical").searcher()
        except (OSError, ValueError, KeyError):
            return False
        return True

    @contextmanager
    def _turn(self, wait: bool) -> Iterator[bool]:
        with (self.path / "lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def context(passage: Passage) -> str:
    """Return what a passage is found by: its document's title, the headings it stands under, and its text.

    Numbers of pages and lines are left out; nobody asks for them, and they would make equal texts different.
    """
    lead = " - ".join(part for part in (passage.title, SPOT.sub("", passage.place)) if part)[:LEAD]
    return f"{lead}\n{passage.text}" if lead else passage.text


def _terms(passage: Passage, language: str) -> list[str]:
    return terms(context(passage), language)
