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
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.errors import BadInput, WontFit
from mlxrag.memory import ledger
from mlxrag.model.admit import HELPS, row_bytes, step_bytes
from mlxrag.model.attach import resident
from mlxrag.model.batch_cache import as_batch, can_batch, can_pad
from mlxrag.model.cache import LEAST
from mlxrag.model.cache_layers import can_cut, common, cut_back
from mlxrag.model.generate import Completion, Request, Stopper, complete, for_request
from mlxrag.model.load import Model
from mlxrag.model.rows import Rows, with_adapters
from mlxrag.model.sample import RECENT, Draws, draws_per_token, make_sampler, penalize
from mlxrag.settings import Caching, Sampling


@dataclass(slots=True)
class Row:
    """One request under way."""

    request: Request
    started: float
    reused: int
    draws: Draws | None
    stopper: Stopper
    detokenizer: Any
    limit: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that share a beginning, for one adapter.

    Attributes:
        shared: leading tokens that all of them have in common and that run once; 0 for none.
        requests: the shortest rest first.
    """

    adapter: str | None
    shared: int
    requests: tuple[Request, ...]


@dataclass(slots=True)
class Active:
    """The rows that are generating, their caches, and the tokens that are on their way."""

    rows: list[Row] = field(default_factory=list)
    cache: list[Any] = field(default_factory=list)
    tokens: mx.array | None = None
    logprobs: mx.array | None = None
    recent: mx.array | None = None


def complete_batch(
    model: Model,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
    *,
    caching: Caching | None = None,
    memory: int | None = None,
) -> Iterator[Completion]:
    """Generate the answers to many requests.

    Args:
        model: a loaded model; adapters that requests name are resident on its network.  A request without one uses
            the model as it stands.
        requests: prompts; their ids tell the answers apart.
        sampling: how tokens are chosen; a request's own seed, length and stop texts win.
        caching: `decode_concurrency`, `prefill_step_size`, `kv_bits`.
        memory: most bytes for keys and values, or None; fewer rows run at once where it would be exceeded.

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
        rows = _select_adapters(model, requests, stack)
        run = _Run(model, sampling, caching, rows, memory)
        yield from run.go(plan(requests, model.adapter))


def _one_by_one(
    model: Model, requests: Sequence[Request], sampling: Sampling, caching: Caching
) -> Iterator[Completion]:
    """Run the requests in turn: for architectures whose layers cannot hold several rows."""
    for request in requests:
        with ExitStack() as one:
            _select_adapters(model, [request], one)
            yield complete(model, request, sampling, caching=caching)


def plan(requests: Sequence[Request], adapter: str | None = None) -> list[Group]:
    """Group requests by the beginning they share.

    Sorted by their tokens, requests with a common beginning are neighbours.  A run of neighbours is cut
    wherever they share less than twice what the whole run shares, so that a long common beginning
    (passages) is not given up for a short one (the instruction); what is left over shares the short one.

    Args:
        requests: in any order.
        adapter: the one that requests without an adapter use.

    Returns:
        Groups in an order in which each beginning can go on from the one before.
    """
    found: list[Group] = []
    for name in dict.fromkeys(r.adapter or adapter for r in requests):
        alike = sorted((r for r in requests if (r.adapter or adapter) == name), key=lambda r: (r.prompt, r.id))
        found += _split(name, alike)
    return found


def _split(adapter: str | None, requests: Sequence[Request]) -> list[Group]:
    """Group requests that are sorted by their tokens."""
    # The last token of a prompt always runs with its row.
    pairs = [
        min(common(a.prompt, b.prompt), len(a.prompt) - 1, len(b.prompt) - 1) for a, b in itertools.pairwise(requests)
    ]
    least = min(pairs, default=0)
    bar = max(LEAST, 2 * least)
    if max(pairs, default=0) < bar:
        return [_group(adapter, least if least >= LEAST else 0, requests)]
    runs: list[list[Request]] = [[requests[0]]]
    for request, same in zip(requests[1:], pairs, strict=True):
        if same >= bar:
            runs[-1].append(request)
        else:
            runs.append([request])
    loose = [run[0] for run in runs if len(run) == 1]
    found = [_group(adapter, least if least >= LEAST else 0, loose)] if loose else []
    return found + [group for run in runs if len(run) > 1 for group in _split(adapter, run)]


