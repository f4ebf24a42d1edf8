"""Lines come whole, whatever pieces they arrive in, and an idle input is noticed once."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from mlxrag.cli.lines import Lines


@pytest.fixture
def into(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make a pipe the standard input, and yield its writing end, which the test closes."""
    out, end = os.pipe()
    with os.fdopen(out) as stdin, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", stdin)
        yield end


def test_lines_that_lie_ready_are_not_idle(into: int) -> None:
    """Several in one piece, the last without an end."""
    os.write(into, "one\ntwo é\n\nthree".encode())
    os.close(into)
    lines, idle = Lines(), list[int]()
    assert [lines.next(5, lambda: idle.append(1)) for _ in range(5)] == ["one", "two é", "", "three", None]
    assert idle == []


def test_an_input_that_is_silent_is_idle_once_and_then_waited_for(into: int) -> None:
    """The line that comes after that is returned."""
    idle = threading.Event()
    writer = threading.Thread(target=lambda: (idle.wait(10), os.write(into, b"late\n")))
    writer.start()
    assert Lines().next(0.01, idle.set) == "late" and idle.is_set()
    writer.join()
    os.close(into)


def test_an_input_that_is_no_file_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tests of commands hand it in."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb"))
    lines = Lines()
    assert [lines.next(1, lambda: None) for _ in range(3)] == ["a", "b", None]
