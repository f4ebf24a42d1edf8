"""Attribution by taking passages away, and a judge by its logits, on a model whose probabilities are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlxrag.evaluate import context, judge
from mlxrag.evaluate.run import Row
from mlxrag.model.likelihood import logprobs
from mlxrag.model.load import load
from mlxrag.model.variants import next_logprobs, score_variants
from mlxrag.rag.answer import Answer, make_answer
from mlxrag.settings import Answering
from tests.evaluate.kit import ask, hits, passage
from tests.toy_model import write_model


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "mamba"])
def test_variants_score_as_each_alone(tmp_path: Path, architecture: str) -> None:
    """Reused and batched keys and values give the log-probabilities of separate runs, whatever kind of layers there are."""
    model = load(str(write_model(tmp_path / "m", architecture)))
    rng = np.random.default_rng(0)
    base, said = rng.integers(3, 60, 70).tolist(), rng.integers(3, 60, 5).tolist()
    rows = [
        (base, said),
        *((base[:k] + base[k + 11 :], said) for k in (5, 20, 40, 55)),
        (base[:4] + base[-3:], said),
        (base, said[:2]),
        ([5], said),
    ]
    for found, (prompt, text) in zip(score_variants(model, rows), rows, strict=True):
        np.testing.assert_allclose(found, logprobs(model, prompt, text), atol=2e-4)
    assert np.exp(next_logprobs(model, base)).sum() == pytest.approx(1.0, abs=1e-4)
    assert next_logprobs(model, base)[said[0]] == pytest.approx(logprobs(model, base, said)[0], abs=2e-4)


def known(monkeypatch: pytest.MonkeyPatch, worth: dict[str, float], base: float = -20.0) -> Any:
    """A model under which an answer is likelier by what each passage in the prompt is worth, the best one counting."""

    def score(model: Any, rows: Any) -> list[np.ndarray]:
        there = [[v for key, v in worth.items() if key in prompt] for prompt, _ in rows]
        sums = [base + max([0.0, *found]) + sum(v for v in found if v < 0) for found in there]
        return [np.full(len(ids), s / len(ids)) for s, (_, ids) in zip(sums, rows, strict=True)]

    monkeypatch.setattr(context, "score_variants", score)
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens=False: text.split(), prompt=lambda messages: messages[-1]["content"]
    )
    return SimpleNamespace(tokenizer=tokenizer, context=10_000, name="known")


def test_the_passage_that_made_the_answer_likely_is_the_used_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The valuable passage is used, the harmful one distracts, the rest are worth nothing; citations do not count."""
    found_hits = hits(passage("useless", "a.md"), passage("golden", "b.md"), passage("harmful", "c.md"))
    answer = make_answer("What?", "two words [2]", found_hits)
    found = context.attribute(known(monkeypatch, {"golden": 8.0, "harmful": -3.0}), answer, Answering())
    assert found is not None and found.tokens == 2
    assert found.used == (2,) and found.distracting == (3,)
    assert found.share == pytest.approx((0.0, 8.0, -3.0)) and found.none == -20.0
    example = ask("What?", "two words", gold=(passage("golden", "b.md"),))
    scores = {s.measure: s.value for s in context.scores_of(found, Row("x", answer), example, "known")}
    assert scores == {
        "used_nats": 5.0,
        "known_nats": -10.0,
        "used_gold": 1.0,
        "used_cited": 1.0,
        "cited_used": 1.0,
        "distracted": pytest.approx(1 / 3),
    }


def test_two_passages_that_say_the_same_are_both_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is missed when it goes, but each brings the answer alone: the share sees both, `without` sees none."""
    answer = make_answer("What?", "two words", hits(passage("golden one", "a.md"), passage("golden two", "b.md")))
    model = known(monkeypatch, {"golden one": 8.0, "golden two": 8.0})
    found = context.attribute(model, answer, Answering())
    assert found is not None and found.without == (0.0, 0.0) and set(found.used) == {1, 2}
    lean = context.attribute(model, answer, Answering(), alone=False)
    assert lean is not None and lean.used == () and lean.alone == ()


def test_what_cannot_be_attributed_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer, no passages, or too long a prompt give None; refusals have rows with reasons."""
    model = known(monkeypatch, {})
    assert context.attribute(model, make_answer("?", "", hits(passage("x"))), Answering()) is None
    assert context.attribute(model, make_answer("?", "x", ()), Answering()) is None
    model.context = 3
    assert context.attribute(model, make_answer("?", "x", hits(passage("x"))), Answering()) is None
    rows = list(context.scores_of(None, Row("x", Answer("?", "", refused=True)), ask("?"), "m"))
    assert len(rows) == 6 and all(r.value is None and r.reason == "refused" for r in rows)


def judged(monkeypatch: pytest.MonkeyPatch, table: Any) -> Any:
    """A judge whose next-token probabilities are `table(prompt)` over the words Yes, No, A, B and the rest."""
    names = ["Yes", "No", "A", "B", "(rest)"]
    monkeypatch.setattr(
        judge, "next_logprobs", lambda model, prompt: np.log(np.array([table(prompt).get(n, 1e-9) for n in names]))
    )
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens=False: [names.index(text)] if text in names else [4],
        prompt=lambda messages: messages[0]["content"],
    )
    monkeypatch.setattr(judge, "_openings", lambda model, word: {names.index(word)})
    return SimpleNamespace(tokenizer=tokenizer, context=10_000, name="toy")


def test_a_verdict_is_a_share_of_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.3 for Yes and 0.1 for No is 0.75 with mass 0.4; a judge that says something else gives no score."""
    model = judged(monkeypatch, lambda prompt: {"Yes": 0.3, "No": 0.1, "(rest)": 0.6})
    found = judge.supported(model, "claim", ["passage"])
    assert (found.p, found.mass, found.swing) == pytest.approx((0.75, 0.4, 0.0), abs=1e-6) and found.valid
    answer = make_answer("What?", "It opens at 9:30.", hits(passage("It opens at 9:30.")))
    assert judge.score_of("x", *judge.verdicts_of(model, answer), "j").value == pytest.approx(0.75, abs=1e-6)
    mute = judged(monkeypatch, lambda prompt: {"(rest)": 0.99})
    score = judge.score_of("x", *judge.verdicts_of(mute, answer), "j")
    assert score.value is None and score.reason == "the judge gave no verdict"
    assert judge.verdicts_of(model, make_answer("?", "Not in the documents.", ())) == ([], "refused")


def test_position_bias_is_averaged_out_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that always takes the first answer prefers neither, with a swing of 0.8; one that reads keeps its choice."""
    first = judged(monkeypatch, lambda prompt: {"A": 0.9, "B": 0.1})
    found = judge.preferred(first, "Q?", "good", "bad")
    assert (found.p, found.swing, found.first) == pytest.approx((0.5, 0.8, 0.9))
    reads = judged(
        monkeypatch, lambda prompt: {"A": 0.9, "B": 0.1} if "Answer A: good" in prompt else {"A": 0.1, "B": 0.9}
    )
    found = judge.preferred(reads, "Q?", "good", "bad")
    assert (found.p, found.swing, found.first) == pytest.approx((0.9, 0.0, 0.5))
