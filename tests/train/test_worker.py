"""A child process trains; when it runs out of memory the next one goes on a notch lower."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxrag.errors import BadInput, MlxragError, NotFound, WontFit
from mlxrag.model.attach import attach
from mlxrag.model.load import load
from mlxrag.settings import Answering, ModelSettings, Training
from mlxrag.train.job import Job, finish_job, make_job
from mlxrag.train.plan import notch
from mlxrag.train.step import read_steps
from mlxrag.train.worker import supervise
from mlxrag.workspace import lineage, open_workspace, resolve
from tests.toys import write_model

# A child that plays a machine: it dies like one that ran out of memory until the batch is small enough.
CHILD = """
import json, os, signal, sys
from mlxrag.train import worker
said = json.loads(open(sys.argv[1]).read())
if said["training"]["batch_size"] > {fits}:
    after = {after}
    count = 0
    for step in worker.run_job(worker.Job(**said), worker.Path(sys.argv[2])):
        print(json.dumps({{"step": worker.asdict(step)}}), flush=True)
        count += step.train_loss is not None
        if count >= after:
            os.kill(os.getpid(), signal.{signal})
sys.exit(worker.main(sys.argv[1], sys.argv[2]))
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ws = open_workspace(tmp_path / "ws")
    model = write_model(tmp_path / "toy")
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) for i in range(20)]
    (data / "train.jsonl").write_text("\n".join(rows))
    (data / "valid.jsonl").write_text("\n".join(rows[:4]))
    training = Training(iters=8, batch_size=4, rank=2, save_every=2, steps_per_eval=4, learning_rate=1e-2, epochs=0)
    return make_job(ws, str(model), str(data), "a", training, Answering(), ModelSettings())


def child(tmp_path: Path, fits: int, after: int = 3, kind: signal.Signals = signal.SIGABRT) -> list[str]:
    program = tmp_path / "child.py"
    program.write_text(CHILD.format(fits=fits, after=after, signal=kind.name))
    return [sys.executable, str(program)]


def test_a_job_becomes_an_artefact_with_lineage_and_scores(tmp_path: Path, job: Job) -> None:
    """What the child wrote is a version of the workspace that loads on its base; the job's folder is gone."""
    steps = list(supervise(job))
    made = finish_job(job)
    assert made.ref == "adapters/a@v1" and not job.folder.exists()
    assert made.manifest["scores"]["base"]["valid_loss"] > made.manifest["scores"]["best"]["valid_loss"]
    assert made.manifest["base"]["name"] == "toy" and made.manifest["settings"]["rank"] == 2
    assert (made.path / "report.html").read_text().count("<svg") == 1
    assert [s.train_loss for s in steps if s.train_loss] == [
        s.train_loss for s in read_steps(made.path / "steps.jsonl") if s.train_loss
    ]
    ws = open_workspace(job.workspace)
    with load(job.model, ws) as model:
        attach(model.network, resolve(ws, "adapters", "a").path)
        assert model.adapter == "a@v1"
    assert lineage(ws, made) == []


@pytest.mark.parametrize("kind", [signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
def test_out_of_memory_goes_on_from_the_last_state_a_notch_lower(
    tmp_path: Path, job: Job, kind: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the batch, twice the accumulation, twice the batches: the rows seen are the same, and it says so."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1 << 40, -1))  # under a limit a crash is the lack of memory
    steps = list(supervise(job, child(tmp_path, fits=2, kind=kind)))
    notes = [s.note for s in steps if s.note]
    assert notes[0] == "ran out of memory; goes on from the last state with --batch-size 2 --grad-accumulation-steps 2"
    assert notes[1] == "goes on after batch 4"
    last = [s for s in steps if s.train_loss is not None][-1]
    assert (last.iteration, last.iterations) == (16, 16)
    assert finish_job(job).manifest["scores"]["iterations"] == 16
    assert os.environ.get("MLXRAG_WORKSPACE") is None


def test_when_nothing_fits_it_says_what_would(tmp_path: Path, job: Job) -> None:
    """The ladder ends: smaller batches, recomputing, smaller chunks, shorter rows."""
    always = tmp_path / "die.py"
    always.write_text("import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    notes = []
    with pytest.raises(WontFit, match="fewer --num-layers"):
        for step in supervise(job, [sys.executable, str(always)]):
            notes.append(step.note.rpartition(" with ")[2])
    assert notes == [
        "--batch-size 2 --grad-accumulation-steps 2", "--batch-size 1 --grad-accumulation-steps 4", "--grad-checkpoint",
        "--logits-chunk 128", "--max-seq-length 1024", "--max-seq-length 512", "--max-seq-length 256",
    ]  # fmt: skip


def test_an_error_of_the_child_is_the_parents_error(tmp_path: Path, job: Job) -> None:
    """The same sentence and class; a crash names the log."""
    bad = Job(**{**{k: getattr(job, k) for k in Job.__slots__}, "training": {**job.training, "lora_keys": ["nope"]}})
    with pytest.raises(BadInput, match="--lora-keys nope"):
        list(supervise(bad))
    crash = tmp_path / "crash.py"
    crash.write_text("raise SystemExit(77)")
    with pytest.raises(MlxragError, match=r"ended with code 77.*worker\.log"):
        list(supervise(job, [sys.executable, str(crash)]))


def test_a_job_needs_its_model_and_its_data(tmp_path: Path, job: Job) -> None:
    """Both are looked up before anything starts."""
    ws = open_workspace(job.workspace)
    more: Any = ("a", Training(), Answering(), ModelSettings())
    with pytest.raises(NotFound, match="no model"):
        make_job(ws, "nothing", job.data, *more)
    with pytest.raises(NotFound, match="no dataset 'nothing'"):
        make_job(ws, job.model, "nothing", *more)


def test_a_notch_keeps_the_rows_of_an_update() -> None:
    """An odd batch goes to one row at once; the rows of a validation stay as many."""
    less = notch(Training(batch_size=3, iters=10, val_batches=5))
    assert less is not None and less[1] == 3
    assert (less[0].batch_size, less[0].grad_accumulation_steps, less[0].iters, less[0].val_batches) == (1, 3, 30, 15)
