"""The requests of a batch that are under way: tokens so far, text, when each is finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlxrag.model.batch_cache import extend, keep_places, take_places
from mlxrag.model.generate import Completion, Request, Stopper, for_request
from mlxrag.model.load import Model
from mlxrag.model.sample import Draws, draws_per_token
from mlxrag.settings import Sampling


@dataclass(slots=True)
class Row:
    """One request under way.

    Attributes:
        fresh: the token on its way is the last of the prompt, not one of the answer.
    """

    request: Request
    started: float
    reused: int
    draws: Draws | None
    stopper: Stopper
    detokenizer: Any
    limit: int
    fresh: bool = True
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, token: int, score: float, eos_ids: frozenset[int]) -> str | None:
        """Add a token and return why the row is finished, if it is."""
        ended = token in eos_ids
        if not ended:
            self.tokens.append(token)
            self.logprobs.append(score)
            self.text += self.stopper.add(self.detokenizer.add(token))
        if ended or self.stopper.done or len(self.tokens) >= self.limit:
            self.text += self.stopper.add(self.detokenizer.finish(), last=True)
            return "stop" if ended or self.stopper.done else "length"
        return None

    def completion(self, reason: str) -> Completion:
        """Return what the request came to."""
        return Completion(
            self.request.id,
            self.text,
            tuple(self.tokens),
            tuple(self.logprobs),
            reason,
            len(self.request.prompt),
            self.reused,
            time.perf_counter() - self.started,
        )


@dataclass(slots=True)
class Active:
    """The rows that are generating, their caches, and the tokens that are on their way.

    Attributes:
        rows: by their place in the batch; None where a row has finished.  Its place is computed on until another row
            takes it, since moving the others' keys and values together costs more than many steps.
    """

    rows: list[Row | None] = field(default_factory=list)
    cache: list[Any] = field(default_factory=list)
    tokens: mx.array | None = None
    logprobs: mx.array | None = None
    recent: mx.array | None = None

    @property
    def places(self) -> list[int]:
        """Where rows are that have not finished."""
        return [i for i, row in enumerate(self.rows) if row is not None]

    @property
    def running(self) -> list[Row]:
        """The rows that have not finished."""
        return [row for row in self.rows if row is not None]

    def add(self, rows: Sequence[Row], cache: list[Any], last: mx.array, recent: mx.array | None) -> None:
        """Put new rows in places of finished ones, or beside the others.

        Args:
            rows: new rows.
            cache: what their prompts left, all but the last token; the rows' own from now on.
            last: that token of each.
            recent: tokens that a penalty looks at, of each.
        """
        logprobs = mx.zeros(last.shape)
        free = [i for i, row in enumerate(self.rows) if row is None][: len(rows)]
        if len(free) == len(rows) and take_places(self.cache, free, cache):
            assert self.tokens is not None and self.logprobs is not None
            at = mx.array(free)
            for i, row in zip(free, rows, strict=True):
                self.rows[i] = row
            self.tokens[at] = last
            self.logprobs[at] = logprobs
            if self.recent is not None and recent is not None:
                self.recent[at] = recent
            return
        self.keep(self.places)
        if self.rows:
            extend(self.cache, cache)
        else:
            self.cache = cache
        self.rows = [*self.rows, *rows]
        self.tokens, self.logprobs = _joined(self.tokens, last), _joined(self.logprobs, logprobs)
        self.recent = None if recent is None else _joined(self.recent, recent)

    def keep(self, places: Sequence[int]) -> None:
        """Let go of all rows but these."""
        if not places:
            self.rows, self.cache, self.tokens, self.logprobs, self.recent = [], [], None, None, None
        elif len(places) < len(self.rows):
            assert self.tokens is not None and self.logprobs is not None
            at = mx.array(list(places))
            keep_places(self.cache, places)
            self.rows = [self.rows[i] for i in places]
            self.tokens, self.logprobs = self.tokens[at], self.logprobs[at]
            self.recent = None if self.recent is None else self.recent[at]


def begin(model: Model, request: Request, sampling: Sampling, reused: int, started: float) -> Row:
    """Return the row of a request whose prompt is processed but for its last token.

    Args:
        model: a loaded model.
        request: its own seed, length and stop texts win over those of `sampling`.
        sampling: how tokens are chosen.
        reused: tokens of the prompt that did not run for it.
        started: `perf_counter` when its prompt began to run.
    """
    own = for_request(sampling, request)
    limit = min(own.max_tokens, model.context - len(request.prompt))
    width = draws_per_token(sampling)
    draws = Draws(own.seed, width) if width else None
    detokenizer = model.tokenizer.detokenizer(skip_special_tokens=True)
    return Row(request, started, reused, draws, Stopper(own.stop), detokenizer, max(limit, 1))


def _joined(first: mx.array | None, second: mx.array) -> mx.array:
    return second if first is None else mx.concatenate([first, second])
