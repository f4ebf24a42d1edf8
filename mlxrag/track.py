"""Tell MLflow what happens, without waiting for it: events go to a file, a process of its own reads them.

Strategy: the workspace is the truth and MLflow its mirror.  A job appends lines to `.track/live/<id>.jsonl`, which
takes microseconds; one background process per workspace (`tracking/worker.py`) imports MLflow, follows these files
and mirrors finished artefacts.  A job that dies leaves a file without an end, and its run is marked as killed.
Knows nothing of MLflow; nothing here imports it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from mlxrag.settings import Tracking
from mlxrag.workspace import MADE, MARKER, Artefact, Workspace

Item = TypeVar("Item")

# MLflow's own words for the end of a run.
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class Live:
    """A job that is under way; a context manager, which ends it.

    Leaving the block without an exception is FINISHED, with KeyboardInterrupt KILLED, with another one FAILED.  What was
    made in the block last becomes the same run in MLflow.
    """

    def __init__(self, workspace: Workspace, tracking: Tracking, about: Mapping[str, Any]) -> None:
        self.id = f"{time.time_ns():x}-{secrets.token_hex(4)}"
        self._file: BinaryIO | None = None
        self._stop = threading.Event()
        self._ended = False
        self._before = len(MADE)
        self._worker = 0
        if not (tracking.track and read_tracking(workspace).track):
            return
        folder = home(workspace) / "live"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{self.id}.jsonl").open("ab", buffering=0)
        self._write(event="start", pid=os.getpid(), started=process_start(os.getpid()), **about)
        self._worker = nudge(workspace)
        if tracking.track_seconds:
            args = (tracking.track_seconds,)
            threading.Thread(target=self._sample, args=args, daemon=True, name="mlxrag-track").start()

    def log(self, step: int | None = None, **values: float | None) -> None:
        """Add points to curves; None and NaN are left out.  A name with `__` stands for one with `/`."""
        kept = {k.replace("__", "/"): float(v) for k, v in values.items() if v is not None and v == v}
        if kept:
            self._write(event="metrics", step=step, values=kept)

    def end(self, status: str = FINISHED, artefact: Artefact | None = None, reason: str = "") -> None:
        """End the job; what it made, if anything, becomes the same run in MLflow."""
        if self._ended:
            return
        self._ended = True
        self._stop.set()
        self._write(event="end", status=status, ref=artefact.ref if artefact is not None else None, reason=reason)
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            made = MADE[self._before :]
            self.end(artefact=made[-1][1] if made else None)
        else:
            self.end(
                KILLED if isinstance(error, KeyboardInterrupt) else FAILED,
                reason=f"{kind.__name__ if kind else ''}: {error}",
            )

    def _write(self, **event: Any) -> None:
        if self._file is not None and not self._file.closed:
            line = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False, default=str)
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def _sample(self, every: float) -> None:
        """Write processor and memory now and then, until the job ends; soon at first, for jobs that are short."""
        import psutil

        process, step = psutil.Process(), 0
        process.cpu_percent()
        psutil.cpu_percent()
        while not self._stop.wait(every if step else min(1.0, every)):
            self._write(event="metrics", step=step, values=sample(process, self._worker))
            step += 1


def live(
    workspace: Workspace,
    tracking: Tracking,
    kind: str,
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    inputs: Sequence[str] = (),
) -> Live:
    """Begin a job that MLflow shows while it runs.

    Args:
        workspace: where.
        tracking: whether, and how often to look at processor and memory.
        kind: ingest, train, sweep, eval, ab or bench: the experiment it belongs to.
        name: of the run.
        settings: become parameters.
        inputs: refs that it is made from.

    Example:
        >>> with live(ws, settings.tracking, "train", "staff") as job:  # doctest: +SKIP
        ...     for step in steps(job, train(...)):
        ...         ...
    """
    about = {"kind": kind, "name": name, "settings": dict(settings or {}), "inputs": list(inputs)}
    return Live(workspace, tracking, about)


def steps(job: Live, items: Iterable[Item]) -> Iterator[Item]:
    """Yield the steps of a training (`train.loop.Step`) while their figures become curves of a job."""
    for item in items:
        measures = getattr(item, "measures", None) or {}
        job.log(
            getattr(item, "iteration", None), train__loss=getattr(item, "train_loss", None),
            valid__loss=getattr(item, "valid_loss", None), train__peak_bytes=getattr(item, "peak_bytes", None),
            train__tokens_per_second=getattr(item, "tokens_per_second", None),
            train__learning_rate=getattr(item, "learning_rate", None), **{f"valid__{k}": v for k, v in measures.items()},
        )  # fmt: skip
        yield item


def curves(
    job: Live, items: Iterable[Item], values: Callable[[Item], Mapping[str, float | None]]
) -> Iterator[Item]:  # fmt: skip
    """Yield items while what `values` gives for each becomes curves of a job; the first item is step 1."""
    for number, item in enumerate(items, 1):
        job.log(number, **values(item))
        yield item


def counted(job: Live, items: Iterable[Item], what: str, every: float = 2.0) -> Iterator[Item]:
    """Yield items while how many there were becomes a curve `progress/<what>` of a job, a point every few seconds."""
    last, count = time.monotonic(), 0
    for item in items:
        count += 1
        if time.monotonic() - last >= every:
            last = time.monotonic()
            job.log(count, **{f"progress__{what}": count})
        yield item
    job.log(count, **{f"progress__{what}": count})


def mirror_run(workspace: Workspace, artefact: Artefact, tracking: Tracking | None = None) -> None:
    """Have an artefact mirrored to MLflow, some time soon; returns at once.

    The artefact is found by the background process as all that are not mirrored yet are.
    """
    if (tracking or read_tracking(workspace)).track:
        nudge(workspace)


def read_tracking(workspace: Workspace) -> Tracking:
    """Return what the environment and the workspace's own `mlxrag.toml` say of tracking."""
    from mlxrag.settings import read

    return read(workspace.root / MARKER).tracking