def _group(adapter: str | None, shared: int, requests: Sequence[Request]) -> Group:
    return Group(adapter, shared, tuple(sorted(requests, key=lambda r: (len(r.prompt), r.id))))


def _select_adapters(model: Model, requests: Sequence[Request], stack: ExitStack) -> Rows | None:
    """Put the adapters that the requests name on the network: one for all, or one per row."""
    wanted = {r.adapter or model.adapter for r in requests}
    if wanted == {model.adapter}:
        return None
    placed = resident(model.network, model.name)
    if len(wanted) == 1:
        before = placed.active
        placed.use(next(iter(wanted)))
        stack.callback(placed.use, before)
        return None
    return stack.enter_context(with_adapters(model.network, [placed[name] for name in sorted(w for w in wanted if w)]))


class _Run:
    """One call of `complete_batch`."""

    def __init__(
        self, model: Model, sampling: Sampling, caching: Caching, rows: Rows | None, memory: int | None
    ) -> None:
        self.model, self.sampling, self.caching, self.adapters, self.memory = model, sampling, caching, rows, memory
        self.width = draws_per_token(sampling)
        self.keep = [*model.tokenizer.encode("\n", add_special_tokens=True), *model.tokenizer.eos_ids]
        self.sampler: Any = None
        self.active = Active()
        self.trunk: list[Any] = []
        self.trunk_of: tuple[str | None, tuple[int, ...]] = (None, ())
        self.bytes_per_token = 0.0
        self.hold = ledger().reserve("answers under way", "cache", 0)

    def go(self, groups: Sequence[Group]) -> Iterator[Completion]:
        try:
            yield from self.run(list(groups))
        finally:
            self.hold.release()

    def run(self, waiting: list[Group]) -> Iterator[Completion]:
        while waiting or self.active.rows:
            waiting[:0] = self.give_way()
            free = self.free(waiting[0].requests[0] if waiting else None)
            # A few rows at a time would each hold up the others for a prefill of its own.
            if waiting and (not self.active.rows or free >= max(1, self.caching.decode_concurrency // 4)):
                group = waiting.pop(0)
                free = self.admit(group, min(free, len(group.requests)))
                taken, rest = group.requests[:free], group.requests[free:]
                if rest:
                    waiting.insert(0, Group(group.adapter, group.shared, rest))
                if taken:
                    self.join(group, taken)
            yield from self.step()

    def free(self, request: Request | None) -> int:
        """Return how many more rows may start: by the batch size, and by memory where it is limited."""
        room = self.caching.decode_concurrency - len(self.active.rows)
        if request is not None and self.memory is not None and self.bytes_per_token:
            longest = len(request.prompt) + request.max_tokens
            held = sum(len(r.request.prompt) + r.limit for r in self.active.rows)
            room = min(room, int((self.memory / self.bytes_per_token - held) // longest))
        return max(room, 0 if self.active.rows else 1)

    def need(self, group: Group | None = None, new: int = 0) -> int:
        """Return the bytes that the rows under way take, with some more of a group."""
        joining = group.requests[:new] if group is not None else ()
        lengths = [len(r.request.prompt) + r.limit for r in self.active.rows]
        lengths += [min(len(r.prompt) + r.max_tokens, self.model.context) for r in joining]
        if not lengths:
            return 0
        longest = max(lengths)
        steps = [step_bytes(self.model, longest, 1, self.caching, len(lengths))]
        shared = group.shared if group is not None else 0
        if joining:
            rest = max(len(r.prompt) for r in joining) - shared
            steps.append(step_bytes(self.model, longest, rest, self.caching, len(joining)))
            steps.append(step_bytes(self.model, longest, max(shared, 1), self.caching))
        # One more: the beginning that rows share is kept beside them.
        return (len(lengths) + 1) * row_bytes(self.model, longest, self.caching) + max(steps)

    def admit(self, group: Group, count: int) -> int:
        """Reserve what as many rows of a group take as fit, at most `count`, and return how many that are.

        Raises:
            WontFit: no row is under way, and not even one fits.
        """
        while count:
            alone = not self.active.rows and count == 1
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
            while ledger().free() < 0 and len(self.active.rows) > 1:
                half = len(self.active.rows) // 2
                gone += [row.request for row in self.active.rows[half:]]
                self.keep_rows(list(range(half)))
                self.trunk, self.trunk_of = [], (None, ())
                self.hold.resize(self.need())
            if ledger().free() < 0:
                raise
        return plan(gone, self.model.adapter)

    def join(self, group: Group, requests: Sequence[Request]) -> None:
        """Process the prompts of some requests of a group, and let their rows generate."""
        started = time.perf_counter()
        trunk, fresh = self.grow(group.adapter, requests[0].prompt[: group.shared])
        rests = [list(r.prompt[group.shared :]) for r in requests]
        if can_pad(trunk):
            cache = as_batch([trunk] * len(requests), self.caching)
            self.use([group.adapter] * len(requests))
            self.process([rest[:-1] for rest in rests], cache)
        else:
            # Recurrent layers would take padding for text, so each row's rest runs alone.
            self.use([group.adapter])
            alone = [copy.deepcopy(trunk) for _ in requests]
            for rest, one in zip(rests, alone, strict=True):
                self.process([rest[:-1]], one)
            cache = as_batch(alone, self.caching)
        # What was processed for all is counted for the first.
        rows = [self.row(r, group.shared - (0 if i else fresh), started) for i, r in enumerate(requests)]
        last = mx.array([rest[-1] for rest in rests])
        recent = mx.broadcast_to(last[:, None], (len(rows), RECENT)) if self.sampling.repetition_penalty != 1 else None
        tokens, logprobs = self.forward(rows, cache, last, recent)
        if self.active.rows:
            for mine, theirs in zip(self.active.cache, cache, strict=True):
                mine.extend(theirs)
            tokens = _joined(self.active.tokens, tokens)
            logprobs = _joined(self.active.logprobs, logprobs)
            recent = None if recent is None else _joined(self.active.recent, recent)
            cache = self.active.cache
        self.active = Active([*self.active.rows, *rows], cache, tokens, logprobs, recent)
        total = sum(len(r.request.prompt) for r in self.active.rows)
        self.bytes_per_token = sum(c.nbytes for c in cache) / max(total, 1)

    def grow(self, adapter: str | None, shared: tuple[int, ...]) -> tuple[list[Any], int]:
        """Return the caches after a shared beginning, made from those of the one before, and how many tokens ran."""
        owner, known = self.trunk_of
        same = common(known, shared) if owner == adapter else 0
        if not self.trunk or same < len(known):
            if self.trunk and same and can_cut(self.trunk):
                cut_back(self.trunk, len(known) - same)
            else:
                self.trunk, same = make_prompt_cache(self.model.network, self.caching.max_kv_size), 0
        self.use([adapter])
        ids = mx.array(shared[same:], mx.int32)
        for at in range(0, ids.size, self.caching.prefill_step_size):
            self.model.network(ids[None, at : at + self.caching.prefill_step_size], cache=self.trunk)
            mx.eval([c.state for c in self.trunk])
        self.trunk_of = (adapter, shared)
        # A cache that cannot be cut back is spent by what is done with it.
        return (self.trunk if can_cut(self.trunk) else copy.deepcopy(self.trunk)), len(shared) - same

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
        for at in range(0, longest, self.caching.prefill_step_size):
            self.model.network(ids[:, at : at + self.caching.prefill_step_size], cache=cache)
            mx.eval([c.state for c in cache])
            mx.clear_cache()
        if max(padding):
            for layer in cache:
                layer.finalize()
            mx.eval([c.state for c in cache])

    def row(self, request: Request, reused: int, started: float) -> Row:
        own = for_request(self.sampling, request)
        limit = min(own.max_tokens, self.model.context - len(request.prompt))
        draws = Draws(own.seed, self.width) if self.width else None
        detokenizer = self.model.tokenizer.detokenizer(skip_special_tokens=True)
        return Row(request, started, reused, draws, Stopper(own.stop), detokenizer, max(limit, 1))

    def forward(
        self, rows: Sequence[Row], cache: list[Any], ids: mx.array, recent: mx.array | None, ahead: int = 0
    ) -> tuple[mx.array, mx.array]:
        """Run one token of each row and pick the next; `ahead` tokens of each are not in its list yet."""
        logits = self.model.network(ids[:, None], cache=cache)[:, -1, :]
        if recent is not None:
            logits = penalize(logits, recent, self.sampling.repetition_penalty)
        if self.sampler is None:
            self.sampler = make_sampler(self.sampling, logits.shape[-1], self.keep)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        numbers = mx.stack([r.draws.at(len(r.tokens) + ahead) for r in rows if r.draws]) if self.width else None
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
        if any(len(row.tokens) + 1 < row.limit for row in active.rows):
            if active.recent is not None:
                active.recent = mx.concatenate([active.recent[:, 1:], active.tokens[:, None]], axis=1)
            self.use([row.request.adapter or self.model.adapter for row in active.rows])
            following = self.forward(active.rows, active.cache, active.tokens, active.recent, ahead=1)
        values: Any = active.tokens.tolist()
        scores: Any = active.logprobs.tolist()
        kept: list[int] = []
        for i, (row, token, score) in enumerate(zip(active.rows, values, scores, strict=True)):
            reason = self.take(row, token, score)
            if reason is None:
                kept.append(i)
            else:
                yield _completion(row, reason)
        if following is not None:
            active.tokens, active.logprobs = following
        if len(kept) < len(active.rows):
            self.keep_rows(kept)
            self.hold.resize(min(self.hold.size, self.need()))

    def keep_rows(self, index: Sequence[int]) -> None:
        """Let go of all rows but these."""
        active = self.active
        if not index:
            self.active = Active()
            return
        assert active.tokens is not None and active.logprobs is not None
        at = mx.array(list(index))
        for layer in active.cache:
            layer.filter(at)
        recent = None if active.recent is None else active.recent[at]
        rows = [active.rows[i] for i in index]
        self.active = Active(rows, active.cache, active.tokens[at], active.logprobs[at], recent)

    def take(self, row: Row, token: int, score: float) -> str | None:
        """Add a token to a row and return why the row is finished, if it is."""
        ended = token in self.model.tokenizer.eos_ids
        if not ended:
            row.tokens.append(token)
            row.logprobs.append(score)
            row.text += row.stopper.add(row.detokenizer.add(token))
        if ended or row.stopper.done or len(row.tokens) >= row.limit:
            row.text += row.stopper.add(row.detokenizer.finish(), last=True)
            return "stop" if ended or row.stopper.done else "length"
        return None

    def use(self, adapters: Sequence[str | None]) -> None:
        if self.adapters is not None:
            self.adapters.select(adapters)


def _joined(first: mx.array | None, second: mx.array) -> mx.array:
    return second if first is None else mx.concatenate([first, second])


def _completion(row: Row, reason: str) -> Completion:
    return Completion(
        row.request.id,
        row.text,
        tuple(row.tokens),
        tuple(row.logprobs),
        reason,
        len(row.request.prompt),
        row.reused,
        time.perf_counter() - row.started,
    )
