"""Admission: what answers will hold is reserved before their first token, so that they never end half way.

The keys and values of prompt and answer are counted exactly (`predict.py`), rounded up as caches grow; what a step
needs besides is predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxrag.errors import WontFit
from mlxrag.memory import Hold, ledger
from mlxrag.model.load import Model
from mlxrag.model.predict import cache_bytes
from mlxrag.model.sizes import read_shape, work_bytes
from mlxrag.settings import Caching

T = TypeVar("T")
STEP = 256
"""Tokens by which mlx_lm's caches grow."""
TOGETHER_CPU = 256
HELPS = "a shorter context (fewer --num-passages), --kv-bits 8 or a larger --memory-budget would help"


def admit(model: Model, tokens: int, caching: Caching) -> Hold:
    """Reserve what answering takes: keys and values of prompt and answer, and the work of the largest step.

    Args:
        model: a loaded model.
        tokens: prompt and answer together.
        caching: bits and windows of the cache, sizes of steps.

    Raises:
        WontFit: it does not fit; says needed and free bytes, and who holds the rest.
    """
    return ledger().reserve("an answer under way", "cache", need(model, tokens, caching), helps=HELPS)


def patiently(do: Callable[[], T], seconds: float) -> T:
    """Do something; where there is no room for it, wait for that and do it again.

    Args:
        do: what reserves; it can be done again after a WontFit.
        seconds: to wait in all, for others to give back or for the budget to grow.

    Raises:
        WontFit: there is no room after that, or there never will be.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return do()
        except WontFit as error:
            error.__traceback__ = None  # its frames hold the arrays of the attempt
            if not error.missing or not _waited(ledger().free() + error.missing, until - time.monotonic()):
                raise


def _waited(wanted: int, seconds: float) -> bool:
    return seconds > 0 and ledger().wait_for(lambda: wanted, seconds)


def need(model: Model, tokens: int, caching: Caching) -> int:
    """Return the bytes that one answer takes."""
    return row_bytes(model, tokens, caching) + step_bytes(model, tokens, tokens, caching)


def row_bytes(model: Model, tokens: int, caching: Caching) -> int:
    """Return the bytes of the keys and values of one row; counted once for each length and way of keeping them."""
    length = -(-tokens // STEP) * STEP
    if caching.max_kv_size is not None:
        length = min(length, max(caching.max_kv_size, STEP))
    bits = caching.kv_bits if caching.kv_bits is not None and tokens > caching.quantized_kv_start else None
    total = _counted(model, length, bits)
    # Keys and values are quantized after a step: those of the first are there as they are until then.
    plain = max(caching.quantized_kv_start, 0) + caching.prefill_step_size
    return total if bits is None else total + _counted(model, min(length, -(-plain // STEP) * STEP), None)


def _counted(model: Model, length: int, bits: int | None) -> int:
    if (length, bits) not in model.needs:
        model.needs[length, bits] = cache_bytes(model.network, length, kv_bits=bits)
    return model.needs[length, bits]


def step_bytes(model: Model, tokens: int, fed: int, caching: Caching, rows: int = 1) -> int:
    """Return the bytes that the largest step takes besides keys and values.

    Args:
        model: a loaded model.
        tokens: length of the longest row at its end.
        fed: of them, those that are processed now; the others are in the cache.
        caching: tokens of a step.
        rows: rows processed together.
    """
    size = 4 if mx.default_device() == mx.Device(mx.cpu) else 2
    step = max(1, min(rows_step(caching, rows), fed))
    return work_bytes(model.config, tokens, batch=rows, step=step, size=size)


def rows_step(caching: Caching, rows: int) -> int:
    """Return how many tokens of each row a step processes: `prefill_step_size` in all rows together.

    On a CPU at most `TOGETHER_CPU` of several rows: more are no faster there, and nothing else happens until they are done.
    """
    several = rows > 1 and mx.default_device() == mx.Device(mx.cpu)
    return max(1, (min(caching.prefill_step_size, TOGETHER_CPU) if several else caching.prefill_step_size) // rows)


def groups_of(model: Model) -> int:
    """Return the group size in which this model's keys and values can be quantized; 0 where they cannot."""
    size = read_shape(model.config).head_dim
    plain = all(type(layer) is KVCache for layer in make_prompt_cache(model.network))
    return next((group for group in (64, 32) if plain and size % group == 0), 0)
