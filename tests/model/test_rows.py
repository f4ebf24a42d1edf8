"""Several adapters in one batch equal each adapter alone."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlxrag.errors import Mismatch, NotFound
from mlxrag.model.adapter import Adapter, read_adapter
from mlxrag.model.attach import attach, detach, resident
from mlxrag.model.rows import with_adapters
from tests.toys import llama_toy, qwen_toy, write_adapter

WORDS = mx.array([[1, 5, 9, 2], [3, 3, 8, 1], [1, 5, 9, 2], [60, 4, 4, 0], [7, 7, 7, 7]])


def mixed(root: Path, make: object, **more: object) -> list[Adapter]:
    toy = make(**more)  # type: ignore[operator]
    return [
        read_adapter(write_adapter(root / "a", toy, seed=1, rank=4)),
        read_adapter(write_adapter(root / "b", toy, seed=2, rank=8, scale=0.5, layers=2, keys=None)),
        read_adapter(write_adapter(root / "c", toy, seed=3, kind="dora", rank=2)),
        read_adapter(write_adapter(root / "e", toy, seed=4, rank=3, keys=("model.embed_tokens",), size=0.02)),
    ]


@pytest.mark.parametrize("make", [llama_toy, qwen_toy])
@pytest.mark.parametrize("bits", [0, 4])
def test_each_row_equals_its_adapter_alone(tmp_path: Path, make: object, bits: int) -> None:
    """Ranks 2, 3, 4 and 8, two scales, dora, tied embeddings and none, in one batch on unmodified mlx_lm."""
    network = make(bits=bits)  # type: ignore[operator]
    adapters = mixed(tmp_path, make, bits=bits)
    rows: list[str | None] = ["a", "b", None, "c", "e"]
    expected = []
    for i, name in enumerate(rows):
        if name is None:
            detach(network)
        else:
            attach(network, next(a for a in adapters if a.name == name))
        expected.append(network(WORDS[i : i + 1]))
    detach(network)
    plain = network(WORDS)
    with with_adapters(network, adapters) as chosen:
        chosen.select(rows)
        together = network(WORDS)
        assert mx.abs(together - mx.concatenate(expected)).max().item() < 1e-4
        assert mx.array_equal(together[2], plain[2]).item() or mx.abs(together[2] - plain[2]).max().item() < 1e-6
        chosen.select([None])
        assert mx.abs(network(WORDS) - plain).max().item() < 1e-6
    assert mx.array_equal(network(WORDS), plain).item()


def test_an_adapter_with_a_bias_below_it_is_scaled_without_the_bias(tmp_path: Path) -> None:
    """DoRA scales the product, never the bias."""
    network = llama_toy(attention_bias=True)
    c = read_adapter(write_adapter(tmp_path / "c", network, kind="dora"))
    attach(network, c)
    alone = network(WORDS[:1])
    detach(network)
    with with_adapters(network, [c]) as chosen:
        chosen.select(["c", None])
        assert mx.abs(network(WORDS[:2])[:1] - alone).max().item() < 1e-4


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_more_rows_than_adapters_give_the_same(tmp_path: Path, kind: str) -> None:
    """Where the rows' own matrices would be larger than all adapters they are looked up; a choice of rows may change."""
    network = llama_toy()
    a = read_adapter(write_adapter(tmp_path / "a", network, kind=kind))
    with with_adapters(network, [a]) as chosen:
        chosen.select(["a", None])
        few = network(WORDS[:2])
        chosen.select(["a", None, "a", "a", None])
        many = network(WORDS)
        chosen.select([None, "a"])
        turned = network(WORDS[:2])
        assert mx.abs(many[:2] - few).max().item() < 1e-5
        assert mx.abs(turned - few).max().item() > 1e-2
        chosen.select(["a", None])
        assert mx.array_equal(network(WORDS[:2]), few).item()


def test_the_one_in_use_is_put_aside_and_comes_back(tmp_path: Path) -> None:
    """The block leaves the network as it found it, also after an error inside."""
    network = llama_toy()
    a, *_ = mixed(tmp_path, llama_toy)
    attach(network, a)
    before = network(WORDS)
    with pytest.raises(RuntimeError), with_adapters(network, [a]):
        raise RuntimeError
    assert resident(network).active == "a" and mx.array_equal(network(WORDS), before).item()


def test_what_cannot_be_chosen_per_row_is_refused(tmp_path: Path) -> None:
    """Unknown names, another number of rows, and dora of embeddings."""
    network = llama_toy()
    a = read_adapter(write_adapter(tmp_path / "a", network))
    d = read_adapter(write_adapter(tmp_path / "d", network, kind="dora", keys=("model.embed_tokens",)))
    with pytest.raises(Mismatch, match="embeddings as dora"), with_adapters(network, [d]):
        pass
    with with_adapters(network, [a]) as chosen:
        with pytest.raises(NotFound, match="no adapter 'z'"):
            chosen.select(["z"])
        chosen.select(["a", None])
        with pytest.raises(Mismatch, match="2 rows and the batch has 5"):
            network(WORDS)
