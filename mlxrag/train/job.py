"""One training job from words to an artefact: which base, which data, which settings, under which name.

A job is plain JSON, so that a child process can do it (`worker.py`).  Its folder is a function of what it says: the
same command finds its own states again after a crash and goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxrag.data.dataset import open_dataset
from mlxrag.errors import BadInput
from mlxrag.machine import parse_size
from mlxrag.memory import ledger
from mlxrag.model.adapter import find_adapter
from mlxrag.model.load import Model, load, locate
from mlxrag.settings import Answering, Memory, ModelSettings, Training
from mlxrag.train.loop import Base, train
from mlxrag.train.processes import share_of
from mlxrag.train.report import write_report
from mlxrag.train.step import STEPS, Step, read_steps
from mlxrag.train.tokens import Record, read_records
from mlxrag.train.validate import answer_measures
from mlxrag.workspace import Artefact, Workspace, create, open_workspace


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, in words.

    Attributes:
        workspace: directory of the workspace.
        model: the base: a directory, `name[@version]`, hub id or `reader`.
        data: a dataset, a .jsonl file, or a directory with train.jsonl and valid.jsonl.
        name: what to call the adapter.
        training: settings of the table `training`.
        answering: settings of the table `answering`.
        loading: settings of the table `model`.
        memory: settings of the table `memory`.
    """

    workspace: str
    model: str
    data: str
    name: str
    training: Mapping[str, Any]
    answering: Mapping[str, Any]
    loading: Mapping[str, Any]
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its tokens, states and steps are."""
        facts = json.dumps(asdict(self), sort_keys=True, default=str)
        key = hashlib.sha256(facts.encode()).hexdigest()[:12]
        return Path(self.workspace) / "adapters" / self.name / f".training-{key}"


def make_job(
    workspace: Workspace,
    model: str,
    data: str,
    name: str,
    training: Training,
    answering: Answering,
    loading: ModelSettings,
    memory: Memory | None = None,
) -> Job:
    """Return a job whose model and data are there.

    Raises:
        NotFound, BadInput: the model, the data or the adapter to begin with is not there.
    """
    locate(model, workspace)
    _, _, ref = open_records(workspace, data)
    if training.resume_adapter_file:
        given = Path(training.resume_adapter_file).expanduser()
        path = given if given.is_file() else find_adapter(training.resume_adapter_file, workspace)
        training = training.model_copy(update={"resume_adapter_file": str(path.resolve())})
    said = [json.loads(table.model_dump_json()) for table in (training, answering, loading, memory or Memory())]
    data = ref if ref.startswith("datasets/") else str(Path(data).resolve())
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    return Job(str(workspace.root), model, data, name, *said)


def open_records(workspace: Workspace, data: str) -> tuple[Sequence[Record], Sequence[Record], str]:
    """Return records to train on, records to validate on (none where there is no such split), and what to call them.

    Raises:
        NotFound: no such dataset; BadInput: no such file, or nothing to train on.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return read_records(path), (), f"file:{path.resolve()}"
    if path.is_dir():
        valid = path / "valid.jsonl"
        checked: Sequence[Record] = read_records(valid) if valid.is_file() and valid.stat().st_size else ()
        return read_records(path / "train.jsonl"), checked, f"file:{path.resolve()}"
    dataset = open_dataset(workspace, data)
    name = "train" if "train" in dataset.counts else "all"
    if not dataset.counts.get(name):
        raise BadInput(f"{dataset.ref} has no examples to train on")
    found: Any = dataset.split("valid") if dataset.counts.get("valid") else ()
    split: Any = dataset.split(name)
    return split, found, dataset.ref


def run_job(job: Job, folder: Path | None = None) -> Iterator[Step]:
    """Do a job in this process: yields its Steps and leaves the adapter in the folder's `adapter`.

    Args:
        job: what to do.
        folder: where; the job's own unless given.

    Raises:
        MlxragError: see `load`, `train`.
    """
    workspace = open_workspace(job.workspace)
    training, answering = Training(**job.training), Answering(**job.answering)
    records, valid, _ = open_records(workspace, job.data)
    memory = Memory(**job.memory)
    if memory.memory_budget:
        ledger().set_size(parse_size(memory.memory_budget))
    with load(job.model, workspace, settings=ModelSettings(**job.loading)) as model:
        measures = None
        if training.val_questions and len(valid):
            measures = answer_measures(model, valid, answering, training.val_questions)
        elif training.val_questions or training.best_by != "loss":
            raise BadInput(
                f"{job.data} has no validation questions: make a valid split, or leave out --val-questions and --best-by"
            )
        base = Base(model.network, model.tokenizer, base_ref(model))
        room = share_of(ledger().free()) + model.nbytes
        target = folder or job.folder
        yield from train(
            base, records, training, target, valid=valid, answering=answering, measures=measures, budget=room
        )


def finish_job(job: Job) -> Artefact:
    """Make an adapter artefact of what a job left, with its report, and remove its folder."""
    workspace = open_workspace(job.workspace)
    _, _, ref = open_records(workspace, job.data)
    config = json.loads((job.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    steps = read_steps(job.folder / STEPS)
    inputs = [config["base"]["name"], ref, *_begun_with(workspace, str(job.training["resume_adapter_file"]))]
    with create(workspace, "adapters", job.name, inputs=inputs, settings=dict(job.training)) as draft:
        for file in (job.folder / "adapter").iterdir():
            shutil.copy2(file, draft.path / file.name)
        shutil.copy2(job.folder / STEPS, draft.path / STEPS)
        write_report(draft.path / "report.html", job.name, steps, {**job.training, "model": job.model, "data": ref})
        draft.note(base=config["base"], scores=scores(steps), answering=dict(job.answering))
    shutil.rmtree(job.folder, ignore_errors=True)
    assert draft.artefact is not None
    return draft.artefact


def _begun_with(workspace: Workspace, path: str) -> list[str]:
    """How lineage names the adapter that training began with, if there is one."""
    folder = Path(path)
    if not path:
        return []
    ours = folder.is_relative_to(workspace.root.resolve()) and (folder / "manifest.json").is_file()
    return [f"adapters/{folder.parent.name}@{folder.name}" if ours else f"file:{path}"]


def scores(steps: Sequence[Step]) -> dict[str, Any]:
    """Return what a run came to: losses of the base and of the kept weights, measures, speed and memory."""
    checks = [s for s in steps if s.valid_loss is not None]
    trained = [s for s in steps if s.train_loss is not None]
    best = next((s for s in reversed(checks) if s.best), None)
    speeds = sorted(s.tokens_per_second for s in trained if s.tokens_per_second)
    return {
        "iterations": trained[-1].iteration if trained else 0,
        "train_loss": trained[-1].train_loss if trained else None,
        "base": {"valid_loss": checks[0].valid_loss, **(checks[0].measures or {})} if checks else None,
        "best": {"iteration": best.iteration, "valid_loss": best.valid_loss, **(best.measures or {})} if best else None,
        "tokens_per_second": speeds[len(speeds) // 2] if speeds else None,
        "peak_bytes": max((s.peak_bytes or 0 for s in trained), default=None),
    }


def base_ref(model: Model) -> str:
    """Return how lineage names a base: `models/name@version`, or its name where it is not of the workspace."""
    return f"models/{model.name}@{model.version}" if model.version else model.name
