"""Comparisons of scores: what is left out, what is corrected, what is decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlxrag.errors import BadInput, Mismatch
from mlxrag.experiment.compare import compare, compare_all, decided, pairs
from mlxrag.settings import Experimenting

S = Experimenting(permutations=499)


def scores(values: list[float | None] | np.ndarray) -> dict[str, float | None]:
    return {f"q{i:03d}": None if v is None else float(v) for i, v in enumerate(values)}


def flips(wins: int, losses: int, n: int) -> tuple[dict[str, float | None], dict[str, float | None]]:
    a = [0.0] * wins + [1.0] * losses + [1.0] * (n - wins - losses)
    b = [1.0] * wins + [0.0] * losses + [1.0] * (n - wins - losses)
    return scores(a), scores(b)


def test_different_questions_are_an_error() -> None:
    """The same examples on both sides, or a sentence that says how many are not."""
    with pytest.raises(Mismatch, match="different questions: 1 of 3"):
        compare("a", "b", "f1", scores([1, 1]), scores([1, 1, 1]), {}, S)


def test_a_clear_difference_is_better_and_its_mirror_worse() -> None:
    """Thirty wins against five losses decide, whichever way they are put."""
    a, b = flips(30, 5, 100)
    there, back = compare("a", "b", "f1", a, b, {}, S), compare("b", "a", "f1", b, a, {}, S)
    assert (decided(there, S), decided(back, S)) == ("better", "worse")
    assert there.difference == pytest.approx(0.25) and there.low > 0 and there.p == back.p
    assert there.mean_a == pytest.approx(0.70) and there.mean_b == pytest.approx(0.95)
    assert {t.name for t in there.others} == {"Wilcoxon signed rank", "McNemar exact", "McNemar mid-p"}


def test_not_significant_is_not_called_alike() -> None:
    """A few flips in few questions are not distinguishable; alike needs a test of its own, and many questions."""
    a, b = flips(3, 2, 60)
    assert decided(compare("a", "b", "f1", a, b, {}, S, alike="equivalence"), S) == "not distinguishable"
    a, b = flips(10, 11, 2000)
    assert decided(compare("a", "b", "f1", a, b, {}, S, alike="equivalence"), S) == "alike"
    assert decided(compare("a", "b", "f1", a, b, {}, S, alike="noninferiority"), S) == "not worse"
    assert decided(compare("a", "b", "f1", a, b, {}, S), S) == "not distinguishable"


def test_a_tiny_but_certain_difference_is_alike_within_the_margin() -> None:
    """Significantly different and within the margin: equivalence is what was asked, and shown."""
    a, b = flips(20, 2, 4000)
    found = compare("a", "b", "f1", a, b, {}, S, alike="equivalence")
    assert found.p < 0.05 and decided(found, S) == "alike"


def test_missing_scores_are_left_out_counted_and_bounded() -> None:
    """What a system failed on is in no mean, and the worst it could hide is said."""
    a, b = scores([1, 1, 0, None, 1]), scores([1, None, 1, 1, 1])
    found = compare("a", "b", "f1", a, b, {}, S)
    assert (found.n, found.missing_a, found.missing_b) == (3, 1, 1)
    assert found.difference == pytest.approx(1 / 3)
    assert (found.worst_low, found.worst_high) == (pytest.approx(0.0), pytest.approx(0.4))


def test_nothing_in_common_is_not_measured() -> None:
    """No question with both scores: no number at all, and no crash."""
    found = compare("a", "b", "f1", scores([1, None]), scores([None, 1]), {}, S)
    assert found.n == 0 and found.difference is None and found.p is None and decided(found, S) == "not measured"


def test_documents_widen_the_interval() -> None:
    """Five copies of each question in its document count as one question."""
    rng = np.random.default_rng(0)
    once = rng.choice([0.0, 1.0], 40, p=[0.3, 0.7])
    a, b = scores(np.zeros(200)), scores(np.repeat(once - 0.4, 5))
    homes = {f"q{i:03d}": f"d{i // 5}" for i in range(200)}
    apart, together = compare("a", "b", "f1", a, b, {}, S), compare("a", "b", "f1", a, b, homes, S)
    assert together.documents == 40 and together.high - together.low > 1.8 * (apart.high - apart.low)


def test_the_primary_measure_is_one_family_and_the_rest_another() -> None:
    """Holm over the pairs of the primary measure; Benjamini-Hochberg over everything else."""
    a, b = flips(20, 6, 100)
    _, c = flips(9, 3, 100)
    table = {n: {"f1": s, "em": s, "rouge": s} for n, s in (("a", a), ("b", b), ("c", c))}
    found = compare_all(table, {}, S, "em", which=pairs(list(table), against_first=False))
    first = [x for x in found if x.measure == "em"]
    assert [(x.a, x.b) for x in first] == [("a", "b"), ("a", "c"), ("b", "c")] and found[:3] == first
    assert all(x.family == "Holm over 3" for x in first) and all(x.corrected >= x.p for x in found)
    assert {x.family for x in found[3:]} == {"Benjamini-Hochberg over 6"}
    assert min(x.corrected for x in first) == pytest.approx(3 * min(x.p for x in first))


def test_guardrails_are_tested_for_not_falling() -> None:
    """A guardrail gets a test of non-inferiority, other measures none."""
    a, b = flips(1, 1, 400)
    table = {n: {"f1": s, "em": s, "rouge": s} for n, s in (("a", a), ("b", b))}
    found = compare_all(table, {}, S.model_copy(update={"guardrails": ("rouge",)}), "f1")
    assert {c.measure: c.alike is not None for c in found} == {"f1": False, "em": False, "rouge": True}


def test_neutral_measures_are_different_and_not_better() -> None:
    """More words are neither better nor worse."""
    table = {
        "a": {"f1": scores([0.5] * 40), "words": scores([5] * 40)},
        "b": {"f1": scores([0.5] * 40), "words": scores(range(6, 46))},
    }
    found = compare_all(table, {}, S, "f1", neutral=["words"])
    assert {c.measure: decided(c, S) for c in found} == {"f1": "not distinguishable", "words": "different"}


def test_looks_share_alpha_and_decide() -> None:
    """With sequential stopping the always-valid bounds decide; two comparisons halve alpha."""
    a, b = flips(40, 5, 120)
    order = [f"q{i:03d}" for i in np.random.default_rng(1).permutation(120)]
    s = S.model_copy(update={"stopping": "sequential"})
    found = compare_all({"a": {"f1": a}, "b": {"f1": b}, "c": {"f1": a}}, {}, s, "f1", order=order)
    assert [c.looked.alpha for c in found] == [0.025, 0.025]
    assert [decided(c, s) for c in found] == ["better", "not distinguishable"]
    assert decided(replace(found[0], corrected=0.9), s) == "better"


def test_faults_of_the_input_are_told() -> None:
    """One system, or a measure that one of them lacks, is a sentence."""
    with pytest.raises(BadInput, match="two systems"):
        compare_all({"a": {"f1": scores([1])}}, {}, S, "f1")
    with pytest.raises(BadInput, match="em was not measured"):
        compare_all({"a": {"f1": scores([1])}, "b": {"f1": scores([1]), "em": scores([1])}}, {}, S, "em")
