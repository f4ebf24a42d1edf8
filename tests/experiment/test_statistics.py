"""Laws of the statistics: error rates, degenerate data, order and symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlxrag.experiment.statistics import (
    CORRECTIONS,
    design_effect,
    differences,
    effect,
    mcnemar,
    mean_interval,
    paired_t,
    sign_flip,
    standard_error,
    wilcoxon,
)

flips = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60)


def from_zero(values, clusters=None):
    return differences(np.zeros(len(values)), values, clusters)


def test_an_a_a_comparison_of_right_and_wrong_is_significant_about_one_time_in_twenty() -> None:
    """Over 1,000 simulated experiments of 1,000 questions the permutation test errs in 3 to 7 %."""
    rng = np.random.default_rng(11)
    errors = sum(
        sign_flip(from_zero(rng.choice([1.0, -1.0, 0.0], 1000, p=[0.2, 0.2, 0.6]))).p <= 0.05 for _ in range(1000)
    )
    assert 0.03 <= errors / 1000 <= 0.07


def test_an_a_a_comparison_of_questions_in_documents_is_significant_about_one_time_in_twenty() -> None:
    """Over 1,000 experiments of 40 documents with 5 alike questions the test errs in 3 to 7 %; ignoring documents, in more."""
    rng = np.random.default_rng(12)
    documents = np.repeat(np.arange(40), 5).tolist()
    errors = naive = 0
    for _ in range(1000):
        d = np.repeat(rng.normal(0, 0.3**0.5, 40), 5) + rng.normal(0, 0.7**0.5, 200)
        errors += sign_flip(from_zero(d, documents), resamples=499).p <= 0.05
        naive += paired_t(from_zero(d)).p <= 0.05
    assert 0.03 <= errors / 1000 <= 0.07
    assert naive / 1000 > 0.12


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """The 95 % interval over 50 documents of unequal size covers the true mean in 92 to 97.5 % of 400 experiments."""
    rng = np.random.default_rng(13)
    covered = 0
    for i in range(400):
        sizes = rng.integers(1, 6, 50)
        documents = np.repeat(np.arange(50), sizes)
        lean = rng.choice([0.35, 0.15], 50)[documents]
        u = rng.random(len(documents))
        found = mean_interval(
            from_zero(np.where(u < lean, 1.0, np.where(u > 0.85, -1.0, 0.0)), documents.tolist()), resamples=999, seed=i
        )
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert 0.92 <= covered / 400 <= 0.975


@given(flips)
def test_sign_flip_of_independent_right_and_wrong_is_the_exact_mcnemar_test(values: list[float]) -> None:
    """Whatever the flips, the permutation test over single questions is the binomial test of them."""
    wins, losses = values.count(1.0), values.count(-1.0)
    expected = stats.binomtest(losses, wins + losses).pvalue if wins + losses else 1.0
    assert sign_flip(from_zero(values)).p == pytest.approx(expected, rel=1e-9)
    assert mcnemar(wins, losses, mid=False).p == pytest.approx(expected, rel=1e-9)


@given(flips, st.integers(1, 5))
def test_swapping_the_systems_swaps_signs_and_keeps_p(values: list[float], size: int) -> None:
    """B against A has the same p-values as A against B, and the opposite mean."""
    clusters = [i // size for i in range(len(values))]
    there = differences(np.zeros(len(values)), values, clusters)
    back = differences(values, np.zeros(len(values)), clusters)
    assert there.mean == -back.mean
    for test in (sign_flip, wilcoxon, paired_t):
        assert test(there).p == pytest.approx(test(back).p, rel=1e-9)
        assert 0 < test(there).p <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_p_value_is_above_zero_and_reproducible(scores: list[float]) -> None:
    """Same scores and seed give the same p-value, which is never 0."""
    d = differences(np.zeros(len(scores)), scores)
    assert 0 < sign_flip(d).p <= 1
    assert sign_flip(d, seed=4) == sign_flip(d, seed=4)


def test_a_thousand_wins_have_a_p_value_above_zero() -> None:
    """Even 2,000 wins without a loss leave p above 0."""
    assert 0 < sign_flip(from_zero(np.ones(2000))).p < 1e-300
    assert 0 < mcnemar(2000, 0).p < 1e-300
    assert 0 < sign_flip(from_zero(np.full(50, 0.1234567)), resamples=99).p <= 0.01


def test_equal_systems_have_an_interval_by_the_rule_of_three() -> None:
    """Where no question differs the interval says what g documents can exclude, and p is 1."""
    d = from_zero(np.zeros(100))
    found = mean_interval(d)
    assert found.low == pytest.approx(-(1 - 0.025 ** (1 / 100))) and found.high == -found.low
    assert sign_flip(d).p == wilcoxon(d).p == paired_t(d).p == mcnemar(0, 0).p == 1.0


def test_a_single_document_gives_an_estimate_and_no_interval() -> None:
    """One document says nothing of others: no bounds, an infinite standard error, and p is 1."""
    d = from_zero([1.0, 0.0, 1.0], ["a", "a", "a"])
    found = mean_interval(d)
    assert (found.low, found.high) == (None, None) and found.estimate == pytest.approx(2 / 3)
    assert standard_error(d) == np.inf and sign_flip(d).p == 1.0


def test_documents_of_one_question_change_nothing() -> None:
    """Naming every question's own document is the same as naming none."""
    values = np.random.default_rng(1).normal(0, 1, 40)
    alone, named = from_zero(values), from_zero(values, list(range(40)))
    assert standard_error(alone) == pytest.approx(standard_error(named))
    assert sign_flip(alone) == sign_flip(named) and mean_interval(alone) == mean_interval(named)
    assert design_effect(alone) == pytest.approx(1.0)


