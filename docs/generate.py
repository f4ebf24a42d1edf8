"""Write docs/cli.md and docs/settings.md from the program itself: `python -m docs.generate`.

A test (`tests/cli/test_docs.py`) fails when the pages are stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from mlxrag import settings
from mlxrag.cli.main import cli

HERE = Path(__file__).resolve().parent


def commands(command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every command with its help text, parents first."""
    settings = dict(command.context_settings) | {"max_content_width": 100, "terminal_width": 100}
    ctx = click.Context(command, parent, info_name=command.name if parent else "mlxrag", **settings)
    command._help_option = None  # click keeps the first it makes, whatever the names of help were then
    yield tuple(ctx.command_path.split()), command.get_help(ctx)
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from commands(child, ctx)


def cli_page() -> str:
    """Return docs/cli.md."""
    parts = ["# Commands", "", "Made by `make docs` from the program's own help.", ""]
    for words, text in commands(cli):
        parts += [f"{'#' * min(2 + len(words) - 1, 4)} {' '.join(words)}", "", "```", text.rstrip(), "```", ""]
    return "\n".join(parts)


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [
        "# Settings",
        "",
        "Made by `make docs` from `mlxrag/settings.py`. Each value is a flag (`--chunk-tokens`), an environment variable",
        "(`MLXRAG_CHUNK_TOKENS`) and a key of a TOML file (`[chunking] chunk_tokens`); a flag wins over the environment,",
        "the environment over the file, the file over the default.",
        "",
    ]
    for name, table in settings.TABLES.items():
        if not table.model_fields:
            continue
        parts += [f"## [{name}]", "", table.__doc__ or "", "", "| key | default | what |", "|---|---|---|"]
        for key, info in table.model_fields.items():
            default = (
                "" if info.default in (None, "", ()) else f"`{info.default}`".replace("\n", "\\n").replace("|", "\\|")
            )
            parts.append(f"| `{key}` | {default} | {(info.description or '').replace('|', chr(92) + '|')} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "cli.md").write_text(cli_page())
    (HERE / "settings.md").write_text(settings_page())
