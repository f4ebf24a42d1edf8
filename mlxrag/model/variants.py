"""Log-probabilities of answers after prompts that differ in the middle: what attribution and judging ask for.

Strategy: the first prompt is read once and its keys and values are kept.  Another prompt takes them up to where it
differs.  Rows are batched by cutting a little more of the longer beginnings, so that what is left to read is of one
length in all rows: then nothing is padded on the right, and the caches are right-justified as mlx_lm's batches want
them.  Layers that cannot be cut back are read from the start, row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.errors import BadInput
from mlxrag.memory import ledger
from mlxrag.model.admit import HELPS, admit, patiently, row_bytes, step_bytes
from mlxrag.model.batch_cache import as_batch, can_batch
from mlxrag.model.cache_layers import can_cut, common, cut_back
from mlxrag.model.likelihood import Floats, logprobs
from mlxrag.model.load import Model
from mlxrag.model.sizes import read_shape
from mlxrag.settings import Caching

TOGETHER = 4
"""Rows read at once: few, so that rows with a long known beginning are not read from an earlier row's shorter one."""
STEP = 1024
WAIT = 30.0
"""Seconds to wait for room."""


def score_variants(model: Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Floats]:
    """Return log p of every token of each answer given its prompt, `(len(answer),)` float32 each.

    Args:
        model: a loaded model.
        rows: (prompt ids, answer ids); the first prompt is the one whose keys and values the others reuse.

    Raises:
        BadInput: a prompt or an answer is empty.
        WontFit: there is no room for it, also after `WAIT` seconds.

    Cost: the first row in full, then of each other row what follows its first difference; memory is `TOGETHER` copies
    of the first row's keys and values.
    """
    if any(not prompt or not answer for prompt, answer in rows):
        raise BadInput("a likelihood needs a prompt and an answer")
    if not rows:
        return []
    size = _need(model, rows)

    def once() -> list[Floats]:
        with ledger().reserve("answers being scored", "cache", size, helps=HELPS):
            return _scored(model, rows)

    return patiently(once, WAIT)


def _need(model: Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Return what scoring takes: the first row's keys and values and their copies, a step, and logits of the answers."""
    caching = Caching(prefill_step_size=STEP)
    longest, answer = max(len(p) + len(a) for p, a in rows), max(len(a) for _, a in rows)
    logits = 3 * TOGETHER * answer * read_shape(model.config).vocabulary * 4  # themselves, in float32, and their sums
    step = step_bytes(model, longest, min(longest, STEP), caching, TOGETHER)
    return row_bytes(model, longest, caching) * (1 + TOGETHER) + step + logits


def _scored(model: Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Floats]:
    probe = make_prompt_cache(model.network)
    if len(rows) == 1 or not can_batch(probe):
        return [logprobs(model, prompt, answer) for prompt, answer in rows]
    first = (*rows[0][0], *rows[0][1])
    base = make_prompt_cache(model.network)
    scores: list[Floats] = [_read(model, [first], base, len(rows[0][1]))[0]]
    if not can_cut(base):
        return scores + [logprobs(model, prompt, answer) for prompt, answer in rows[1:]]
    # The last prompt token must be read again: it predicts the first token of the answer.
    known = [min(common(tuple(first[:-1]), (*p, *a)), len(p) - 1) for p, a in rows[1:]]
    left = [len(p) + len(a) - k for (p, a), k in zip(rows[1:], known, strict=True)]
    found: dict[int, Floats] = {}
    order = sorted(range(len(left)), key=left.__getitem__)
    for start in range(0, len(order), TOGETHER):
        part = order[start : start + TOGETHER]
        longest = max(left[i] for i in part)
        # One length for all: a row of fewer tokens than that is read from its start, by itself.
        short = [i for i in part if len(rows[i + 1][0]) + len(rows[i + 1][1]) <= longest]
        for i in short:
            found[i] = logprobs(model, *rows[i + 1])
        together = [i for i in part if i not in short]
        if together:
            caches = [_cut(base, len(first), len(rows[i + 1][0]) + len(rows[i + 1][1]) - longest) for i in together]
            texts = [(*rows[i + 1][0], *rows[i + 1][1])[-longest:] for i in together]
            most = max(len(rows[i + 1][1]) for i in together)
            read = _read(model, texts, as_batch(caches, Caching()), most)
            found |= {i: scored[most - len(rows[i + 1][1]) :] for i, scored in zip(together, read, strict=True)}
    return scores + [found[i] for i in range(len(rows) - 1)]


def next_logprobs(model: Model, prompt: Sequence[int]) -> Floats:
    """Return the log-probability of every token of the vocabulary after a prompt, `(v,)` float32.

    Raises:
        WontFit: there is no room for it, also after `WAIT` seconds.
    """
    with patiently(lambda: admit(model, len(prompt), Caching(prefill_step_size=STEP)), WAIT):
        cache = make_prompt_cache(model.network)
        known = len(prompt) - 1
        for start in range(0, known, STEP):
            # Only the keys and values are asked for, so nothing is computed over the vocabulary.
            model.network(mx.array([list(prompt[start : min(start + STEP, known)])]), cache=cache)
            mx.eval([layer.state for layer in cache])
        out = model.network(mx.array([[prompt[-1]]]), cache=cache)[0, -1].astype(mx.float32)
        return np.array(out - mx.logsumexp(out))


def _read(model: Model, texts: Sequence[Sequence[int]], cache: list[Any], answer: int) -> list[Floats]:
    """Read rows of one length after their caches, and return log p of the last `answer` tokens of each."""
    length = len(texts[0])
    ids = mx.array([list(t) for t in texts])
    head = max(0, length - answer - 1)
    step = max(1, STEP // len(texts))
    for start in range(0, head, step):
        ledger().look()
        model.network(ids[:, start : min(start + step, head)], cache=cache)
        mx.eval([layer.state for layer in cache])
    out = model.network(ids[:, head : length - 1], cache=cache)[:, -answer:].astype(mx.float32)
    after = ids[:, length - answer :]
    scores = mx.take_along_axis(out, after[..., None], axis=-1)[..., 0] - mx.logsumexp(out, axis=-1)
    mx.eval(scores)
    return list(np.array(scores))


def _cut(base: Sequence[Any], held: int, keep: int) -> list[Any]:
    """Copy caches and keep the first `keep` tokens; `held` texts have one token less in the cache."""
    layers = copy.deepcopy(list(base))
    cut_back(layers, held - 1 - keep)
    return layers
