"""Training in a child process, so that running out of memory takes the child along and not the program.

Metal aborts a process that asks for too much, Linux kills it, and under a limit of `ulimit` MLX's CPU backend writes to
the null pointer it got; none of it can be caught inside.  The parent sees the child go, takes one notch less (smaller
batches with more accumulation, then recomputing, then smaller chunks of logits, then shorter rows), and lets another child
go on from the last state.

Run as `python -m mlxrag.train.worker JOB.json`, it does the job and writes each Step as a line of JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from mlxrag import errors
from mlxrag.errors import MlxragError, WontFit
from mlxrag.settings import Training
from mlxrag.train.job import Job, run_job
from mlxrag.train.plan import notch
from mlxrag.train.state import adopt
from mlxrag.train.step import Step
from mlxrag.workspace import lock, open_workspace, write_json

CHILD = (sys.executable, "-m", "mlxrag.train.worker")
MEMORY_WORDS = ("malloc", "out of memory", "insufficient memory", "unable to allocate")


def supervise(job: Job, child: Sequence[str] = CHILD) -> Iterator[Step]:
    """Do a job in child processes and yield its Steps; the adapter is in `job.folder / "adapter"` afterwards.

    Args:
        job: what to do.
        child: the command that does it, before the path of the job's file.

    Raises:
        WontFit: it runs out of memory with the smallest settings.
        MlxragError: what the child raised.
    """
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.json"
    # A run that was interrupted after it had taken a notch less goes on with that.
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else asdict(job)
    while True:
        write_json(file, said)
        code = yield from _child([*child, str(file), str(folder)])
        if code == 0:
            return
        if code == 130:
            raise KeyboardInterrupt
        if not _out_of_memory(code):
            raise MlxragError(
                f"the training process ended with code {code}; what it wrote is in {folder / 'worker.log'}"
            )
        less = notch(Training(**said["training"]))
        if less is None:
            raise WontFit(
                "the training ran out of memory with the smallest batches and rows; take a smaller or quantized model, "
                "fewer --num-layers or a lower --rank"
            )
        training, factor, what = less
        said = {**said, "training": json.loads(training.model_dump_json())}
        adopt(folder, factor)
        yield Step(0, training.iters, note=f"ran out of memory; goes on from the last state with {what}")


def main(path: str, folder: str) -> int:
    """Do the job of a file and return the exit code; 12 is out of memory."""
    said = json.loads(Path(path).read_text(encoding="utf-8"))
    job = Job(**said)
    try:
        # The child of a parent that was killed ends with its next step; until then it may still write.
        with lock(open_workspace(job.workspace), f"worker-{job.name}"):
            for step in run_job(job, Path(folder)):
                print(json.dumps({"step": asdict(step)}), flush=True)  # noqa: T201  # to the parent
    except BrokenPipeError:
        return 1
    except MlxragError as error:
        fault = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(fault), flush=True)  # noqa: T201  # to the parent
        return 1
    except KeyboardInterrupt:
        return 130
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error).lower() for word in MEMORY_WORDS):
            raise
        return 12
    return 0


def _out_of_memory(code: int) -> bool:
    """Return whether an exit code says that a child wanted more memory than there was."""
    if code == -signal.SIGSEGV:
        limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        return any(limit != resource.RLIM_INFINITY for limit in limits)
    return code in (12, -signal.SIGABRT, -signal.SIGKILL)


def _child(command: Sequence[str]) -> Generator[Step, None, int]:
    """Run a child, yield its Steps, and return its exit code."""
    log = Path(command[-1]) / "worker.log"
    with log.open("a", encoding="utf-8") as errors_to:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors_to, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                if "error" in said:
                    process.wait()
                    raise getattr(errors, said["error"])(said["text"])
                yield Step(**said["step"])
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
