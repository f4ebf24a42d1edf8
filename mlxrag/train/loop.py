"""Data + base -> Steps, and an adapter: the training loop, as a generator.

Strategy: batch `i` of a run, and everything that is drawn at random in it, depends on the settings and on `i` alone;
a state holds weights, optimizer and random numbers as they were after some batch.  So a run that was killed goes on
from its last state and ends in the same bits.  The loop draws nothing and decides nothing about the machine's memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput
from mlxrag.memory import ledger
from mlxrag.model.attach import random_key, resident
from mlxrag.settings import Answering, Training
from mlxrag.train.batches import Batches, Store, write_store
from mlxrag.train.layers import trainable, weights_of, write_adapter
from mlxrag.train.loss import How, batch_loss
from mlxrag.train.optimize import make_optimizer
from mlxrag.train.parts import first_trained, sound
from mlxrag.train.plan import planned
from mlxrag.train.processes import together
from mlxrag.train.shared import can_share
from mlxrag.train.state import Progress, load_state, newest_state, save_state
from mlxrag.train.step import Step, log, rewind
from mlxrag.train.tokens import Encodes, Record, rows
from mlxrag.train.update import arrays_of, make_update

Measures = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Base:
    """What is trained on.

    Attributes:
        network: the base.
        tokenizer: its tokenizer.
        name: how records call it.
    """

    network: nn.Module
    tokenizer: Encodes
    name: str = ""


def train(
    base: Base,
    records: Sequence[Record],
    training: Training,
    folder: Path,
    *,
    valid: Sequence[Record] = (),
    answering: Answering | None = None,
    measures: Measures | None = None,
    budget: int | None = None,
    compiled: bool | None = None,
) -> Iterator[Step]:
    """Train an adapter and leave it in `folder/adapter`, with the best weights by what `best_by` says.

    Run again with the same arguments after a crash, it goes on from its last state.  Closing the generator keeps the
    states, takes the adapter layers off and leaves the network as it was.

    Args:
        base: network and tokenizer; in processes started by `mlx.launch`, each gets its share of every batch.
        records: what to learn, streamed.
        training: the settings.
        folder: where tokens, states, `steps.jsonl` and the adapter go; made if it is not there.
        valid: what to validate on.
        answering: the instruction in the prompts.
        measures: answers the validation questions with the network as it is, and scores them; for `best_by`.
        budget: bytes that base and training may take together; smaller settings are taken where it needs more.
        compiled: compile the step; unless given, on a GPU only.  On a CPU it gains little (0.99 to 1.11 times) and
            the first run on a machine waits for a C++ compiler.

    Yields:
        a Step for every batch and every validation.

    Raises:
        BadInput: nothing to learn in the records, a setting that this base does not take, or a loss that is no number.
        Mismatch: the folder holds the states of another run.
        WontFit: not even the smallest settings fit the budget.
    """
    group = mx.distributed.init()
    answering = answering or Answering()
    folder.mkdir(parents=True, exist_ok=True)
    name = "tokens" if group.size() == 1 else f"tokens-{group.rank()}"
    store = write_store(folder / name / "train", rows(records, base.tokenizer, training, answering))
    if not len(store):
        raise BadInput(f"there is nothing to learn in the training data: {reasons(store)}")
    checked = write_store(folder / name / "valid", rows(valid, base.tokenizer, training, answering))
    changed: list[str] = []
    with ExitStack() as stack:
        if budget is not None:
            longest = training.max_seq_length
            training, changed, step_bytes = planned(base.network, training, folder / name, store, budget)
            stack.enter_context(ledger().reserve("training", "training", step_bytes))
            if training.max_seq_length < longest:
                store = write_store(folder / name / "short", rows(records, base.tokenizer, training, answering))
        fingerprint = resident(base.network, base.name).base
        keys = stack.enter_context(trainable(base.network, training))
        run = _Run(base, training, folder, store, checked, group, keys, fingerprint, measures)
        run.compiled = mx.default_device() == mx.Device(mx.gpu) if compiled is None else compiled
        if changed:
            run.notes.insert(0, f"to fit into {budget or 0:,} bytes of memory it takes {' '.join(changed)}")
        yield from run.steps()


def reasons(store: Store) -> str:
    """Return the first reasons why records were refused, in one line."""
    found = store.facts["reasons"]
    assert isinstance(found, list)
    return "; ".join(f"{r['place']}: {r['reason']}" for r in found[:3]) or "there are no records"


def number(value: mx.array) -> float:
    """Return a scalar as a Python float."""
    found: Any = value.item()
    return float(found)


class _Run:
    """The state of one run: everything the generator needs between two yields."""

    def __init__(
        self,
        base: Base,
        training: Training,
        folder: Path,
        store: Store,
        valid: Store,
        group: Any,
        keys: tuple[str, ...],
        fingerprint: str,
        measures: Measures | None,
    ) -> None:
        self.base, self.network, self.training, self.folder = base, base.network, training, folder
        self.keys, self.measures, self.group = keys, measures, group
        self.fact = {"name": base.name, "fingerprint": fingerprint}
        self.first = group.rank() == 0
        self.compiled = False
        apart = sound(self.network)
        sharing = training.shared_context and apart and can_share(self.network)
        rank, world = group.rank(), group.size()
        self.batches = Batches(
            store, training.batch_size * world, shared=sharing, seed=training.train_seed, rank=rank, world=world
        )
        self.valid = Batches(valid, training.batch_size * world, shared=sharing, seed=None, rank=rank, world=world)
        self.iterations = training.iters
        if training.epochs:
            self.iterations = max(1, round(training.epochs * len(self.batches)))
        self.updates = -(-self.iterations // training.grad_accumulation_steps)
        self.optimizer = make_optimizer(training, self.updates)
        self.optimizer.init(self.network.trainable_parameters())
        start = first_trained(self.network) if training.trunk_cache and apart else 0
        self.how = How(training.answer_head, training.logits_chunk, training.grad_checkpoint, start, not apart)
        self.notes = self._notes(store, apart, sharing, start)
        facts = json.dumps([training.model_dump(), store.facts["hash"], valid.facts["hash"], fingerprint, world])
        self.signature = hashlib.sha256(facts.encode()).hexdigest()[:16]
        self.progress = Progress(random=random_key())

    def steps(self) -> Iterator[Step]:
        """Train, yielding as it goes."""
        state = newest_state(self.folder, self.signature)
        if state is not None:
            self.progress = load_state(state, self.network, self.optimizer)
        together()  # nobody writes a state while another still looks for the newest
        if self.first:
            rewind(self.folder, self.progress.iteration)
        mx.reset_peak_memory()
        note = "; ".join(self.notes)
        if state is not None:
            note = f"goes on after batch {self.progress.iteration}" + (f"; {note}" if note else "")
        if note:
            yield Step(self.progress.iteration, self.iterations, note=note)
        if state is None:
            yield from self._validate(0)
            self._save()
        run = make_update(self.network, self.optimizer, self.how, self.training.clip, self.group, self.compiled)
        trunks = self.folder / f"trunk-{self.group.rank()}"
        gradients: Any = None
        counted: Any = None
        t = self.training
        while self.progress.iteration < self.iterations:
            if t.patience and self.progress.waited >= t.patience:
                best = self.progress.best_iteration
                yield Step(
                    self.progress.iteration, self.iterations,
                    note=f"stops early: no better one in {t.patience} validations since batch {best}",
                )  # fmt: skip
                break
            began = time.perf_counter()
            iteration = self.progress.iteration + 1
            batch = self.batches.at(iteration - 1)
            update = iteration % t.grad_accumulation_steps == 0 or iteration == self.iterations
            total, count, gradients, counted = run(
                arrays_of(batch, self.network, self.how.start, trunks), gradients, counted, update
            )
            mx.eval(self.network.state, self.optimizer.state, mx.random.state, total, count, gradients, counted)
            loss = number(total) / max(1.0, number(count))
            if not abs(loss) < float("inf"):
                raise BadInput(
                    f"the loss is {loss} at batch {iteration}: the training went astray; lower --learning-rate "
                    f"({t.learning_rate}) or set --clip"
                )
            seconds = time.perf_counter() - began
            self.progress = replace(
                self.progress,
                iteration=iteration,
                tokens=self.progress.tokens + batch.tokens_in_rows,
                seconds=self.progress.seconds + seconds,
            )
            rate = number(self.optimizer.learning_rate)
            yield self._log(
                Step(
                    iteration, self.iterations, loss, None, None, batch.tokens_in_rows / seconds,
                    mx.get_peak_memory(), rate,
                )
            )  # fmt: skip
            if iteration % t.steps_per_eval == 0 or iteration == self.iterations:
                yield from self._validate(iteration)
            # Gradients that wait for an update are not kept in a state, so states fall on updates.
            saving = -(-t.save_every // t.grad_accumulation_steps) * t.grad_accumulation_steps
            if iteration % saving == 0 or iteration == self.iterations:
                self._save()
        self._finish()
        alone, trained = self.progress.base, self.progress.best
        if alone is not None and trained is not None and trained >= alone:
            yield Step(
                self.progress.iteration, self.iterations,
                note=f"by {t.best_by} on the validation data no adapter was better than the base alone",
            )  # fmt: skip

    def _validate(self, iteration: int) -> Iterator[Step]:
        """Loss and measures on the validation data; keeps the weights if they are the best."""
        t = self.training
        if not len(self.valid) or not t.val_batches:
            if iteration:
                self._keep_best(iteration, None)
            return
        key = random_key()
        self.network.eval()
        try:
            loss = self._valid_loss()
            scored = dict(self.measures()) if self.measures is not None else None
        finally:
            self.network.train()
            mx.random.seed(key)
        value: float | None = loss
        if t.best_by != "loss":
            if scored is None or t.best_by not in scored:
                raise BadInput(f"--best-by {t.best_by} needs answers to score: set --val-questions")
            value = -scored[t.best_by]
        if iteration == 0:
            self.progress = replace(self.progress, base=value)
        best = iteration > 0 and self._keep_best(iteration, value)
        yield self._log(Step(iteration, self.iterations, None, loss, scored, None, mx.get_peak_memory(), None, best))

    def _valid_loss(self) -> float:
        many = len(self.valid)
        wanted = many if self.training.val_batches < 0 else min(many, self.training.val_batches)
        keys = [i * many // wanted for i in range(wanted)]
        total, count = mx.array(0.0), mx.array(0.0)
        how = replace(self.how, start=0, again=False)
        for key in keys:
            a, b = batch_loss(self.network, how, self.valid.make(key))
            total, count = total + a, count + b
            mx.eval(total, count)
        if self.group.size() > 1:
            total = mx.distributed.all_sum(total, group=self.group)
            count = mx.distributed.all_sum(count, group=self.group)
        return number(total) / max(1.0, number(count))

    def _keep_best(self, iteration: int, value: float | None) -> bool:
        """Keep these weights if they are the best so far; without a value the newest are."""
        best = value is None or self.progress.best is None or value < self.progress.best
        if best:
            self.progress = replace(self.progress, best=value, best_iteration=iteration, waited=0)
            if self.first:
                write_adapter(self.folder / "best", weights_of(self.network), self.training, self.keys, self.fact)
        else:
            self.progress = replace(self.progress, waited=self.progress.waited + 1)
        return best

    def _log(self, step: Step) -> Step:
        if self.first:
            log(self.folder, step)
        return step

    def _save(self) -> None:
        if self.first:
            keep = self.training.keep_checkpoints
            save_state(self.folder, self.signature, self.progress, self.network, self.optimizer, keep)

    def _finish(self) -> None:
        """Leave the best weights as the adapter."""
        if not self.first:
            return
        target = self.folder / "adapter"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / "best", target)

    def _notes(self, store: Store, apart: bool, sharing: bool, start: int) -> list[str]:
        """What the person should know before it starts."""
        facts, notes, t = store.facts, [], self.training
        if facts["refused"]:
            notes.append(f"{facts['refused']} records are left out ({reasons(store)})")
        if facts["cut"]:
            notes.append(f"{facts['cut']} rows were longer than {t.max_seq_length} tokens and lost their beginning")
        if not apart:
            notes.append("this architecture is run as a whole: no shared passages, no answer-only head, no recomputing")
        elif t.shared_context and not sharing:
            notes.append("this architecture keeps more than keys and values: passages are run for every question")
        if t.trunk_cache and not start:
            notes.append("nothing below the trained layers is frozen, so there is no trunk to keep")
        return notes
