"""Prompt ids -> a stream of pieces: one request at a time.

The loop is mlx_lm's (`generate_step`): the next forward pass is under way while the last token is
turned into text.  Greedy tokens, and seeded ones, equal `mlx_lm.generate`'s.  Several requests at
once are in `batch.py`; what is kept between requests is in `cache.py`.

Knows nothing of passages and citations.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.errors import BadInput, WontFit
from mlxrag.memory import ledger
from mlxrag.model.admit import admit
from mlxrag.model.cache import KVStore
from mlxrag.model.cache_key import store_key
from mlxrag.model.cache_layers import quantize_cache
from mlxrag.model.load import Model
from mlxrag.model.lookup import Drafter, verified
from mlxrag.model.sample import RECENT, Draws, draws_per_token, make_sampler, penalize
from mlxrag.settings import Caching, Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how far to go.

    Attributes:
        id: the caller's name for it.
        prompt: token ids.
        max_tokens: longest answer.
        adapter: name of a resident adapter, or None for the base.
        seed: of its random numbers; None takes the sampling's, or a fresh one.
        prefix: leading tokens that other requests share (a hint; sharing is found without it too).
        stop: end the answer before any of these texts.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    adapter: str | None = None
    seed: int | None = None
    prefix: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What a request came to.

    Attributes:
        id: of the request.
        text: the answer, without what ended it.
        tokens: its ids, without the one that ended it.
        logprobs: log-probability of each of them.
        finish_reason: `stop` or `length`.
        prompt_tokens: ids in the prompt.
        reused_tokens: of them, those whose keys and values were there already.
        seconds: from the first forward pass for it to its last token.
    """

    id: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    prompt_tokens: int
    reused_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added.

    Attributes:
        text: text that is now certain; may be empty.
        token: the id.
        logprob: its log-probability.
        finish_reason: None, or on the last piece `stop` or `length`.
        prompt_tokens: ids in the prompt.
        reused_tokens: of them, those whose keys and values were there already.
        prompt_seconds: time to the first token.
        seconds: time to this token.
        drafted: the token was proposed by a draft and accepted.
    """

    text: str
    token: int
    logprob: float
    finish_reason: str | None
    prompt_tokens: int
    reused_tokens: int
    prompt_seconds: float
    seconds: float
    drafted: bool = False


@dataclass(slots=True)
class Stopper:
    """Holds back text that may be the beginning of a stop text.

    Attributes:
        stop: texts that end the answer.
        held: text not given out yet.
        done: one of them has come.
    """

    stop: tuple[str, ...]
    held: str = ""
    done: bool = False

    def add(self, text: str, last: bool = False) -> str:
        """Take text and return what is certain; after a stop text nothing more."""
        if not self.stop or self.done:
            return "" if self.done else text
        self.held += text
        at = min((i for i in (self.held.find(word) for word in self.stop) if i >= 0), default=-1)
        if at >= 0:
            self.done = True
            given, self.held = self.held[:at], ""
            return given
        keep = 0
        if not last:
            longest = max(len(word) for word in self.stop) - 1
            for size in range(min(longest, len(self.held)), 0, -1):
                if any(word.startswith(self.held[-size:]) for word in self.stop):
                    keep = size
                    break
        given, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return given


def stream(
    model: Model,
    prompt: Sequence[int],
    sampling: Sampling | None = None,
    cache: list[Any] | None = None,
    *,
    caching: Caching | None = None,
    store: KVStore | None = None,
    segments: Sequence[int] = (),
    drafter: Drafter | None = None,
    skip_special_tokens: bool = True,
) -> Iterator[Piece]:
    """Generate from one prompt.

    Args:
        model: a loaded model.
        prompt: token ids, at least one.
        sampling: how tokens are chosen, where to stop.
        cache: keys and values of tokens before the prompt, one entry per layer; it is changed.
        caching: sizes of steps and caches.
        store: where keys and values of earlier prompts are, and where this one's go.
        segments: lengths of leading parts of the prompt worth keeping by themselves (end of the system prompt,
            of the passages); they matter for networks whose caches cannot be cut back.
        drafter: proposes tokens for the network to check in one pass.
        skip_special_tokens: leave special tokens out of the text.

    Yields:
        One piece per token; the last has a `finish_reason`.

    Raises:
        BadInput: the prompt is empty, or leaves no room in the model's context.
        WontFit: there is no room for its keys and values, or (in the middle) no more, since the budget has shrunk.
    """
    sampling, caching = sampling or Sampling(), caching or Caching()
    ids = [int(i) for i in prompt]
    if not ids:
        raise BadInput("the prompt is empty")
    if cache is None and caching.max_kv_size is None and len(ids) >= model.context:
        raise BadInput(f"the prompt has {len(ids)} tokens and the model's context {model.context}; shorten it")
    tokenizer, network = model.tokenizer, model.network
    detokenizer = tokenizer.detokenizer(skip_special_tokens)
    stopper = Stopper(sampling.stop)
    work = Work(ids)
    started = time.perf_counter()
    key = ""
    before = getattr(cache[0], "offset", 0) if cache else 0
    longest = before + min(len(ids) + sampling.max_tokens, max(model.context, len(ids) + 1))
    hold = admit(model, longest, caching)
    if store is not None and cache is None:
        key = store_key(model, caching)
        cache, work.reused = store.take(key, ids)
    work.cache = cache if cache is not None else make_prompt_cache(network, caching.max_kv_size)
    tokens = _tokens(model, work, sampling, caching, drafter, store, key, segments)
    first = 0.0
    made = 0
    try:
        for token, logprob, drafted in tokens:
            ledger().look()
            made += 1
            now = time.perf_counter() - started
            first = first or now
            ended = token in tokenizer.eos_ids
            text = "" if ended else stopper.add(detokenizer.add(token))
            last = ended or stopper.done or made == sampling.max_tokens
            if last:
                text += stopper.add(detokenizer.finish(), last=True)
                reason = "stop" if ended or stopper.done else "length"
            yield Piece(text, token, logprob, reason if last else None, len(ids), work.reused, first, now, drafted)
            if last:
                break
    except WontFit:
        key, cache, work.cache = "", None, []  # what was made so far goes
        raise
    finally:
        tokens.close()
        hold.release()
        if store is not None and key:
            store.put(key, work.fed, work.cache, seconds=first, processed=len(ids) - work.reused)


def complete(
    model: Model,
    request: Request,
    sampling: Sampling | None = None,
    *,
    caching: Caching | None = None,
    store: KVStore | None = None,
    segments: Sequence[int] = (),
    drafter: Drafter | None = None,
) -> Completion:
    """Generate the whole answer to one request.

    Raises:
        BadInput: see `stream`.
    """
    sampling = for_request(sampling or Sampling(), request)
    pieces = list(
        stream(model, request.prompt, sampling, caching=caching, store=store, segments=segments, drafter=drafter)
    )
    return gather(model, request.id, pieces)


def gather(model: Model, id: str, pieces: Sequence[Piece]) -> Completion:  # noqa: A002
    """Join the pieces of one answer."""
    last = pieces[-1]
    kept = [piece for piece in pieces if piece.token not in model.tokenizer.eos_ids]
    return Completion(
        id,
        "".join(piece.text for piece in pieces),
        tuple(piece.token for piece in kept),
        tuple(piece.logprob for piece in kept),
        last.finish_reason or "length",
        last.prompt_tokens,
        last.reused_tokens,
        last.seconds,
    )


def for_request(sampling: Sampling, request: Request) -> Sampling:
    """Return the sampling with what the request says itself."""
    return sampling.model_copy(
        update={
            "max_tokens": request.max_tokens,
            "seed": sampling.seed if request.seed is None else request.seed,
            "stop": (*sampling.stop, *request.stop),
        }
    )


@dataclass(slots=True)
class Work:
    """State of one generation: the prompt, its cache, and the tokens whose keys and values are in it."""

    prompt: list[int]
    cache: list[Any] = field(default_factory=list)
    reused: int = 0
    fed: list[int] = field(default_factory=list)


def prefill(
    model: Model,
    work: Work,
    caching: Caching,
    store: KVStore | None = None,
    key: str = "",
    segments: Sequence[int] = (),
) -> None:
    """Process the prompt but its last token, in steps; copies go to the store where a segment ends."""
    work.fed = work.prompt[: work.reused]
    end = len(work.prompt) - 1
    stops = sorted({n for n in segments if work.reused < n <= end} | {end}) if store is not None else [end]
    ids = mx.array(work.prompt)
    for stop in stops:
        while len(work.fed) < stop:
            ledger().look()
            begin = len(work.fed)
            until = min(stop, begin + caching.prefill_step_size)
            model.network(ids[begin:until][None], cache=work.cache)
            quantize_cache(work.cache, caching)
            mx.eval([c.state for c in work.cache])
            mx.clear_cache()
            work.fed += work.prompt[begin:until]
        if store is not None and stop != end:
            store.put_segment(key, work.fed, work.cache)


def processed(model: Model, tokens: Sequence[int], caching: Caching) -> list[Any]:
    """Return the layers' caches after some tokens."""
    work = Work([*tokens, tokens[-1]], make_prompt_cache(model.network, caching.max_kv_size))
    prefill(model, work, caching)  # leaves the last one out
    return work.cache