def test_alike_questions_of_a_document_widen_everything() -> None:
    """Five copies of each question are worth one: the design effect is near 5 and the interval as wide as for one."""
    once = np.random.default_rng(2).normal(0.1, 1, 60)
    copies = from_zero(np.repeat(once, 5), np.repeat(np.arange(60), 5).tolist())
    assert design_effect(copies) == pytest.approx(5.0, rel=0.03)
    assert standard_error(copies) == pytest.approx(standard_error(from_zero(once)))


def test_effect_counts_wins_ties_and_losses() -> None:
    """Twelve wins and four losses are odds of 3 with a Clopper-Pearson interval."""
    found = effect(from_zero(np.repeat([1.0, -1.0, 0.0], [12, 4, 20])))
    assert (found.wins, found.ties, found.losses, found.odds_ratio) == (12, 20, 4, 3.0)
    bounds = stats.binomtest(12, 16).proportion_ci(method="exact")
    assert found.odds_low == pytest.approx(bounds.low / (1 - bounds.low))
    assert found.d_z == pytest.approx(8 / 36 / np.std([1] * 12 + [-1] * 4 + [0] * 20, ddof=1))


def test_effect_without_losses_has_no_finite_odds() -> None:
    """Odds over zero are absent, not infinite, and graded scores have none."""
    found = effect(from_zero([1.0, 1.0, 0.0]))
    assert found.odds_ratio is None and found.odds_high is None and found.odds_low is not None
    assert effect(from_zero([0.3, -0.2])).odds_ratio is None


@given(st.lists(st.floats(1e-6, 1), min_size=0, max_size=20))
def test_corrected_p_values_are_never_smaller(p: list[float]) -> None:
    """Every correction keeps the order and lowers nothing, and stays at most 1."""
    for correct in CORRECTIONS.values():
        corrected = correct(p)
        assert len(corrected) == len(p)
        assert all(old - 1e-12 <= new <= 1 for old, new in zip(p, corrected, strict=True))
        order = np.argsort(p, kind="stable")
        assert (np.diff(np.array(corrected)[order]) >= -1e-12).all()


def test_scores_that_are_no_numbers_are_refused() -> None:
    """NaN, infinity and empty lists are the caller's mistake."""
    for bad in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="finite"):
            from_zero(bad)
