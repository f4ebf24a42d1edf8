from __future__ import annotations

import numpy as np
import pytest

from mlxrag.evaluate.found import covers, gold_keys
from mlxrag.evaluate.measure import MEASURES, measure_all, similarity
from mlxrag.evaluate.numbers import Quantity, agree, quantities
from mlxrag.evaluate.support import claims, faithful_encoder, overlap_support
from tests.evaluate.kit import answer, ask, passage

PIER = passage("The boat leaves at 8:30 from pier 4. Partners are welcome and pay $15.")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", []),
        ("$2,290 since 1 February 2025", [("dollars", 2290.0), ("", 1.0), ("", 2025.0)]),
        ("between -10 and 45 degrees", [("", -10.0), ("temperature", 45.0)]),
        ("from 6:00 to 14:00", [("clock", 360.0), ("clock", 840.0)]),
        ("37.5 hours", [("time", 135000.0)]),
        ("twenty-five percent", [("share", 25.0)]),
        ("two hundred and five", [("", 205.0)]),
        ("hundreds of them", []),
        ("3 million kg", [("mass", 3e6)]),
        ("25 km/h", [("speed", 25.0)]),
        ("hitch LH-2 and M10", []),
    ],
)
def test_quantities_are_read_with_their_units(text: str, want: list[tuple[str, float]]) -> None:
    """Digits, words, money, clock times and units become numbers."""
    found = [(q.dimension, q.value) for q in quantities(text)]
    assert sorted((d, round(v, 6)) for d, v in found) == sorted(want)


def test_quantities_agree_across_units_but_not_across_dimensions() -> None:
    """1.5 km is 1500 m, not 1.5 kg; a missing unit is no contradiction."""
    assert agree(quantities("1.5 km")[0], quantities("1500 metres")[0])
    assert not agree(quantities("1.5 km")[0], quantities("1500 kg")[0])
    assert agree(Quantity(15.0, ""), quantities("$15")[0])


def test_number_needs_every_number_of_an_answer() -> None:
    """A wrong number is wrong however similar the words; an answer without numbers has no value."""
    asked = ask("When?", "from 6:00 to 14:00")
    assert MEASURES["number"](answer("6:00 until 14:00 [1]", PIER), asked).value == 1.0
    assert MEASURES["number"](answer("from 6:00 to 15:00", PIER), asked).value == 0.0
    assert MEASURES["number"](answer("x"), ask("Who?", "Ama Thorsby")).value is None


def test_correct_asks_for_the_words_or_the_number() -> None:
    """A sentence that holds the answer is right; one with the same words and another number is not."""
    asked = ask("How much?", "$2,290")
    assert MEASURES["correct"](answer("The Heron costs $2,290. [1]", PIER), asked).value == 1.0
    assert MEASURES["correct"](answer("It costs $2,190", PIER), asked).value == 0.0
    long = ask("Why?", "because the canteen will be painted in March 2025")
    assert MEASURES["correct"](answer("because the canteen will be painted in March 2024"), long).value == 0.0
    assert MEASURES["correct"](answer("Not in the documents.", refused=True), ask("?")).value == 1.0


def test_citations_are_no_part_of_the_answer() -> None:
    """`[1]` and `[1, 2]` do not count as words."""
    assert MEASURES["exact"](answer("pier 4 [1, 2]", PIER), ask("Where?", "Pier 4")).value == 1.0


def test_what_is_not_defined_is_none_with_a_reason() -> None:
    """No measure says 0 for a question it does not apply to; a failed question has a row for every measure."""
    rows = {s.measure: s for s in measure_all(answer("Not in the documents.", refused=True), ask("?"), MEASURES)}
    assert set(rows) == set(MEASURES)
    for name in ("ndcg_at_10", "rouge_l", "bleu", "chrf", "citation_recall", "faithful_overlap", "number"):
        assert rows[name].value is None and rows[name].reason, name
    failed = measure_all(None, ask("?"), MEASURES, "out of memory")
    assert len(failed) == len(MEASURES) and all(s.value is None and s.reason == "out of memory" for s in failed)


def test_a_passage_cut_elsewhere_still_finds_the_gold_one() -> None:
    """Half of the shorter span, or the evidence, is enough; another document is not; a gold passage is found once."""
    gold = passage("0123456789", start=100)
    assert covers(passage("56789abcde", start=105), gold)
    assert not covers(passage("9abcdefghi", start=109), gold)
    assert not covers(passage("0123456789x", source="other.md", start=100), gold)
    assert covers(passage("pay $15 each", start=900), passage("and pay $15"), ["pay $15"])
    whole = passage("Dogs ride free. Cats pay $15. Birds stay at home.", start=0)
    assert covers(passage("Cats pay $15", start=16), whole, ["Cats pay $15."])
    assert not covers(passage("Birds stay at home.", start=30), whole, ["Cats pay $15."])
    twice = answer("x", passage("01234", start=100), passage("56789", start=105)).hits
    assert gold_keys(twice, ask("?", "x", gold=(gold,))) == [gold.id, None]


def test_no_hits_score_zero_and_not_nothing() -> None:
    """A system that found nothing has a score of 0 for a question that has gold passages."""
    assert MEASURES["mrr"](answer("x"), ask("?", "x", gold=(PIER,))).value == 0.0


def test_support_is_of_words_beyond_the_question_and_of_every_number() -> None:
    """A claim with a number the passage lacks is not supported."""
    assert overlap_support("The boat leaves at 8:30", PIER.text) == 1.0
    assert overlap_support("The boat leaves at 9:30", PIER.text) == 0.0
    assert overlap_support("The train leaves at 8:30", PIER.text, "When does the boat leave?") < 1.0
    assert claims(answer("It is here [1]. It is there [2].")) == ["It is here.", "It is there."]
    assert MEASURES["faithful_overlap"](answer("Partners pay $15. [1]", PIER), ask("?")).value == 1.0


def test_citations_are_held_against_gold_and_answer() -> None:
    """Precision is of the cited passages, recall of the gold ones that were retrieved."""
    other = passage("Nothing of it.", "b.md")
    asked = ask("When?", "8:30", gold=(PIER,))
    given = answer("8:30 [1][2]", PIER, other, cites=(1, 2))
    assert MEASURES["citation_precision"](given, asked).value == 0.5
    assert MEASURES["citation_recall"](given, asked).value == 1.0
    assert MEASURES["citation_recall"](answer("8:30 [2]", PIER, other, cites=(2,)), asked).value == 0.0
    assert MEASURES["citation_precision"](answer("8:30", PIER), asked).value is None


def test_encoder_measures_take_the_best_pair() -> None:
    """Similarity and faithfulness are the best cosine of the encoder's vectors, and say who computed them."""

    def encode(texts: list[str]) -> np.ndarray:
        rows = np.array([[float("8:30" in t), float("pay" in t), 0.1] for t in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    asked = ask("When does the boat leave?", "10:00", "8:30")
    found = similarity(encode, "toy")(answer("8:30"), asked)
    assert found.value == pytest.approx(1.0) and found.by == "toy"
    assert faithful_encoder(encode, "toy")(answer("It leaves at 8:30.", PIER), asked).value == pytest.approx(1.0)
    assert similarity(encode, "toy")(answer("no", refused=True), asked).value is None
