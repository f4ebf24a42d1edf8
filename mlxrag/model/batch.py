"""Many requests at once: one scheduler for evaluation, comparison, making questions and serving.

Strategy: requests are grouped by the beginning they share, and that beginning runs once and is fanned
out to the group's rows; rows whose rests are of like length are processed together; rows join as
others finish.  Every row has its own adapter, seed, length and stop texts.  The tokens of a row do not
depend on its neighbours (in float32; in half precision two almost equal scores can swap, since more
rows go through other kernels than one).

Built on mlx_lm's caches for batches, which keep rows right-justified; the loop is our own, since
mlx_lm's turns batching off for seeds and knows no adapters per row.

Source: continuous batching, Orca (Yu et al., OSDI 2022).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache

from mlxrag.errors import BadInput, WontFit
from mlxrag.memory import ledger
from mlxrag.model.admit import HELPS, row_bytes, rows_step, step_bytes
from mlxrag.model.batch_cache import (
    as_batch,
    can_batch,
    can_pad,
    columns,
    make_room,
    shortened,
)
from mlxrag.model.batch_row import Active, Row, begin
from mlxrag.model.cache import KVStore
from mlxrag.model.cache_key import store_key
from mlxrag.model.cache_layers import can_cut
from mlxrag.model.generate import Completion, Request, complete
from mlxrag.model.grouping import Group, plan
from mlxrag.model.load import Model
from mlxrag.model.pace import MOST_ROWS, USUAL_ROWS, Pace, pace
from mlxrag.model.rows import Rows, select_adapters
from mlxrag.model.sample import RECENT, draws_per_token, make_sampler, penalize
from mlxrag.model.trunk import Trunk
from mlxrag.settings import Caching, Sampling


def complete_batch(
    model: Model,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
    *,
    caching: Caching | None = None,
    memory: int | None = None,
    store: KVStore | None = None,
) -> Iterator[Completion]:
    """Generate the answers to many requests.

    Args:
        model: a loaded model; adapters that requests name are resident on its network.  A request without one uses
            the model as it stands.
        requests: prompts; their ids tell the answers apart.
        sampling: how tokens are chosen; a request's own seed, length and stop texts win.
        caching: `decode_concurrency`, `prefill_step_size`, `kv_bits`.
        memory: most bytes for keys and values, or None; fewer rows run at once where it would be exceeded.
        store: where keys and values of earlier beginnings are, and where those that requests share go.

    Yields:
        Completions, in the order in which they finish.

    Raises:
        BadInput: a prompt is empty or leaves no room in the model's context (before anything runs; all are named).
        NotFound: an adapter is not resident.
        WontFit: not even one row fits into the memory budget, or does any more.
    """
    if not requests:
        return
    sampling, caching = sampling or Sampling(), caching or Caching()
    faults = [
        f"{r.id}: the prompt has {len(r.prompt)} tokens" for r in requests if not 0 < len(r.prompt) < model.context
    ]
    if faults:
        raise BadInput(f"{'; '.join(faults[:3])}, and the model's context is {model.context}; shorten them")
    with ExitStack() as stack:
        if not can_batch(make_prompt_cache(model.network, caching.max_kv_size)):
            yield from _one_by_one(model, requests, sampling, caching)
            return
        names = {r.adapter or model.adapter for r in requests}
        keys = {name: store_key(model, caching, name) for name in names} if store is not None else {}
        rows = select_adapters(model, requests, stack)
        run = _Run(model, sampling, caching, rows, memory, store, keys)
        yield from run.go(plan(requests, model.adapter))


def _one_by_one(
    model: Model, requests: Sequence[Request], sampling: Sampling, caching: Caching
) -> Iterator[Completion]:
    """Run the requests in turn: for architectures whose layers cannot hold several rows."""
    for request in requests:
        with ExitStack() as one:
            select_adapters(model, [request], one)
            yield complete(model, request, sampling, caching=caching)


class _Run:
    """One call of `complete_batch`."""

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        caching: Caching,
        rows: Rows | None,
        memory: int | None,
        store: KVStore | None,
        keys: Mapping[str | None, str],
    ) -> None:
        self.model, self.sampling, self.caching, self.adapters, self.memory = model, sampling, caching, rows, memory
        self.width = draws_per_token(sampling)
        self.keep = [*model.tokenizer.encode("\n", add_special_tokens=True), *model.tokenizer.eos_ids]
        self.sampler: Any = None
        self.active = Active()
        self.trunk = Trunk(model, caching, store, keys)
        self.bytes_per_token = 0.0
        self.hold = ledger().reserve("answers under way", "cache", 0)
        self.pace: Pace | None = None
        if not caching.decode_concurrency:
            self.pace = pace(f"answer with {model.name}@{model.version} of {model.nbytes} bytes", USUAL_ROWS, MOST_ROWS)

    def go(self, groups: Sequence[Group]) -> Iterator[Completion]:
        try:
            yield from self.run(list(groups))
        finally:
            self.active = Active()
            self.trunk.clear()
            self.hold.release()

    def run(self, waiting: list[Group]) -> Iterator[Completion]:
        while waiting or self.running:
            waiting[:0] = self.give_way()
            free = self.free(waiting[0].requests[0] if waiting else None)
            # A few rows at a time would each hold up the others for a prefill of its own.
            if waiting and (not self.running or free >= self.worth(waiting[0])):
                group = waiting.pop(0)
                free = self.admit(group, min(free, len(group.requests)))
                taken, rest = group.requests[:free], group.requests[free:]
                if rest:
                    waiting.insert(0, Group(group.adapter, group.shared, rest))
                if taken and not self.joined(group, taken):
                    waiting.insert(0, Group(group.adapter, group.shared, taken))
                    continue
            began, count = time.perf_counter(), len(self.running)
            done = list(self.step())
            if self.pace is not None:
                self.pace.step(count, time.perf_counter() - began)
            yield from done
            self.close_ranks(bool(waiting))

    @property
    def most(self) -> int:
        """The most rows at once."""
        return self.caching.decode_concurrency or (self.pace.size if self.pace is not None else USUAL_ROWS)

    @property
    def running(self) -> list[Row]:
        """The rows that have not finished."""
        return self.active.running

    @property
    def left(self) -> int:
        """The most tokens that a row has still to go."""
        return max((row.limit - len(row.tokens) + row.fresh for row in self.running), default=0)

    def worth(self, group: Group) -> int:
        """Return how many places must be free for rows of a group to join others: all its own, or a share of all."""
        most = self.most
        return max(1, most // 4, min(len(group.requests), most // 2))

    def free(self, request: Request | None) -> int:
        """Return how many more rows may start: by the batch size, and by memory where it is limited."""
        room = self.most - len(self.running)
        if request is not None and self.memory is not None and self.bytes_per_token:
            longest = len(request.prompt) + request.max_tokens
            held = sum(len(r.request.prompt) + r.limit for r in self.running)
            room = min(room, int((self.memory / self.bytes_per_token - held) // longest))
        return max(room, 0 if self.running else 1)

    def need(self, group: Group | None = None, new: int = 0) -> int:
        """Return the bytes that the rows under way take, with some more of a group."""
        joining = group.requests[:new] if group is not None else ()
        lengths = [len(r.request.prompt) + r.limit for r in self.running]
        lengths += [min(len(r.prompt) + r.max_tokens, self.model.context) for r in joining]
        if not lengths:
            return self.trunk.nbytes
        self.use([None])  # a length that is new is counted by sending one row through the network
        filled = max([columns(self.active.cache), *(len(r.prompt) for r in joining)])
        # A row that joins late is longer than it is: what is before it is padding.
        longest = max(*lengths, filled + max([self.left, *(r.max_tokens for r in joining)]))
        steps = [step_bytes(self.model, longest, 1, self.caching, len(lengths))]
        shared = group.shared if group is not None else 0
        if joining:
            rest = max(len(r.prompt) for r in joining) - shared
            steps.append(step_bytes(self.model, longest, rest, self.caching, len(joining)))
            steps.append(step_bytes(self.model, longest, max(shared, 1), self.caching))
        # New rows are made beside the places that there are; and the beginning that they share is kept.
        places = len(self.active.rows) + len(joining)
        return (places + 1) * row_bytes(self.model, longest, self.caching) + max(steps)

    def admit(self, group: Group, count: int) -> int:
        """Reserve what as many rows of a group take as fit, at most `count`, and return how many that are.

        Raises:
            WontFit: no row is under way, and not even one fits.
        """
        while count:
            alone = not self.running and count == 1
            try:
                # Others give something up for one row, not for more rows at once.
                self.hold.resize(self.need(group, count), helps=HELPS, relief=alone)
            except WontFit:
                if alone:
                    raise
                count //= 2
            else:
                return count
        return 0

    def give_way(self) -> list[Group]:
        """Let go of rows where the budget has shrunk below what is held, and return them: they begin anew later.

        Raises:
            WontFit: one row is left, and it is too much.
        """
        gone: list[Request] = []
        try:
            ledger().look()
        except WontFit:
            self.trunk.clear()
            self.shrink()
            while ledger().free() < 0 and len(self.running) > 1:
                half = len(self.running) // 2
                gone += [row.request for row in self.running[half:]]
                self.active.keep(self.active.places[:half])
                self.shrink()
            if ledger().free() < 0:
                raise
        return plan(gone, self.model.adapter)

    def shrink(self) -> None:
        """Give back what the rows under way do not take."""
        self.hold.resize(min(self.hold.size, self.need()))

    def joined(self, group: Group, requests: Sequence[Request]) -> bool:
        """Let some requests of a group join; False where the budget fell meanwhile, and what they had is given back."""
        try:
            self.join(group, requests)
            joined = True
        except WontFit:
            self.trunk.clear()
            joined = False
        self.shrink()  # not before: what was caught holds on to their keys and values
        return joined

    def join(self, group: Group, requests: Sequence[Request]) -> None:
        """Process the prompts of some requests of a group, and let their rows generate."""
        started = time.perf_counter()
        self.use([group.adapter])
        trunk, fresh = self.trunk.grow(group.adapter, requests[0].prompt[: group.shared])
        longest = max(len(r.prompt) for r in requests)
        # Shorter rows run the end of the beginning again, so that all end at one place and none is padded.
        again = [longest - len(r.prompt) for r in requests]
        if max(again) >= group.shared or not can_cut(trunk):
            again = [0] * len(requests)
        rests = [list(r.prompt[group.shared - n :]) for r, n in zip(requests, again, strict=True)]
        if can_pad(trunk):
            room = max(map(len, rests)) + min(max(r.max_tokens for r in requests), BatchKVCache.step)
            cache = as_batch(shortened(trunk, again), self.caching, room)
            self.use([group.adapter] * len(requests))
            self.process([rest[:-1] for rest in rests], cache)
        else:
            # Recurrent layers would take padding for text, so each row's rest runs alone.
            alone = [copy.deepcopy(trunk) for _ in requests]
            for rest, one in zip(rests, alone, strict=True):
                self.process([rest[:-1]], one)
            cache = as_batch(alone, self.caching)
        # What was processed for all is counted for the first.
        reused = [max(0, group.shared - n - (0 if i else fresh)) for i, n in enumerate(again)]
        rows = [begin(self.model, r, self.sampling, n, started) for r, n in zip(requests, reused, strict=True)]
        self.put(rows, cache, mx.array([rest[-1] for rest in rests], mx.uint32))

    def put(self, rows: list[Row], cache: list[Any], last: mx.array) -> None:
        """Let rows generate from the next step on: in places of finished ones, or beside the others.

        Args:
            rows: new rows.
            cache: what their prompts left, all but the last token.
            last: that token of each.
        """
        recent = mx.broadcast_to(last[:, None], (len(rows), RECENT)) if self.sampling.repetition_penalty != 1 else None
        self.active.add(rows, cache, last, recent)
        total = sum(len(r.request.prompt) for r in self.running)
        self.bytes_per_token = sum(c.nbytes for c in self.active.cache) / max(total, 1)

    def process(self, rests: Sequence[Sequence[int]], cache: list[Any]) -> None:
        """Run the rests of the prompts, padded on the right and then rolled, so that rows end at one place."""
        longest = max(len(rest) for rest in rests)
        if not longest:
            return
        padding = [longest - len(rest) for rest in rests]
        ids = mx.array([[*rest, *([0] * pad)] for rest, pad in zip(rests, padding, strict=True)], mx.int32)
        if max(padding):
            for layer in cache:
                layer.prepare(lengths=[len(rest) for rest in rests], right_padding=padding)
        step = rows_step(self.caching, len(rests))
        for at in range(0, longest, step):
            if at:
                mx.eval([c.state for c in cache])
                mx.clear_cache()
                ledger().look()
            self.model.network(ids[:, at : at + step], cache=cache)
        mx.eval([c.state for c in cache])
        if max(padding):
            for layer in cache:
                layer.finalize()
                mx.eval(layer.state)  # each by itself: else all are in memory twice

    def forward(self, ids: mx.array, recent: mx.array | None) -> tuple[mx.array, mx.array]:
        """Run one token of each row and pick the next."""
        rows, cache = self.active.rows, self.active.cache
        logits = self.model.network(ids[:, None], cache=cache)[:, -1, :]
        if recent is not None:
            logits = penalize(logits, recent, self.sampling.repetition_penalty)
        if self.sampler is None:
            self.sampler = make_sampler(self.sampling, logits.shape[-1], self.keep)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        numbers = None
        if self.width:
            nothing = mx.zeros((self.width,))
            # The token on its way is not in a row's list yet, unless it is one of the prompt.
            numbers = mx.stack([r.draws.at(len(r.tokens) + (not r.fresh)) if r and r.draws else nothing for r in rows])
        chosen = self.sampler(logprobs, numbers)
        found = mx.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0]
        mx.async_eval(chosen, found)
        return chosen, found

    def step(self) -> Iterator[Completion]:
        """Take the tokens on their way, while the next are being computed; let finished rows go."""
        active = self.active
        if not active.rows:
            return
        assert active.tokens is not None and active.logprobs is not None
        following = None
        if any(row.fresh or len(row.tokens) + 1 < row.limit for row in self.running):
            if active.recent is not None:
                active.recent = mx.concatenate([active.recent[:, 1:], active.tokens[:, None]], axis=1)
            self.use([row.request.adapter or self.model.adapter if row else None for row in active.rows])
            make_room(active.cache, self.left)
            following = self.forward(active.tokens, active.recent)
        values: Any = active.tokens.tolist()
        scores: Any = active.logprobs.tolist()
        for i, (row, token, score) in enumerate(zip(active.rows, values, scores, strict=True)):
            if row is None:
                continue
            if row.fresh:
                row.fresh = False
                continue
            reason = row.take(token, score, self.model.tokenizer.eos_ids)
            if reason is not None:
                active.rows[i] = None
                yield row.completion(reason)
        if following is not None:
            active.tokens, active.logprobs = following

    def close_ranks(self, more: bool) -> None:
        """Move the rows together where half of the places or more are empty and nobody waits for one."""
        kept = self.active.places
        if not kept or (not more and 2 * len(kept) <= len(self.active.rows)):
            self.active.keep(kept)
            self.shrink()

    def use(self, adapters: Sequence[str | None]) -> None:
        if self.adapters is not None:
            self.adapters.select(adapters)
