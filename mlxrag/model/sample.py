"""Scores of the next token -> one token per row.

The filters are mlx_lm's own, in its order (top-p, min-p, XTC, top-k, temperature), and a seed gives
the tokens that `mlx_lm.generate --seed` gives.  What differs: the random numbers belong to a request
and not to the process, so each row of a batch has its own seed and draws what it would draw alone.

Knows nothing of networks and text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from mlxrag.errors import BadInput
from mlxrag.settings import Sampling

# Log-probabilities `(b, vocabulary)` and random numbers `(b, draws)` -> tokens `(b,)`.
Sampler = Callable[[mx.array, mx.array | None], mx.array]
RECENT = 20  # tokens that a repetition penalty looks back on, as in mlx_lm


class Draws:
    """The random numbers of one request, in the order in which mlx_lm would draw them.

    mlx_lm takes one number per token from MLX's global generator, which splits its key each time;
    this splits a key of its own in the same way, some steps ahead so that it costs nothing per token.
    """

    ahead = 64

    def __init__(self, seed: int | None, width: int) -> None:
        self.seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.width = width
        self._key = mx.random.key(self.seed)
        self._rows: list[mx.array] = []

    def at(self, step: int) -> mx.array:
        """Return the numbers of one step, `(width,)` in [0, 1)."""
        while step >= len(self._rows):
            found = []
            for _ in range(self.ahead * self.width):
                self._key, one = mx.random.split(self._key)
                found.append(mx.random.uniform(key=one))
            block = mx.stack(found).reshape(self.ahead, self.width)
            mx.eval(block, self._key)
            self._rows += list(block)
        return self._rows[step]


def draws_per_token(sampling: Sampling) -> int:
    """Return how many random numbers one token takes: none when greedy, two with XTC, else one."""
    return 0 if sampling.temp == 0 else 2 if sampling.xtc_probability > 0 else 1


def make_sampler(sampling: Sampling, vocabulary: int, keep: Sequence[int] = ()) -> Sampler:
    """Return the function that picks tokens.

    Args:
        sampling: temperature and filters.
        vocabulary: number of tokens of the model.
        keep: tokens that XTC never drops, such as those that end an answer.

    Raises:
        BadInput: `top_k` is not below the vocabulary.

    Source: `make_sampler` of mlx_lm 0.32.2, sample_utils.py; XTC, https://github.com/oobabooga/text-generation-webui/pull/6335.
    """
    if sampling.top_k >= vocabulary:
        raise BadInput(f"--top-k {sampling.top_k} is not below the model's vocabulary of {vocabulary} tokens")
    if sampling.temp == 0:
        return lambda logprobs, _: mx.argmax(logprobs, axis=-1)
    kept = mx.array(list(keep)) if keep else None

    def sample(logprobs: mx.array, numbers: mx.array | None) -> mx.array:
        assert numbers is not None
        if 0 < sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = apply_min_p(logprobs, sampling.min_p, sampling.min_tokens_to_keep)
        if sampling.xtc_probability > 0:
            logprobs = apply_xtc(logprobs, numbers[:, :1], sampling.xtc_probability, sampling.xtc_threshold, kept)
        if sampling.top_k > 0:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        return pick(logprobs * (1.0 / sampling.temp), numbers[:, -1:])

    return sample


def pick(scores: mx.array, numbers: mx.array) -> mx.array:
    """Draw from the distribution of each row by its own number.

    Inverts the cumulative distribution as `mx.random.categorical` does, so equal numbers give equal tokens.

    Args:
        scores: unnormalized log-probabilities `(b, n)`; minus infinity is never drawn.
        numbers: `(b, 1)` in [0, 1).

    Returns:
        `(b,)` uint32.
    """
    mass = mx.cumsum(mx.exp(scores - mx.max(scores, axis=-1, keepdims=True)), axis=-1)
    return mx.minimum((mass < numbers * mass[:, -1:]).sum(axis=-1), scores.shape[-1] - 1).astype(mx.uint32)


def apply_xtc(
    logprobs: mx.array, numbers: mx.array, probability: float, threshold: float, keep: mx.array | None
) -> mx.array:
    """Drop all tokens above the threshold but the least likely of them, with the given probability.

    Args:
        logprobs: `(b, n)`.
        numbers: `(b, 1)` in [0, 1).
        probability: how often a row is changed.
        threshold: probability above which a token counts as a top choice.
        keep: tokens that are never dropped.
    """
    chances = mx.softmax(logprobs, axis=-1)
    least = mx.where(chances > threshold, chances, mx.inf).min(axis=-1, keepdims=True)
    drop = chances > least
    if keep is not None:
        drop[..., keep] = False
    return mx.where(numbers > probability, logprobs, mx.where(drop, -mx.inf, logprobs))


def penalize(logits: mx.array, recent: mx.array, penalty: float) -> mx.array:
    """Make recent tokens less likely.

    Args:
        logits: `(b, n)`.
        recent: tokens `(b, m)`; a token that stands there twice counts once.
        penalty: above 1 discourages.

    Source: Keskar et al. 2019, CTRL, section 4.1, with mlx_lm's care for the sign.
    """
    chosen = mx.take_along_axis(logits, recent, axis=-1)
    changed = mx.where(chosen < 0, chosen * penalty, chosen / penalty)
    return mx.put_along_axis(logits, recent, changed, axis=-1)
