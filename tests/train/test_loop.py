"""The loop learns, keeps the best, goes on after a kill in the same bits, and leaves an adapter mlx_lm opens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxrag.data.example import example
from mlxrag.errors import BadInput, Mismatch
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import adapter_layers, attach, resident
from mlxrag.rag.document import Passage
from mlxrag.settings import Answering, Training
from mlxrag.train.batches import Batches, open_store
from mlxrag.train.loop import Base, Step, train
from mlxrag.train.tokens import Record, rows
from tests.toys import Letters, fresh_load, llama_toy, qwen_toy

VOCABULARY = 128


def texts(many: int = 24, seed: int = 0) -> list[Record]:
    """Chats with something to learn: the answer repeats the question's first letters."""
    rng = np.random.default_rng(seed)
    words = ["".join(chr(c) for c in rng.integers(97, 117, int(rng.integers(4, 12)))) for _ in range(many)]
    return [{"prompt": w, "completion": w[:3]} for w in words]


def base(seed: int = 0, **more: Any) -> Base:
    return Base(llama_toy(seed, vocab_size=VOCABULARY, **more), Letters(), "toy")


def settings(**more: Any) -> Training:
    given: dict[str, Any] = {
        "iters": 12, "batch_size": 4, "rank": 4, "learning_rate": 1e-2, "steps_per_eval": 4, "save_every": 4,
        "max_seq_length": 64, "dropout": 0.1,
    }  # fmt: skip
    return Training(**(given | more))


def run(folder: Path, training: Training, on: Base | None = None, **more: Any) -> list[Step]:
    return list(train(on or base(), texts(), training, folder, **more))


def losses(steps: Sequence[Step]) -> list[float]:
    return [s.train_loss for s in steps if s.train_loss is not None]


def valid(steps: Sequence[Step]) -> list[float]:
    return [s.valid_loss for s in steps if s.valid_loss is not None]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"fine_tune_type": "dora"},
        {"fine_tune_type": "full", "learning_rate": 3e-3},
        {"num_layers": 1, "trunk_cache": True, "dropout": 0.0},
        {"grad_checkpoint": True, "logits_chunk": 4},
        {"optimizer": "adafactor"},
        {"optimizer": "lion", "learning_rate": 1e-3},
        {"optimizer": "muon"},
        {"optimizer": "sgd", "learning_rate": 0.3},
        {"lr_schedule": "restarts", "warmup": 2},
        {"lr_schedule": "linear", "grad_accumulation_steps": 3},
        {"lr_schedule": "constant", "warmup": 3, "qat": 4},
    ],
    ids=lambda more: "-".join(f"{k}={v}" for k, v in more.items()) or "lora",
)
def test_every_kind_of_training_lowers_the_loss_and_gives_the_base_back(tmp_path: Path, more: dict[str, Any]) -> None:
    """Kinds, optimizers, schedules and switches: better on what was not seen, an adapter that mlx_lm loads, the base as it was."""
    on = base()
    words = mx.array([[5, 9, 70, 31]])
    before = on.network(words)
    steps = run(tmp_path, settings(iters=30, steps_per_eval=15, **more), on, valid=texts(8, 1))
    assert valid(steps)[-1] < 0.9 * valid(steps)[0]
    assert mx.array_equal(on.network(words), before).item()
    assert not tree_flatten(on.network.trainable_parameters())
    attach(on.network, tmp_path / "adapter")
    adapted = on.network(words)
    assert not mx.array_equal(adapted, before).item()
    theirs = fresh_load(llama_toy(vocab_size=VOCABULARY), tmp_path / "adapter")
    assert mx.array_equal(theirs(words), adapted).item()


def test_the_first_losses_are_those_of_mlx_lms_own_loss_and_batches(tmp_path: Path) -> None:
    """Same rows, same weights, same updates: the loss curve of mlx_lm's step for the same batches."""
    training = settings(iters=5, clip=0.0, lr_schedule="constant", dropout=0.0, optimizer="adam")
    ours = losses(run(tmp_path, training))
    adapter_layers()
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers

    network = llama_toy(vocab_size=VOCABULARY)
    network.freeze()
    mx.random.seed(training.train_seed)
    linear_to_lora_layers(network, -1, {"rank": 4, "scale": training.scale, "dropout": 0.0})
    facts = json.loads((tmp_path / "tokens" / "train" / "facts.json").read_text())
    batches = Batches(open_store(tmp_path / "tokens" / "train", facts), 4)
    assert len(list(rows(texts(), Letters(), training, Answering()))) == len(batches.store)
    optimizer = optim.Adam(training.learning_rate)
    theirs = []
    for i in range(5):
        batch = batches.at(i)
        learn = np.array(batch.learn)
        spans = mx.array([[int(np.flatnonzero(r)[0]) + 1, int(np.flatnonzero(r)[-1]) + 1] for r in learn])
        (loss, _), gradients = nn.value_and_grad(network, default_loss)(network, batch.tokens, spans)
        optimizer.update(network, gradients)
        theirs.append(loss.item())
    assert np.allclose(ours, theirs, atol=2e-5)


