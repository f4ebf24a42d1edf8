"""Every measure against something this project did not write."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from mlxrag.data.words import overlap_f1, squad_normal
from mlxrag.evaluate.measure import MEASURES
from tests.evaluate.kit import answer, ask, passage

GOLDEN = Path(__file__).parent / "squad_golden.jsonl.gz"


def value(measure: str, text: str, *golds: str) -> float:
    found = MEASURES[measure](answer(text), ask("What?", *golds)).value
    assert found is not None
    return found


def test_squad_equals_the_official_script_on_published_predictions() -> None:
    """EM and F1 of 1,500 published BERT predictions on SQuAD dev are those of evaluate-v2.0.py, question by question.

    Predictions: predictions.json of github.com/CAG9/BERT-QA (MIT); on all 10,570 the script gives 66.575 and 76.838.
    """
    rows = [json.loads(line) for line in gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()]
    for row in rows:
        assert value("squad_exact", row["prediction"], *row["answers"]) == row["exact"], row
        assert value("squad_f1", row["prediction"], *row["answers"]) == pytest.approx(row["f1"], abs=1e-12), row
    exact = 100 * sum(value("squad_exact", r["prediction"], *r["answers"]) for r in rows) / len(rows)
    assert exact == pytest.approx(67.46666666666667, abs=1e-9)


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("The Norman Dynasty!", "norman dynasty", 1, 1.0),
        ("in 1066", "1066", 0, 2 / 3),
        ("the", "a", 1, 1.0),
        ("Café", "cafe", 0, 0.0),
        ("東京都", "東京", 0, 0.0),
    ],
)
def test_squad_equals_values_of_the_official_script(given: str, gold: str, exact: int, f1: float) -> None:
    """Odd pairs score as evaluate-v2.0.py scores them."""
    assert value("squad_exact", given, gold) == exact
    assert overlap_f1(squad_normal(given).split(), squad_normal(gold).split()) == pytest.approx(f1)


def test_a_refusal_is_squads_empty_answer() -> None:
    """An unanswerable question is right when refused and wrong when answered, as in SQuAD 2.0."""
    unanswerable = ask("What?")
    refused, said = answer("Not in the documents.", refused=True), answer("x")
    assert [MEASURES["squad_f1"](a, unanswerable).value for a in (refused, said)] == [1.0, 0.0]
    assert MEASURES["squad_exact"](refused, ask("What?", "x")).value == 0.0


def test_f1_parts_characters_as_mlqa_does() -> None:
    """Chinese and Japanese are compared by character: 東京 in 東京都 has precision 2/3 and recall 1."""
    assert value("f1", "東京都", "東京") == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    german = ask("Was ist das hier für eine?", "straße")
    assert MEASURES["exact"](answer("Die STRASSE"), german).value == 1.0
    assert value("exact", "ＡＢＣ", "abc") == 1.0


def test_rouge_l_equals_lins_examples() -> None:
    """ROUGE-L of "police killed the gunman" with beta 1, Lin 2004 section 3.2: 0.75 and 0.5."""
    gold = "police killed the gunman"
    assert value("rouge_l", "police kill the gunman", gold) == pytest.approx(0.75)
    assert value("rouge_l", "the gunman kill police", gold) == pytest.approx(0.5)
    assert value("rouge_l", "東京都", "東京都") == 1.0


def test_rouge_l_equals_the_library() -> None:
    """On 40 pairs ROUGE-L is what rouge-score 0.1.2 gave (stored, as it takes seconds to import)."""
    for row in json.loads((GOLDEN.parent / "rouge_golden.json").read_text())["rows"]:
        assert value("rouge_l", row["given"], row["gold"]) == pytest.approx(row["rouge_l"], abs=1e-12), row


def test_bleu_equals_papinenis_formula() -> None:
    """BLEU of a hand-worked sentence: clipped precisions 5/6, 3/5, 1/4 and a smoothed zero, no brevity penalty."""
    given, gold = "the cat sat on the mat", "the cat is on the mat"

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        w = text.split()
        return Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1))

    logs, halves = [], 1.0
    for n in range(1, 5):
        a, b = grams(given, n), grams(gold, n)
        hit = sum((a & b).values())
        if not hit:
            halves *= 2  # NIST's geometric smoothing: 1/2, 1/4, ... of a hit
        logs.append(math.log((hit or 1 / halves) / sum(a.values())))
    assert value("bleu", given, gold) == pytest.approx(math.exp(sum(logs) / 4), rel=1e-6)


def test_chrf_equals_popovics_formula() -> None:
    """chrF of short words by hand: mean precision and recall of 1- to 6-grams, beta 2."""
    given, gold = "abcd", "abce"
    precision, recall = [], []
    for n in range(1, 5):
        a = Counter(given[i : i + n] for i in range(len(given) - n + 1))
        b = Counter(gold[i : i + n] for i in range(len(gold) - n + 1))
        hit = sum((a & b).values())
        precision.append(hit / a.total())
        recall.append(hit / b.total())
    p, r = sum(precision) / 4, sum(recall) / 4
    assert value("chrf", given, gold) == pytest.approx(5 * p * r / (4 * p + r), rel=1e-6)


def test_ranking_measures_equal_hand_worked_values() -> None:
    """Two gold passages, found at ranks 2 and 4 of 5: every measure by its definition."""
    gold = tuple(passage(f"gold {i}", f"g{i}.md") for i in range(2))
    other = [passage(f"other {i}", f"o{i}.md") for i in range(3)]
    given = answer("x", other[0], gold[0], other[1], gold[1], other[2])
    asked = ask("What?", "x", gold=gold)
    dcg = 1 / math.log2(3) + 1 / math.log2(5)
    want = {
        "hit_at_1": 0.0, "hit_at_5": 1.0, "recall_at_5": 1.0, "recall_at_10": 1.0, "precision_at_5": 0.4, "mrr": 0.5,
        "map": (1 / 2 + 2 / 4) / 2, "ndcg_at_5": dcg / (1 + 1 / math.log2(3)), "ndcg_at_10": dcg / (1 + 1 / math.log2(3)),
        "document_mrr": 0.5, "document_hit_at_1": 0.0, "document_recall_at_5": 1.0,
    }  # fmt: skip
    for name, figure in want.items():
        assert MEASURES[name](given, asked).value == pytest.approx(figure), name


def test_ndcg_counts_what_was_not_found() -> None:
    """The ideal ranking holds all gold passages: 1 of 3 found first is 1 / (1 + 1/log2 3 + 1/2), not 1."""
    gold = tuple(passage(f"gold {i}", f"g{i}.md") for i in range(3))
    found = MEASURES["ndcg_at_10"](answer("x", gold[0]), ask("What?", "x", gold=gold)).value
    assert found == pytest.approx(1 / (1 + 1 / math.log2(3) + 0.5))
