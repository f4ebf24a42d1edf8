"""Keys and values are reused where that is right, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.errors import BadInput
from mlxrag.model.attach import attach, detach
from mlxrag.model.cache import KVStore, open_store
from mlxrag.model.cache_key import store_key
from mlxrag.model.cache_layers import common, read_cache_file
from mlxrag.model.generate import Request, complete
from mlxrag.model.load import Model, load
from mlxrag.settings import Caching
from tests.toy_model import write_model
from tests.toys import write_adapter

MIB = 1 << 20
ARCHITECTURES = ["llama", "gemma3_text", "mamba"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(write_model(tmp_path_factory.mktemp("toy") / request.param, request.param, head_dim=32)) as model:
        yield model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(write_model(tmp_path_factory.mktemp("toy") / "llama")) as model:
        yield model


def prompts(model: Model, count: int = 4) -> tuple[list[tuple[int, ...]], int]:
    """Prompts that share 120 tokens and differ after them."""
    shared = tuple(5 + i * 7 % 300 for i in range(120))
    return [(*shared, *(9 + (i * 31 + j) % 200 for j in range(6 + i))) for i in range(count)], len(shared)


def test_questions_on_the_same_passages_reuse_them_and_say_the_same(model: Model) -> None:
    """Layers that cannot be cut back are reused from copies at the end of the passages."""
    store = KVStore(64 * MIB)
    asked, shared = prompts(model)
    for i, ids in enumerate(asked):
        plain = complete(model, Request("", ids, 12))
        kept = complete(model, Request("", ids, 12), store=store, segments=(shared,))
        assert kept.tokens == plain.tokens
        assert kept.reused_tokens == (0 if i == 0 else shared)
    assert store.usage.hits == 3 and store.usage.reused_tokens == 3 * shared
    assert store.usage.seconds_saved > 0 and store.usage.hit_rate == pytest.approx(
        3 * shared / sum(len(ids) for ids in asked)
    )


def test_a_conversation_processes_only_what_is_new(llama: Model) -> None:
    """The answer's own tokens are not processed again either."""
    store = KVStore(64 * MIB)
    first = tuple(range(20, 80))
    said = complete(llama, Request("", first, 10), store=store)
    following = (*first, *said.tokens, 5, 6, 7)
    again = complete(llama, Request("", following, 10), store=store)
    assert again.reused_tokens >= len(first) + len(said.tokens) - 1
    assert again.tokens == complete(llama, Request("", following, 10)).tokens


def test_the_same_prompt_twice_reuses_all_but_its_last_token(llama: Model) -> None:
    """One token has to run, to have scores."""
    store = KVStore(64 * MIB)
    ids = tuple(range(20, 80))
    a = complete(llama, Request("", ids, 5), store=store)
    b = complete(llama, Request("", ids, 5), store=store)
    assert b.reused_tokens == len(ids) - 1 and a.tokens == b.tokens


def test_another_adapter_scale_template_layout_or_order_reuses_nothing(llama: Model, tmp_path: Path) -> None:
    """Tried one by one: the store is bound to all of them."""
    store = KVStore(64 * MIB)
    ids = tuple(range(20, 80))
    complete(llama, Request("", ids, 5), store=store)

    def reused(prompt: tuple[int, ...] = ids, caching: Caching | None = None) -> int:
        return complete(llama, Request("", prompt, 5), store=store, caching=caching).reused_tokens

    assert reused(tuple(reversed(ids))) == 0
    assert reused((1, *ids)) == 0
    assert reused(caching=Caching(max_kv_size=512)) == 0
    template, llama.tokenizer.chat_template = llama.tokenizer.chat_template, "another"
    assert reused() == 0
    llama.tokenizer.chat_template = template
    for name, seed, scale in (("a", 1, 2.0), ("b", 2, 2.0), ("c", 2, 4.0)):
        attach(llama.network, write_adapter(tmp_path / name, llama.network, seed=seed, scale=scale))
        assert reused() == 0
        detach(llama.network)
    # One name, other weights.
    attach(llama.network, write_adapter(tmp_path / "again" / "a", llama.network, seed=7))
    assert reused() == 0
    detach(llama.network)
    assert reused() == len(ids) - 1


