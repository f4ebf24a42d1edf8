"""Caches for several rows, made from the caches of a beginning that the rows share.

mlx_lm has them for its plain, sliding-window and recurrent layers.  What it lacks is one that keeps
keys and values quantized, so that `kv_bits` works in a batch; that one is here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlxrag.model.cache_layers import cut_back
from mlxrag.settings import Caching

SPARE = 64  # columns that no row needs, from which on it pays to move all rows


class QuantizedBatchKVCache(BatchKVCache):
    """A `BatchKVCache` whose keys and values are stored quantized and attended to quantized.

    mlx_lm's attention takes this path for any cache that has `bits`.
    """

    def __init__(self, plain: BatchKVCache, group_size: int, bits: int) -> None:
        self.group_size, self.bits = group_size, bits
        self.left_padding, self.offset, self._idx = plain.left_padding, plain.offset, plain._idx
        self._right_padding = plain._right_padding
        self.keys: tuple[mx.array, ...] | None = None
        self.values: tuple[mx.array, ...] | None = None
        if plain.keys is not None:
            self.keys = self._pack(plain.keys[..., : plain._idx, :])
            self.values = self._pack(plain.values[..., : plain._idx, :])

    def _pack(self, array: mx.array) -> tuple[mx.array, ...]:
        return tuple(mx.quantize(array, group_size=self.group_size, bits=self.bits))

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        count = keys.shape[2]
        packed = self._pack(keys), self._pack(values)
        if self.keys is None or self.values is None:
            self.keys, self.values = packed
        else:
            # Cut first: `trim` only moves the index.
            self.keys = _join([_cut(self.keys, self._idx), packed[0]])
            self.values = _join([_cut(self.values, self._idx), packed[1]])
        self.offset = self.offset + count
        self._idx += count
        return self.keys, self.values

    def finalize(self) -> None:
        if self._right_padding is None:
            return
        padding = self._right_padding
        assert self.keys is not None and self.values is not None
        self.keys = tuple(_roll(part, padding) for part in self.keys)
        self.values = tuple(_roll(part, padding) for part in self.values)
        self.offset = self.offset - padding
        self.left_padding = self.left_padding + padding
        self._right_padding = None

    def filter(self, batch_indices: mx.array) -> None:
        self.offset = self.offset[batch_indices]
        self.left_padding = self.left_padding[batch_indices]
        spare = int(self.left_padding.min().item())
        if self.keys is not None and self.values is not None:
            self.keys = tuple(part[batch_indices][..., spare : self._idx, :] for part in self.keys)
            self.values = tuple(part[batch_indices][..., spare : self._idx, :] for part in self.values)
        self._idx -= spare
        self.left_padding = self.left_padding - spare

    def extend(self, other: QuantizedBatchKVCache) -> None:
        longest = max(self._idx, other._idx)
        sides = [(c, longest - c._idx) for c in (self, other)]

        def rows(name: str) -> tuple[mx.array, ...]:
            parts = [
                tuple(mx.pad(p, [(0, 0), (0, 0), (left, 0), (0, 0)]) for p in _cut(getattr(c, name), c._idx))
                for c, left in sides
            ]
            return _join(parts, axis=0)

        if self.keys is not None and other.keys is not None:
            self.keys, self.values = rows("keys"), rows("values")
        self.offset = mx.concatenate([self.offset, other.offset])
        self.left_padding = mx.concatenate([c.left_padding + left for c, left in sides])
        self._idx = longest

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*(self.keys or ()), *(self.values or ())))


def can_batch(cache: Sequence[Any]) -> bool:
    """Return whether every layer has a form for several rows."""
    return all(hasattr(layer, "merge") for layer in cache)


def can_pad(cache: Sequence[Any]) -> bool:
    """Return whether every layer attends, so that padding can be kept out by a mask."""
    return all(hasattr(layer, "keys") for layer in cache)


def as_batch(rows: Sequence[Sequence[Any]], caching: Caching, room: int = 0) -> list[Any]:
    """Return caches for several rows, right-justified.

    Args:
        rows: the caches of each row, one entry per layer; they are copied, and may be the same for all.
        caching: `kv_bits` and `kv_group_size`.
        room: tokens that plain layers have space for until they must be copied to grow.
    """
    found = []
    for layers in zip(*rows, strict=True):
        layer = layers[0]
        plain = type(layer) is KVCache
        many = _merge(layers, room) if plain and room else layer.merge(list(layers))
        if caching.kv_bits is not None and plain:
            many = QuantizedBatchKVCache(many, caching.kv_group_size, caching.kv_bits)
        found.append(many)
    return found


def shortened(cache: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Return caches for several rows, each without the last `count` tokens; their arrays are those of `cache`."""
    rows = [[copy.copy(layer) for layer in cache] for _ in counts]
    for row, count in zip(rows, counts, strict=True):
        cut_back(row, count)
    return rows


