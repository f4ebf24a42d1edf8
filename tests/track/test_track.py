"""Live jobs: events in a file, a worker that follows them, and what becomes of the killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from mlxrag import track
from mlxrag.cli.main import cli
from mlxrag.settings import Tracking
from mlxrag.track import curves, home, live, sample, steps
from mlxrag.tracking import ui, worker
from mlxrag.tracking.mirror import mirror_missing
from mlxrag.tracking.store import DATABASE, Store
from mlxrag.train.step import Step
from mlxrag.workspace import Workspace
from tests.track import kit

QUIET = Tracking(track_seconds=0)
ROOT = Path(__file__).parents[2]


def work(ws: Workspace) -> Store:
    worker.work(ws, idle=0.05, poll=0.02)
    return Store(ws)


def only_run(store: Store, kind: str) -> Any:
    experiment = store.client.get_experiment_by_name(kind)
    runs = store.client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    return runs[0]


def test_a_job_has_settings_curves_and_an_end(ws: Workspace) -> None:
    """What a job logs is in MLflow under the same steps, with its parameters and status."""
    with live(
        ws, QUIET, "bench", "speed", settings={"model": {"rank": 8, "prompt": "x" * 900}}, inputs=["models/a@v1"]
    ) as job:
        for i in range(5):
            job.log(i, train__loss=1.0 / (i + 1), nothing=None, broken=float("nan"))
    store = work(ws)
    run = only_run(store, "bench")
    assert run.info.status == "FINISHED" and run.data.params == {"model.rank": "8"}
    assert [(m.step, m.value) for m in store.client.get_metric_history(run.info.run_id, "train/loss")] == [
        (i, 1.0 / (i + 1)) for i in range(5)
    ]
    assert run.data.tags["mlxrag.input.0"] == "models/a@v1" and set(run.data.metrics) == {"train/loss"}
    assert not list((home(ws) / "live").iterdir()) and len(list((home(ws) / "ended").iterdir())) == 1


def test_an_exception_is_failed_and_an_interrupt_is_killed(ws: Workspace) -> None:
    """The run says how it ended and why."""
    for error in (RuntimeError("boom"), KeyboardInterrupt()):
        with pytest.raises(type(error)), live(ws, QUIET, "bench", type(error).__name__):
            raise error
    store = work(ws)
    runs = store.client.search_runs([store.experiment("bench")])
    assert {r.info.run_name: r.info.status for r in runs} == {"RuntimeError": "FAILED", "KeyboardInterrupt": "KILLED"}
    assert next(r for r in runs if r.info.status == "FAILED").data.tags["mlxrag.reason"] == "RuntimeError: boom"


JOB = """
import sys, time
from pathlib import Path
from mlxrag import track
from mlxrag.settings import Tracking
from mlxrag.workspace import open_workspace
if sys.argv[2] == "quiet":
    track.nudge = lambda ws: False
job = track.live(open_workspace(sys.argv[1]), Tracking(track_seconds=0), "bench", sys.argv[3])
for i in range(40):
    job.log(i, loss=float(i))
print("logged", flush=True)
if sys.argv[2] == "quiet":
    time.sleep(60)
job.end()
"""


def start(ws: Workspace, how: str, name: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(ws.root), how, name], stdout=subprocess.PIPE, text=True, env=env
    )


def test_a_killed_process_is_marked_as_such(ws: Workspace) -> None:
    """Kill -9 leaves no end in the file; the worker sees that the process is gone."""
    process = start(ws, "quiet", "victim")
    assert process.stdout is not None and process.stdout.readline() == "logged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = work(ws)
    run = only_run(store, "bench")
    assert run.info.status == "KILLED" and run.data.tags["mlxrag.reason"] == "the process is gone"
    assert len(store.client.get_metric_history(run.info.run_id, "loss")) == 40


def test_what_a_job_made_is_the_same_run(ws: Workspace) -> None:
    """The run that showed the curves gets the artefact's figures; steps it saw live are not doubled."""
    seen = (Step(i, 3, train_loss=3.0 - i, measures={"f1": 0.1}) for i in (2, 3))
    with live(ws, QUIET, "train", "adapter") as job:
        assert [s.iteration for s in steps(job, seen)] == [2, 3]
        made = kit.trained(ws)
    store = work(ws)
    run = only_run(store, "train")
    assert run.data.tags["mlxrag.ref"] == made.ref and run.info.status == "FINISHED"
    assert sorted(m.step for m in store.client.get_metric_history(run.info.run_id, "train/loss")) == [1, 2, 3]
    assert store.client.get_registered_model("adapter.adapter") is not None


