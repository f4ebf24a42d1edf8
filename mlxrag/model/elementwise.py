"""Softmax and GELU: MLX's own, or exact stand-ins where MLX has no fast kernel for them.

The Linux CPU wheel of MLX computes `exp` in 15 to 28 ns per element and `erf` in 27 to 54 ns, where
NumPy's vector loops take 0.5 ns.  An encoder evaluates millions of both per second, so that on
this backend they cost as much as all matrix products together.  This file is the one place that
works around it: on the CPU of a Linux machine the values are computed by NumPy **in the memory of
the MLX array**, without a copy; everywhere else MLX's functions are called unchanged.

Both stand-ins agree with MLX's functions to 1e-6 in float32.  They evaluate their argument and
have no gradient: they are for inference.
"""

from __future__ import annotations

import sys
from functools import partial

import mlx.core as mx
import numpy as np

BLOCK = 1 << 15
"""Elements worked on at a time: four float32 buffers of this size stay in a core's second-level cache."""


def without_kernels(x: mx.array) -> bool:
    """Return whether `x` would be computed by the backend that has no vector loops for `exp`."""
    return sys.platform == "linux" and x.dtype == mx.float32 and mx.default_device() == mx.Device(mx.cpu)


def softmax(scores: mx.array) -> mx.array:
    """Return the softmax over the last axis; `scores` may be overwritten and must not be used again."""
    if not without_kernels(scores):
        return mx.softmax(scores, axis=-1, precise=True)
    mx.eval(scores)
    rows = np.array(scores, copy=False).reshape(-1, scores.shape[-1])
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        block -= block.max(axis=1, keepdims=True)
        np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
    return scores


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
    """Return scaled dot-product attention.

    Args:
        q: `(b, heads, t, d)`.
        k: `(b, heads, s, d)`.
        v: `(b, heads, s, d)`.
        mask: added to the scores `(b, heads, t, s)`, or None.

    Returns:
        `(b, heads, t, d)`.
    """
    scale = q.shape[-1] ** -0.5
    if not without_kernels(q):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    scores = (q * scale) @ k.swapaxes(-1, -2)
    return softmax(scores if mask is None else scores + mask) @ v


def gelu(x: mx.array) -> mx.array:
    """Return `x · Φ(x)` with the exact normal distribution; `x` may be overwritten and must not be used again.

    Strategy: with `a = |x|` and `Q(a) = 1 - Φ(a)`, the value is `max(x, 0) - a·Q(a)` for either sign,
    so that one branch-free pass does.  `Q` is the rational approximation of the error function
    with an absolute error below 1.5e-7.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, equation 7.1.26.
    """
    if not without_kernels(x):
        return _gelu(x)
    mx.eval(x)
    flat = np.array(x, copy=False).reshape(-1)
    t, q, e = (np.empty(min(BLOCK, flat.size), np.float32) for _ in range(3))
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        n = block.size
        _gelu_block(block, t[:n], q[:n], e[:n])
    return x


@partial(mx.compile, shapeless=True)
def _gelu(x: mx.array) -> mx.array:
    return x * (1 + mx.erf(x / 2**0.5)) / 2


def _gelu_block(x: np.ndarray, t: np.ndarray, q: np.ndarray, e: np.ndarray) -> None:
    """Overwrite `x` `(n,)` with its GELU; `t`, `q` and `e` `(n,)` are scratch."""
    np.abs(x, out=t)
    np.multiply(t, t, out=e)
    np.multiply(e, np.float32(-0.5), out=e)
    np.exp(e, out=e)
    np.multiply(e, t, out=e)
    np.multiply(t, np.float32(0.3275911 / 2**0.5), out=t)
    np.add(t, np.float32(1.0), out=t)
    np.reciprocal(t, out=t)
    # Horner's scheme over t, halved because Q = erfc(a / sqrt 2) / 2.
    np.multiply(t, np.float32(0.5 * 1.061405429), out=q)
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        np.add(q, np.float32(0.5 * c), out=q)
        np.multiply(q, t, out=q)
    np.multiply(q, e, out=q)
    np.maximum(x, np.float32(0.0), out=x)
    np.subtract(x, q, out=x)