def test_another_model_has_another_key(tmp_path: Path) -> None:
    """Equal shapes, other weights."""
    with load(write_model(tmp_path / "a")) as a, load(write_model(tmp_path / "b", seed=5)) as b:
        assert store_key(a, Caching()) != store_key(b, Caching())


def test_memory_is_limited_and_the_oldest_go_first(llama: Model) -> None:
    """What was used last stays."""
    store = KVStore(64 * MIB)
    complete(llama, Request("", tuple(range(20, 80)), 2), store=store)
    size = store.nbytes
    store = KVStore(2 * size + size // 2)
    starts = [tuple(range(n, n + 60)) for n in (20, 100, 200)]
    for ids in (starts[0], starts[1], starts[0], starts[2]):
        complete(llama, Request("", ids, 2), store=store)
        assert store.nbytes <= store.memory
    assert [complete(llama, Request("", ids, 2), store=store).reused_tokens for ids in (starts[0], starts[1])] == [
        59,
        0,
    ]
    assert store.relieve(1) == size and store.nbytes < 2 * size


def test_nothing_is_kept_where_the_limit_is_zero(llama: Model) -> None:
    """`--cache-memory 0` turns it off."""
    store = open_store(Caching(cache_memory=0))
    for _ in range(2):
        assert complete(llama, Request("", tuple(range(20, 80)), 2), store=store).reused_tokens == 0
    assert store.nbytes == 0


@pytest.mark.parametrize("bits", [0, 8])
def test_the_disk_keeps_it_for_another_process(model: Model, bits: int, tmp_path: Path) -> None:
    """As it was, or in 8 bits: a quarter of the bytes, and a first token that hardly ever differs."""
    asked, shared = prompts(model, 2)
    key = store_key(model, Caching())
    store = KVStore(64 * MIB, tmp_path, 64 * MIB, bits)
    complete(model, Request("", asked[0], 2), store=store, segments=(shared,))
    assert store.save_all() >= 1
    fresh = KVStore(64 * MIB, tmp_path, 64 * MIB, bits)
    done = complete(model, Request("", asked[1], 6), store=fresh, segments=(shared,))
    assert done.reused_tokens == shared and fresh.usage.bytes_read > 0
    if not bits:
        assert done.tokens == complete(model, Request("", asked[1], 6)).tokens
    assert KVStore(64 * MIB, tmp_path, 64 * MIB).take("another key", asked[1]) == (None, 0)
    assert fresh.take(key, asked[1])[1] >= shared


def test_a_file_that_was_cut_short_is_dropped_and_made_again(llama: Model, tmp_path: Path) -> None:
    """A crash of the machine costs a prefill, not an answer."""
    ids = tuple(range(20, 80))
    store = KVStore(64 * MIB, tmp_path, 64 * MIB)
    complete(llama, Request("", ids, 2), store=store)
    store.save_all()
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-200])
    fresh = KVStore(64 * MIB, tmp_path, 64 * MIB)
    assert complete(llama, Request("", ids, 2), store=fresh).reused_tokens == 0
    assert not file.exists()


def test_the_disk_is_limited(llama: Model, tmp_path: Path) -> None:
    """The oldest files go first."""
    store = KVStore(64 * MIB, tmp_path, 1)
    complete(llama, Request("", tuple(range(20, 80)), 2), store=store)
    store.save_all()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_that_is_no_prompt_cache_is_refused(tmp_path: Path) -> None:
    """Missing, or something else."""
    with pytest.raises(BadInput, match="no such prompt cache"):
        read_cache_file(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="is no prompt cache"):
        read_cache_file(tmp_path / "x.safetensors")


@given(a=st.lists(st.integers(0, 2), max_size=12), b=st.lists(st.integers(0, 2), max_size=12))
def test_common_is_the_longest_common_beginning(a: list[int], b: list[int]) -> None:
    """By halving, as by counting."""
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common(tuple(a), tuple(b)) == expected
