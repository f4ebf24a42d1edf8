"""Statistics against published examples and other programs: scipy, statsmodels, R's vignettes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlxrag.experiment.equivalence import equivalence, tango, tango_interval
from mlxrag.experiment.power import needed
from mlxrag.experiment.statistics import (
    benjamini_hochberg,
    differences,
    holm,
    mcnemar,
    mean_interval,
    paired_t,
    sign_flip,
    standard_error,
    wilcoxon,
    wilson,
)
from mlxrag.experiment.strength import Vote, strengths

# Darwin's maize: heights of crossed less self-fertilized plants, in eighths of an inch (Fisher 1935, section 21).
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Benjamini & Hochberg 1995, section 3.2: fifteen p-values.
BH95 = [.0001, .0004, .0019, .0095, .0201, .0278, .0298, .0344, .0459, .3240, .4262, .5719, .6528, .7590, 1.0]  # fmt: skip
# Stigler 1994: citations between statistics journals, (row, column): times row was cited by column and the reverse.
JOURNALS = {
    ("Biometrika", "CommStat"): (730, 33),
    ("Biometrika", "JASA"): (498, 320),
    ("Biometrika", "JRSSB"): (221, 284),
    ("CommStat", "JASA"): (68, 813),
    ("CommStat", "JRSSB"): (17, 276),
    ("JASA", "JRSSB"): (142, 325),
}


def from_zero(values, clusters=None):
    return differences(np.zeros(len(values)), values, clusters)


def test_sign_flip_counts_darwins_maize_as_fisher_did() -> None:
    """1,726 of 32,768 sign patterns are as extreme, on a lattice and off it."""
    whole = sign_flip(from_zero(MAIZE))
    rough = sign_flip(from_zero(np.array(MAIZE) * math.pi))
    assert whole.exact and whole.p == pytest.approx(1726 / 32768, abs=1e-12)
    assert rough.exact and rough.p == pytest.approx(1726 / 32768, abs=1e-12)


def test_sampled_sign_flip_is_close_to_scipys_permutation_test() -> None:
    """Sampled p-values of 60 differences agree with scipy's within the error of sampling."""
    d = np.random.default_rng(3).normal(0.2, 1, 60)
    ours = sign_flip(from_zero(d), resamples=20_000, seed=1)
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(2)
    )
    assert not ours.exact and ours.p == pytest.approx(float(theirs.pvalue), abs=0.012)


def test_wilcoxon_and_t_of_darwins_maize() -> None:
    """W = 24 and p = 0.04126 (scipy's documentation); t = 2.148 and p = 0.0497 (Fisher)."""
    rank, t = wilcoxon(from_zero(MAIZE)), paired_t(from_zero(MAIZE))
    assert rank.statistic == 24 and rank.p == pytest.approx(0.041259765625, abs=1e-12)
    assert t.statistic == pytest.approx(2.148, abs=1e-3) and t.p == pytest.approx(0.0497, abs=5e-5)


def test_mcnemar_of_agrestis_approval_ratings() -> None:
    """150 against 86 flips: the exact p of statsmodels' mcnemar, and the sign-flip test agrees with it."""
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    exact = theirs([[794, 150], [86, 570]], exact=True).pvalue
    flips = np.repeat([1, -1, 0], [150, 86, 1364])
    assert mcnemar(150, 86, mid=False).p == pytest.approx(exact, rel=1e-9) == pytest.approx(3.7159e-05, rel=1e-4)
    assert sign_flip(from_zero(flips)).p == pytest.approx(exact, rel=1e-9)


def test_mid_p_of_fagerlands_examples() -> None:
    """Airway hyper-responsiveness before and after a transplant, 1 and 7 flips: exact 0.0703, mid-p 0.0391."""
    assert mcnemar(7, 1, mid=False).p == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(7, 1).p == pytest.approx(0.0391, abs=5e-5)


def test_corrections_of_benjamini_and_hochbergs_example() -> None:
    """Holm refuses 3 of the 15 hypotheses and BH 4; all values equal those of statsmodels."""
    from statsmodels.stats.multitest import multipletests

    assert sum(p <= 0.05 for p in holm(BH95)) == 3
    assert sum(p <= 0.05 for p in benjamini_hochberg(BH95)) == 4
    shuffled = np.random.default_rng(0).permutation(BH95)
    assert holm(list(shuffled)) == pytest.approx(list(multipletests(shuffled, method="holm")[1]))
    assert benjamini_hochberg(list(shuffled)) == pytest.approx(list(multipletests(shuffled, method="fdr_bh")[1]))


