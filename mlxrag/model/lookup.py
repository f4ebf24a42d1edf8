"""Drafts of the next words, verified by the model: copied from the text so far, or by a smaller model.

The next words of an answer often stand in a passage.  When the last tokens occurred before, what
followed them there is proposed, and the network checks the whole proposal in one forward pass: what
it would have said itself is kept, the rest is cut out of the cache again.  The tokens are those that
it would have chosen one by one, greedy or sampled, since each position is chosen with its own scores
and its own random numbers (two almost equal scores can swap where many rows go through another kernel
than one row: on the GPU in half precision).

Strategy of the gate: a draft pays when (1 + accepted tokens expected) / cost(rows) > 1.  Both sides
are learned while generating: the cost of M rows against one from the passes themselves, starting
from a measured or typical table, the chance that a drafted token is right from drafts that were
checked and, while drafting is off, from drafts that were only watched.  So it switches itself off,
and on again, and a text without copies costs next to nothing.

Source: prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding; speculative decoding,
Leviathan et al. 2023 (arXiv:2211.17192).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.model.cache_layers import can_cut, cut_back, quantize_cache
from mlxrag.model.row_cost import TYPICAL
from mlxrag.settings import Caching

MATCH = 3  # tokens that must have occurred before
LONGEST = 31  # drafted tokens at most
SIZES = (3, 7, 15, 31)

Choose = Callable[[mx.array, int], tuple[mx.array, mx.array]]


class Progress(Protocol):
    """What a generation keeps: its caches and the tokens that are in them."""

    prompt: list[int]
    cache: list[Any]
    fed: list[int]


class Drafter(Protocol):
    """What proposes tokens.

    Attributes:
        eager: proposes at every step, so that single steps need not be pipelined.
    """

    eager: bool

    def begin(self, prompt: list[int]) -> None:
        """Take the prompt of a new generation."""

    def add(self, token: int) -> None:
        """Take a token that was chosen."""

    def propose(self, room: int) -> list[int]:
        """Return tokens that may come next, at most `room`; none when it is not worth a check."""

    def checked(self, proposed: int, accepted: int, seconds: float) -> None:
        """Learn from a pass over `1 + proposed` rows (0 proposed: a single step)."""


@dataclass(slots=True)
class Lookup:
    """Proposes what followed the last tokens when they occurred before.

    Keep one for many generations: what it has learned of cost and chance stays.

    Attributes:
        cost: time of a pass over M rows against one row, by M.
        right: weight of drafted tokens that were right.
        wrong: weight of those that were not.
        rounds, drafted, accepted: counts, for reports.
    """

    cost: dict[int, float] = field(default_factory=lambda: dict(TYPICAL))
    right: float = 6.0
    wrong: float = 1.0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    eager: bool = False
    _text: list[int] = field(default_factory=list)
    _seen: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    _single: float = 0.0
    _watched: int = -1  # where in the text a draft that was not made goes on
    _watched_right: int = 0

    def begin(self, prompt: list[int]) -> None:
        self._text, self._seen, self._watched = [], {}, -1
        for token in prompt:
            self._append(token)

    def add(self, token: int) -> None:
        if self._watched >= 0:
            if self._text[self._watched] == token and self._watched_right < LONGEST:
                self._watched += 1
                self._watched_right += 1
            else:
                self._learn(self._watched_right, self._watched_right < LONGEST)
                self._watched = -1
        self._append(token)

    def propose(self, room: int) -> list[int]:
        at = self._match()
        if at < 0 or room < 1:
            return []
        size = min(self.best_size(), room, len(self._text) - at)
        if size < 1:
            if self._watched < 0:
                self._watched, self._watched_right = at, 0
            return []
        self._watched = -1
        return self._text[at : at + size]

    def checked(self, proposed: int, accepted: int, seconds: float) -> None:
        if not proposed:
            self._single = seconds if not self._single else 0.9 * self._single + 0.1 * seconds
            return
        self.rounds += 1
        self.drafted += proposed
        self.accepted += accepted
        self._learn(accepted, accepted < proposed)
        if self._single:
            rows = min(self.cost, key=lambda m: abs(m - 1 - proposed))
            self.cost[rows] += 0.2 * (seconds / self._single - self.cost[rows])

    @property
    def chance(self) -> float:
        """Chance that a drafted token is right, given that those before it were."""
        return self.right / (self.right + self.wrong)

    def best_size(self) -> int:
        """Return how many tokens to draft; 0 when no size pays."""
        best, gain = 0, 1.05
        for size in SIZES:
            expected = sum(self.chance**i for i in range(1, size + 1))
            ratio = (1 + expected) / self.price(1 + size)
            if ratio > gain:
                best, gain = size, ratio
        return best

    def price(self, rows: int) -> float:
        """Return the time of a pass over `rows` rows against one row, between the measured ones by straight lines."""
        known = sorted(self.cost)
        for low, high in itertools.pairwise(known):
            if low <= rows <= high:
                share = (rows - low) / (high - low)
                return self.cost[low] + share * (self.cost[high] - self.cost[low])
        return self.cost[known[-1]] * rows / known[-1]

    def _learn(self, right: int, missed: bool) -> None:
        self.right = 0.85 * self.right + right
        self.wrong = 0.85 * self.wrong + (1.0 if missed else 0.0)

    def _append(self, token: int) -> None:
        self._text.append(token)
        if len(self._text) > MATCH:
            # The n-gram that the new token follows: it may be looked up only once something follows it.
            self._seen.setdefault(tuple(self._text[-MATCH - 1 : -1]), []).append(len(self._text) - 1)

    def _match(self) -> int:
        """Return where the text goes on after the earlier place that agrees longest with its end, or -1."""
        text = self._text
        places = self._seen.get(tuple(text[-MATCH:]), ())
        best, longest = -1, 0
        for at in places[-8:]:
            n = MATCH
            while n < 32 and at - n - 1 >= 0 and text[at - n - 1] == text[-n - 1]:
                n += 1
            if n >= longest:
                best, longest = at, n
        return best


@dataclass(slots=True)
class DraftModel:
    """Proposes what a smaller network with the same tokens would say.

    Attributes:
        network: the smaller network.
        count: tokens to propose.
        rounds, drafted, accepted: counts, for reports.
    """

    network: nn.Module
    count: int = 3
    eager: bool = True
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    _cache: list[Any] = field(default_factory=list)
    _text: list[int] = field(default_factory=list)
    _fed: int = 0

    def begin(self, prompt: list[int]) -> None:
        self._cache = make_prompt_cache(self.network)
        self._text, self._fed = list(prompt), 0

    def add(self, token: int) -> None:
        self._text.append(token)

    def propose(self, room: int) -> list[int]:
        count = min(self.count, room)
        if count < 1 or not can_cut(self._cache):
            return []
        found: list[mx.array] = []
        pending = self._text[self._fed :]
        while len(pending) > 512:
            self.network(mx.array(pending[:512])[None], cache=self._cache)
            mx.eval([c.state for c in self._cache])
            self._fed, pending = self._fed + 512, pending[512:]
        token = mx.array(pending)
        for _ in range(count):
            logits = self.network(token[None], cache=self._cache)[:, -1, :]
            token = mx.argmax(logits, axis=-1)
            mx.async_eval(token)
            found.append(token)
        proposed: Any = mx.concatenate(found).tolist()
        # All but the last proposed token are in the cache now.
        self._fed = len(self._text) + count - 1
        return list(proposed)

    def checked(self, proposed: int, accepted: int, seconds: float) -> None:
        if not proposed:
            return
        self.rounds += 1
        self.drafted += proposed
        self.accepted += accepted
        # The loop has added the accepted tokens and one more; keep what is right of the cache.
        right = len(self._text) - 1
        if self._fed > right:
            cut_back(self._cache, self._fed - right)
            self._fed = right


def verified(
    network: nn.Module,
    work: Progress,
    rest: list[int],
    choose: Choose,
    drafter: Drafter,
    limit: int,
    caching: Caching,
) -> Iterator[tuple[int, float, bool]]:
    """Generate with drafts; the tokens are those that would come without.

    Args:
        network: the network that decides.
        work: caches and the tokens in them; kept true at every yield.
        rest: the end of the prompt that is not in the caches yet, at least one token.
        choose: picks from logits `(n, vocabulary)` of `n` steps, the first of which has this number.
        drafter: what proposes.
        limit: most tokens.
        caching: sizes of caches.

    Yields:
        Token, log-probability, and whether it was drafted.
    """
    drafter.begin(work.prompt)
    can_draft = can_cut(work.cache) and caching.kv_bits is None
    step = 0
    pending = rest

    def forward(ids: mx.array, rows: int, at: int) -> tuple[mx.array, mx.array]:
        logits = network(ids[None], cache=work.cache)[0, -rows:, :]
        quantize_cache(work.cache, caching)
        return choose(logits, at)

    while step < limit:
        drafts = drafter.propose(limit - step - 1) if can_draft and len(pending) == 1 else []
        if drafts:
            began = time.perf_counter()
            tokens, logprobs = forward(mx.array(pending + drafts), 1 + len(drafts), step)
            mx.eval(tokens, logprobs)
            seconds = time.perf_counter() - began
            values: Any = tokens.tolist()
            scores: Any = logprobs.tolist()
            right = next((i for i, draft in enumerate(drafts) if values[i] != draft), len(drafts))
            cut_back(work.cache, len(drafts) - right)
            work.fed += pending + drafts[:right]
            for value in values[: right + 1]:
                drafter.add(value)
            drafter.checked(len(drafts), right, seconds)
            pending = [values[right]]
            step += right + 1
            for i in range(right + 1):
                yield values[i], scores[i], i < right
            continue
        # Single steps, the next one under way while the last is looked at, until a draft is worth it.
        token, logprob = forward(mx.array(pending), 1, step)
        work.fed += pending
        mx.async_eval(token, logprob)
        step += 1
        wanted = drafter.eager
        began = time.perf_counter()
        while True:
            following = None
            if not wanted and step < limit:
                following = forward(token, 1, step)
                mx.async_eval(*following)
            chosen: Any = token.item()
            score: Any = logprob.item()
            drafter.add(chosen)
            if following is not None:
                work.fed.append(chosen)
                drafter.checked(0, 0, time.perf_counter() - began)
                began = time.perf_counter()
            yield chosen, score, False
            if following is None:
                pending = [chosen]
                break
            token, logprob = following
            step += 1
            wanted = can_draft and bool(drafter.propose(limit - step - 1))
