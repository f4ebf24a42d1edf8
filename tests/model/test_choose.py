"""The choice of a model: fits, explains itself, and says what would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxrag.errors import BadInput, WontFit
from mlxrag.model.choose import Rung, cached, choose, default_model, read_ladder
from mlxrag.model.speed import Record, Speed, benched, remember_bench, why

M1_PRO = Speed("gpu", 200e9, 5.3e12, "float16")


@pytest.fixture(scope="module")
def ladder() -> list[Rung]:
    """A part of the shipped ladder that is quick to weigh."""
    return [r for r in read_ladder() if r.name in ("Qwen3-0.6B", "Qwen3-4B") and r.bits in (4, 8)]


def test_the_shipped_ladder_is_ordered_and_complete() -> None:
    """Every model has its bits, and fewer bits are never said to be better."""
    by_name: dict[str, dict[int, float]] = {}
    for rung in read_ladder():
        by_name.setdefault(rung.name, {})[rung.bits] = rung.quality
    assert len(by_name) >= 5
    assert all(q[4] < q[6] < q[8] for q in by_name.values())


def test_weights_are_predicted_as_the_hub_has_them(ladder: list[Rung]) -> None:
    """Qwen3-4B in 4 bits is 2.26 GB on the hub; the prediction counts the same tensors."""
    choice = choose([r for r in ladder if (r.name, r.bits) == ("Qwen3-4B", 4)], 16 * 10**9, M1_PRO)
    assert choice.chosen.memory.weights / 1e9 == pytest.approx(2.26, abs=0.01)


def test_goals_pull_in_their_directions_and_everything_else_has_its_place(ladder: list[Rung]) -> None:
    """Fastest is the small one, best the large one; the runners-up stay in the list."""
    fastest = choose(ladder, 9 * 10**9, M1_PRO, goal="fastest")
    best = choose(ladder, 9 * 10**9, M1_PRO, goal="best")
    assert (fastest.chosen.rung.name, fastest.chosen.rung.bits) == ("Qwen3-0.6B", 4)
    assert (best.chosen.rung.name, best.chosen.rung.bits) == ("Qwen3-4B", 8)
    assert len(best.candidates) == len(ladder) and best.candidates[0] is best.chosen


def test_what_does_not_fit_or_is_too_slow_says_so(ladder: list[Rung]) -> None:
    """Each rejected candidate carries its reason with figures."""
    tight = choose(ladder, 3_300_000_000, M1_PRO, goal="best")
    reasons = {(c.rung.name, c.rung.bits): c.reason for c in tight.candidates}
    assert reasons["Qwen3-4B", 8] == "needs 4.7 GB of 3.3 GB" and reasons["Qwen3-4B", 4] == ""
    quick = choose(ladder, 9 * 10**9, M1_PRO, goal="balanced", max_latency=2.0)
    assert quick.chosen.rung.name == "Qwen3-0.6B"
    assert any(c.reason.startswith("would take") for c in quick.candidates)
    with pytest.raises(WontFit, match="the smallest"):
        choose(ladder, 10**8, M1_PRO)


def test_a_tight_budget_shortens_the_context_or_halves_the_cache_before_it_gives_up(ladder: list[Rung]) -> None:
    """Context and KV precision are part of the choice."""
    one = [r for r in ladder if (r.name, r.bits) == ("Qwen3-4B", 4)]
    roomy, tight = choose(one, 9 * 10**9, M1_PRO).chosen, choose(one, 3_000_000_000, M1_PRO).chosen
    assert (roomy.context, roomy.kv_bits) == (16384, None)
    assert tight.context < roomy.context and tight.memory.peak <= 3_000_000_000


def test_the_default_is_the_reader_until_a_model_of_the_ladder_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is downloaded for a default; what is in the hub's cache counts."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert default_model(lambda: 9 * 10**9, "reader") == "reader"
    small = next(r for r in read_ladder() if (r.name, r.bits) == ("Qwen3-0.6B", 4))
    (tmp_path / f"models--{small.hub.replace('/', '--')}" / "snapshots").mkdir(parents=True)
    assert cached(read_ladder()) == {small.hub}
    record = Record("chip", "0", (M1_PRO,))
    monkeypatch.setattr("mlxrag.model.choose.remembered", lambda: record)
    assert default_model(lambda: 9 * 10**9, "reader") == small.hub
    assert default_model(lambda: 10**8, "reader") == "reader"


def test_a_ladder_that_is_none_is_refused(tmp_path: Path) -> None:
    """One sentence with the path and where to look."""
    file = tmp_path / "tiers.toml"
    file.write_text("[kept]\n4 = 1\n")
    with pytest.raises(BadInput, match=r"tiers\.toml.*see configs/tiers\.toml"):
        read_ladder(file)


def test_what_was_measured_here_counts_for_more_than_the_prediction(ladder: list[Rung]) -> None:
    """A model that turned out slow here is rejected for it, and says that it was measured."""
    slow = next(r.hub for r in ladder if (r.name, r.bits) == ("Qwen3-4B", 8))
    before = choose(ladder, 16 * 10**9, M1_PRO).chosen.rung.hub
    remember_bench(slow, 40.0, 2.0)
    found = choose(ladder, 16 * 10**9, M1_PRO, known=benched())
    one = next(c for c in found.candidates if c.rung.hub == slow)
    assert before == slow != found.chosen.rung.hub
    assert one.measured and one.latency == 2000 / 40 + 100 / 2 and "over 10 s" in one.reason


def test_auto_says_what_decided() -> None:
    """The bandwidths of both devices, or that there is one only."""
    cpu = Speed("cpu", 40e9, 1e11, "float32")
    assert "200 GB of weights a second, against 40 on the cpu" in why(Record("M1 Pro", "0.32", (M1_PRO, cpu)))
    assert why(Record("x", "0.32", (cpu,))) == "the only one that MLX has here"
