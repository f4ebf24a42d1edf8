"""`mlxrag memory`: who holds what of the budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs
from mlxrag.settings import Memory

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@click.option("--live", is_flag=True, help="Look again every second until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; with --live, one a line.")
@knobs(Memory, only=("memory_budget", "memory_reserve"))
def memory(live: bool, as_json: bool, **flags: Any) -> None:
    """Show who holds what of the memory budget."""
    import json

    from mlxrag import settings

    table = settings.read(None, flags).memory
    if not live:
        told = look(table)
        show.result(told, as_json, lambda: show.out().print(_drawing(told)))
        return
    if as_json:
        while True:
            click.echo(json.dumps(look(table)))
            time.sleep(1)
    from rich.live import Live

    with Live(_drawing(look(table)), console=show.out(), auto_refresh=False) as screen:
        while True:
            time.sleep(1)
            screen.update(_drawing(look(table)), refresh=True)


def look(table: Memory) -> dict[str, Any]:
    """Return the budget, what each process holds of it and for what, and what the machine feels."""
    from mlxrag import machine as here
    from mlxrag import pressure
    from mlxrag.memory import held_by_processes

    machine, reading, processes = here.this_machine(), pressure.read(), held_by_processes()
    held = sum(size for holds in processes.values() for _, _, size in holds)
    return {
        "budget": here.budget(machine, table, held),
        "held": held,
        "processes": [
            {
                "pid": pid,
                "bytes": sum(size for _, _, size in holds),
                "holds": [{"who": who, "kind": kind, "bytes": size} for who, kind, size in holds],
            }
            for pid, holds in processes.items()
        ],
        "total": machine.total,
        "available": machine.available,
        "working_set": machine.working_set,
        "swap": reading.swap,
        "pressure": reading.level.name.lower(),
        "stalled": reading.stalled,
        "thermal": reading.thermal,
    }


def _drawing(told: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    share = told["held"] / told["budget"] if told["budget"] else 0.0
    filled = round(40 * min(share, 1.0))
    bar = f"[{'█' * filled}{'·' * (40 - filled)}] {show.size(told['held'])} of {show.size(told['budget'])}"
    rows: RenderableType = Text("No mlxrag process holds memory.")
    if told["processes"]:
        rows = Table(box=None)
        for name in ("process", "holder", "kind"):
            rows.add_column(name)
        rows.add_column("holds", justify="right")
        for process in told["processes"]:
            for i, hold in enumerate(process["holds"]):
                pid = "" if i else str(process["pid"])
                rows.add_row(pid, Text(hold["who"]), hold["kind"], show.size(hold["bytes"]))
    foot = (
        f"machine {show.size(told['total'])}, available {show.size(told['available'])}, swap {show.size(told['swap'])}, "
        f"pressure {told['pressure']}"
    )
    return Group(Text(bar), rows, Text(foot))