def _tokens(
    model: Model,
    work: Work,
    sampling: Sampling,
    caching: Caching,
    drafter: Drafter | None,
    store: KVStore | None,
    key: str,
    segments: Sequence[int],
) -> Generator[tuple[int, float, bool], None, None]:
    """Yield token, log-probability and whether it was drafted."""
    network = model.network
    keep = [*model.tokenizer.encode("\n", add_special_tokens=True), *model.tokenizer.eos_ids]
    width = draws_per_token(sampling)
    draws = Draws(sampling.seed, width) if width else None
    prefill(model, work, caching, store, key, segments)
    rest = work.prompt[len(work.fed) :]
    penalty = sampling.repetition_penalty
    recent: mx.array | None = None
    sampler = None

    def choose(logits: mx.array, step: int) -> tuple[mx.array, mx.array]:
        """Pick from logits `(n, vocabulary)` of `n` steps in a row."""
        nonlocal sampler
        if sampler is None:
            sampler = make_sampler(sampling, logits.shape[-1], keep)
        if penalty != 1 and recent is not None:
            logits = penalize(logits, recent, penalty)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        numbers = mx.stack([draws.at(step + i) for i in range(logits.shape[0])]) if draws is not None else None
        chosen = sampler(logprobs, numbers)
        return chosen, mx.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0]

    # A penalty depends on the tokens just chosen, so several steps cannot be checked at once.
    if drafter is not None and penalty == 1:
        yield from verified(network, work, rest, choose, drafter, sampling.max_tokens, caching)
        return

    def forward(ids: mx.array, step: int) -> tuple[mx.array, mx.array]:
        nonlocal recent
        logits = network(ids[None], cache=work.cache)[:, -1, :]
        if penalty != 1:
            recent = ids[None] if recent is None else mx.concatenate([recent, ids[None]], axis=1)[:, -RECENT:]
        quantize_cache(work.cache, caching)
        return choose(logits, step)

    token, logprob = forward(mx.array(rest), 0)
    work.fed += rest
    mx.async_eval(token, logprob)
    for step in range(1, sampling.max_tokens + 1):
        ahead = 1 < step < sampling.max_tokens  # the first token is given out before anything else is begun
        if ahead:
            following, following_logprob = forward(token, step)
            mx.async_eval(following, following_logprob)
        value: Any = token.item()
        score: Any = logprob.item()
        if ahead:
            work.fed.append(value)
        yield value, score, False
        if step == sampling.max_tokens:
            return
        if not ahead:
            following, following_logprob = forward(token, step)
            mx.async_eval(following, following_logprob)
            work.fed.append(value)
        if step % 256 == 0:
            mx.clear_cache()
        token, logprob = following, following_logprob


def peak_memory() -> float:
    """Return the most memory that MLX has held so far, in GB."""
    return mx.get_peak_memory() / 1e9
