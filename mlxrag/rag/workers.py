"""Work in processes that may be killed: bytes in, bytes out, with a time and a memory limit for each task.

Knows nothing of documents.  A task that crashes its process, takes too long or too much memory costs that task alone:
the process is replaced and all other results come, in the order of the tasks.

Strategy: processes are started afresh (`python -c`, no fork, no import of the caller's main module) and speak
length-prefixed frames over pipes.  One thread watches them, so that limits hold while the caller is busy with a
result; tasks are drawn in the caller's thread.  Memory is limited twice: the watching thread measures what a process
holds and kills it (macOS does not enforce RLIMIT_AS), and RLIMIT_AS stops a sudden allocation on Linux.  A process
whose parent died ends at the end of its input, or by its own alarm.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlxrag.errors import MlxragError

_HEAD = struct.Struct("!Q")
_READY = b"ready"
_POLL = 0.05
_START_SECONDS = 60.0
_WINDOW = 4
"""Tasks begun or finished ahead of the caller, for each process."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result: `time`, `memory` or `crash`, and a clause that says so."""

    kind: str
    reason: str


def run(code: str, tasks: Iterable[bytes], *, count: int, seconds: float, memory: int) -> Iterator[bytes | Failure]:
    """Yield the result of each task, in the order of the tasks.

    At most four tasks per process are drawn ahead of the result that is asked for.

    Args:
        code: Python statements that call `serve` in the new process.
        tasks: requests; drawn in the calling thread.
        count: processes at work at once, at least 1; no more are started than there are tasks.
        seconds: longest time one task may take.
        memory: most memory one process may hold, in MiB.

    Raises:
        MlxragError: a process cannot start.
    """
    pool = _Pool(code, count, seconds, memory)
    drawn = iter(tasks)
    sent = received = 0
    exhausted = False
    try:
        while True:
            while not exhausted and sent - received < _WINDOW * count:
                task = next(drawn, None)
                if task is None:
                    exhausted = True
                else:
                    pool.submit(sent, task)
                    sent += 1
            if received == sent:
                return
            yield pool.result(received)
            received += 1
    finally:
        pool.close()


