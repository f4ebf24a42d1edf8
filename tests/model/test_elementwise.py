"""Softmax, GELU and attention are exact wherever they are computed."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlxrag.model import elementwise


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 40_000), (5, 1, 1, 129)])
def test_softmax_is_exact(shape):
    """Softmax is within 1e-6 of double precision, at any size of a block."""
    x = mx.random.normal(shape, key=mx.random.key(0)) * 8
    wide = np.array(x).astype(np.float64)
    wide = np.exp(wide - wide.max(-1, keepdims=True))
    expected = wide / wide.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.array(elementwise.softmax(x + 0.0)), expected, atol=1e-6)


def test_masked_scores_count_nothing():
    """A score of -1e9 has a weight of exactly zero."""
    weights = np.array(elementwise.softmax(mx.array([[1.0, 2.0, -1e9]])))
    assert weights[0, 2] == 0.0


def test_gelu_equals_the_exact_function():
    """The stand-in's GELU is within 1e-6 of x·Φ(x), far into both tails and beyond one block."""
    x = np.linspace(-12, 12, 70_001).astype(np.float32)
    expected = np.array(nn.gelu(mx.array(x)))
    np.testing.assert_allclose(np.array(elementwise.gelu(mx.array(x))), expected, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_mlx(masked):
    """Attention equals MLX's fused kernel, with and without a mask."""
    q, k, v = (mx.random.normal((2, 3, 9, 16), key=mx.random.key(i)) for i in range(3))
    mask = mx.array(np.where(np.arange(9) < 6, 0.0, -1e9).astype(np.float32))[None, None, None, :] if masked else None
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)
    np.testing.assert_allclose(np.array(elementwise.attention(q, k, v, mask)), np.array(expected), atol=2e-6)
