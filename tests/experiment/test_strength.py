"""Preference strengths from votes."""

from __future__ import annotations

import numpy as np
import pytest

from mlxrag.experiment.strength import Vote, strengths


def play(rng: np.random.Generator, skill: dict[str, float], rounds: int, tie: float = 0.5) -> list[Vote]:
    votes = []
    names = list(skill)
    for q in range(rounds):
        a, b = rng.choice(names, 2, replace=False)
        terms = np.exp([(skill[a] - skill[b]) / 2, (skill[b] - skill[a]) / 2, np.log(tie)])
        votes.append(Vote(str(a), str(b), float(rng.choice([1.0, 0.0, 0.5], p=terms / terms.sum())), f"q{q % 50}"))
    return votes


def test_true_strengths_are_within_the_intervals() -> None:
    """Strengths of simulated voters with ties are found, in about 95 % of 60 simulations each."""
    skill = {"a": 0.0, "b": 0.7, "c": -0.5}
    held = 0
    for seed in range(60):
        found = {s.system: s for s in strengths(play(np.random.default_rng(seed), skill, 300), "a")}
        held += sum(f.low <= skill[n] <= f.high for n, f in found.items() if f.low is not None and f.high is not None)
    assert 0.88 <= held / 120 <= 1.0


def test_the_order_is_by_strength_and_the_reference_is_zero() -> None:
    """The strongest comes first, and the reference has no interval."""
    found = strengths(play(np.random.default_rng(1), {"a": 0.0, "b": 1.5, "c": -1.5}, 600), "a")
    assert [s.system for s in found] == ["b", "a", "c"]
    assert found[1].log_odds == 0.0 and found[1].low is None and sum(s.votes for s in found) == 1200


def test_a_system_that_never_lost_has_no_finite_strength() -> None:
    """Absence is said: the likelihood has no maximum, so there is no number."""
    found = {s.system: s for s in strengths([Vote("a", "b", 1.0)] * 5, "a")}
    assert found["b"].log_odds is None and found["b"].votes == 5


def test_all_ties_are_equal_strength() -> None:
    """Voters who never prefer give log-odds of 0."""
    found = {s.system: s for s in strengths([Vote("a", "b", 0.5)] * 20, "a")}
    assert found["b"].log_odds == pytest.approx(0.0, abs=1e-6)


def test_copies_of_a_vote_do_not_narrow_the_interval() -> None:
    """Ten identical votes on one question are worth one, where clusters are named."""
    votes = [v for v in play(np.random.default_rng(2), {"a": 0.0, "b": 0.6}, 60) for _ in range(10)]
    named = [Vote(v.a, v.b, v.outcome, i // 10) for i, v in enumerate(votes)]
    alone = [Vote(v.a, v.b, v.outcome) for v in votes]

    def width(given: list[Vote]) -> float:
        s = next(s for s in strengths(given, "a") if s.system == "b")
        assert s.low is not None and s.high is not None
        return s.high - s.low

    assert width(named) > 2.5 * width(alone)
