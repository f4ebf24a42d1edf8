"""Keys and values of earlier prompts, kept for the next one that begins alike.

Strategy: an entry is a list of token ids and the layers' caches after them.  A new prompt takes the
entry with the longest common beginning, cut back to it; layers that cannot be cut back (sliding
windows that have slid, recurrent layers) are reused only where a whole entry is a beginning of the
prompt, for which `put_segment` keeps copies at the ends of segments.  Entries are bound to a key:
the hash of weights, adapter, template and cache layout.  Under another key they do not exist, so a
wrong reuse cannot happen.  The least recently used entries go first when the memory is full; on
disk, an entry is one safetensors file that names its key and its tokens.

Knows nothing of passages; whoever lays out a prompt puts what repeats first.

Source: the idea of a prefix cache, SGLang's RadixAttention (arXiv:2312.07104); the layers' caches
and their file format are mlx_lm's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

from mlxrag.errors import WontFit
from mlxrag.memory import Hold, ledger
from mlxrag.model.cache_layers import can_cut, common, cut_back, pack, restore
from mlxrag.settings import Caching

LEAST = 16  # a shorter common beginning is not worth a copy
ENOUGH = 64  # tokens from which on the time that they took says how long others would take


@dataclass(slots=True)
class Usage:
    """What a store has saved so far.

    Attributes:
        prompts: prompts that were looked up.
        hits: of them, those that found a beginning.
        prompt_tokens: tokens of all prompts.
        reused_tokens: of them, those that were not processed again.
        seconds_saved: time their processing would have taken, at the speed measured on the others.
        bytes_read: bytes that came from disk.
    """

    prompts: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds_saved: float = 0.0
    bytes_read: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompt tokens that were reused; None before the first prompt."""
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else None


@dataclass(slots=True)
class Entry:
    """The layers' caches after some tokens."""

    tokens: tuple[int, ...]
    cache: list[Any]
    nbytes: int


