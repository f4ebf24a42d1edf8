"""Tasks in processes: in order, limited, and apart from each other."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from mlxrag.errors import MlxragError
from mlxrag.rag.workers import Failure, run

# The work of these processes: what the task says.
CODE = """
import os, sys, time
from mlxrag.rag.workers import serve

def handle(task):
    word, _, value = task.decode().partition(" ")
    if word == "sleep": time.sleep(float(value))
    if word == "spin":
        while True: pass
    if word == "crash": os.kill(os.getpid(), 11)
    if word == "exit": os._exit(3)
    if word == "eat":
        held = []
        while True:
            held.append(bytearray(b"x" * (8 << 20)))
            time.sleep(0.002)
    if word == "grab": bytearray(1 << 40)
    if word == "print": print("noise", flush=True); os.write(1, b"noise")
    if word == "large": return b"x" * int(value)
    if word == "pid": return str(os.getpid()).encode()
    return task

serve(handle)
"""


def results(*tasks: str, count: int = 2, seconds: float = 20.0, memory: int = 300) -> list[bytes | Failure]:
    """Run tasks to the end."""
    return list(run(CODE, [task.encode() for task in tasks], count=count, seconds=seconds, memory=memory))


def test_results_in_the_order_of_tasks() -> None:
    """A slow task does not let the next overtake it in the results."""
    assert results("sleep 0.3", "b", "c", "print", "d") == [b"sleep 0.3", b"b", b"c", b"print", b"d"]


def test_large_results_come_whole() -> None:
    """Results far larger than a pipe's buffer arrive as they are."""
    assert [len(result) for result in results("large 3000000", "large 5000000", "x") if isinstance(result, bytes)] == [
        3_000_000, 5_000_000, 1,
    ]  # fmt: skip


def test_crash_costs_one_task() -> None:
    """A process that dies is replaced, and only its task fails, with the signal or the exit it died of."""
    found = results("a", "crash", "b", "exit", "c", "crash", "d")
    assert [result for result in found if isinstance(result, bytes)] == [b"a", b"b", b"c", b"d"]
    assert [result.kind for result in found if isinstance(result, Failure)] == ["crash"] * 3
    assert "SIGSEGV" in found[1].reason and "exit 3" in found[3].reason  # type: ignore[union-attr]


def test_time_limit() -> None:
    """A task that does not end is ended, and the others are not."""
    began = time.monotonic()
    found = results("a", "spin", "b", "c", seconds=1.0)
    assert [found[0], found[2], found[3]] == [b"a", b"b", b"c"]
    assert found[1] == Failure("time", "takes longer than 1 s to parse")
    assert time.monotonic() - began < 30


def test_memory_limit() -> None:
    """A task that takes memory bit by bit, or all at once, is ended and says so."""
    found = results("eat", "a", "grab", "b", memory=150)
    assert [found[1], found[3]] == [b"a", b"b"]
    assert found[0] == found[2] == Failure("memory", "needs more than 150 MiB of memory to parse")


def test_limits_hold_while_the_caller_is_busy() -> None:
    """Time the caller takes over a result is not counted against the tasks ahead."""
    found = []
    for result in run(CODE, [b"a", b"large 4000000", b"sleep 0.2", b"b"], count=1, seconds=0.8, memory=300):
        found.append(result)
        time.sleep(1.0)
    assert not any(isinstance(result, Failure) for result in found)


def test_tasks_are_drawn_a_few_ahead() -> None:
    """No more than four tasks for each process are drawn ahead of the result that is asked for."""
    drawn = 0

    def tasks() -> Iterator[bytes]:
        nonlocal drawn
        while True:
            drawn += 1
            yield b"x"

    endless = run(CODE, tasks(), count=2, seconds=20.0, memory=300)
    for taken in range(1, 20):
        next(endless)
        assert drawn <= taken + 8
    endless.close()  # type: ignore[attr-defined]


def test_processes_end_with_the_job() -> None:
    """After the last result, or when the caller turns away, no process is left."""
    pids = {int(result) for result in results("pid", "pid", "pid", "pid") if isinstance(result, bytes)}
    begun = run(CODE, [b"pid", b"spin", b"spin"], count=2, seconds=60.0, memory=300)
    pids.add(int(next(begun)))  # type: ignore[arg-type]
    begun.close()  # type: ignore[attr-defined]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_no_tasks_no_processes() -> None:
    """Without a task nothing is started."""
    assert results() == []


def test_a_process_that_cannot_start_is_an_error() -> None:
    """A broken installation is no fault of the files."""
    with pytest.raises(MlxragError, match=r"cannot start: .*no_such_module"):
        list(run("import no_such_module", [b"a"], count=1, seconds=5.0, memory=300))


def test_a_fault_of_the_tasks_reaches_the_caller() -> None:
    """An error while tasks are drawn is raised, and processes end."""

    def tasks() -> Iterator[bytes]:
        yield b"a"
        raise MlxragError("drawn badly")

    with pytest.raises(MlxragError, match="drawn badly"):
        list(run(CODE, tasks(), count=1, seconds=5.0, memory=300))
