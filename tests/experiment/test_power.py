"""How many questions are needed, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from mlxrag.experiment.power import chance, detectable, needed
from mlxrag.experiment.statistics import differences, sign_flip, standard_error


def test_smaller_effects_need_more_questions_about_by_the_square() -> None:
    """Half the effect takes about four times the questions."""
    large, small = needed(0.10).questions, needed(0.05).questions
    assert large is not None and small is not None and 3.2 < small / large < 4.8


def test_the_promised_chance_is_kept_by_the_test_that_is_used() -> None:
    """With as many questions as said, the permutation test finds the effect in about 80 % of fresh experiments."""
    rng = np.random.default_rng(31)
    pilot = differences(np.zeros(300), rng.choice([1.0, -1.0, 0.0], 300, p=[0.15, 0.1, 0.75]))
    found = needed(0.08, pilot)
    assert found.questions is not None and found.assumed == ""
    values = pilot.values + 0.08 - pilot.mean
    hits = 0
    for i in range(300):
        d = differences(np.zeros(found.questions), rng.choice(values, found.questions))
        hits += sign_flip(d, resamples=299, seed=i).p <= 0.05
    assert 0.73 <= hits / 300 <= 0.87


def test_alike_questions_need_more_of_them() -> None:
    """Questions that share documents are worth less, and the answer says how much."""
    rng = np.random.default_rng(32)
    common = np.repeat(rng.normal(0, 0.5, 60), 5)
    own = rng.normal(0, 0.5, 300)
    documents = np.repeat(np.arange(60), 5).tolist()
    alike = needed(0.1, differences(np.zeros(300), common + own, documents))
    apart = needed(0.1, differences(np.zeros(300), common + own))
    assert alike.questions is not None and apart.questions is not None
    assert alike.questions > 2 * apart.questions and alike.design > 2 and alike.documents == alike.questions // 5


def test_without_a_pilot_the_assumption_is_said() -> None:
    """Nothing is known: right/wrong scores that differ in a quarter of the questions are assumed, in words."""
    found = needed(0.05)
    assert "25%" in found.assumed and found.reached is not None and found.reached >= 0.8


def test_an_effect_that_no_million_questions_show_has_no_number() -> None:
    """Absence is said: no number of questions instead of a huge one."""
    assert needed(0.0005).questions is None


def test_chance_and_number_agree() -> None:
    """The chance with the needed number of questions is the wanted one."""
    found = needed(0.06)
    assert found.questions is not None
    assert chance(0.06, found.questions) == pytest.approx(0.8, abs=0.03)
    assert chance(0.06, found.questions // 4) < 0.4


def test_the_smallest_detectable_difference_is_seen_with_that_chance() -> None:
    """A difference of 2.8 standard errors is found in about 80 % of experiments."""
    d = differences(np.zeros(400), np.random.default_rng(33).normal(0, 0.4, 400))
    smallest = detectable(standard_error(d))
    assert chance(smallest, 400, d) == pytest.approx(0.8, abs=0.04)