def take_places(cache: Sequence[Any], places: Sequence[int], rows: Sequence[Any]) -> bool:
    """Put the keys and values of new rows where finished ones were, if that goes without moving the others.

    Args:
        cache: of the rows under way, one entry per layer; changed in place.
        places: rows of it that have finished, one for each new row.
        rows: caches of the new rows, not longer than those under way.

    Returns:
        Whether it was done: layers must be plain, and not have too much padding that moving would take out.
    """
    if not places or any(type(layer) is not BatchKVCache for layer in (*cache, *rows)):
        return False
    left, end, length = cache[0].left_padding.tolist(), cache[0]._idx, rows[0]._idx
    spare = min((pad for i, pad in enumerate(left) if i not in places), default=end)
    if length > end or min(spare, end - length) >= SPARE:
        return False
    at = mx.array(list(places))
    for mine, new in zip(cache, rows, strict=True):
        for i, place in enumerate(places):
            mine.keys[place, :, end - length : end] = new.keys[i, :, :length]
            mine.values[place, :, end - length : end] = new.values[i, :, :length]
        mine.left_padding[at] = new.left_padding + (end - length)
        mine.offset[at] = new.offset
        mx.eval(mine.state)  # until then the new rows are in memory twice
    return True


def columns(cache: Sequence[Any]) -> int:
    """Return how many columns plain layers have filled, padding of shorter rows included; 0 for other layers."""
    return int(cache[0]._idx) if cache and type(cache[0]) is BatchKVCache else 0


def keep_places(cache: Sequence[Any], places: Sequence[int]) -> None:
    """Keep some rows only; the others, and columns that only they needed, are gone from memory afterwards."""
    at = mx.array(list(places))
    for layer in cache:
        if type(layer) is BatchKVCache and layer.keys is not None:
            # Cut before it is copied: mlx_lm cuts afterwards, which leaves the whole in memory under a shorter name.
            spare = int(layer.left_padding[at].min().item())
            layer.keys, layer.values = layer.keys[..., spare:, :], layer.values[..., spare:, :]
            layer.left_padding, layer._idx = layer.left_padding - spare, layer._idx - spare
        layer.filter(at)
        mx.eval(layer.state)


def extend(cache: Sequence[Any], rows: list[Any]) -> None:
    """Put new rows beside those of `cache`, layer by layer; `rows` is emptied, so that they are not in memory twice."""
    for layer in cache:
        layer.extend(rows.pop(0))
        mx.eval(layer.state)


def make_room(cache: Sequence[Any], count: int) -> None:
    """Where the next step makes plain layers grow, let it be by the `count` columns that are needed yet, or a usual step."""
    if columns(cache) and cache[0]._idx == cache[0].keys.shape[2]:
        for layer in cache:
            layer.step = min(BatchKVCache.step, count)


def _merge(layers: Sequence[KVCache], room: int) -> BatchKVCache:
    """Return plain caches as one, as mlx_lm's own does, with room at the end."""
    lengths = [layer.offset for layer in layers]
    longest = max(lengths)
    many = BatchKVCache([longest - length for length in lengths])
    if longest:
        for name in ("keys", "values"):
            sides = [getattr(layer, name) for layer in layers]
            shape, kind = next((side.shape, side.dtype) for side in sides if side is not None)
            whole = mx.zeros((len(layers), shape[1], longest + room, shape[3]), kind)
            for i, (side, length) in enumerate(zip(sides, lengths, strict=True)):
                if length:
                    whole[i, :, longest - length : longest] = side[0, :, :length]
            setattr(many, name, whole)
        many.offset = many.offset + longest
        many._idx = longest
    return many


def _cut(parts: tuple[mx.array, ...], count: int) -> tuple[mx.array, ...]:
    return tuple(part[..., :count, :] for part in parts)


def _join(parts: Sequence[tuple[mx.array, ...]], axis: int = 2) -> tuple[mx.array, ...]:
    return tuple(mx.concatenate(list(group), axis=axis) for group in zip(*parts, strict=True))


def _roll(array: mx.array, shifts: mx.array) -> mx.array:
    """Shift each row `(b, h, n, d)` to the right along `n` by its own count, around the end."""
    n = array.shape[2]
    index = (mx.arange(n)[None] - shifts[:, None]) % n
    return mx.take_along_axis(array, index[:, None, :, None], axis=2)