def nudge(workspace: Workspace) -> int:
    """Start the background process unless it runs; returns its process id, or 0 where one runs already.

    No event is lost between a process that is about to end and a new one: a worker that has let go of the lock looks
    once more (see `tracking/worker.py`), and events are written before this looks at the lock.
    """
    folder = home(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "worker.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
    with (folder / "worker.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "mlxrag.tracking", str(workspace.root)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=quiet(os.environ), cwd="/",
        )  # fmt: skip
    return started.pid


def home(workspace: Workspace) -> Path:
    """Return the folder of events, locks and MLflow's artefacts."""
    return workspace.root / ".track"


def quiet(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which MLflow calls nobody and starts nothing on the side."""
    package = str(Path(__file__).resolve().parent.parent)
    path = environment.get("PYTHONPATH", "")
    return {
        **environment,
        "PYTHONPATH": f"{package}{os.pathsep}{path}" if path else package,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_GENAI_EVAL_MAX_WORKERS": "1",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_MODEL_CATALOG_URI": "file:///dev/null",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def sample(process: Any, apart: int = 0) -> dict[str, float]:
    """Return processor, memory, swap and what MLX holds, in MLflow's `system/` names, megabytes of 10^6 bytes.

    Args:
        process: whose; the processes it started count as it, but for `apart`.
        apart: id of the process that only tracks.
    """
    import psutil

    resident = process.memory_info().rss
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            resident += child.memory_info().rss if child.pid != apart else 0
    found = {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/process_cpu_percent": process.cpu_percent(),
        "system/resident_megabytes": resident / 1e6,
        "system/available_megabytes": psutil.virtual_memory().available / 1e6,
        "system/swap_megabytes": psutil.swap_memory().used / 1e6,
    }
    core = sys.modules.get("mlx.core")
    if core is not None:
        found |= {
            "system/mlx_active_megabytes": core.get_active_memory() / 1e6,
            "system/mlx_cache_megabytes": core.get_cache_memory() / 1e6,
            "system/mlx_peak_megabytes": core.get_peak_memory() / 1e6,
        }
    return found


def process_start(pid: int) -> float | None:
    """Return when a process was started, in seconds since 1970, or None if it is gone; tells apart reused numbers."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
