"""Batches hold every row once, in like lengths, in an order that a number gives back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxrag.data.example import BadRow
from mlxrag.train.batches import Batches, Store, write_store
from mlxrag.train.tokens import Row

Shape = list[tuple[int, int, int]]  # (group, shared tokens, own tokens)


def make_rows(shape: Shape) -> Iterator[Row]:
    """Rows of random tokens; those of a group begin with the same tokens; the last three are learnt."""
    rng = np.random.default_rng(0)
    contexts: dict[int, np.ndarray] = {}
    for group, shared, own in shape:
        context = contexts.setdefault(group, rng.integers(3, 900, 400))[:shared] if group else np.empty(0, int)
        tokens = np.concatenate([context, rng.integers(3, 900, own)]).astype(np.int32)
        learn = np.zeros(len(tokens), bool)
        learn[-3:] = True
        yield Row(tokens, learn, group)


def store(folder: Path, shape: Shape) -> Store:
    return write_store(folder, make_rows(shape))


def rows_in(batches: Batches, key: int) -> list[tuple[list[int], list[int]]]:
    """Rows of a batch put together again: tokens up to the last learnt one, and the learnt ones."""
    batch = batches.make(key)
    found = []
    learn, tokens = np.array(batch.learn), np.array(batch.tokens)
    for r in range(tokens.shape[0]):
        before = []
        if batch.context is not None and batch.owner is not None:
            before = np.array(batch.context)[int(batch.owner[r].item())].tolist()
        last = int(np.flatnonzero(learn[r])[-1]) + 2
        found.append((before + tokens[r, :last].tolist(), tokens[r, 1:][learn[r]].tolist()))
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0, 20, 40, 70, 130]), st.integers(5, 60)), min_size=1, max_size=30
    ),
    batch_size=st.integers(1, 7),
    shared=st.booleans(),
)
def test_every_row_is_in_exactly_one_batch_whole(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, batch_size: int, shared: bool
) -> None:
    """However contexts are shared and padded, the rows that come out are the rows that went in."""
    kept = store(tmp_path_factory.mktemp("store"), shape)
    batches = Batches(kept, batch_size, shared=shared)
    found = [row for key in range(len(batches)) for row in rows_in(batches, key)]
    expected = [(r.tokens.tolist(), r.tokens[-3:].tolist()) for r in make_rows(shape)]
    assert sorted(found) == sorted(expected)
    assert all(batches.make(key).tokens.shape[0] <= batch_size for key in range(len(batches)))
    assert sum(int(batches.make(key).count.item()) for key in range(len(batches))) == 3 * len(shape)


def test_lengths_of_a_batch_are_alike(tmp_path: Path) -> None:
    """Padding is a few per cent where mlx_lm, which sorts by the number of JSON keys, pads half."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(5.3, 0.7, 600), 40, 1500).astype(int)
    batches = Batches(store(tmp_path / "s", [(0, 0, int(n)) for n in lengths]), 4)
    padded = sum(batches.make(k).tokens.size for k in range(len(batches)))
    assert 1 - lengths.sum() / padded < 0.06


def test_an_epoch_is_a_permutation_and_every_epoch_another(tmp_path: Path) -> None:
    """Batch `i` of a run depends on the seed and on `i` only."""
    kept = store(tmp_path / "s", [(0, 0, n) for n in range(5, 45)])
    batches = Batches(kept, 4, seed=3)
    first = [batches.key_at(i) for i in range(10)]
    second = [batches.key_at(i) for i in range(10, 20)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert first == [Batches(kept, 4, seed=3).key_at(i) for i in range(10)]
    assert first != [Batches(kept, 4, seed=4).key_at(i) for i in range(10)]


def test_rows_over_the_same_passages_share_them(tmp_path: Path) -> None:
    """Four questions on one context are one batch with one context, a multiple of 32, and what is left stays."""
    kept = store(tmp_path / "s", [(g, 100, 20 + i) for g in (1, 2) for i in range(4)])
    batches = Batches(kept, 4, shared=True)
    assert len(batches) == 2
    batch = batches.make(0)
    assert batch.context is not None and batch.context.shape == (1, 96) and batch.tokens.shape[1] == 1 + 32
    two = Batches(kept, 8, shared=True).make(0)
    assert two.context is not None and two.context.shape == (2, 96) and two.tokens.shape[0] == 8


def test_processes_split_a_batch_and_learn_every_token_once(tmp_path: Path) -> None:
    """Also where there are fewer rows than processes; each knows how many tokens all of them train on."""
    kept = store(tmp_path / "s", [(1, 64, 20), (1, 64, 30), (1, 64, 24), (0, 0, 9)])
    whole = Batches(kept, 4, shared=True)
    parts = [Batches(kept, 4, shared=True, rank=r, world=2) for r in (0, 1)]
    for key in range(len(whole)):
        counts = [int(p.make(key).count.item()) for p in parts]
        assert sum(counts) == int(whole.make(key).count.item())
        assert {p.make(key).tokens_in_rows for p in parts} == {whole.make(key).tokens_in_rows}


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Ten times the rows take hardly more memory to write, to open and to read a batch of."""

    def peak(many: int) -> int:
        tracemalloc.start()
        try:
            kept = write_store(
                tmp_path / str(many),
                (Row(np.full(200, 7, np.int32), np.ones(200, bool)) for _ in range(many)),
            )
            Batches(kept, 4).make(0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1000), peak(10000)
    assert large - small < 9000 * 400  # plans and lengths, not the 800 bytes of tokens of each row


def test_refused_records_are_counted_with_their_reasons(tmp_path: Path) -> None:
    """The first hundred reasons are kept; the hash is of the rows alone."""
    good = list(make_rows([(0, 0, 9)]))
    a = write_store(tmp_path / "a", good)
    b = write_store(tmp_path / "b", [BadRow("x:1", "is odd"), *good])
    assert b.facts["refused"] == 1 and b.facts["reasons"] == [{"place": "x:1", "reason": "is odd"}]
    assert a.facts["hash"] == b.facts["hash"] and len(a) == len(b) == 1
    assert len(write_store(tmp_path / "c", [])) == 0
