"""Merges are the sums they say, worked out by hand where they are not linear."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlxrag.errors import BadInput, Mismatch
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import Adapters, attach
from mlxrag.model.merge import dare, linear, merge_adapters, ties
from tests.toys import llama_toy, write_adapter

WORDS = mx.array([[1, 5, 9, 2, 7]])


def change(path: Path, name: str) -> mx.array:
    """The change of one layer, `s·A·B`."""
    adapter = read_adapter(path)
    given = adapter.modules[name]
    return adapter.scale * (given["lora_a"] @ given["lora_b"])


def test_the_linear_merge_is_the_weighted_sum_exactly(tmp_path: Path) -> None:
    """Two ranks and scales and different layers side by side; the merge is an adapter like any other."""
    network = llama_toy()
    a = write_adapter(tmp_path / "a", network, seed=1, rank=4)
    b = write_adapter(tmp_path / "b", network, seed=2, rank=2, scale=0.5, layers=2)
    made = merge_adapters([read_adapter(a), read_adapter(b)], [0.7, -0.3], tmp_path / "m")
    assert (made.rank, made.kept) == (6, 1.0)
    for name in ("model.layers.2.self_attn.q_proj", "model.layers.0.mlp.down_proj"):
        wanted = 0.7 * change(a, name)
        if name in read_adapter(b).modules:
            wanted = wanted - 0.3 * change(b, name)
        assert mx.abs(change(tmp_path / "m", name) - wanted).max().item() < 1e-6
    attach(network, tmp_path / "m")
    c = write_adapter(tmp_path / "c", network, seed=3, layers=1, keys=("mlp.up_proj",))
    merge_adapters([read_adapter(b), read_adapter(c)], [1.0, 1.0], tmp_path / "gaps")
    attach(network, tmp_path / "gaps")
    alone = merge_adapters([read_adapter(a)], [1.0], tmp_path / "one")
    assert alone.rank == 4
    with Adapters(llama_toy()) as adapters:
        adapters.use(adapters.add(tmp_path / "one"))
        ours = adapters.network(WORDS)
        adapters.use(adapters.add(a))
        assert mx.abs(adapters.network(WORDS) - ours).max().item() < 1e-5


def test_ties_trims_elects_a_sign_and_means_those_that_agree() -> None:
    """The example of the paper's figure 1, by hand: keep the larger half, positive wins, mean of the positive."""
    a = mx.array([[4.0, -1.0, 3.0, 0.1]])
    b = mx.array([[-2.0, 0.5, 5.0, -6.0]])
    # kept of a: 4, 3; of b: 5, -6.  signs: + . + -
    assert ties([a, b], [1.0, 1.0], 0.5).tolist() == [[4.0, 0.0, 4.0, -6.0]]
    assert ties([a, b], [0.5, 0.5], 1.0).tolist() == [[2.0, -0.5, 2.0, -3.0]]


def test_dare_keeps_the_sum_on_average_and_depends_on_its_seed_only() -> None:
    """The mean over many entries is that of the weighted sum; the same seed gives the same merge."""
    a, b = mx.ones((200, 200)), 2 * mx.ones((200, 200))
    merged = dare([a, b], [0.5, 0.25], 0.3, 1)
    assert abs(merged.mean().item() - 1.0) < 0.03
    assert mx.array_equal(merged, dare([a, b], [0.5, 0.25], 0.3, 1)).item()
    assert not mx.array_equal(merged, dare([a, b], [0.5, 0.25], 0.3, 2)).item()
    assert mx.array_equal(dare([a, b], [0.5, 0.25], 1.0), linear([a, b], [0.5, 0.25])).item()


@pytest.mark.parametrize("method", ["linear", "ties", "dare"])
def test_a_merge_of_a_smaller_rank_says_how_much_it_keeps(tmp_path: Path, method: str) -> None:
    """Full rank keeps everything, rank 2 a part."""
    network = llama_toy()
    both = [
        read_adapter(write_adapter(tmp_path / n, network, seed=i, keys=("mlp.down_proj",))) for i, n in enumerate("ab")
    ]
    all_of_it = merge_adapters(both, [0.5, 0.5], tmp_path / "all", method=method, rank=64)
    part = merge_adapters(both, [0.5, 0.5], tmp_path / "part", method=method, rank=2)
    assert all_of_it.kept > 0.999 and 0.05 < part.kept < 0.95 and read_adapter(tmp_path / "part").rank == 2


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    """Other bases, dora, and the wrong number of weights."""
    network = llama_toy()
    a = read_adapter(write_adapter(tmp_path / "a", network, base={"name": "one", "fingerprint": "1"}))
    b = read_adapter(write_adapter(tmp_path / "b", network, base={"name": "two", "fingerprint": "2"}))
    d = read_adapter(write_adapter(tmp_path / "d", network, kind="dora"))
    with pytest.raises(Mismatch, match="a on one, b on two"):
        merge_adapters([a, b], [1, 1], tmp_path / "m")
    with pytest.raises(BadInput, match="of kind dora"):
        merge_adapters([a, d], [1, 1], tmp_path / "m")
    with pytest.raises(BadInput, match="1 weights"):
        merge_adapters([a, b], [1], tmp_path / "m")
