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
    import signal

    from mlxrag.track import read_tracking
    from mlxrag.tracking.charts import page
    from mlxrag.tracking.store import EXPERIMENTS
    from mlxrag.tracking.ui import pages
    from mlxrag.tracking.worker import mirror_all, opened
    from mlxrag.workspace import open_workspace

    # A server of several processes hangs on this one: being told to go must run what takes them along.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
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


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


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
    show.result(
        value, as_json, lambda: click.echo(f"{len(done)} mirrored, {total} artefacts have a run: {value['database']}")
    )


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a dashboard of trends and differences here.",
)


@track.command()
@click.argument("measure")
@click.option("--system", default="", help="Only runs of this name.")
@click.option(
    "--alpha",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Largest p of a change.",
)
@OUT
@JSON
@workspace_option
def trend(measure: str, system: str, alpha: float, out: Path | None, as_json: bool, workspace: Path | None) -> None:
    """Show MEASURE over the versions of every system, and where it changed.

    The dashboard also has the newest two versions of each system side by side.
    """
    from dataclasses import asdict

    from mlxrag.tracking.diff import diff
    from mlxrag.tracking.page import dashboard
    from mlxrag.tracking.trend import trends
    from mlxrag.workspace import open_workspace, write_text

    ws = open_workspace(workspace)
    found = trends(ws, measure, system=system, alpha=alpha)
    if out is not None:
        newest = [[f"{t.system}@{v}" for v in t.versions[-2:]] for t in found if len(t.versions) > 1]
        write_text(out, dashboard(f"{measure} over versions", found, [diff(ws, *two) for two in newest]))
    value = {"measure": measure, "trends": [asdict(t) for t in found], **({"page": str(out)} if out else {})}

    def draw() -> None:
        for t in found:
            marks = {c.at: f"{c.difference:+.3f} (p = {c.p:.2g})" for c in t.changes}
            cells = [
                (v, t.made[i][:16], m, t.lows[i], t.highs[i], marks.get(i, ""))
                for i, (v, m) in enumerate(zip(t.versions, t.means, strict=True))
            ]
            title = f"{t.system}: {measure} on {t.dataset}, {t.n} questions of {t.documents} documents"
            show.table(
                ("version", "made", "mean", "low", "high", "changed"), cells, title=title, right=("mean", "low", "high")
            )

    show.result(value, as_json, draw)


@track.command("diff")
@click.argument("run1")
@click.argument("run2")
@OUT
@JSON
@workspace_option
def diff_(run1: str, run2: str, out: Path | None, as_json: bool, workspace: Path | None) -> None:
    """Show what differs between two runs: settings, prompts, data, scores and answers.

    RUN1 and RUN2 are NAME, NAME@VERSION, or KIND/NAME@VERSION for models, adapters and datasets.  The dashboard also has
    the measure that decides over the versions of both.
    """
    from dataclasses import asdict

    from mlxrag.tracking.diff import diff
    from mlxrag.tracking.page import dashboard
    from mlxrag.tracking.trend import trends_of
    from mlxrag.workspace import open_workspace, write_text

    ws = open_workspace(workspace)
    found = diff(ws, run1, run2)
    if out is not None:
        write_text(
            out, dashboard(f"{found.a} and {found.b}", trends_of(ws, found.measure, (found.a, found.b)), [found])
        )
    value = asdict(found) | ({"page": str(out)} if out else {})

    def draw() -> None:
        show.table(("", found.a, found.b), [(k, *v) for k, v in found.facts.items()])
        show.table(("setting", "A", "B"), [(k, *map(str, v)) for k, v in found.settings.items()], title="Settings")
        for line in found.prompt:
            click.echo(line)
        d = found.data
        click.echo(f"Questions: {d['both']} in both, {d['only_a']} only in A, {d['only_b']} only in B")
        cells = [(m, *v) for m, v in found.scores.items()]
        show.table(("measure", "A", "B", "B less A", "n"), cells, title="Scores", right=("A", "B", "B less A", "n"))
        rows = [(x["question"], x["a"], x["b"], x["score_a"], x["score_b"]) for x in found.answers[:10]]
        title = f"Answers: {found.same_answers} the same, {len(found.answers)} that differ"
        show.table(("question", "A", "B", "score A", "score B"), rows, title=title)

    show.result(value, as_json, draw)
