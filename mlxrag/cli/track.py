"""`mlxrag track`: MLflow's pages, the mirror, trends and differences of runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, workspace_option
from mlxrag.settings import Tracking

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group()
def track() -> None:
    """Look at runs in MLflow, trends and differences."""


@track.command()
@knobs(Tracking, only=("ui_port",))
@workspace_option
def ui(workspace: Path | None, ui_port: int | None) -> None:
    """Show MLflow's own pages on this machine, until Ctrl-C.

    What is not mirrored yet is mirrored first.
    """
    from mlxrag.track import read_tracking
    from mlxrag.tracking.charts import page
    from mlxrag.tracking.store import EXPERIMENTS
    from mlxrag.tracking.ui import pages
    from mlxrag.tracking.worker import mirror_all, opened
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    port = ui_port or read_tracking(ws).ui_port
    with opened(ws) as store:
        for ref in mirror_all(store):
            show.say(f"mirrored {ref}")
        known = {e.name: str(e.experiment_id) for e in store.client.search_experiments()}
    with pages(ws, port) as url:
        click.echo(f"MLflow: {url}")
        for name, text in EXPERIMENTS.items():
            if name in known:
                click.echo(f"  {text} {page(port, known[name], name)}")
        while True:
            time.sleep(3600)


@track.command()
@JSON
@workspace_option
def mirror(as_json: bool, workspace: Path | None) -> None:
    """Bring MLflow up to the workspace; after its database was lost, all of it."""
    from mlxrag.tracking.worker import mirror_all, opened
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    with opened(ws) as store:
        done = list(show.progress(mirror_all(store), "mirroring", unit="runs"))
        total = len(store.mirrored())
    value: dict[str, Any] = {"mirrored": done, "runs": total, "database": str(ws.root / "mlflow.db")}
    show.result(value, as_json, lambda: click.echo(f"{len(done)} mirrored, {total} in all: {value['database']}"))
