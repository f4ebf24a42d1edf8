"""Nothing runs that was not granted: answers, batches and encoders reserve, wait, shrink, and give the same results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxrag import memory
from mlxrag.errors import WontFit
from mlxrag.memory import Ledger
from mlxrag.model.admit import groups_of, need, patiently, row_bytes
from mlxrag.model.batch import _Run, complete_batch
from mlxrag.model.encode import encode, load_encoder
from mlxrag.model.generate import Request, complete, stream
from mlxrag.model.likelihood import score_tokens
from mlxrag.model.limits import FREED, apply_limits, limits_for, shrink_cache
from mlxrag.model.load import load
from mlxrag.model.sizes import encoder_bytes
from mlxrag.model.variants import next_logprobs, score_variants
from mlxrag.settings import Caching, Sampling
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

ROOM = 1_000_000_000
REQUESTS = [Request(str(i), tuple(range(20 + i, 60 + 2 * i)), 12) for i in range(8)]


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger of a gigabyte that looks at its source every time."""
    before = list(memory._current)
    found = Ledger(ROOM)
    monkeypatch.setattr(Ledger.look, "__defaults__", (0.0,))
    memory.use(found)
    yield found
    memory._current[:] = before


def test_a_batch_gives_the_same_answers_however_few_rows_there_is_room_for(tmp_path: Path, ledger: Ledger) -> None:
    """Room for all, for three, and a budget that shrinks in the middle and sends rows back to wait."""
    with load(write_model(tmp_path)) as model:
        whole = {c.id: c.tokens for c in complete_batch(model, REQUESTS)}
        shrink_cache(ledger)
        caching = Caching(decode_concurrency=8)
        one = need(model, 128, caching)
        ledger.set_size(ledger.held + 4 * one)
        assert {c.id: c.tokens for c in complete_batch(model, REQUESTS, caching=caching)} == whole
        ledger.set_size(ROOM)
        calls = []

        def source(held: int) -> int:
            calls.append(held)
            return ROOM if len(calls) < 5 else model.nbytes + 2 * one

        ledger.source = source
        found = {}
        for completion in complete_batch(model, REQUESTS, caching=caching):
            found[completion.id] = completion.tokens
            assert ledger.held <= ledger.target
        assert found == whole and max(calls) > model.nbytes + 2 * one
        ledger.source = None
        held = [hold.who for hold in ledger.holds() if hold.size and hold.kind == "cache"]
    assert held == [] and ledger.held == 0


