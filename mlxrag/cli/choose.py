"""`mlxrag model choose`: which model, bits, context and KV precision fit this machine and this goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs
from mlxrag.settings import Memory

if TYPE_CHECKING:
    from mlxrag.model.choose import Candidate, Choice


@click.command()
@click.option("--goal", type=click.Choice(["fastest", "balanced", "best"]), default="balanced", show_default=True,
              help="Lowest time; best quality in reasonable time; best quality that fits.")  # fmt: skip
@click.option("--max-latency", metavar="TIME", help="Longest time for an answer, such as 2s.")
@click.option(
    "--prompt-tokens", default=2000, show_default=True, type=click.IntRange(1), help="Tokens of a typical prompt."
)
@click.option(
    "--answer-tokens", default=100, show_default=True, type=click.IntRange(1), help="Tokens of a typical answer."
)
@click.option(
    "--ladder",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Models to pick from; configs/tiers.toml unless given.",
)
@click.option("--local", is_flag=True, help="Only models that are on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@knobs(Memory, only=("memory_budget", "memory_reserve"))
def choose(
    goal: Any, max_latency: str | None, prompt_tokens: int, answer_tokens: int, ladder: Path | None, local: bool,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Choose a model for this machine, and say why not the others.

    Memory is predicted, time follows from the measured speed of this machine; nothing is downloaded.
    """
    from mlxrag import machine, settings
    from mlxrag.model.choose import NothingFits, cached, read_ladder
    from mlxrag.model.choose import choose as pick
    from mlxrag.model.row_cost import rows_are_dear
    from mlxrag.model.speed import backend, benched, chip, remembered

    latest = machine.parse_seconds(max_latency) if max_latency else None
    budget = machine.budget(machine.this_machine(), settings.read(None, flags).memory)
    rungs = read_ladder(ladder)
    try:
        found = pick(
            rungs, budget, remembered().best, goal=goal, max_latency=latest, local=cached(rungs), only_local=local,
            prompt=prompt_tokens, answer=answer_tokens, metal=backend() == "Metal", known=benched(),
        )  # fmt: skip
    except NothingFits as error:
        none = {"model": None, "budget": budget, "goal": goal, "candidates": [_facts(c) for c in error.candidates]}
        refused = error.candidates
        show.result(none, as_json, lambda: _table(refused, None, budget))
        raise
    chosen = found.chosen
    value = {
        "model": chosen.rung.hub, "bits": chosen.rung.bits, "context": chosen.context, "kv_bits": chosen.kv_bits,
        "why": found.why, "note": rows_are_dear(chip()), "budget": budget, "goal": goal, "candidates": [_facts(c) for c in found.candidates],
    }  # fmt: skip
    show.result(value, as_json, lambda: _draw(found, budget, rows_are_dear(chip())))


def _facts(one: Candidate) -> dict[str, Any]:
    return {
        "model": one.rung.hub, "bits": one.rung.bits, "quality": round(one.rung.quality, 2), "bytes": one.memory.peak,
        "context": one.context, "kv_bits": one.kv_bits, "prefill": round(one.prefill, 1), "decode": round(one.decode, 1),
        "latency": round(one.latency, 2), "measured": one.measured, "local": one.local, "rejected": one.reason,
    }  # fmt: skip


def _table(candidates: Sequence[Candidate], chosen: Candidate | None, budget: int) -> None:
    rows = [
        ["→" if c is chosen else "", c.rung.hub, f"{c.rung.quality:.1f}", show.size(c.memory.peak),
         f"{c.context:,}" if c.context else "-", c.kv_bits or 16, f"{c.decode:.0f}", f"{c.latency:.1f} s{' (measured)' if c.measured else ''}",
         "here" if c.local else "", c.reason]
        for c in candidates
    ]  # fmt: skip
    columns = ("", "model", "quality", "memory", "context", "KV bits", "tokens/s", "answer in", "", "rejected because")
    show.table(
        columns,
        rows,
        title=f"Budget {show.size(budget)}",
        right=("quality", "memory", "context", "tokens/s", "answer in"),
    )


def _draw(found: Choice, budget: int, note: str) -> None:
    chosen = found.chosen
    _table(found.candidates, chosen, budget)
    click.echo(f"Chosen: {chosen.rung.hub}, {found.why}.")
    if note:
        click.echo(note)
    if not chosen.local:
        click.echo(f"Next: mlxrag model pull {chosen.rung.hub}")
