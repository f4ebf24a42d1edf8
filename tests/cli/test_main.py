"""The command line as a whole: fast, helpful, and with the promised exit codes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mlxrag.cli import main

HEAVY = ("mlx", "mlx_lm", "transformers", "mlflow", "pyarrow", "scipy", "numpy", "datasets", "pydantic", "rich")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mlxrag", *args], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    """`mlxrag --help` loads neither MLX nor any of the large packages."""
    program = (
        "import sys; from mlxrag.cli.main import cli\n"
        "try: cli(['--help'], prog_name='mlxrag')\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_help_is_quick() -> None:
    """The best of five starts shows help in under 0.3 s of processor time."""
    import resource

    best = 9.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 0.3, best


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_and_the_short_line_is_its_own(name: str) -> None:
    """The table of commands says what the command's own help says first."""
    command = main.LazyGroup().get_command(click.Context(main.cli), name)
    assert command is not None and command.name == name
    first = (command.help or "").strip().splitlines()[0]
    assert first == main.COMMANDS[name][1]
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0 and first in " ".join(shown.output.split())


def test_an_unknown_command_names_the_nearest_and_exits_with_2() -> None:
    """A typo is misuse, met with the right word."""
    done = run("inges", "x")
    assert done.returncode == 2 and "did you mean 'ingest'?" in done.stderr and "Traceback" not in done.stderr


def test_a_failure_is_one_sentence_and_exit_1() -> None:
    """No traceback for what the user can put right."""
    done = run("ingest", "/no/such/folder")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "/no/such/folder" in done.stderr


@pytest.mark.parametrize("flag", [["--workspace", "W"], ["--workspace=W"]])
def test_the_workspace_may_stand_before_the_command(flag: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the command as if it had been typed last, but before what `--` sets apart."""
    seen: list[object] = []

    @click.group()
    def index() -> None:
        """A group."""

    @index.command()
    @click.argument("words", nargs=-1)
    @click.option("--workspace")
    def warm(words: tuple[str, ...], workspace: str) -> None:
        """A command."""
        seen.append((words, workspace))

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: index)
    for words in (["a"], ["--", "--b"]):
        CliRunner().invoke(main.cli, [*flag, "index", "warm", *words], catch_exceptions=False)
    assert seen == [(("a",), "W"), (("--b",), "W")]
    assert CliRunner().invoke(main.cli, flag).exit_code == 2