def test_rows_whose_prompts_are_processed_wait_where_the_budget_falls(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps they give back what they have, and begin anew when there is room; the answers are the same."""
    seen: list[int] = []
    real = _Run.process

    def process(self: _Run, rests: Any, cache: Any) -> None:
        seen.append(ledger.held)
        real(self, rests, cache)
        seen.append(-1)

    monkeypatch.setattr(_Run, "process", process)
    with load(write_model(tmp_path)) as model:
        whole = {c.id: c.tokens for c in complete_batch(model, REQUESTS)}
        shrink_cache(ledger)
        seen.clear()
        low = model.nbytes + 10
        ledger.source = lambda held: low if len(seen) == 1 and held > low else ROOM
        caching = Caching(decode_concurrency=8, prefill_step_size=64)
        assert {c.id: c.tokens for c in complete_batch(model, REQUESTS, caching=caching)} == whole
        assert min(seen[:2]) > low and seen[2] == -1
        ledger.source = None


def test_what_is_read_while_the_budget_falls_is_given_back(tmp_path: Path, ledger: Ledger) -> None:
    """Loading is a row of steps; between two of them it ends where there is no room any more."""
    calls: list[int] = []

    def source(held: int) -> int:
        calls.append(held)
        return ROOM if len(calls) < 4 else 0

    ledger.source = source
    with pytest.raises(WontFit, match="has shrunk"):
        load(write_model(tmp_path))
    ledger.source = None
    assert ledger.held == 0


def test_not_even_one_row_is_refused_with_what_would_help(tmp_path: Path, ledger: Ledger) -> None:
    """Before anything runs; nothing stays reserved."""
    with load(write_model(tmp_path)) as model:
        shrink_cache(ledger)
        ledger.set_size(ledger.held + 1000)
        with pytest.raises(WontFit, match=r"--kv-bits 8 or a larger --memory-budget"):
            list(complete_batch(model, REQUESTS))
        with pytest.raises(WontFit, match="an answer under way needs"):
            complete(model, REQUESTS[0])
        assert ledger.held == model.nbytes


def test_an_answer_under_way_lets_go_when_the_budget_falls_below_it(tmp_path: Path, ledger: Ledger) -> None:
    """It raises at its next token, and holds nothing afterwards."""
    with load(write_model(tmp_path)) as model:
        shrink_cache(ledger)
        size = [ROOM]
        ledger.source = lambda held: size[0]
        pieces = stream(model, REQUESTS[0].prompt, Sampling(max_tokens=50))
        next(pieces)
        assert ledger.held > model.nbytes
        size[0] = model.nbytes + 10
        with pytest.raises(WontFit, match="has shrunk"):
            list(pieces)
        assert ledger.held == model.nbytes
        ledger.source = None


def test_what_a_row_takes_is_its_cache_in_every_form(tmp_path: Path, ledger: Ledger) -> None:
    """Rounded up as caches grow; in 8 bits and small steps less than half of float32; a window is never longer than it is."""
    with load(write_model(tmp_path, head_dim=32)) as model:
        plain = row_bytes(model, 300, Caching())
        assert plain == 512 * 3 * 2 * 2 * 32 * 4  # tokens x layers x keys and values x heads x numbers x bytes
        small = Caching(kv_bits=8, quantized_kv_start=0, prefill_step_size=256)
        assert row_bytes(model, 2000, small) < row_bytes(model, 2000, Caching()) / 2
        assert row_bytes(model, 300, Caching(max_kv_size=256)) == plain / 2
        assert groups_of(model) == 32
    with load(write_model(tmp_path / "narrow")) as model:
        assert groups_of(model) == 0


def test_an_encoder_is_in_the_ledger_while_it_is_loaded_and_comes_back_when_it_is_used(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Unloading gives back its bytes, not while it is in use; vectors are the same after."""
    encoder = load_encoder(str(write_encoder(tmp_path / "e")), open_workspace(tmp_path / "ws"))
    first = encode(encoder, ["a text", "another"])
    held = ledger.held
    assert [hold.kind for hold in ledger.holds() if hold.size] == ["encoder"]
    with encoder.hidden.using():
        assert encoder.hidden.unload() == 0
    assert encoder.hidden.unload() == held and ledger.held == 0 and not encoder.hidden.loaded
    assert np.array_equal(encode(encoder, ["a text", "another"]), first) and ledger.held == held


def test_vectors_do_not_depend_on_how_many_texts_there_is_room_for(tmp_path: Path, ledger: Ledger) -> None:
    """A batch that is not granted is halved, down to one text; less than that is refused."""
    encoder = load_encoder(str(write_encoder(tmp_path / "e")), open_workspace(tmp_path / "ws"))
    texts = [f"{'word ' * (i % 7)}{i}" for i in range(40)]
    whole = encode(encoder, texts)
    ledger.set_size(ledger.held + encoder_bytes(encoder.config, 3, 45))
    assert np.abs(encode(encoder, texts) - whole).max() < 1e-6
    ledger.set_size(ledger.held + 10)
    with pytest.raises(WontFit, match="texts being encoded needs"):
        encode(encoder, texts)


def test_an_encoder_waits_outside_memory_while_the_budget_is_below_it(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches; and goes on when there is room again."""
    encoder = load_encoder(str(write_encoder(tmp_path / "e")), open_workspace(tmp_path / "ws"))
    whole = encode(encoder, ["one", "two"])
    sizes, seen = iter([1000, 1000, ROOM]), []

    def source(held: int) -> int:
        seen.append(held)
        return next(sizes, ROOM)

    ledger.source = source
    monkeypatch.setattr(memory, "POLL", 0.0)
    assert np.array_equal(encode(encoder, ["one", "two"]), whole)
    assert 0 in seen
    ledger.source = None


def test_freed_buffers_are_in_the_ledger_and_the_first_to_give_way(ledger: Ledger) -> None:
    """A sixteenth of the budget, at most a quarter of what is free; the wired limit is what is planned and a margin."""
    assert limits_for(16 << 30, 2 << 30, 10 << 30) == {"memory": 16 << 30, "cache": 1 << 30, "wired": 3 << 30}
    assert "wired" not in limits_for(16 << 30, 2 << 30, None)
    limits = apply_limits(ledger)
    assert limits["cache"] == ROOM // 16 == ledger.held and ledger.holds()[0].who == FREED
    ledger.reserve("answer", "cache", ROOM - ROOM // 32)
    assert ledger.held == ROOM and ledger.holds()[-1].size == ROOM // 32


def test_scoring_is_granted_before_it_is_computed(tmp_path: Path, ledger: Ledger) -> None:
    """Variants, verdicts and likelihoods hold what they take, give it back, and are refused in words where it is too much."""
    prompt, answer = list(range(3, 60)), [5, 6, 7]
    with load(write_model(tmp_path)) as model:
        ledger.peak = before = ledger.held
        score_variants(model, [(prompt, answer), (prompt[:20] + prompt[30:], answer)])
        assert ledger.held == before and ledger.peak - before > row_bytes(model, 60, Caching())
        ledger.peak = before
        next_logprobs(model, prompt)
        assert ledger.held == before and ledger.peak - before > row_bytes(model, 57, Caching())
        ledger.peak = before
        score_tokens(model, prompt)
        assert ledger.held == before and ledger.peak > before
        ledger.set_size(0)
        for work in (
            lambda: score_variants(model, [(prompt, answer)] * 2),
            lambda: next_logprobs(model, prompt),
            lambda: score_tokens(model, prompt),
        ):
            with pytest.raises(WontFit, match=r"being scored|under way"):
                work()


def test_what_can_wait_is_done_when_there_is_room(ledger: Ledger) -> None:
    """A budget that grows lets it go on; one that is fixed and held by nobody else is not waited for."""
    looks = []

    def source(held: int) -> int:
        looks.append(held)
        return 500 if len(looks) < 3 else 2000

    ledger.set_size(500)
    with pytest.raises(WontFit):
        patiently(lambda: ledger.reserve("x", "scratch", 1000), 60.0)
    ledger.source = source
    with patiently(lambda: ledger.reserve("x", "scratch", 1000), 60.0) as hold:
        assert hold.size == 1000 and len(looks) == 4
