"""How likely a network holds a given text to be: log-probabilities, perplexity, and the distance to another network.

Distances between two networks are taken from recorded logits, so that the two need not be in memory together.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.errors import BadInput
from mlxrag.memory import Hold, ledger

Floats = npt.NDArray[np.floating[Any]]
STEP = 512  # tokens of one forward pass
HELPS = "shorter texts or a larger --memory-budget would help"
PRECISE = 1_000_000_000  # bytes of recorded logits up to which they are kept in float32; float16 beyond


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of texts: `value`, its standard error, the mean loss in nats per token, and how many tokens."""

    value: float
    standard_error: float
    loss: float
    tokens: int


@dataclass(frozen=True)
class Divergence:
    """How far a network is from another on the same texts.

    Attributes:
        kl_mean: KL(original || other) in nats per token, with its standard error over pieces of text.
        kl_p99: the 99th percentile over tokens, and bounds that hold it in 95 of 100 resamples of the pieces.
        top1: share of tokens whose likeliest next token is the same, with its standard error over pieces.
        perplexity: of the other network on the texts.
        tokens: how many were compared.
    """

    kl_mean: float
    kl_error: float
    kl_p99: float
    kl_p99_low: float
    kl_p99_high: float
    top1: float
    top1_error: float
    perplexity: Perplexity
    tokens: int


def score_tokens(model: Any, ids: Sequence[int], step: int = STEP) -> Floats:
    """Return log p(token | tokens before it) of every token but the first, `(n - 1,)` float32.

    The text is read in steps with a cache, so that memory is `step` rows of the vocabulary and not n.

    Args:
        model: a Model or an mlx_lm network.
        ids: token ids, at least 2.
        step: tokens of one forward pass.

    Raises:
        BadInput: fewer than 2 tokens.
        WontFit: there is no room for a pass.
    """
    if len(ids) < 2:
        raise BadInput("a likelihood needs at least 2 tokens")
    network = getattr(model, "network", model)
    cache = make_prompt_cache(network)
    found = []
    for start in range(0, len(ids) - 1, step):
        end = min(start + step, len(ids) - 1)
        out = network(mx.array([list(ids[start:end])]), cache=cache)[0].astype(mx.float32)
        after = mx.array(list(ids[start + 1 : end + 1]))
        scores = mx.take_along_axis(out, after[:, None], axis=-1)[:, 0] - mx.logsumexp(out, axis=-1)
        with reserved(out, cache):
            mx.eval(scores)
        found.append(np.array(scores))
        del out, scores
    return np.concatenate(found)


def reserved(out: mx.array, cache: Sequence[Any]) -> Hold:
    """Reserve what a pass takes that is built but not computed: keys and values, and its logits `(n, v)` three times.

    They are there as the head gives them, in float32, and with their exponentials.

    Raises:
        WontFit: there is no room for it.
    """
    size = 3 * out.nbytes + sum(int(layer.nbytes) for layer in cache)
    return ledger().reserve("texts being scored", "scratch", size, helps=HELPS)


