"""`mlxrag ab advise`: what follows from all runs of the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxrag.cli import show
from mlxrag.cli.options import workspace_option

if TYPE_CHECKING:
    from mlxrag.experiment.advise import Advised


@click.command()
@click.option("--data", "dataset", default="", help="Only runs on this dataset: NAME or NAME@VERSION.")
@click.option("--system", default="", help="Advise on this system instead of the best of each dataset.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for advice.html and the config files of the experiments; `advice` in the workspace unless given.",
)
@click.option("--rules", is_flag=True, help="Show the table of rules, each with its source, and do nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@workspace_option
def advise(dataset: str, system: str, out: Path | None, rules: bool, as_json: bool, workspace: Path | None) -> None:
    """Say what to do next, from all runs in the workspace.

    Every advice has the figures it rests on and what it could bring; without runs there is none.  Then: cost against
    quality of all systems, and which experiment would tell most, with the commands to type.
    """
    from mlxrag.experiment.advice_page import advice_page, rule_row, to_json
    from mlxrag.experiment.advise import advise as work_out
    from mlxrag.experiment.evidence import gather
    from mlxrag.experiment.rules import RULES
    from mlxrag.workspace import open_workspace, write_text

    if rules:
        rows = [rule_row(r) for r in RULES]
        show.result(
            rows, as_json, lambda: show.table(("rule", "looks at", "says", "source"), [tuple(r.values()) for r in rows])
        )
        return
    ws = open_workspace(workspace)
    folder = (out or ws.root / "advice").resolve()
    found = work_out(gather(ws), folder, ws, system=system, dataset=dataset)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((n, t) for e in found.experiments for n, t in e.files.items()):
        write_text(folder / name, text)
    write_text(folder / "advice.html", advice_page(found, f"What the runs in {ws.root} come to"))
    value = {**to_json(found), "page": str(folder / "advice.html")}
    show.result(value, as_json, lambda: _draw(found, folder))


def _draw(found: Advised, folder: Path) -> None:
    for note in found.notes:
        show.say(f"note: {note}")
    cells = [(a.text, a.evidence, a.gain.words, a.source) for a in found.advices]
    if cells:
        show.table(("advice", "evidence", "gain", "source"), cells, title="What to do")
    else:
        click.echo("No rule has anything to say of these runs.")
    heads = ("system", "questions", "quality", "low", "high", "n", "seconds", "alone", "peak")
    rows = [
        (p.system + (f" (worse in all than {', '.join(p.dominated)})" if p.dominated else ""), p.questions, p.quality, p.low, p.high, p.n,
         p.seconds, p.alone, None if p.peak is None else show.size(p.peak))
        for p in found.places
    ]  # fmt: skip
    if rows:
        show.table(heads, rows, title="Cost against quality", right=heads[2:])
    for number, e in enumerate(found.experiments, 1):
        minutes = "" if e.minutes is None else f", about {e.minutes:.1f} minutes"
        click.echo(f"\nExperiment {number}: {e.text}\n  {e.bits:.2f} bits, {e.questions:,} questions{minutes}")
        for command in e.commands:
            click.echo(f"  $ {command}")
    click.echo(f"\nPage: {folder / 'advice.html'}")