def test_what_a_job_under_way_has_made_waits_for_its_end(ws: Workspace) -> None:
    """It is not mirrored beside the job's run; one that was, by hand, goes with its traces when the job ends."""
    with live(ws, QUIET, "eval", "system"):
        made = kit.evaluation(ws)
        store = Store(ws)
        assert made.ref not in list(mirror_missing(store, {("eval", "system")}))
        assert made.ref in list(mirror_missing(store))
        traces = store.client.search_traces(locations=[store.experiment("eval")])
    store = work(ws)
    run = only_run(store, "eval")
    assert run.data.tags["mlxrag.ref"] == made.ref and "mlxrag.live" in run.data.tags
    kept = store.client.search_traces(locations=[store.experiment("eval")])
    assert len(kept) == len(traces) == 4 and not {t.info.trace_id for t in kept} & {t.info.trace_id for t in traces}


def test_figures_of_items_become_curves(ws: Workspace) -> None:
    """Each item is a step; what it has no figure of is left out."""
    with live(ws, QUIET, "sweep", "bits") as job:
        items = [{"sweep/kl": 0.5, "sweep/answers": None}, {"sweep/kl": 0.25, "sweep/answers": 0.9}]
        assert [*curves(job, items, dict)] == items
    store = work(ws)
    run = only_run(store, "sweep")
    history = store.client.get_metric_history(run.info.run_id, "sweep/kl")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)] and run.data.metrics["sweep/answers"] == 0.9


def test_the_figures_of_the_machine_count_children_but_not_the_mirror() -> None:
    """Memory of the processes a job started is its own; the process that mirrors is left out."""

    child = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(60_000_000); time.sleep(60)"])
    try:
        process = psutil.Process()
        while psutil.Process(child.pid).memory_info().rss < 60e6:
            time.sleep(0.02)
        whole, without = sample(process), sample(process, child.pid)
    finally:
        child.kill()
        child.wait()
    assert whole["system/resident_megabytes"] - without["system/resident_megabytes"] > 50
    assert {"system/cpu_percent", "system/swap_megabytes", "system/available_megabytes"} <= whole.keys()


