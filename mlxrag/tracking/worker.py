"""The background process of a workspace: follows jobs that are under way, mirrors what is finished, then goes.

    python -m mlxrag.tracking WORKSPACE

One at a time holds `.track/worker.lock`.  It runs at the lowest priority, opens MLflow only when there is something to
write, and ends when nothing has happened for a while.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxrag.errors import Mismatch
from mlxrag.track import KILLED, home, process_start
from mlxrag.tracking.mirror import adopt, mirror_missing
from mlxrag.tracking.store import DATABASE, Store
from mlxrag.workspace import KINDS, Workspace

IDLE = 3.0  # seconds without news before it ends
POLL = 1.0


@dataclass(slots=True)
class Job:
    """A live file that is being followed.

    Attributes:
        path: of the file.
        run: id of its MLflow run; empty until the first line was read.
        offset: bytes that are mirrored.
        about: its first line.
        ended: it has come to an end and was put aside.
    """

    path: Path
    run: str = ""
    offset: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


def follow(store: Store, job: Job) -> bool:
    """Mirror what is new in a job's file; returns whether there was anything."""
    with job.path.open("rb") as file:
        file.seek(job.offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    points: list[tuple[str, float, float, int]] = []
    end: dict[str, Any] | None = None
    for line in whole.splitlines():
        event = json.loads(line)
        if event["event"] == "start":
            job.about = event
            job.run = job.run or _begin(store, job)
        elif event["event"] == "metrics":
            points += [(n, v, event["time"], int(event["step"] or 0)) for n, v in event["values"].items()]
        else:
            end = event
    if points and job.run:
        store.metrics(job.run, points)
    job.offset += len(whole)
    if end is None and not whole and _dead(job):
        end = {"time": job.path.stat().st_mtime, "status": KILLED, "ref": None, "reason": "the process is gone"}
    if end is not None and job.run:
        _finish(store, job, end)
    return bool(whole) or end is not None


def work(workspace: Workspace, idle: float = IDLE, poll: float = POLL) -> None:
    """Do what there is to do, until nothing happens for `idle` seconds."""
    store: Store | None = None
    jobs: dict[str, Job] = {}
    seen: tuple[set[str], set[tuple[str, str]]] = (set(), set())
    last = time.monotonic()
    while time.monotonic() - last < idle:
        busy = False
        for path in sorted((home(workspace) / "live").glob("*.jsonl")):
            store = store or Store(workspace)
            job = jobs.setdefault(path.name, Job(path))
            busy = follow(store, job) or busy
            if job.ended:
                del jobs[path.name]
        claimed = {(str(j.about["kind"]), str(j.about["name"])) for j in jobs.values() if j.about}
        now = (_artefacts(workspace), claimed)
        if now != seen:
            store = store or Store(workspace)
            for _ in mirror_missing(store, claimed):
                pass
            seen, busy = now, True
        # A job that is under way keeps the worker, however long it is silent.
        if busy or jobs:
            last = time.monotonic()
        time.sleep(poll)


@contextmanager
def alone(workspace: Workspace) -> Iterator[bool]:
    """Hold the lock of the one worker; yields False where another has it."""
    folder = home(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "worker.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def opened(workspace: Workspace, patience: float = 120.0) -> Iterator[Store]:
    """Open the store as the only worker; waits for one that is at work.

    Raises:
        Mismatch: another one was at work all the time.
    """
    end = time.monotonic() + patience
    while True:
        with alone(workspace) as mine:
            if mine:
                yield Store(workspace)
                return
        if time.monotonic() > end:
            raise Mismatch(f"another process is writing to {workspace.root / DATABASE}; wait until it has ended")
        time.sleep(0.5)


def mirror_all(store: Store) -> Iterator[str]:
    """Mirror jobs that have ended and artefacts that have no run, and yield their names.

    Jobs come first: they hold the curves, and the runs that left no artefact.
    """
    for path in sorted((home(store.workspace) / "ended").glob("*.jsonl")):
        run = store.run_of("mlxrag.live", path.stem)
        # A mirroring that was stopped leaves a run without an end; points that are there are not doubled.
        if run is None or store.client.get_run(run).info.status == "RUNNING":
            job = Job(path)
            follow(store, job)
            yield f"{job.about.get('kind')} {job.about.get('name')}"
    yield from mirror_missing(store)


def main(root: Path) -> None:
    """Work while there is something to do; an error is in `.track/worker.log`, and the files stay for the next one."""
    workspace = Workspace(root)
    while True:
        with alone(workspace) as mine:
            if not mine:
                return
            work(workspace)
        # News that came while this one was deciding to end: its sender saw the lock held and started nobody.
        if not any((home(workspace) / "live").glob("*.jsonl")):
            return


def _begin(store: Store, job: Job) -> str:
    """Return the run of a job: the one a worker before this one made, or a new one."""
    about = job.about
    known = store.run_of("mlxrag.live", job.path.stem)
    if known is not None:
        return known
    tags = {"mlxrag.live": job.path.stem, "mlxrag.name": about["name"], "mlxrag.what": about["kind"]}
    tags |= {f"mlxrag.input.{i}": ref for i, ref in enumerate(about["inputs"])}
    run = store.begin(about["kind"], about["name"], about["time"], tags)
    store.parameters(run, about["settings"])
    return run


def _finish(store: Store, job: Job, end: dict[str, Any]) -> None:
    if end.get("reason"):
        store.tags(job.run, {"mlxrag.reason": str(end["reason"])})
    if end.get("ref"):
        adopt(store, str(end["ref"]), job.run)
    store.end(job.run, end["status"], end["time"])
    aside = home(store.workspace) / "ended"
    aside.mkdir(exist_ok=True)
    # Kept: the curves of a job are nowhere else, and MLflow's database can be lost.
    job.path.replace(aside / job.path.name)
    job.ended = True


def _dead(job: Job) -> bool:
    return bool(job.about) and process_start(job.about["pid"]) != job.about["started"]


def _artefacts(workspace: Workspace) -> set[str]:
    return {str(p.parent) for kind in KINDS for p in (workspace.root / kind).glob("*/*/manifest.json")}
