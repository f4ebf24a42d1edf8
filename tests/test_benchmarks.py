"""The arithmetic of the benchmarks: ratios, targets, verdicts, exponents, derived figures; nothing is timed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import derived, page
from benchmarks.compare import moved, verdict
from benchmarks.interleaved import Timed, judged, paired, row, take_turns
from benchmarks.lookup_decode import COUNT, copied_share, scripts
from benchmarks.others import READ
from benchmarks.scale import exponent


def record(**ratios: tuple[float, float, float]) -> dict[str, Any]:
    claims = {
        name: judged({"low": low, "ratio": ratio, "high": high}, 2.0) for name, (low, ratio, high) in ratios.items()
    }
    return {"environment": {"cpu": "x"}, "benchmarks": {"b": {"claims": claims}}}


def test_engines_take_turns_and_differing_outputs_fail() -> None:
    """Every engine runs as often as the others; one that says something else ends the benchmark."""
    order: list[str] = []

    def engine(name: str, says: object) -> Any:
        return lambda: (order.append(name), (says, {"own": 2.0}))[1]

    timed = take_turns({"a": engine("a", 1), "b": engine("b", 1)}, repeats=3)
    assert order == ["a", "b", "b", "a"] * 2
    assert len(timed["a"].runs["seconds"]) == 3 and timed["a"].median("own") == 2.0
    with pytest.raises(SystemExit, match="outputs differ"):
        take_turns({"a": engine("a", 1), "b": engine("b", 2)}, repeats=1)


def test_a_ratio_is_that_of_the_medians_with_its_rounds() -> None:
    """Least and most are of the rounds' own ratios."""
    slow, quick = Timed({"seconds": [4.0, 6.0, 5.0]}), Timed({"seconds": [1.0, 2.0, 1.0]})
    assert paired(slow, quick) == {"ratio": 5.0, "low": 3.0, "high": 5.0}


@pytest.mark.parametrize(
    ("target", "met"), [(2.0, True), (4.0, False), ((0.97, 3.5), True), ((0.0, 1.1), False), (None, None)]
)
def test_targets_are_at_least_between_or_none(target: Any, met: bool | None) -> None:
    """And stand in the table."""
    one = judged({"ratio": 3.0, "low": 2.5, "high": 3.5}, target)
    assert one["met"] is met and row("claim", one).startswith("| claim | 3.00 | 2.50 to 3.50 |")


def test_a_claim_moved_only_where_the_rounds_lie_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Small differences, and large ones inside the noise, are the same; where small is good, less is better."""
    old = record(a=(2.9, 3.0, 3.1), b=(2.0, 3.0, 4.0), c=(2.9, 3.0, 3.1))
    new = record(a=(2.0, 2.1, 2.2), b=(2.2, 2.5, 2.8), c=(3.9, 4.0, 4.1))
    assert verdict(old, new) is True
    told = capsys.readouterr().out
    assert "| b | a | 3.00 | 2.10 | worse |" in told and "| b | b | 3.00 | 2.50 | same |" in told and "WORSE" in told
    assert verdict(old, old) is False
    low = {"ratio": 1.0, "low": 1.0, "high": 1.0, "target": [0.0, 1.1]}
    assert moved({**low, "ratio": 1.3, "low": 1.3, "high": 1.3}, low) == "better"


def test_exponents_are_slopes_in_logarithms() -> None:
    """Linear is 1, quadratic 2, flat 0."""
    assert exponent({1: 1.0, 10: 10.0, 100: 100.0}) == pytest.approx((1, 1, 1))
    assert exponent({1: 1.0, 2: 4.0, 4: 16.0})[1] == pytest.approx(2)
    assert exponent({1: 5.0, 100: 5.0})[1] == pytest.approx(0)


def test_scripted_answers_are_copied_to_the_share_they_should_be() -> None:
    """Nothing, about 60 per cent, everything."""
    texts = [[1000 * i + k for k in range(200)] for i in range(120)]
    for share, (low, high) in {
        0: (0, 0),
        60: (45, 75),
        100: (90, 100),
    }.items():  # runs of under four tokens do not count
        for prompt, answer in scripts(texts, share, 3):
            assert len(answer) == COUNT and low <= copied_share(prompt, answer) <= high


def test_tables_of_other_forms_become_claims() -> None:
    """Each with its target; peers that are missing make no claim."""

    def rows(**seconds: float) -> list[dict[str, Any]]:
        return [{"engine": n, "seconds": s, "low": s, "high": s} for n, s in seconds.items()]

    told = READ["rag_sft"]({"rows": rows(**{"mlx_lm": 3.0, "ours, both": 1.0})})
    assert list(told["claims"]) == ["against mlx_lm's step"] and told["claims"]["against mlx_lm's step"]["met"] is True
    told = READ["sft_epochs"]({"rows": rows(**{"mlx_lm": 1.2, "ours, trunk kept": 1.0})})
    assert told["claims"]["second epoch, against mlx_lm"]["met"] is False
    flat = {"engine": "mlxrag", "dense": 1.0, "lexical": 1.0, "hybrid": 11.0}
    told = READ["retrieval_speed_10k"]({"passages": 10, "rows": [flat, {**flat, "engine": "bm25s", "hybrid": None}]})
    assert told["claims"]["hybrid, milliseconds"]["met"] is False
    assert told["claims"]["by words, time over bm25s's"]["met"] is True


def test_derived_figures_follow_from_bandwidth_and_arithmetic() -> None:
    """A 4B model of 2.26 GB decodes 62 tokens a second at 140 GB/s; a sure copy pays, an unsure one does not."""
    four = derived.MODELS[1]
    assert four.decode == pytest.approx(140 / 2.26, rel=0.01) and four.prefill == pytest.approx(3604 / 8, rel=0.01)
    assert derived.best_draft(0.6)[0] == 0 and derived.best_draft(0.97)[1] > 2
    assert "Qwen3 4B" in derived.tables()


def test_the_page_keeps_its_words_and_takes_what_was_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the marks; with nothing recorded it says so."""
    monkeypatch.setattr(page, "DOCS", tmp_path)
    words = (
        "# Speed\n<!-- measured -->\nold\n<!-- end of measured -->\nmine\n<!-- derived -->\n<!-- end of derived -->\n"
    )
    (tmp_path / "performance.md").write_text(words)
    page.write_page(json.loads('{"benchmarks": {}}'))
    text = (tmp_path / "performance.md").read_text()
    assert "old" not in text and "mine" in text and "Nothing has been recorded" in text and "Qwen3 8B" in text
