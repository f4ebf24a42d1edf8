"""The generated pages are what the program says of itself."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from mlxrag.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_fresh(generate: ModuleType) -> None:
    """`make docs` would change nothing in docs/cli.md."""
    assert (ROOT / "docs" / "cli.md").read_text() == generate.cli_page(), "run make docs"


def test_the_page_of_settings_is_fresh(generate: ModuleType) -> None:
    """`make docs` would change nothing in docs/settings.md."""
    assert (ROOT / "docs" / "settings.md").read_text() == generate.settings_page(), "run make docs"


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("mlxrag ")]


@pytest.mark.parametrize("line", readme_commands())
def test_every_mlxrag_line_of_the_readme_parses(line: str) -> None:
    """Commands and flags that the README shows exist and take the values that it shows."""
    import shlex

    words = shlex.split(line.split(" #")[0])[1:]
    ctx = click.Context(cli, info_name="mlxrag")
    command: click.Command = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        child = command.get_command(ctx, name)
        assert child is not None, f"{line}: no command {name!r}"
        command = child
    command.make_context(command.name, words, resilient_parsing=False)
