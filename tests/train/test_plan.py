"""What training takes is predicted, and settings are made to fit before it starts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxrag.errors import WontFit
from mlxrag.settings import Training
from mlxrag.train.loop import Base, train
from mlxrag.train.plan import Sizes, fit, need, sizes
from tests.toys import Letters, llama_toy

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 384,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2000, "tie_word_embeddings": True,
}  # fmt: skip


def wide() -> Any:
    more = {k: v for k, v in CONFIG.items() if k not in ("model_type", "num_hidden_layers", "tie_word_embeddings")}
    return llama_toy(layers=4, **more)


def measured(tmp_path: Path, training: Training, length: int) -> tuple[int, Sizes]:
    """Peak of a few real steps above what was held before, with the weights."""
    network = wide()
    base = Base(network, Letters(), "toy", CONFIG)
    records = [{"prompt": "x" * (length - 30), "completion": "y" * 14} for _ in range(8)]
    found = sizes(network, CONFIG, training, length)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    steps = list(train(base, records, training, tmp_path))
    peak = max(s.peak_bytes or 0 for s in steps)
    return peak - before + found.weights, found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"batch_size": 1, "num_layers": 2},
        {"grad_checkpoint": True},
        {"fine_tune_type": "full", "batch_size": 2},
        {"answer_head": False, "logits_chunk": 0},
    ],
    ids=str,
)
def test_the_prediction_is_near_the_measured_peak(tmp_path: Path, more: dict[str, Any]) -> None:
    """Not below nine tenths of it, and not above twice."""
    training = Training(iters=2, batch_size=4, rank=4, learning_rate=1e-4).model_copy(update=more)
    peak, found = measured(tmp_path, training, 192)
    assert 0.9 < need(found, training).peak / peak < 2.0


def test_settings_are_lowered_in_order_until_they_fit() -> None:
    """Batches first, layers last; the rows of an update stay the same."""
    found = sizes(wide(), CONFIG, Training(rank=4), 1000)
    asked = Training(batch_size=4, rank=4, iters=100, max_seq_length=2048)
    least = need(found, asked.model_copy(update={"batch_size": 1, "grad_checkpoint": True, "logits_chunk": 128})).peak
    one, changed = fit(found, asked, least)
    assert changed == ["--batch-size 2 --grad-accumulation-steps 2", "--batch-size 1 --grad-accumulation-steps 4",
                       "--grad-checkpoint", "--logits-chunk 128"]  # fmt: skip
    assert (one.iters, one.batch_size * one.grad_accumulation_steps) == (400, 4)
    assert fit(found, asked, 10**12) == (asked, [])
    few, changed = fit(found, asked, need(found, one.model_copy(update={"max_seq_length": 256})).peak - 1)
    assert few.num_layers in (1, 2) and changed[-1].startswith("--num-layers")


def test_what_cannot_fit_says_what_is_needed_and_what_would_help() -> None:
    """Needed as asked, needed at the least, and what is free."""
    found = sizes(wide(), CONFIG, Training(rank=4), 1000)
    with pytest.raises(WontFit, match=r"needs \d\.\d\d GB as asked and .* 0\.00 GB are free; .*--q-bits 4"):
        fit(found, Training(rank=4), 1000)


def test_a_run_under_a_budget_takes_less_and_says_so(tmp_path: Path) -> None:
    """And goes on with what it chose, whatever is free later."""
    network = wide()
    base = Base(network, Letters(), "toy", CONFIG)
    records = [{"prompt": "x" * 300, "completion": "y" * 14} for _ in range(4)]
    training = Training(iters=2, batch_size=4, rank=4)
    budget = need(sizes(network, CONFIG, training, 341), training).peak * 6 // 10
    steps = list(train(base, records, training, tmp_path, budget=budget))
    assert "it takes --batch-size 2 --grad-accumulation-steps 2" in steps[0].note and steps[-1].iteration == 4
    again = list(train(base, records, training, tmp_path, budget=10**12))
    assert again[0].note.startswith("goes on after batch 4")
