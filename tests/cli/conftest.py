"""Running a command in this process, as `mlxrag` on the command line runs it."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from mlxrag.cli.main import main

Ran = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command with these words, and `typed` on standard input; return `(exit code, stdout, stderr)`."""

    def run(*words: object, typed: str = "") -> Ran:
        monkeypatch.setattr("sys.argv", ["mlxrag", *map(str, words)])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code: int | str | None = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return run
