"""What training takes is predicted, and settings are made to fit before it starts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlxrag.errors import WontFit
from mlxrag.settings import Answering, Training
from mlxrag.train import graph
from mlxrag.train.batches import write_store
from mlxrag.train.loop import Base, train
from mlxrag.train.plan import Load, Need, fit, loads, need, planned
from mlxrag.train.tokens import rows
from tests.toys import Letters, llama_toy

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
RECORDS = [{"prompt": "x" * 162, "completion": "y" * 14} for _ in range(8)]


def wide(bits: int = 0) -> nn.Module:
    return llama_toy(layers=4, vocab_size=2000, bits=bits, **SHAPE)


def said_and_measured(folder: Path, network: nn.Module, training: Training) -> tuple[int, int]:
    """The plan's peak, and that of a few real steps above what was held before, with the weights."""
    store = write_store(folder / "looked", rows(RECORDS, Letters(), training, Answering()))
    most = max((need(network, training, load) for load in loads(store, training, False)), key=lambda n: n.peak)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    steps = list(train(Base(network, Letters(), "toy"), RECORDS, training, folder))
    return most.peak, max(s.peak_bytes or 0 for s in steps) - before + most.weights


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"batch_size": 1, "num_layers": 2, "optimizer": "adafactor", "trunk_cache": True},
        {"grad_checkpoint": True, "fine_tune_type": "dora", "dropout": 0.1},
        {"fine_tune_type": "full", "batch_size": 2, "optimizer": "lion"},
        {"answer_head": False, "logits_chunk": 0, "grad_accumulation_steps": 2, "iters": 4},
        {"answer_head": False, "logits_chunk": 128, "grad_checkpoint": True, "optimizer": "sgd"},
    ],
    ids=str,
)
def test_the_prediction_is_near_the_measured_peak(tmp_path: Path, more: dict[str, Any]) -> None:
    """Not below 0.95 of it and not far above; a machine that is busy runs less far ahead, so the upper bound is wide."""
    training = Training(iters=2, batch_size=4, rank=4, learning_rate=1e-4, val_batches=0).model_copy(update=more)
    said, peak = said_and_measured(tmp_path, wide(), training)
    assert 0.95 < said / peak < 1.5


def test_looking_computes_nothing_and_leaves_the_network_as_it_was() -> None:
    """Not even the random numbers move."""
    network = wide(bits=4)
    mx.eval(network(mx.array([[1, 2, 3, 4]])))
    before = {name: id(w) for name, w in tree_flatten(network.parameters())}
    mx.random.seed(3)
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    need(network, Training(rank=4, dropout=0.1, grad_checkpoint=True), Load(4, 512))
    assert mx.get_peak_memory() - held < 10**6
    assert {name: id(w) for name, w in tree_flatten(network.parameters())} == before
    assert mx.random.uniform().item() == _first_of(3)


def _first_of(seed: int) -> Any:
    mx.random.seed(seed)
    return mx.random.uniform().item()


def test_what_takes_more_is_predicted_to_take_more() -> None:
    """Rows, tokens, rank, blocks, full logits and keeping activations."""
    network, least = wide(), Training(rank=2, num_layers=2, grad_checkpoint=True)
    low = need(network, least, Load(1, 128)).peak
    assert need(network, least, Load(2, 128)).peak > low
    assert need(network, least, Load(1, 256)).peak > low
    for more in (
        {"rank": 64},
        {"num_layers": 4},
        {"answer_head": False, "logits_chunk": 0},
        {"grad_checkpoint": False},
    ):
        assert need(network, least.model_copy(update=more), Load(1, 128)).peak > low


def test_settings_are_lowered_in_order_until_they_fit() -> None:
    """Batches first, layers last; the rows of an update stay the same."""

    def needed(t: Training) -> Need:
        rows = min(t.max_seq_length, 1000) * t.batch_size
        return Need(1000, t.num_layers, rows * (1 if t.grad_checkpoint else 4) + (t.logits_chunk or 9999))

    asked = Training(batch_size=4, rank=4, iters=100, max_seq_length=2048, num_layers=4)
    least = needed(asked.model_copy(update={"batch_size": 1, "grad_checkpoint": True, "logits_chunk": 128}))
    one, changed, taken = fit(needed, asked, least.peak, 1000, 4)
    assert changed == ["--batch-size 2 --grad-accumulation-steps 2", "--batch-size 1 --grad-accumulation-steps 4",
                       "--grad-checkpoint", "--logits-chunk 128"]  # fmt: skip
    assert (one.iters, one.batch_size * one.grad_accumulation_steps, taken) == (400, 4, least)
    assert fit(needed, asked, 10**12, 1000, 4)[:2] == (asked, [])
    short = needed(one.model_copy(update={"max_seq_length": 256}))
    few, changed, _ = fit(needed, asked, short.peak - 1, 1000, 4)
    assert few.num_layers == 2 and changed[-1] == "--num-layers 2"


def test_what_cannot_fit_says_what_is_needed_and_what_would_help() -> None:
    """Needed as asked, needed at the least, and what is free."""
    with pytest.raises(WontFit, match=r"needs \d\.\d\d GB as asked and .* 0\.00 GB are free; .*--q-bits 4"):
        fit(lambda _: Need(10**9, 0, 0), Training(rank=4), 1000, 100, 4)


def test_a_run_under_a_budget_takes_less_and_says_so(tmp_path: Path) -> None:
    """And goes on with what it chose, whatever is free later."""
    network, training = wide(), Training(iters=2, batch_size=4, rank=4, val_batches=0)
    records = [{"prompt": "x" * 300, "completion": "y" * 14} for _ in range(4)]
    two = training.model_copy(update={"batch_size": 2, "grad_accumulation_steps": 2})
    budget = need(network, two, Load(2, 330)).peak
    steps = list(train(Base(network, Letters(), "toy"), records, training, tmp_path, budget=budget))
    assert "it takes --batch-size 2 --grad-accumulation-steps 2" in steps[0].note and steps[-1].iteration == 4
    again = list(train(Base(network, Letters(), "toy"), records, training, tmp_path, budget=10**12))
    assert again[0].note.startswith("goes on after batch 4")


def test_rows_that_had_to_be_shortened_are_short_in_the_run(tmp_path: Path) -> None:
    """What the plan counts on is what is run."""
    network = wide()
    training = Training(iters=1, batch_size=1, rank=4, grad_checkpoint=True, logits_chunk=128, val_batches=0)
    records = [{"prompt": "x" * 600, "completion": "y" * 14} for _ in range(2)]
    budget = need(network, training, Load(1, 400)).peak
    steps = list(train(Base(network, Letters(), "toy"), records, training, tmp_path, budget=budget))
    assert "--max-seq-length" in steps[0].note and "lost their beginning" in steps[0].note


def test_operations_that_cannot_be_told_leave_the_settings_and_take_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction that cannot be made does not keep anyone from training."""

    def untold(*_: object) -> None:
        raise ValueError("[export_function] Unable to serialize primitive New")

    monkeypatch.setattr(graph.mx, "export_function", untold)
    network, training = wide(), Training(iters=1)
    store = write_store(tmp_path / "tokens", rows(RECORDS, Letters(), training, Answering()))
    weights = sum(w.nbytes for _, w in tree_flatten(network.parameters()))
    assert planned(network, training, tmp_path, store, weights + 777) == (training, [], 777)