def logprobs(model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Floats:
    """Return log p of every token of an answer given the prompt and the answer so far, `(len(answer_ids),)` float32.

    Raises:
        BadInput: prompt or answer is empty.
    """
    if not prompt_ids or not answer_ids:
        raise BadInput("a likelihood needs a prompt and an answer")
    return score_tokens(model, [*prompt_ids, *answer_ids])[len(prompt_ids) - 1 :]


def perplexity(model: Any, rows: Sequence[Sequence[int]]) -> Perplexity:
    """Return the perplexity of texts, each read from its beginning.

    Args:
        model: a Model or an mlx_lm network.
        rows: token ids of each text, at least 2 each.

    Source: `eval_ppl` of mlx_lm 0.32.2, perplexity.py: exp of the mean loss; its standard error by the delta method.
    """
    return perplexity_of(np.concatenate([-score_tokens(model, row).astype(np.float64) for row in rows]))


def perplexity_of(losses: Floats) -> Perplexity:
    """Return the perplexity of losses `(n,)` in nats per token."""
    mean = float(losses.mean())
    value = math.exp(mean) if mean < 700 else math.inf
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return Perplexity(value, value * error, mean, len(losses))


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities of the rows of `logits` `(n, v)`, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True).astype(np.float64)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def kl_divergence(p: Floats, q: Floats) -> Floats:
    """Return KL(p || q) of each row of logits `(n, v)` in nats, `(n,)` float64, never below 0."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)


@dataclass
class Recorded:
    """Logits of a network on texts, on disk: `(tokens, vocabulary)`, and the texts they belong to."""

    rows: tuple[tuple[int, ...], ...]
    logits: npt.NDArray[np.floating[Any]]


@contextmanager
def recorded(model: Any, rows: Sequence[Sequence[int]], folder: Path | None = None) -> Iterator[Recorded]:
    """Write down the logits of a network on texts; they are gone when the block ends.

    Args:
        model: a Model or an mlx_lm network.
        rows: token ids of each text.
        folder: where to put the file (tokens x vocabulary x 4 bytes, or 2 beyond a gigabyte); a temporary one unless given.
    """
    network = getattr(model, "network", model)
    count = sum(len(row) for row in rows)
    width = network(mx.array([[0]])).shape[-1]
    kind = np.float32 if count * width * 4 <= PRECISE else np.float16
    with tempfile.TemporaryDirectory(dir=folder) as place:
        table = np.memmap(Path(place, "logits"), dtype=kind, mode="w+", shape=(count, width))
        at = 0
        for row in rows:
            for out in passes(network, row):
                table[at : at + len(out)] = out
                at += len(out)
        yield Recorded(tuple(tuple(row) for row in rows), table)
        del table


def passes(network: nn.Module, row: Sequence[int], step: int = STEP) -> Iterator[Floats]:
    """Yield the logits of a text, `(at most step, v)` float32 each, in order."""
    cache = make_prompt_cache(network)
    for start in range(0, len(row), step):
        out = network(mx.array([list(row[start : start + step])]), cache=cache)[0].astype(mx.float32)
        with reserved(out, cache):
            mx.eval(out)
            made = np.array(out)
            del out
        yield made


def divergence(original: Recorded, model: Any) -> Divergence:
    """Return how far a network is from the one whose logits were recorded, on the same texts.

    Cost: one pass over the texts; some 10 numbers of the vocabulary per token in numpy.
    """
    network = getattr(model, "network", model)
    kls, tops, losses = [], [], []
    at = 0
    for row in original.rows:
        kl, top, loss = [], [], []
        seen = 0
        for out in passes(network, row):
            was = original.logits[at : at + len(out)].astype(np.float32)
            kl.append(kl_divergence(was, out))
            top.append(was.argmax(-1) == out.argmax(-1))
            after = np.array(row[seen + 1 : seen + 1 + len(out)], dtype=np.int64)
            known = log_softmax(out[: len(after)])
            loss.append(-known[np.arange(len(after)), after])
            at += len(out)
            seen += len(out)
        kls.append(np.concatenate(kl))
        tops.append(np.concatenate(top))
        losses.append(np.concatenate(loss))
    each = np.concatenate(kls)
    low, high = percentile_bounds(kls, 0.99)
    return Divergence(
        kl_mean=float(each.mean()),
        kl_error=error_of([part.mean() for part in kls]),
        kl_p99=float(np.quantile(each, 0.99)),
        kl_p99_low=low,
        kl_p99_high=high,
        top1=float(np.concatenate(tops).mean()),
        top1_error=error_of([part.mean() for part in tops]),
        perplexity=perplexity_of(np.concatenate(losses)),
        tokens=len(each),
    )


def percentile_bounds(parts: Sequence[Floats], share: float, resamples: int = 500) -> tuple[float, float]:
    """Return the bounds of a percentile of all values together, by resampling the pieces of text they come from.

    Tokens of one piece hang together, so pieces are drawn, not tokens.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 5.3: the percentile interval.
    """
    draw = np.random.default_rng(0)
    found = [
        np.quantile(np.concatenate([parts[i] for i in draw.integers(0, len(parts), len(parts))]), share)
        for _ in range(resamples)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def error_of(values: Sequence[float]) -> float:
    """Return the standard error of a mean of independent values; NaN for fewer than 2."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
