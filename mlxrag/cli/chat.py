"""`mlxrag chat`: a conversation about the documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli.ask import LEFT_OUT, draw, remark
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Answering, Caching, Encoding, Memory, ModelSettings, Retrieval, Sampling

if TYPE_CHECKING:
    from mlxrag.cli.lines import Lines
    from mlxrag.rag.system import System
    from mlxrag.workspace import Workspace

HELP = "Ask; /new begins anew, /quit or an end of file ends; Ctrl-C stops an answer."


@click.command()
@knobs(ModelSettings, leave=LEFT_OUT)
@knobs(Retrieval)
@knobs(Encoding, only=("encoder",))
@knobs(Answering, Sampling)
@knobs(Caching, leave=("decode_concurrency",))
@knobs(Memory, only=("keep_alive", "memory_wait"))
@shared
def chat(workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Talk about your documents.

    A follow-up is searched for as a question that stands alone.  The conversation's keys and values are kept,
    so only what is new is processed.  Questions are read line by line; with --json one answer per line is written.
    """
    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.cli.lines import Lines
    from mlxrag.errors import MlxragError
    from mlxrag.machine import parse_seconds
    from mlxrag.rag.answer import Answer, Turn
    from mlxrag.rag.rungs import rest
    from mlxrag.rag.system import open_system, stream_answer
    from mlxrag.workspace import open_workspace

    settings, ws = s.read(config, flags), open_workspace(workspace)
    history: list[Turn] = []
    failed, lines = "", Lines()
    after = parse_seconds(settings.memory.keep_alive)
    with open_system(settings, ws, s.given(config, flags), degrade=True) as system:
        remark(system, settings.model.model)
        if sys.stdin.isatty():
            show.say(HELP)
        while (question := _read(lines, after, lambda: _tell(rest(system)))) is not None:
            if question in ("/quit", "/q"):
                break
            if question == "/new":
                history = []
                continue
            if not question:
                continue
            failed = _renew(system, ws, failed)
            try:
                for part in stream_answer(system, question, history):
                    if isinstance(part, Answer):
                        history.append(part.turn)
                        history = history[part.dropped_turns :]
                        if as_json:
                            click.echo(json.dumps(part.as_json(), ensure_ascii=False, allow_nan=False))
                        else:
                            draw(part)
                            click.echo()
                    elif not as_json:
                        click.echo(part, nl=False)
            except MlxragError as error:
                show.say(f"mlxrag: {error}")
            except KeyboardInterrupt:
                show.say("\nStopped; that question is not part of the conversation.")


def _renew(system: System, workspace: Workspace, failed: str) -> str:
    """Take up the version that is in use now, if `mlxrag model use` moved it; return the version that cannot be loaded."""
    from mlxrag.cli import show
    from mlxrag.errors import MlxragError
    from mlxrag.model.swap import moved
    from mlxrag.rag.renew import renew

    wanted = moved(system.model, workspace)
    try:
        if renew(system, workspace, failed):
            show.say(f"{wanted} answers now.")
    except MlxragError as error:
        show.say(f"mlxrag: {error}; {system.model_name} answers on")
        return wanted or ""
    return failed


def _tell(freed: int) -> None:
    from mlxrag.cli import show

    show.say(f"Idle: {show.size(freed)} given back; the next question loads the model again.")


def _read(lines: Lines, after: float, idle: Callable[[], None]) -> str | None:
    """Return the next line without its end, or None at the end of the input or at Ctrl-C."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    try:
        return lines.next(after, idle)
    except KeyboardInterrupt:
        return None