def test_the_adapter_says_what_it_belongs_to(tmp_path: Path) -> None:
    """Base, fingerprint, settings; another base is refused by it."""
    on = base()
    run(tmp_path, settings(iters=2), on)
    adapter = read_adapter(tmp_path / "adapter")
    assert (adapter.kind, adapter.rank, adapter.scale) == ("lora", 4, 2.0)
    assert adapter.base == resident(on.network).base and adapter.base_name == "toy"
    with pytest.raises(Mismatch, match="trained on toy"):
        attach(base(seed=1).network, adapter)


def test_accumulated_batches_are_one_batch_of_all_their_rows(tmp_path: Path) -> None:
    """Weighted by tokens, so two batches of two give the update of one of four."""
    records = texts(4)
    more = {"iters": 2, "dropout": 0.0, "lr_schedule": "constant", "optimizer": "sgd", "save_every": 1}
    list(train(base(), records, settings(batch_size=4, **(more | {"iters": 1})), tmp_path / "a"))
    list(train(base(), records, settings(batch_size=2, grad_accumulation_steps=2, **more), tmp_path / "b"))
    a, b = (read_adapter(tmp_path / n / "adapter").weights for n in "ab")
    assert all(mx.abs(a[k] - b[k]).max().item() < 1e-6 for k in a)
    assert any(mx.abs(a[k]).max().item() > 0 for k in a if k.endswith("lora_b"))