def test_being_told_to_go_takes_the_pages_along(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM ends the block that serves, as Ctrl-C does, so that no server is left behind."""
    ended: list[str] = []

    @contextmanager
    def pages(workspace: Workspace, port: int) -> Iterator[str]:
        try:
            yield "http://127.0.0.1"
        finally:
            ended.append("yes")

    monkeypatch.setattr(ui, "pages", pages)
    monkeypatch.setattr("time.sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        done = CliRunner().invoke(cli, ["track", "ui", "--workspace", str(ws.root)])
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
    assert done.exit_code == 128 + signal.SIGTERM and ended == ["yes"] and "MLflow: http" in done.stdout


def test_kill_9_takes_the_pages_along_too(ws: Workspace) -> None:
    """The server does not outlive the process that opened the pages, however that one ended."""
    program = (
        "import sys, time; from pathlib import Path; from mlxrag.tracking import ui; from mlxrag.workspace import Workspace\n"
        "ui._wait = lambda server, *_: print(server.pid, flush=True)\n"
        "with ui.pages(Workspace(Path(sys.argv[1])), 0): time.sleep(60)"
    )
    opener = subprocess.Popen([sys.executable, "-c", program, str(ws.root)], stdout=subprocess.PIPE, text=True)
    assert opener.stdout is not None
    server = psutil.Process(int(opener.stdout.readline()))
    assert server.status() != psutil.STATUS_ZOMBIE
    opener.kill()
    opener.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(server.pid) and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_tracking_is_off_by_one_setting(ws: Workspace) -> None:
    """The flag, or the workspace's own file, leaves no file and no process behind."""
    with live(ws, Tracking(track=False), "bench", "x") as job:
        job.log(1, loss=1.0)
    (ws.root / "mlxrag.toml").write_text("[tracking]\ntrack = false\n")
    with live(ws, QUIET, "bench", "x") as job:
        job.log(1, loss=1.0)
    assert not home(ws).exists()


def test_processor_and_memory_are_sampled(ws: Workspace) -> None:
    """While a job runs its memory, swap and what MLX holds become system metrics."""
    import mlx.core  # noqa: F401  # what it holds is among them

    with live(ws, Tracking(track_seconds=0.02), "bench", "x"):
        time.sleep(0.15)
    run = only_run(work(ws), "bench")
    names = {
        "cpu_percent",
        "process_cpu_percent",
        "resident_megabytes",
        "available_megabytes",
        "swap_megabytes",
        "mlx_active_megabytes",
    }
    assert (
        names <= {n.removeprefix("system/") for n in run.data.metrics}
        and run.data.metrics["system/resident_megabytes"] > 10
    )


def test_two_processes_log_at_once_through_one_worker(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both start jobs; one background process serves both and leaves when they are done."""
    jobs = [start(ws, "loud", f"job{i}") for i in range(2)]
    for job in jobs:
        assert job.communicate()[0] == "logged\n"
    end = time.monotonic() + 120
    while time.monotonic() < end and len(list((home(ws) / "ended").glob("*.jsonl"))) < 2:
        time.sleep(0.2)
    with worker.opened(ws) as store:
        runs = store.client.search_runs([store.experiment("bench")])
        assert {r.info.run_name: r.info.status for r in runs} == {"job0": "FINISHED", "job1": "FINISHED"}
        assert all(len(store.client.get_metric_history(r.info.run_id, "loss")) == 40 for r in runs)


def test_a_locked_database_is_waited_for(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer holds SQLite for a while; the point is written when it lets go."""
    store = Store(ws)
    run = store.begin("bench", "x", time.time(), {})
    other = sqlite3.connect(ws.root / DATABASE, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    store.metrics(run, [("loss", 1.0, time.time(), 0)])
    assert store.client.get_run(run).data.metrics == {"loss": 1.0}
    other.close()


def test_a_second_worker_leaves_at_once(ws: Workspace) -> None:
    """Only one process at a time writes to MLflow."""
    with worker.alone(ws) as first, worker.alone(ws) as second:
        assert first and not second


def test_a_torn_line_is_read_when_it_is_whole(ws: Workspace) -> None:
    """A worker that reads in the middle of a write takes the rest the next time."""
    job = live(ws, QUIET, "bench", "x")
    path = next((home(ws) / "live").iterdir())
    store = Store(ws)
    followed = worker.Job(path)
    event = json.dumps({"time": time.time(), "event": "metrics", "step": 1, "values": {"loss": 2.0}})
    with path.open("a") as file:
        file.write(event[:20])
        file.flush()
        worker.follow(store, followed)
        assert store.client.get_run(followed.run).data.metrics == {}
        file.write(event[20:] + "\n")
        file.flush()
        worker.follow(store, followed)
    assert store.client.get_run(followed.run).data.metrics == {"loss": 2.0}
    job.end()


def test_logging_takes_microseconds_and_imports_no_mlflow(tmp_path: Path) -> None:
    """A thousand events take well under a tenth of a second, and MLflow is not in the process."""
    code = """
import sys, time
from mlxrag import track
from mlxrag.settings import Tracking
from mlxrag.workspace import open_workspace
track.nudge = lambda ws: False
job = track.live(open_workspace(sys.argv[1]), Tracking(track_seconds=0), "bench", "x")
started = time.process_time()
for i in range(1000):
    job.log(i, loss=1.0, rate=2.0)
print(time.process_time() - started < 0.2, "mlflow" in sys.modules)
job.end()
"""
    env = {k: v for k, v in os.environ.items() if k != "MLXRAG_TRACK"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_nothing_is_told_to_anybody() -> None:
    """The environment of everything that imports MLflow has telemetry off."""
    found = track.quiet({})
    assert found["MLFLOW_DISABLE_TELEMETRY"] == found["DO_NOT_TRACK"] == "true"
