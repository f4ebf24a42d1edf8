"""`mlxrag memory`: who holds what of the budget."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs
from mlxrag.settings import Memory


@click.command()
@click.option("--live", is_flag=True, help="Look again every second until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@knobs(Memory, only=("memory_budget", "memory_reserve"))
def memory(live: bool, as_json: bool, **flags: Any) -> None:
    """Show who holds what of the memory budget."""
    from mlxrag import memory as book
    from mlxrag import pressure, settings

    table = settings.read(None, flags).memory
    while True:
        machine = book.this_machine()
        reading = pressure.read()
        processes = book.held_by_processes()
        budget = book.budget(machine, table) + (0 if table.memory_budget else sum(processes.values()))
        told = {
            "budget": budget,
            "held": sum(processes.values()),
            "processes": [{"pid": pid, "bytes": size} for pid, size in processes.items()],
            "total": machine.total,
            "available": machine.available,
            "working_set": machine.working_set,
            "swap": reading.swap,
            "pressure": reading.level.name.lower(),
            "stalled": reading.stalled,
        }
        show.result(told, as_json, partial(_draw, told))
        if not live:
            return
        time.sleep(1)


def _draw(told: dict[str, Any]) -> None:
    share = told["held"] / told["budget"] if told["budget"] else 0.0
    filled = round(40 * min(share, 1.0))
    out = show.out()
    out.print(
        f"[{'█' * filled}{'·' * (40 - filled)}] {show.size(told['held'])} of {show.size(told['budget'])}", markup=False
    )
    if told["processes"]:
        show.table(
            ["process", "holds"], [[p["pid"], show.size(p["bytes"])] for p in told["processes"]], right=["holds"]
        )
    else:
        out.print("No mlxrag process holds memory.")
    out.print(
        f"machine {show.size(told['total'])}, available {show.size(told['available'])}, swap {show.size(told['swap'])}, "
        f"pressure {told['pressure']}",
        markup=False,
    )