def test_shared_passages_change_neither_the_curve_nor_the_adapter(tmp_path: Path) -> None:
    """The switch changes the time only; examples over the same passages, several questions each."""

    def passages(n: int) -> tuple[Passage, ...]:
        text = f"Passage {n} tells of {'abcdefgh'[n]} and " + "nothing else at all " * (1 + 2 * n)
        return (Passage(f"p{n}", f"d{n}", "d", f"T{n}", "", 0, len(text), text),)

    asked = ("a", "b", "c", "d")
    records = [example(f"What {q}?", (f"of {'efgh'[n]}",), passages(n), "t") for n in range(3) for q in asked]
    one = settings(iters=6, max_seq_length=600, dropout=0.0, learning_rate=1e-3)
    on = Base(qwen_toy(vocabulary=VOCABULARY), Letters(), "toy")
    switches = {"shared": {}, "plain": {"shared_context": False, "answer_head": False, "logits_chunk": 0}}
    got = {n: list(train(on, records, one.model_copy(update=m), tmp_path / n)) for n, m in switches.items()}
    assert np.allclose(losses(got["shared"]), losses(got["plain"]), atol=1e-4)
    weights = {n: read_adapter(tmp_path / n / "adapter").weights for n in switches}
    assert all(mx.abs(weights["shared"][k] - w).max().item() < 1e-3 for k, w in weights["plain"].items())


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    """A measure that is best in the middle decides; patience stops the run, and the notes say when it was best."""
    scores = iter([0.0, 0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    seen: list[dict[str, mx.array]] = []
    on = base()

    def measures() -> dict[str, float]:
        seen.append({k: mx.array(v) for k, v in tree_flatten(on.network.trainable_parameters())})
        return {"exact_match": next(scores)}

    training = settings(iters=24, best_by="exact_match", patience=2, val_questions=4)
    steps = run(tmp_path, training, on, valid=texts(8, 1), measures=measures)
    assert [s.iteration for s in steps if s.best] == [4, 8]
    assert steps[-1].note == "stops early: no better one in 2 validations since batch 8"
    kept = read_adapter(tmp_path / "adapter").weights
    assert all(mx.array_equal(kept[k], seen[2][k]).item() for k in kept)


@pytest.mark.slow
def test_the_compiled_step_has_the_losses_of_the_plain_one(tmp_path: Path) -> None:
    """Dropout, accumulation and several shapes included."""
    more = {"iters": 6, "grad_accumulation_steps": 2, "lr_schedule": "constant"}
    plain = losses(run(tmp_path / "a", settings(**more), compiled=False))
    assert np.allclose(plain, losses(run(tmp_path / "b", settings(**more), compiled=True)), atol=1e-4)


def test_validation_does_not_change_the_training(tmp_path: Path) -> None:
    """With dropout, a run that validates and one that does not have the same losses."""
    a = losses(run(tmp_path / "a", settings(), valid=texts(8, 1)))
    b = losses(run(tmp_path / "b", settings(steps_per_eval=100)))
    assert a == b and len(a) == 12


def test_checkpoints_are_bounded_and_training_data_must_hold_something(tmp_path: Path) -> None:
    """Two states are kept; records that cannot be used are told."""
    run(tmp_path / "a", settings(save_every=2, keep_checkpoints=2))
    assert [p.name for p in sorted((tmp_path / "a" / "states").iterdir())] == ["0000010", "0000012"]
    with pytest.raises(BadInput, match="nothing to learn in the training data: record:1: has none of messages"):
        list(train(base(), [{"x": 1}], settings(), tmp_path / "b"))
    with pytest.raises(BadInput, match=r"no layer of the model is called so; did you mean 'self_attn\.q_proj'"):
        run(tmp_path / "c", settings(lora_keys=("self_attn.q_prj",)))
    with pytest.raises(BadInput, match="needs a model that is not quantized"):
        run(tmp_path / "d", settings(fine_tune_type="full"), base(bits=4))
    with pytest.raises(BadInput, match="lower --learning-rate"):
        run(tmp_path / "e", settings(fine_tune_type="full", optimizer="sgd", learning_rate=1e30, clip=0.0, iters=30))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_training_begins_with_the_weights_of_an_adapter(tmp_path: Path, kind: str) -> None:
    """By directory or file, as mlx_lm.lora does; other ranks, layers and bases are refused."""
    first = run(tmp_path / "a", settings(fine_tune_type=kind, dropout=0.0), valid=texts(8, 1))
    for number, begun in enumerate((tmp_path / "a" / "adapter", tmp_path / "a" / "adapter" / "adapters.safetensors")):
        given = settings(iters=1, fine_tune_type=kind, dropout=0.0, resume_adapter_file=str(begun))
        steps = run(tmp_path / f"b{number}", given, valid=texts(8, 1))
        assert valid(steps)[0] == pytest.approx(min(valid(first)), abs=1e-6)
    for more in ({"rank": 2}, {"num_layers": 1}):
        with pytest.raises(Mismatch, match="train with its own --fine-tune-type, --rank"):
            run(tmp_path / "c", given.model_copy(update=more))
    with pytest.raises(Mismatch, match="was trained on toy"):
        run(
            tmp_path / "d",
            given.model_copy(update={"resume_adapter_file": str(tmp_path / "a" / "adapter")}),
            base(seed=1),
        )


def test_another_run_does_not_go_on_from_these_states(tmp_path: Path) -> None:
    """Settings, data and base are part of what a state belongs to."""
    run(tmp_path, settings(iters=4))
    with pytest.raises(Mismatch, match="states of a run with other settings"):
        run(tmp_path, settings(iters=4, learning_rate=1e-3))


PROGRAM = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.train.test_loop import base, settings, texts, train
folder, kill = Path(sys.argv[1]), int(sys.argv[2])
for step in train(base(), texts(), settings(**{more!r}), folder, valid=texts(8, 1)):
    if step.iteration == kill and step.train_loss is not None:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("kill", "more"),
    [(3, {}), (9, {"optimizer": "muon", "grad_accumulation_steps": 2})],
    ids=["adamw", "muon, accumulated"],
)
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path: Path, kill: int, more: dict[str, Any]) -> None:
    """SIGKILL between states; the curve and the adapter of the run that went on equal the uninterrupted one's."""
    root = str(Path(__file__).parent.parent.parent)

    def go(folder: Path, kill: int) -> int:
        program = PROGRAM.format(root=root, more=more)
        environment = {**os.environ, "MKL_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-c", program, str(folder), str(kill)], check=False, env=environment
        ).returncode

    assert go(tmp_path / "whole", 0) == 0
    assert go(tmp_path / "killed", kill) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    assert go(tmp_path / "killed", 0) == 0
    curves = []
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        curves.append([(s["iteration"], s["train_loss"], s["valid_loss"], s["learning_rate"]) for s in lines])
    assert curves[0] == curves[1] and len(curves[0]) == 12 + 4
    a, b = ((tmp_path / n / "adapter" / "adapters.safetensors").read_bytes() for n in ("whole", "killed"))
    assert a == b
