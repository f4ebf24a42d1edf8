"""A batch gives each request what it would get alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from mlxrag.errors import BadInput, NotFound
from mlxrag.model import batch_row
from mlxrag.model.attach import resident
from mlxrag.model.batch import complete_batch
from mlxrag.model.batch_cache import can_batch
from mlxrag.model.cache import KVStore
from mlxrag.model.generate import Completion, Request, complete
from mlxrag.model.grouping import plan
from mlxrag.model.load import Model, load
from mlxrag.settings import Caching, Sampling
from tests.toy_model import write_model
from tests.toys import write_adapter

SHARED = tuple(5 + i * 7 % 300 for i in range(70))


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "mamba"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(write_model(tmp_path_factory.mktemp("toy") / request.param, request.param)) as model:
        yield model


def requests(count: int = 9, seed: int = 0) -> list[Request]:
    """Ragged prompts, some sharing a beginning, one of a single token."""
    draw = random.Random(seed)
    found = [Request("one", (7,), 5, seed=99)]
    for i in range(count):
        begin = SHARED[: 70 if i % 3 == 0 else 30] if i % 3 != 1 else ()
        own = tuple(draw.randrange(5, 300) for _ in range(draw.randrange(1, 30)))
        found.append(Request(str(i), begin + own, draw.randrange(1, 20), seed=i))
    return found


def same(a: Completion, b: Completion) -> bool:
    return (a.tokens, a.text, a.finish_reason) == (b.tokens, b.text, b.finish_reason)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temp=1.3, top_p=0.9),
        Sampling(repetition_penalty=1.4),
        Sampling(temp=1.0, xtc_probability=0.5),
    ],
    ids=["greedy", "sampled", "penalty", "xtc"],
)
@pytest.mark.parametrize("rows", [3, 64])
def test_rows_are_what_they_would_be_alone(model: Model, sampling: Sampling, rows: int) -> None:
    """Tokens, text and end of every request, whatever runs beside it."""
    asked = requests()
    done = {c.id: c for c in complete_batch(model, asked, sampling, caching=Caching(decode_concurrency=rows))}
    assert set(done) == {r.id for r in asked}
    assert all(same(done[r.id], complete(model, r, sampling)) for r in asked)


def test_what_is_shared_runs_once(model: Model) -> None:
    """Reused tokens are counted, and the first of a group pays."""
    asked = [Request(str(i), (*SHARED, 9 + i), 2) for i in range(4)]
    done = sorted(complete_batch(model, asked), key=lambda c: c.id)
    assert sorted(c.reused_tokens for c in done) == [0, 70, 70, 70]


def test_shorter_rows_run_the_end_of_the_beginning_again(tmp_path: Path) -> None:
    """So that no row is padded: what they reuse is less by as much, and their tokens are what they would be alone."""
    with load(write_model(tmp_path / "toy")) as model:
        asked = [Request(str(i), (*SHARED, *range(9, 10 + 4 * i)), 4) for i in range(3)]
        done = sorted(complete_batch(model, asked), key=lambda c: c.id)
        assert [c.reused_tokens for c in done] == [0, 70 - 4, 70]
        assert all(same(c, complete(model, r)) for c, r in zip(done, asked, strict=True))


def test_each_row_has_its_own_stop_texts(model: Model) -> None:
    """And its own length."""
    plain = complete(model, Request("x", SHARED, 12))
    word = plain.text[4:7]
    asked = [Request("a", SHARED, 12, stop=(word,)), Request("b", SHARED, 3), Request("c", SHARED, 12)]
    done = {c.id: c for c in complete_batch(model, asked)}
    assert done["a"].text == plain.text[: plain.text.index(word)] and done["a"].finish_reason == "stop"
    assert done["b"].tokens == plain.tokens[:3] and done["c"].tokens == plain.tokens


def test_an_end_token_ends_one_row_only(model: Model) -> None:
    """The others go on."""
    asked = requests(6)
    token = complete(model, asked[3]).tokens[0]
    before, model.tokenizer.eos_ids = model.tokenizer.eos_ids, frozenset({token})
    try:
        done = {c.id: c for c in complete_batch(model, asked)}
        assert all(same(done[r.id], complete(model, r)) for r in asked)
        assert done[asked[3].id].tokens == () and done[asked[3].id].finish_reason == "stop"
    finally:
        model.tokenizer.eos_ids = before


def test_a_longer_row_is_counted_while_adapters_are_in_use(tmp_path: Path) -> None:
    """A length that is new in the middle of a mixed batch is counted without the rows' adapters."""
    with load(write_model(tmp_path / "toy")) as model:
        resident(model.network, model.name).add(write_adapter(tmp_path / "a", model.network))
        asked = [
            Request(f"{i}", tuple(range(9, 12 + 300 * (i > 3) + i)), 3 + i, adapter="a" if i % 2 else None)
            for i in range(8)
        ]
        done = list(complete_batch(model, asked, caching=Caching(decode_concurrency=4)))
        assert sorted(c.id for c in done) == [r.id for r in asked]


