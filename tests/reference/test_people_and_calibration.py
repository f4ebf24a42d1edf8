"""Agreement, calibration and attribution against published and hand-worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlxrag.evaluate.calibration import auroc, calibration, confidence
from mlxrag.evaluate.human import cohen_kappa, krippendorff_alpha
from mlxrag.evaluate.judge import Agreement, agreement


def test_kappa_equals_the_textbook() -> None:
    """Two raters, yes/yes 20, yes/no 5, no/yes 10, no/no 15: observed 0.7, expected 0.5, kappa 0.4."""
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa([], []) is None and cohen_kappa(["y"], ["y"]) is None
    found = agreement(
        {str(i): float(x == "y") for i, x in enumerate(a)}, {str(i): float(x == "y") for i, x in enumerate(b)}
    )
    assert found.kappa == pytest.approx(0.4) and found.n == 50 and found.bias == pytest.approx(-0.1)
    assert agreement({}, {}) == Agreement(0, None, None, None)


def test_alpha_equals_krippendorffs_example() -> None:
    """Krippendorff 2011, four observers and twelve units with gaps: nominal 0.743, ordinal 0.815."""
    rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    table = {str(r): {f"{i:02}": int(v) for i, v in enumerate(row.split()) if v != "."} for r, row in enumerate(rows)}
    assert krippendorff_alpha(table, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(table, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha({"a": {"x": 1}}, "nominal") is None


def test_auroc_counts_ordered_pairs() -> None:
    """The share of (right, wrong) pairs in the right order, ties half, as scikit-learn has it."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 6, 60) / 5, rng.integers(0, 2, 60)
    assert auroc(p, y) == pytest.approx(metrics.roc_auc_score(y, p))
    assert auroc([0.1, 0.9], [1, 1]) is None


def test_calibration_by_hand() -> None:
    """Four answers in two bins: |0.15 - 0.5| / 2 + |0.85 - 0.5| / 2 = 0.35; Brier and risk by definition."""
    found = calibration([0.1, 0.2, 0.8, 0.9], [0, 1, 0, 1], bins=2, missing=1)
    assert found.ece == pytest.approx(0.35) and found.missing == 1
    assert found.brier == pytest.approx((0.01 + 0.64 + 0.64 + 0.01) / 4)
    assert found.coverage == (0.25, 0.5, 0.75, 1.0)
    assert found.risk == pytest.approx((0, 0.5, 1 / 3, 0.5)) and found.area == pytest.approx(
        (0 + 0.5 + 1 / 3 + 0.5) / 4
    )
    assert calibration([], []).ece is None
    assert confidence(math.log(0.25)) == pytest.approx(0.25) and confidence(None) is None
