"""Flags from settings: one declaration in `settings.py` becomes the option, its limits and its help line."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click

from mlxrag.table import Knob, Table

Command = TypeVar("Command", bound=Callable[..., Any])


def knobs(
    *tables: type[Table], only: tuple[str, ...] = (), leave: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Add an option for every field of the tables; a flag that is not given arrives as None (or `()` if repeatable).

    Args:
        tables: tables of `settings.py`, shown in this order.
        only: keys to add, if not all.
        leave: keys to leave out.

    Example:
        >>> @click.command()
        ... @knobs(Sampling, only=("temp",))
        ... def ask(**flags): ...
    """
    chosen = [
        (key, info)
        for t in tables
        for key, info in t.model_fields.items()
        if (not only or key in only) and key not in leave
    ]

    def decorate(command: Command) -> Command:
        for key, info in reversed(chosen):
            command = _option(key, info)(command)
        return command

    return decorate


def shared(command: Command) -> Command:
    """Add `--workspace`, `--config` and `--json` (as `workspace`, `config`, `as_json`), `--device` and `--memory-budget`."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)
    command = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TOML file with settings; a flag wins over it.",
    )(command)
    return workspace_option(machine_options(command))


def machine_options(command: Command) -> Command:
    """Add `--device` and `--memory-budget`, which reach the command, and what it starts, by the environment."""
    for flag, variable, kind, text in (
        ("--device", "MLXRAG_DEVICE", click.Choice(["auto", "gpu", "cpu"]), "Where the model computes."),
        ("--memory-budget", "MLXRAG_MEMORY_BUDGET", str, "Most memory for everything mlxrag holds, such as 6GB."),
    ):
        command = click.option(flag, type=kind, expose_value=False, help=text, callback=_to_environment(variable))(
            command
        )
    return command


def _to_environment(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """Pass a flag on as its environment variable, so that child processes keep to it too."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ[variable] = value

    return keep


def workspace_option(command: Command) -> Command:
    """Add `--workspace`."""
    return click.option(
        "--workspace", type=click.Path(path_type=Path), help="Directory that holds indexes, models and runs."
    )(command)


def _option(key: str, info: Knob) -> Callable[[Command], Command]:
    flag = "--" + key.replace("_", "-")
    kind = _plain(info.annotation)
    text = info.description or ""
    shown = "" if info.default in (None, "", ()) else f"  [default: {info.default}]"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", key, default=None, help=text + shown)
    if get_origin(kind) is tuple:
        return click.option(flag, key, multiple=True, type=_type(get_args(kind)[0], info), help=text)
    return click.option(flag, key, default=None, type=_type(kind, info), help=text + shown)


def _plain(annotation: Any) -> Any:
    """Take `None` out of `X | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        return rest[0]
    return annotation


def _type(kind: Any, info: Knob) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice([str(choice) for choice in get_args(kind)])
    if kind not in (int, float):
        return str
    low = info.gt if info.ge is None else info.ge
    high = info.lt if info.le is None else info.le
    cls: Any = click.IntRange if kind is int else click.FloatRange
    return cls(min=low, max=high, min_open=info.gt is not None, max_open=info.lt is not None)
