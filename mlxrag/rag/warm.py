"""Keys and values of popular passages, made before anybody asks and kept on disk.

A question whose passages were made ready reads them instead of processing them.  They are bound to model, adapter,
template and tokens as everything in the store is, so what has changed since is not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.model.cache import KVStore
from mlxrag.model.cache_key import store_key
from mlxrag.model.cache_layers import bytes_of, pack
from mlxrag.model.generate import processed
from mlxrag.rag.asked import popular
from mlxrag.rag.document import Hit
from mlxrag.rag.fit import fit
from mlxrag.rag.system import System


@dataclass(frozen=True, slots=True)
class Warmed:
    """A set of passages that is ready.

    Attributes:
        passages: their ids, in the order of the prompt.
        asked: how often questions were answered from them.
        tokens: of the instruction and the passages.
        nbytes: on disk.
        seconds: that processing took; 0 where it was there already.
    """

    passages: tuple[str, ...]
    asked: int
    tokens: int
    nbytes: int
    seconds: float


def warm(system: System, limit: int, count: int = 0) -> Iterator[Warmed]:
    """Make the most popular sets of passages ready, until the disk limit is reached.

    Args:
        system: what will be asked; its index, model, adapter and settings.
        limit: most bytes that they take on disk; files of earlier prompts are dropped, the oldest first, to stay below.
        count: most sets; 0 is as many as fit.

    Yields:
        One by one, the most popular first.  Sets of which a passage is gone, or that do not fit into the model's
        context, are passed over.

    Raises:
        BadInput: nothing has been asked of this index yet.
    """
    assert system.index is not None and system.store.folder is not None
    sets = popular(system.store.folder.parent, system.index.name)
    if not sets:
        raise BadInput(f"no question has been answered from the index {system.index.name!r} yet; ask some first")
    bits = system.settings.caching.cache_disk_bits
    store = KVStore(0, system.store.folder, limit, bits)
    key = store_key(system.model, system.settings.caching)
    total = 0
    for ids, asked in sets[: count or None]:
        tokens = _beginning(system, ids)
        if not tokens:
            continue
        file, began, seconds = store.file_of(key, tokens), time.perf_counter(), 0.0
        cache: list[Any] = []
        if file.exists():
            size = file.stat().st_size
        else:
            cache = processed(system.model, tokens, system.settings.caching)
            seconds = time.perf_counter() - began
            store.learn(seconds, len(tokens))
            cache = [pack(layer, bits) for layer in cache]
            size = bytes_of(cache)
        if total + size > limit:
            return
        store.save(key, tokens, cache)
        total += file.stat().st_size
        yield Warmed(ids, asked, len(tokens), file.stat().st_size, seconds)


def _beginning(system: System, ids: tuple[str, ...]) -> tuple[int, ...]:
    """Return the tokens of instruction and passages, as a question on them would begin; none where they do not fit."""
    assert system.index is not None
    passages = system.index.passages(ids)
    hits = [Hit(passage, 0.0, "log", n) for n, passage in enumerate(passages, 1)]
    try:
        fitted = fit(system, "?", hits) if len(passages) == len(ids) else None
    except BadInput:
        return ()
    return fitted.ids[: fitted.segments[-1]] if fitted and fitted.segments and not fitted.dropped_passages else ()
