"""Rows -> batches: kept on disk as tokens, cut by real length, in an order that a number alone gives back.

Strategy: one pass writes every row's tokens to a file that is mapped into memory; batches are fixed sets of rows of
like length, and an epoch is a permutation of the batches that depends on the seed and the epoch's number only.  So
batch `i` of a run can be made again after a crash, and the memory does not grow with the data (24 bytes a row).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlxrag.data.example import BadRow
from mlxrag.train.loss import Batch
from mlxrag.train.tokens import Row
from mlxrag.workspace import write_json

INDEX = np.dtype([("start", np.int64), ("length", np.int32), ("first", np.int32), ("group", np.int64)])
PAD = 16
"""Lengths are rounded up to a multiple of this, so that few shapes have to be compiled."""
SHARE = 32
"""Shortest context that is worth sharing, and what shared contexts are rounded down to, in tokens."""


@dataclass(frozen=True, slots=True)
class Store:
    """Rows on disk.

    Attributes:
        tokens: all ids, one row after the other, `(n,)` int32, mapped.
        learn: which of them are to be learnt, `(n,)` uint8, mapped.
        index: start, length, first learnt token and group of each row, mapped.
        facts: counts of rows, tokens, cut rows; reasons of the first refused records; a hash of it all.
    """

    tokens: np.ndarray
    learn: np.ndarray
    index: np.ndarray
    facts: dict[str, object]

    def __len__(self) -> int:
        return len(self.index)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and learn of a row, `(length,)` each."""
        start, length = int(self.index["start"][number]), int(self.index["length"][number])
        return self.tokens[start : start + length], self.learn[start : start + length].astype(bool)


def write_store(folder: Path, found: Iterable[Row | BadRow]) -> Store:
    """Write rows to disk in one pass and open them."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    start = count = cut = refused = learnt = 0
    reasons: list[dict[str, str]] = []
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "learn.bin").open("wb") as learn,
        (folder / "index.bin").open("wb") as index,
    ):
        for row in found:
            if isinstance(row, BadRow):
                refused += 1
                if len(reasons) < 100:
                    reasons.append({"place": row.place, "reason": row.reason})
                continue
            for handle, data in ((tokens, row.tokens.astype(np.int32)), (learn, row.learn.astype(np.uint8))):
                handle.write(data.tobytes())
                digest.update(data.tobytes())
            first = int(np.argmax(row.learn))
            index.write(np.array([(start, len(row.tokens), first, row.group)], INDEX).tobytes())
            start += len(row.tokens)
            learnt += int(row.learn.sum())
            count += 1
            cut += row.cut > 0
    facts: dict[str, object] = {
        "rows": count, "tokens": start, "learn": learnt, "cut": cut, "refused": refused, "reasons": reasons,
        "hash": digest.hexdigest()[:16],
    }  # fmt: skip
    write_json(folder / "facts.json", facts)
    return open_store(folder, facts)


def open_store(folder: Path, facts: dict[str, object]) -> Store:
    """Open rows that `write_store` wrote."""

    def mapped(name: str, kind: np.dtype) -> np.ndarray:
        path = folder / name
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    return Store(mapped("tokens.bin", np.dtype(np.int32)), mapped("learn.bin", np.dtype(np.uint8)),
                 mapped("index.bin", INDEX), facts)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows make a batch.

    Attributes:
        rows: numbers of the rows.
        context: tokens at the beginning that each group's rows share; 0 runs every row whole.
        groups: which group each row belongs to, 0, 1, ...
    """

    rows: tuple[int, ...]
    context: int = 0
    groups: tuple[int, ...] = ()


