"""`mlxrag data make` and what changes a dataset: clean, augment, synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlxrag.cli import show
from mlxrag.cli.data import data, fractions, made_answer
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Making, ModelSettings, Retrieval


@data.command()
@click.option("--name", required=True, help="What to call the dataset.")
@click.option(
    "--shares",
    default="0.8,0.1,0.1",
    show_default=True,
    help="Shares of train, valid and test, by document; `none` leaves one split.",
)
@knobs(Making)
@knobs(ModelSettings)
@knobs(Retrieval, only=("index", "retriever"))
@shared
def make(name: str, shares: str, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Make questions from the documents of an index.

    Rules and, where it can write, the model propose; every question kept has passed the gates, which are recorded with
    it.  What was refused is kept aside with its reason.  Stopped in the middle, the same command goes on where it was.
    """
    from mlxrag import settings as s
    from mlxrag.data.make import finish, spool
    from mlxrag.data.make import make as propose
    from mlxrag.rag.system import open_system
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    settings = s.read(config, flags)
    making = settings.making
    with open_system(settings, ws, s.given(config, flags)) as system:
        folder = spool(ws, name, system, making)
        kept = 0
        target = making.num_questions or None
        made = propose(system, folder, making)
        with show.bar(show.err(), "kept") as bar:
            task = bar.add_task("making", total=target)
            for one in made:
                kept += not one.refused
                bar.update(task, completed=kept)
        split = None if shares == "none" else fractions(shares)
        dataset, counts = finish(ws, name, system, folder, making, split, making.make_seed)
    answer = made_answer(dataset) | {
        "proposed": counts.proposed, "kept": counts.kept, "gates": dict(counts.refused),
        "makers": {m: {"proposed": p, "kept": k} for m, (p, k) in counts.makers.items()},
    }  # fmt: skip

    def draw() -> None:
        left = counts.proposed
        cells = []
        for gate, refused in counts.refused.items():
            left -= refused
            cells.append((gate, refused, left))
        show.table(("gate", "refused", "left"), cells, title=f"{counts.proposed} proposed", right=("refused", "left"))
        show.table(
            ("maker", "proposed", "kept"),
            [(m, p, k) for m, (p, k) in counts.makers.items()],
            right=("proposed", "kept"),
        )
        click.echo(f"{dataset.ref}: {', '.join(f'{n} {c}' for n, c in dataset.counts.items())}")

    show.result(answer, as_json, draw)
