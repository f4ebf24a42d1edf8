"""Error rates and edges of tests for "no worse than"."""

from __future__ import annotations

import numpy as np
import pytest

from mlxrag.experiment.equivalence import equivalence
from mlxrag.experiment.statistics import differences


def flips(gains: int, losses: int, n: int):
    return differences(np.zeros(n), np.repeat([1.0, -1.0, 0.0], [gains, losses, n - gains - losses]))


@pytest.mark.parametrize(("n", "margin", "gain"), [(100, 0.05, 0.01), (200, 0.02, 0.0), (500, 0.02, 0.05)])
def test_a_system_that_is_worse_by_the_margin_is_rarely_called_as_good(n: int, margin: float, gain: float) -> None:
    """At the margin, with few flips or many, at most about 5 % of 1,000 experiments show non-inferiority."""
    rng = np.random.default_rng(n)
    counts = rng.multinomial(n, [gain, gain + margin, 1 - 2 * gain - margin], 1000)
    errors = sum(equivalence(flips(int(g), int(loss), n), margin).shown for g, loss, _ in counts)
    assert errors / 1000 <= 0.065


def test_documents_are_respected_at_the_margin() -> None:
    """40 documents of 5 alike questions, worse by the margin: at most about 8 % are called as good."""
    rng = np.random.default_rng(4)
    documents = np.repeat(np.arange(40), 5).tolist()
    shares = [0.01, 0.06, 0.93]
    errors = 0
    for _ in range(1000):
        common, own = rng.choice([1.0, -1.0, 0.0], (40, 1), p=shares), rng.choice([1.0, -1.0, 0.0], (40, 5), p=shares)
        d = np.where(rng.random((40, 5)) < 0.3**0.5, common, own).ravel()
        errors += equivalence(differences(np.zeros(200), d, documents), 0.05).shown
    assert errors / 1000 <= 0.08


def test_equal_answers_show_equivalence_only_with_enough_of_them() -> None:
    """No flip in 20 questions excludes little; none in 200 excludes a margin of 0.02."""
    assert not equivalence(flips(0, 0, 20), 0.02).shown
    found = equivalence(flips(0, 0, 200), 0.02, "equivalence")
    assert found.shown and found.p == pytest.approx(0.98**200) and -0.02 < found.low < 0 < found.high < 0.02


def test_no_significant_difference_is_not_equivalence() -> None:
    """Ten questions show neither a difference nor the absence of one."""
    assert not equivalence(flips(2, 2, 10), 0.05, "equivalence").shown


def test_a_much_better_system_is_not_inferior_but_not_equivalent() -> None:
    """The two goals differ on the better side."""
    d = flips(60, 10, 200)
    assert equivalence(d, 0.02).shown and not equivalence(d, 0.02, "equivalence").shown


def test_bounds_decide_as_p_does() -> None:
    """Equivalence is shown exactly when the interval of confidence 1 - 2 alpha lies within the margins."""
    rng = np.random.default_rng(9)
    for d in (flips(12, 9, 300), flips(3, 3, 150), differences(np.zeros(80), rng.normal(0.01, 0.1, 80))):
        for margin in (0.01, 0.03, 0.05, 0.1):
            found = equivalence(d, margin, "equivalence")
            assert found.shown == (found.low > -margin and found.high < margin)


def test_a_margin_must_be_above_zero() -> None:
    """A margin of 0 would make equivalence impossible to show."""
    with pytest.raises(ValueError, match="margin"):
        equivalence(flips(1, 1, 10), 0.0)