@dataclass(slots=True)
class KVStore:
    """Keys and values in memory, least recently used first, and on disk.

    Attributes:
        memory: most bytes in memory; 0 keeps nothing there.
        folder: directory for entries on disk, or None; what lies there is read, also where nothing is written.
        disk: most bytes on disk; 0 writes nothing.
        disk_bits: 8 quantizes what goes to disk (a quarter of float32; answers may change); 0 keeps it exact.  What
            others wrote quantized is read only where this says the same.
        usage: what it has saved.
        hold: what it has of the memory budget; None outside one.
        unbind: ends that the budget asks it for relief.
    """

    memory: int
    folder: Path | None = None
    disk: int = 0
    disk_bits: int = 0
    usage: Usage = field(default_factory=Usage)
    hold: Hold | None = None
    unbind: Callable[[], None] | None = None
    _entries: OrderedDict[tuple[str, tuple[int, ...]], Entry] = field(default_factory=OrderedDict)
    _speed: float = 0.0  # seconds per token processed, the latest
    _files: dict[str, tuple[str, tuple[int, ...], bool]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(entry.nbytes for entry in self._entries.values())

    def take(self, key: str, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Return the caches of the longest known beginning of `tokens`, and its length; or None and 0.

        At least one token is left for the caller to process.  What is returned is the caller's to change.
        """
        self.usage.prompts += 1
        self.usage.prompt_tokens += len(tokens)
        wanted = tuple(tokens)
        best, length = self._best(key, wanted)
        stored = self._best_file(key, wanted, length)
        if stored is not None:
            best, length = stored
        if best is None or length < min(LEAST, len(wanted) - 1):
            return None, 0
        self._entries[key, best.tokens] = best
        self._entries.move_to_end((key, best.tokens))
        cache = copy.deepcopy(best.cache)
        if length < len(best.tokens):
            cut_back(cache, len(best.tokens) - length)
        self.usage.hits += 1
        self.usage.reused_tokens += length
        self.usage.seconds_saved += self._speed * length
        self._shrink()
        return cache, length

    def put(self, key: str, tokens: Sequence[int], cache: list[Any], seconds: float = 0.0, processed: int = 0) -> None:
        """Keep the caches after `tokens`; the store owns them from now on.

        Args:
            key: what they are bound to.
            tokens: ids whose keys and values are in the caches, all of them.
            cache: one entry per layer.
            seconds: time that processing took.
            processed: tokens that were processed in that time.
        """
        self.learn(seconds, processed)
        known = tuple(tokens)
        if len(known) < LEAST or not (self.memory or self.disk):
            return
        if can_cut(cache):
            # It serves all its own beginnings too.
            for other in [
                k for k in self._entries if k[0] == key and len(k[1]) <= len(known) and known[: len(k[1])] == k[1]
            ]:
                del self._entries[other]
        self._entries[key, known] = Entry(known, cache, sum(c.nbytes for c in cache))
        self._entries.move_to_end((key, known))
        self._shrink()

    def learn(self, seconds: float, processed: int) -> None:
        """Take how long so many tokens took, if they were enough to tell."""
        if seconds > 0 and processed >= ENOUGH:
            self._speed = seconds / processed

    def put_segment(self, key: str, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep a copy at the end of a segment, where the whole could not be cut back to it later."""
        if not can_cut(cache):
            self.put(key, tokens, copy.deepcopy(cache))

    def save(self, key: str, tokens: Sequence[int], cache: list[Any] | None = None) -> Path | None:
        """Write an entry to disk, whole or not at all, and drop the oldest files beyond the limit.

        Args:
            key: what it is bound to.
            tokens: its ids.
            cache: its caches; those in memory unless given.

        Returns:
            The file; None where there is no folder or no such entry.
        """
        known = tuple(tokens)
        if cache is None:
            found = self._entries.get((key, known))
            cache = found.cache if found is not None else None
        if self.folder is None or not self.disk or cache is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.file_of(key, known)
        if path.exists():
            path.touch()  # used last
            return path
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.safetensors")
        cache = [pack(layer, self.disk_bits) for layer in cache]
        cuts = "yes" if can_cut(cache) else "no"
        facts = {"key": key, "tokens": json.dumps(known), "bits": str(self.disk_bits), "cuts": cuts}
        facts["speed"] = repr(self._speed)
        try:
            save_prompt_cache(str(temporary), cache, facts)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._files = None
        files = sorted(self.folder.glob("[!.]*.safetensors"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > self.disk:
                file.unlink(missing_ok=True)
        return path if path.exists() else None

    def file_of(self, key: str, tokens: Sequence[int]) -> Path:
        """Return where an entry is on disk, or would be."""
        assert self.folder is not None
        name = hashlib.sha256(f"{key} {self.disk_bits} {tuple(tokens)}".encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"

    def save_all(self) -> int:
        """Write every entry in memory to disk and return how many files there are now."""
        for key, known in list(self._entries):
            self.save(key, known)
        return len(self._index())

    def clear(self) -> None:
        """Give back the memory; files stay."""
        self._entries.clear()
        self._account()

    def relieve(self, nbytes: int) -> int:
        """Let go of at least so many bytes, the least recently used first; returns what was freed."""
        freed = 0
        while freed < nbytes and self._entries:
            freed += self._entries.popitem(last=False)[1].nbytes
        self._account()
        return freed

    def close(self) -> None:
        """Give back the memory and the place in the budget."""
        self.clear()
        if self.unbind is not None:
            self.unbind()
        if self.hold is not None:
            self.hold.release()

    def _shrink(self) -> None:
        while self._entries and (self.nbytes > self.memory or not self._account()):
            self._entries.popitem(last=False)
        self._account()

    def _account(self) -> bool:
        """Write what is held into the budget and return whether it fits."""
        try:
            # Growing may make the budget ask for relief, which drops entries here: then there is less to write.
            while self.hold is not None and self.hold.size != self.nbytes:
                self.hold.resize(self.nbytes, relief=False)
        except WontFit:
            return False
        return True

    def _best(self, key: str, wanted: tuple[int, ...]) -> tuple[Entry | None, int]:
        best, length = None, 0
        for (owner, known), entry in self._entries.items():
            if owner != key:
                continue
            n = min(common(known, wanted), len(wanted) - 1)
            if n < len(known) and not can_cut(entry.cache):
                continue
            if n > length:
                best, length = entry, n
        return best, length

    def _best_file(self, key: str, wanted: tuple[int, ...], least: int) -> tuple[Entry, int] | None:
        """Return an entry on disk that is longer by enough to be worth reading."""
        best, length = None, least + LEAST - 1
        for name, (owner, known, cuts) in self._index().items():
            n = min(common(known, wanted), len(wanted) - 1) if owner == key else 0
            if n > length and (cuts or n == len(known)):
                best, length = name, n
        if best is None or self.folder is None:
            return None
        path = self.folder / best
        try:
            cache, facts = load_prompt_cache(str(path), return_metadata=True)
        except (RuntimeError, ValueError, KeyError, OSError):
            path.unlink(missing_ok=True)  # cut short by a crash of the machine; it can be made again
            self._files = None
            return None
        known = tuple(json.loads(facts["tokens"]))
        if facts["key"] != key or common(known, wanted) < length:
            return None
        cache = [restore(c) if facts["bits"] != "0" else c for c in cache]
        mx.eval([a for c in cache for _, a in tree_flatten(c.state) if isinstance(a, mx.array)])
        self.usage.bytes_read += path.stat().st_size
        self._speed = self._speed or float(facts["speed"])
        path.touch()
        return Entry(known, cache, sum(c.nbytes for c in cache)), length

    def _index(self) -> dict[str, tuple[str, tuple[int, ...], bool]]:
        """Return key and tokens of each file, and whether it can be cut back; read from the headers alone, once."""
        if self.folder is None or not self.folder.is_dir():
            return {}
        if self._files is None:
            self._files = {}
            for path in self.folder.glob("[!.]*.safetensors"):
                try:
                    with path.open("rb") as handle:
                        size = int.from_bytes(handle.read(8), "little")
                        facts = json.loads(handle.read(size))["__metadata__"]
                    # mlx_lm flattens its metadata: our table is its first part.
                    if int(facts["0.bits"]) not in (0, self.disk_bits):
                        continue
                    known = tuple(json.loads(facts["0.tokens"]))
                    self._files[path.name] = (facts["0.key"], known, facts["0.cuts"] == "yes")
                except (OSError, ValueError, KeyError, OverflowError):
                    continue
        return self._files


def open_store(caching: Caching, folder: Path | None = None) -> KVStore:
    """Return the store that the settings ask for."""
    mib = 1 << 20
    hold = ledger().reserve("keys and values of earlier prompts", "cache", 0)
    store = KVStore(caching.cache_memory * mib, folder, caching.cache_disk * mib, caching.cache_disk_bits, hold=hold)
    store.unbind = ledger().on_short("drop idle caches", store.relieve)
    return store