class Batches:
    """The batches of a run, in order.

    Args:
        store: the rows.
        batch_size: rows in a batch, over all processes.
        shared: run the passages once for rows over the same ones.
        seed: of the order; None keeps the order of lengths.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self,
        store: Store,
        batch_size: int,
        *,
        shared: bool = False,
        seed: int | None = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.store = store
        self.seed = seed
        self.rank, self.world = rank, world
        self.plans = plan(store, batch_size, shared)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.plans)

    def __iter__(self) -> Iterator[Batch]:
        for key in range(len(self.plans)):
            yield self.make(key)

    def at(self, position: int) -> Batch:
        """Return the batch at a position of the run, counted from 0 over all epochs."""
        return self.make(self.key_at(position))

    def key_at(self, position: int) -> int:
        """Return which batch stands at a position of the run."""
        epoch, place = divmod(position, len(self.plans))
        if self.seed is None:
            return place
        return int(np.random.default_rng([self.seed, epoch]).permutation(len(self.plans))[place])

    def make(self, key: int) -> Batch:
        """Return a batch by its number."""
        chosen = self.plans[key]
        rows = chosen.rows[self.rank :: self.world]
        groups = chosen.groups[self.rank :: self.world]
        idle = not rows
        if idle:  # more processes than rows: take part in the sums with nothing
            rows, groups = chosen.rows[:1], chosen.groups[:1]
        made = collate(self.store, key, rows, chosen.context, groups, idle)
        return replace(made, tokens_in_rows=int(self.store.index["length"][list(chosen.rows)].sum()))


def collate(
    store: Store, key: int, rows: tuple[int, ...], context: int = 0, groups: tuple[int, ...] = (), idle: bool = False
) -> Batch:
    """Pad rows into one batch."""
    found = [store.row(r) for r in rows]
    lengths = [len(tokens) for tokens, _ in found]
    width = 1 + PAD * max(1, -(-(max(lengths) - context - 1) // PAD))
    tokens = np.zeros((len(rows), width), np.int32)
    learn = np.zeros((len(rows), width - 1), bool)
    for r, (ids, wanted) in enumerate(found):
        tokens[r, : len(ids) - context] = ids[context:]
        learn[r, : len(ids) - context - 1] = wanted[context + 1 :]
    if idle:
        learn[:] = False
    places = np.flatnonzero(learn.reshape(-1))
    padded = np.zeros(SHARE * max(1, -(-len(places) // SHARE)), np.int32)
    padded[: len(places)] = places
    shared = owner = None
    if context:
        known = {group: n for n, group in enumerate(dict.fromkeys(groups))}
        firsts = [groups.index(group) for group in known]
        shared = mx.array(np.stack([found[r][0][:context] for r in firsts]).astype(np.int32))
        owner = mx.array(np.array([known[group] for group in groups], np.int32))
    return Batch(
        key, mx.array(tokens), mx.array(learn), mx.array(padded), mx.array(len(places)), shared, owner
    )  # fmt: skip


def plan(store: Store, batch_size: int, shared: bool) -> list[Plan]:
    """Return which rows go together: rows over the same passages first, then rows of like length.

    Every row is in exactly one batch.  The longest batches come first, so that what does not fit is known at once.
    """
    lengths = np.asarray(store.index["length"])
    pieces: list[tuple[int, int, tuple[int, ...]]] = []
    alone = np.ones(len(store), bool)
    if shared:
        for context, rows in _pieces(store, batch_size):
            alone[list(rows)] = False
            pieces.append((context, int(lengths[list(rows)].max()), rows))
    plans: list[Plan] = []
    queue = deque(sorted(pieces, key=lambda piece: (-piece[0], -piece[1], piece[2])))
    while queue:
        context, _, rows = queue.popleft()
        taken, groups, least = list(rows), [0] * len(rows), context
        # Contexts of nearly the same length share a batch; what is longer in one goes with its rows.
        while queue and len(taken) + len(queue[0][2]) <= batch_size and queue[0][0] >= 0.75 * context:
            least, _, more = queue.popleft()
            groups += [groups[-1] + 1] * len(more)
            taken += more
        plans.append(Plan(tuple(taken), least, tuple(groups)))
    rest = np.flatnonzero(alone)
    rest = rest[np.lexsort((rest, -lengths[rest]))]
    plans += [Plan(tuple(int(r) for r in rest[i : i + batch_size])) for i in range(0, len(rest), batch_size)]
    return plans


def _pieces(store: Store, batch_size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (shared tokens, rows) for rows that begin alike, at most a batch of rows each."""
    group = np.asarray(store.index["group"])
    order = np.lexsort((np.asarray(store.index["length"]), group))
    order = order[group[order] != 0]
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []:
        for start in range(0, len(rows), batch_size):
            piece = tuple(int(r) for r in rows[start : start + batch_size])
            if len(piece) < 2:
                continue
            # The token before the first learnt one must stay with its row: its logits are needed.
            least = min(int(store.index["first"][r]) for r in piece) - 1
            context = min(least, _alike([store.row(r)[0] for r in piece])) // SHARE * SHARE
            if context >= SHARE:
                yield context, piece


def _alike(rows: list[np.ndarray]) -> int:
    """Return how many tokens rows have in common at their beginning."""
    least = min(len(row) for row in rows)
    same = np.ones(least, bool)
    for row in rows[1:]:
        same &= row[:least] == rows[0][:least]
    return int(least if same.all() else np.argmin(same))