def test_adapters_per_row(tmp_path: Path) -> None:
    """Each row equals a run with its adapter alone; afterwards the network is as it was."""
    with load(write_model(tmp_path / "toy")) as model:
        placed = resident(model.network)
        for name, seed in (("a", 1), ("b", 2)):
            placed.add(write_adapter(tmp_path / name, model.network, seed=seed))
        asked = [
            Request(f"{name}{i}", (*SHARED, 9 + i), 8, adapter=name) for i in range(3) for name in ("a", "b", None)
        ]
        done = {c.id: c for c in complete_batch(model, asked)}
        assert model.adapter is None
        for request in asked:
            placed.use(request.adapter)
            assert same(done[request.id], complete(model, request)), request.id
        placed.use(None)
        assert len({done[f"{name}0"].tokens for name in ("a", "b", None)}) == 3
        only = {c.id: c for c in complete_batch(model, [r for r in asked if r.adapter == "a"])}
        assert model.adapter is None and all(same(only[i], done[i]) for i in only)
        with pytest.raises(NotFound, match="no adapter 'c'"):
            list(complete_batch(model, [Request("x", SHARED, 2, adapter="c")]))


def test_quantized_keys_and_values_in_a_batch(tmp_path: Path) -> None:
    """Where mlx_lm turns batching off; equal to quantizing from the first token on."""
    with load(write_model(tmp_path / "toy", head_dim=32)) as model:
        caching = Caching(kv_bits=8, kv_group_size=32, quantized_kv_start=0)
        asked = requests(8)
        done = {c.id: c for c in complete_batch(model, asked, caching=caching)}
        agree = [
            a == b
            for r in asked
            for a, b in zip(done[r.id].tokens, complete(model, r, caching=caching).tokens, strict=True)
        ]
        # The prompt of a single run is attended to before it is quantized; near-ties may swap.
        assert sum(agree) / len(agree) > 0.9


def test_memory_limits_how_many_run_at_once(tmp_path: Path) -> None:
    """Answers stay the same."""
    with load(write_model(tmp_path / "toy")) as model:
        asked = requests(8)
        few = {c.id: c for c in complete_batch(model, asked, memory=200_000)}
        assert all(same(few[r.id], complete(model, r)) for r in asked)


def test_prompts_that_do_not_fit_are_named_before_anything_runs(model: Model) -> None:
    """With their ids."""
    with pytest.raises(BadInput, match="long: the prompt has 2000 tokens"):
        list(complete_batch(model, [Request("ok", (5,), 2), Request("long", (5,) * 2000, 2)]))
    assert list(complete_batch(model, [])) == []


@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3).map(lambda x: tuple(x * 12)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_has_every_request_once_and_shares_only_what_is_common(prompts: list[tuple[int, ...]]) -> None:
    """And leaves every row a token to run."""
    asked = [Request(str(i), p, 1) for i, p in enumerate(prompts)]
    groups = plan(asked)
    assert sorted(r.id for g in groups for r in g.requests) == sorted(r.id for r in asked)
    for group in groups:
        beginnings = {r.prompt[: group.shared] for r in group.requests}
        assert len(beginnings) == 1 and all(len(r.prompt) > group.shared for r in group.requests)


def test_a_long_common_beginning_is_not_given_up_for_a_short_one() -> None:
    """The passages of four questions, and the instruction of all."""
    instruction = SHARED[:20]
    passages = [tuple(200 + k + i % 50 for i in range(100)) for k in (0, 60)]
    asked = [Request(f"{k}{i}", (*instruction, *passages[k], 7 + i), 1) for k in (0, 1) for i in range(4)]
    asked += [Request(f"x{i}", (*instruction, 3, 3, i), 1) for i in range(2)]
    assert sorted((g.shared, len(g.requests)) for g in plan(asked)) == [(20, 2), (120, 4), (120, 4)]


def test_beginnings_are_taken_from_the_store_and_left_there(model: Model) -> None:
    """A second batch on the same passages does not process them again, and says the same as without a store."""
    store = KVStore(64 << 20)
    asked = [Request(str(i), (*SHARED, 9 + i, 4), 6) for i in range(4)]
    first = {c.id: c for c in complete_batch(model, asked, store=store)}
    more = [Request(str(i), (*SHARED, 40 + i, 4), 6) for i in range(4)]
    again = {c.id: c for c in complete_batch(model, more, store=store)}
    assert all(same(first[r.id], complete(model, r)) for r in asked)
    assert all(same(again[r.id], complete(model, r)) for r in more)
    if can_batch(make_prompt_cache(model.network)):
        assert min(c.reused_tokens for c in again.values()) >= len(SHARED) and store.usage.hits == 1


def test_rows_take_the_places_of_finished_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with long and short prompts, a penalty, and random numbers of their own."""
    taken = []
    real = batch_row.take_places
    monkeypatch.setattr(batch_row, "take_places", lambda *args: taken.append(real(*args)) or taken[-1])
    draw = random.Random(4)
    asked = [
        Request(
            str(i),
            tuple(draw.randrange(5, 300) for _ in range(draw.choice([5, 20, 90]))),
            draw.randrange(1, 30),
            seed=i,
        )
        for i in range(40)
    ]
    with load(write_model(tmp_path / "toy")) as model:
        for sampling in (Sampling(), Sampling(temp=1.2, repetition_penalty=1.3)):
            done = {c.id: c for c in complete_batch(model, asked, sampling, caching=Caching(decode_concurrency=8))}
            assert all(same(done[r.id], complete(model, r, sampling)) for r in asked)
    assert taken.count(True) > 2 and False in taken  # the first rows find nothing to take the places of
