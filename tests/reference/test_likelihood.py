"""Perplexity against mlx_lm's eval_ppl, KL and log-probabilities against numpy on saved logits and against scipy."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import entropy

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx

from mlxrag.model.likelihood import divergence, kl_divergence, logprobs, perplexity, recorded, score_tokens
from mlxrag.model.network import assemble, load_network
from mlxrag.model.quantize import quantize_network
from mlxrag.model.recipe import parse
from tests.toy_model import write_model

ROWS = np.random.default_rng(0).integers(3, 300, size=(6, 40)).tolist()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("toy") / "model")


def test_perplexity_equals_mlx_lms(toy: Path) -> None:
    """Value and standard error are `mlx_lm.perplexity.eval_ppl`'s."""
    from mlx_lm.perplexity import eval_ppl

    network, _, _ = load_network(toy)
    mine = perplexity(network, ROWS)
    with redirect_stdout(io.StringIO()):
        value, error = eval_ppl(network, mx.array(ROWS), batch_size=2)
    assert mine.value == pytest.approx(value, rel=1e-5)
    assert mine.standard_error == pytest.approx(error, rel=1e-4)
    assert mine.tokens == 6 * 39


def test_scores_are_the_log_softmax_of_the_logits(toy: Path) -> None:
    """Each token's score is numpy's from logits saved in one pass, however the text is cut into steps."""
    network, _, _ = load_network(toy)
    logits = np.array(network(mx.array([ROWS[0]])))[0]
    wanted = scipy_log_softmax(logits.astype(np.float64), axis=-1)[np.arange(39), ROWS[0][1:]]
    for step in (512, 7, 1):
        assert np.allclose(score_tokens(network, ROWS[0], step), wanted, atol=1e-4)
    assert np.allclose(logprobs(network, ROWS[0][:30], ROWS[0][30:]), wanted[29:], atol=1e-4)


def test_kl_is_scipys_relative_entropy() -> None:
    """KL of rows of logits equals `scipy.stats.entropy` of their softmax, and is 0 for a row and itself."""
    p, q = np.random.default_rng(1).normal(size=(2, 50, 80)) * 4
    wanted = entropy(np.exp(scipy_log_softmax(p, -1)), np.exp(scipy_log_softmax(q, -1)), axis=-1)
    assert np.allclose(kl_divergence(p, q), wanted, rtol=1e-9)
    assert np.allclose(kl_divergence(p, p), 0.0)


def test_divergence_equals_numpy_on_saved_logits(toy: Path) -> None:
    """Mean and percentile of KL, agreement and perplexity are those of two arrays of logits."""
    network, _, _ = load_network(toy)
    other = assemble(toy).network
    quantize_network(other, parse("3-g32"))
    with recorded(network, ROWS) as was:
        found = divergence(was, other)
        same = divergence(was, network)
    a, b = (np.array(net(mx.array(ROWS))).astype(np.float64) for net in (network, other))
    log_a, log_b = scipy_log_softmax(a, -1), scipy_log_softmax(b, -1)
    kl = (np.exp(log_a) * (log_a - log_b)).sum(-1)
    assert found.kl_mean == pytest.approx(kl.mean(), rel=1e-3)
    assert found.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert found.kl_error == pytest.approx(kl.mean(1).std(ddof=1) / 6**0.5, rel=1e-3)
    assert found.top1 == pytest.approx((a.argmax(-1) == b.argmax(-1)).mean())
    losses = -np.take_along_axis(log_b[:, :-1], np.array(ROWS)[:, 1:, None], -1)
    assert found.perplexity.value == pytest.approx(np.exp(losses.mean()), rel=1e-4)
    assert (same.kl_mean, same.top1) == (pytest.approx(0.0, abs=1e-9), 1.0)
