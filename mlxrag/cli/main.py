"""The command `mlxrag`; a command's module is imported when it is called, so that `--help` stays fast."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

import click

from mlxrag import __version__
from mlxrag.errors import MlxragError, nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("mlxrag.cli.quickstart", "The whole loop once: ask, make questions, train, compare."),
    "ingest": ("mlxrag.cli.ingest", "Read files and folders into an index, so that they can be searched and asked."),
    "index": ("mlxrag.cli.index", "Make popular passages ready before somebody asks."),
    "search": ("mlxrag.cli.search", "Find the passages that answer a question best."),
    "ask": ("mlxrag.cli.ask", "Answer a question from your documents, with citations."),
    "chat": ("mlxrag.cli.chat", "Talk about your documents."),
    "generate": ("mlxrag.cli.generate", "Generate text, with the flags of mlx_lm.generate."),
    "model": ("mlxrag.cli.model", "Convert, quantize, choose and keep models."),
    "adapter": ("mlxrag.cli.adapter", "Train, swap, import and fuse adapters."),
    "data": ("mlxrag.cli.data", "Make and keep question sets."),
    "eval": ("mlxrag.cli.eval", "Score the answers of a system."),
    "ab": ("mlxrag.cli.ab", "Compare systems with statistics."),
    "track": ("mlxrag.cli.track", "Look at runs in MLflow, trends and differences."),
    "bench": ("mlxrag.cli.bench", "Measure time to the first token, prefill, decoding, loading and memory of models."),
    "memory": ("mlxrag.cli.memory", "Show who holds what of the memory budget."),
    "doctor": ("mlxrag.cli.doctor", "Say what this machine is and what would be faster."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--workspace` before the command as if it stood at the end of the line, where commands expect it."""
        flag, equals, _ = args[0].partition("=") if args else ("", "", "")
        size = 1 if equals else 2
        if flag == "--workspace" and len(args) > size and not args[size].startswith("-"):
            given, rest = args[:size], args[size:]
            at = rest.index("--") if "--" in rest else len(rest)
            args = [*rest[:at], *given, *rest[at:]]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlxrag")
def cli() -> None:
    """Ask your documents with a local model, make it better at them, and prove it."""


def main() -> None:
    """Run the command line: 0 done, 1 failed, 2 misuse, 3 a gate said no, 130 interrupted."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    gc.set_threshold(50_000, 20, 100)  # importing makes many objects that stay; looking through them takes time
    try:
        # Outside its standalone mode click returns the code of an Exit instead of raising it.
        code = cli(prog_name="mlxrag", standalone_mode=False)
        if isinstance(code, int) and code:
            sys.exit(code)
    except MlxragError as error:
        click.echo(f"mlxrag: {error}", err=True)
        sys.exit(1)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("mlxrag: interrupted; what was finished is kept, run the same command to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        _afterwards()


def _afterwards() -> None:
    """Have what a command made mirrored to MLflow, by a process that nothing waits for; clean up, at most once a day."""
    made = getattr(sys.modules.get("mlxrag.workspace"), "MADE", None)
    if made:
        from mlxrag.tidy import tidy_daily
        from mlxrag.track import mirror_run

        mirror_run(*made[-1])
        tidy_daily(made[-1][0])


if __name__ == "__main__":
    main()