def test_bootstrap_equals_scipys_on_independent_questions() -> None:
    """The interval of one question per document is scipy's BCa interval of the mean, within the error of sampling."""
    d = np.random.default_rng(5).gamma(1.0, 1.0, 80) - 0.8
    ours = mean_interval(from_zero(d), resamples=20_000)
    theirs = stats.bootstrap((d,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1)).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.012)
    assert ours.high == pytest.approx(theirs.high, abs=0.012)


def test_clustered_standard_error_equals_statsmodels() -> None:
    """The standard error over documents is that of a regression on a constant with clustered covariance."""
    import statsmodels.api as sm

    rng = np.random.default_rng(6)
    documents = rng.integers(0, 25, 120)
    d = rng.normal(0, 1, 120) + rng.normal(0, 1, 25)[documents]
    fit = sm.OLS(d, np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": documents, "use_correction": True, "df_correction": False}
    )
    # statsmodels' factor has (n - 1) / (n - k) in it, which is 1 for a constant alone.
    assert standard_error(from_zero(d, documents.tolist())) == pytest.approx(float(fit.bse[0]), rel=1e-9)


def test_equivalence_equals_statsmodels_on_independent_questions() -> None:
    """Two one-sided t-tests give the p-value of statsmodels' ttost_paired."""
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(8)
    a, b = rng.normal(0.5, 0.2, 60), rng.normal(0.52, 0.2, 60)
    theirs, lower, _ = ttost_paired(b, a, -0.08, 0.08)
    assert equivalence(differences(a, b), 0.08, "equivalence").p == pytest.approx(theirs, rel=1e-9)
    assert equivalence(differences(a, b), 0.08).p == pytest.approx(lower[1], rel=1e-9)


def test_tango_of_the_contact_lens_trial() -> None:
    """44 lenses, one flip, margin 0.1: Z = 1.709, p = 0.0437; 95 % interval -0.118 to 0.059 (Tango 1998)."""
    z = tango(0, 1, 44, -0.1)
    assert z == pytest.approx(1.709, abs=1e-3) and stats.norm.sf(z) == pytest.approx(0.0438, abs=1e-4)
    assert tango_interval(0, 1, 44) == pytest.approx((-0.118, 0.059), abs=5e-4)


def test_tangos_interval_solves_its_equation() -> None:
    """At the bounds the statistic is the normal quantile."""
    low, high = tango_interval(9, 4, 50)
    assert tango(9, 4, 50, low) == pytest.approx(1.96, abs=1e-3)
    assert tango(9, 4, 50, high) == pytest.approx(-1.96, abs=1e-3)


def test_wilson_of_no_success() -> None:
    """0 of 30: upper bound 0.1135 (statsmodels' proportion_confint)."""
    assert wilson(0, 30) == pytest.approx((0.0, 0.1135), abs=5e-5)


def test_bradley_terry_of_stiglers_journals() -> None:
    """Log-odds -2.9491, -0.4796, 0.2690 with standard errors 0.1025, 0.0606, 0.0708 (R, BradleyTerry2 vignette)."""
    votes = [
        Vote(a, b, outcome)
        for (a, b), (won, lost) in JOURNALS.items()
        for outcome, times in ((1.0, won), (0.0, lost))
        for _ in range(times)
    ]
    found = {s.system: s for s in strengths(votes, "Biometrika")}
    expected = {"CommStat": (-2.9491, 0.1025), "JASA": (-0.4796, 0.0606), "JRSSB": (0.2690, 0.0708)}
    for name, (value, error) in expected.items():
        s = found[name]
        assert s.log_odds == pytest.approx(value, abs=1e-4)
        assert s.low is not None and (s.log_odds - s.low) / 1.959964 == pytest.approx(error, abs=1e-4)


def test_davidson_of_two_systems_has_a_closed_form() -> None:
    """Between two systems the odds are wins over losses, whatever the ties."""
    votes = [Vote("a", "b", 1.0)] * 30 + [Vote("a", "b", 0.5)] * 25 + [Vote("a", "b", 0.0)] * 10
    found = {s.system: s for s in strengths(votes, "a")}
    assert found["b"].log_odds == pytest.approx(-math.log(3), abs=1e-5)


def test_needed_questions_of_the_paired_t_test() -> None:
    """Half a standard deviation at alpha 0.05 and power 0.8 takes 33.4 pairs (statsmodels' TTestPower; Cohen 1988)."""
    from statsmodels.stats.power import TTestPower

    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    pilot = from_zero(quantiles / quantiles.std(ddof=1))
    assert TTestPower().solve_power(0.5, alpha=0.05, power=0.8) == pytest.approx(33.367, abs=1e-2)
    assert needed(0.5, pilot, simulations=4000).questions == pytest.approx(33.4, abs=1.5)