def serve(handle: Callable[[bytes], bytes]) -> None:
    """Answer each frame on standard input with a frame on standard output, until the input ends.

    Runs in the process that `run` starts.  What the parsers print goes nowhere.
    """
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    seconds, memory = float(os.environ["MLXRAG_WORKER_SECONDS"]), int(os.environ["MLXRAG_WORKER_MEMORY"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Address space counts what is mapped but never touched: libraries, and the allocator's arenas.
        limit = (2 * memory + 1024) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _send(sink, _READY)
    while (request := _receive(source)) is not None:
        signal.alarm(int(seconds) + 10)
        answer = handle(request)
        signal.alarm(0)
        _send(sink, answer)


def _send(sink: IO[bytes], frame: bytes) -> None:
    sink.write(_HEAD.pack(len(frame)))
    sink.write(frame)
    sink.flush()


def _receive(source: IO[bytes]) -> bytes | None:
    head = source.read(_HEAD.size)
    return source.read(_HEAD.unpack(head)[0]) if len(head) == _HEAD.size else None


@dataclass(slots=True)
class _Worker:
    """One process, and the task it is at."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    measured: Any
    task: int | None = None
    ready: bool = False
    deadline: float = 0.0
    held: bytearray = field(default_factory=bytearray)


class _Pool:
    """The processes and the thread that watches them; closed when done."""

    def __init__(self, code: str, count: int, seconds: float, memory: int) -> None:
        self._code, self._count, self._seconds, self._memory = code, count, seconds, memory
        self._waiting: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._results: dict[int, bytes | Failure] = {}
        self._changed = threading.Condition()
        self._fault: BaseException | None = None
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._wake_out, self._wake_in = os.pipe()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._watch, name="mlxrag-workers", daemon=True)
        self._thread.start()

    def submit(self, number: int, task: bytes) -> None:
        self._waiting.put((number, task))
        os.write(self._wake_in, b"!")

    def result(self, number: int) -> bytes | Failure:
        with self._changed:
            while number not in self._results:
                if self._fault is not None:
                    raise self._fault
                self._changed.wait()
            return self._results.pop(number)

    def close(self) -> None:
        self._closing = True
        os.write(self._wake_in, b"!")
        self._thread.join()
        for worker in list(self._workers):
            self._end(worker)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _watch(self) -> None:
        try:
            while not self._closing:
                self._hand_out()
                for key, _ in self._selector.select(_POLL if any(w.task is not None for w in self._workers) else 1.0):
                    if key.data is None:
                        os.read(self._wake_out, 4096)
                    else:
                        self._read(key.data)
                self._judge()
        except BaseException as error:
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _hand_out(self) -> None:
        while not self._waiting.empty():
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) >= self._count:
                    return
                idle = self._start()
            number, task = self._waiting.get()
            idle.task = number
            idle.deadline = time.monotonic() + (self._seconds if idle.ready else _START_SECONDS)
            assert idle.process.stdin is not None
            # A process that died while idle is found at the end of its output.
            with contextlib.suppress(BrokenPipeError):
                _send(idle.process.stdin, task)

    def _start(self) -> _Worker:
        import psutil

        root = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))),
            "MLXRAG_WORKER_SECONDS": str(self._seconds),
            "MLXRAG_WORKER_MEMORY": str(self._memory),
            "RUST_BACKTRACE": "0",
        }
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with its process)
        # -P: a parser must not come from the folder the user happens to be in.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", self._code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        worker = _Worker(process, errors, psutil.Process(process.pid))
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        part = os.read(worker.process.stdout.fileno(), 1 << 20)
        if not part:
            self._fail(worker, None)
            return
        worker.held += part
        while len(worker.held) >= _HEAD.size:
            size = _HEAD.size + _HEAD.unpack_from(worker.held)[0]
            if len(worker.held) < size:
                return
            frame = bytes(worker.held[_HEAD.size : size])
            del worker.held[:size]
            if not worker.ready:
                worker.ready = True
                worker.deadline = time.monotonic() + self._seconds
            elif worker.task is not None:
                self._finish(worker, frame)
                # What a parser leaked must not be held against the next file.
                if self._held(worker) > self._memory / 2:
                    self._end(worker)
                    return

    def _judge(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.task is None or worker.held:
                continue
            if self._held(worker) > self._memory:
                self._fail(worker, Failure("memory", f"needs more than {self._memory} MiB of memory to parse"))
            elif now > worker.deadline:
                self._fail(worker, Failure("time", f"takes longer than {self._seconds:g} s to parse"))

    def _held(self, worker: _Worker) -> float:
        """Return the memory a process holds, in MiB."""
        import psutil

        with contextlib.suppress(psutil.Error):
            return float(worker.measured.memory_info().rss) / (1 << 20)
        return 0.0

    def _finish(self, worker: _Worker, result: bytes | Failure) -> None:
        with self._changed:
            assert worker.task is not None
            self._results[worker.task] = result
            worker.task = None
            self._changed.notify_all()

    def _fail(self, worker: _Worker, failure: Failure | None) -> None:
        code, said = self._end(worker)
        if not worker.ready and failure is None:
            last = said.splitlines()[-1] if said else f"it ended with {code}"
            raise MlxragError(f"a process that parses files cannot start: {last}")
        if worker.task is not None:
            self._finish(worker, failure or _crash(code, said, self._seconds, self._memory))

    def _end(self, worker: _Worker) -> tuple[int, str]:
        """Kill a process and return how it ended, and what it wrote on standard error."""
        process = worker.process
        assert process.stdout is not None and process.stdin is not None
        self._workers.remove(worker)
        self._selector.unregister(process.stdout)
        if worker.task is not None or process.poll() is None:
            # At the end of its output a process may need a moment to die of what killed it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                if worker.held or worker.task is None or time.monotonic() > worker.deadline:
                    process.kill()
                process.wait(0.5 if worker.task is not None else 5)
            process.kill()
        code = process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        worker.errors.seek(0)
        said = worker.errors.read()[-4000:].decode("utf-8", "replace").strip()
        worker.errors.close()
        return code, said


def _crash(code: int, said: str, seconds: float, memory: int) -> Failure:
    if "MemoryError" in said or "bad_alloc" in said or "memory allocation" in said:
        return Failure("memory", f"needs more than {memory} MiB of memory to parse")
    if code == -signal.SIGALRM:
        return Failure("time", f"takes longer than {seconds:g} s to parse")
    how = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else f"exit {code}"
    return Failure("crash", f"crashes its parser ({how}): damaged or hostile")
