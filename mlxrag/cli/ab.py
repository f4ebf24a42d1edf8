"""`mlxrag ab`: plan a comparison of systems, run it, read what it came to, get advice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.advise import advise
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Experimenting

if TYPE_CHECKING:
    from mlxrag.experiment.plan import Plan
    from mlxrag.experiment.run import Progress
    from mlxrag.workspace import Artefact

CONFIGS = click.argument("configs", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group()
def ab() -> None:
    """Compare systems with statistics."""


ab.add_command(advise)


@ab.command()
@CONFIGS
@click.option("--data", "dataset", required=True, help="Dataset to ask: NAME or NAME@VERSION.")
@click.option("--split", default="", help="train, valid, test or all; test if there is one unless given.")
@click.option("--name", help="What to call the plan; the names of the config files unless given.")
@click.option("--pilot", multiple=True, help="Run whose scores tell how much answers vary (may be repeated).")
@knobs(Experimenting)
@shared
def plan(
    configs: tuple[Path, ...], dataset: str, split: str, name: str | None, pilot: tuple[str, ...], workspace: Path | None,
    config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Say what a comparison needs, and freeze it.

    CONFIGS are two TOML files or more, each a system; the first is the one the others are held against.
    """
    from mlxrag import settings as s
    from mlxrag.data.dataset import open_dataset
    from mlxrag.experiment.known import prepare
    from mlxrag.experiment.plan import keep
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    settings = s.read(config, flags).experimenting
    made = prepare(name or _name(configs), configs, open_dataset(ws, dataset), split, settings, ws, pilot)
    artefact = keep(ws, made)
    value = _answer(artefact) | {
        "differs": {k: list(v) for k, v in made.differs.items()}, "warnings": list(made.warnings),
        "hypotheses": list(made.hypotheses), "questions": len(made.questions), "power": made.power, "cost": made.cost,
    }  # fmt: skip
    show.result(value, as_json, lambda: _draw_plan(made, artefact))


@ab.command()
@CONFIGS
@click.option("--data", "dataset", help="Dataset to ask, where config files are given: NAME or NAME@VERSION.")
@click.option("--split", default="", help="train, valid, test or all; test if there is one unless given.")
@click.option("--name", help="What to call the run; the plan's name and `-run` unless given.")
@knobs(Experimenting)
@shared
def run(
    configs: tuple[Path, ...], dataset: str | None, split: str, name: str | None, workspace: Path | None,
    config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Carry out a plan, or compare config files at once.

    CONFIGS are the name of a plan, or two TOML files or more.  Stopped in the middle, the same command goes on where
    it was, to the same figures.
    """
    from mlxrag import settings as s
    from mlxrag.experiment.run import run as carry_out
    from mlxrag.track import counted, live
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    settings = s.read(config, flags)
    made, source, departed = _plan_of(configs, dataset, split, settings, s.given(config, flags), ws)
    done: list[Artefact] = []
    stopped: list[Progress] = []

    def questions() -> Iterator[None]:
        """One item for each question that all systems have answered."""
        last = 0
        for step in carry_out(made, source, ws, name or f"{made.name}-run", departed=departed, finished=done.append):
            yield from [None] * (step.done - last)
            last = step.done
            if step.stop:
                stopped.append(step)

    about = {"primary": made.primary, **made.settings.model_dump()}
    inputs = [source.ref] if source is not None else [made.dataset]
    with live(ws, settings.tracking, "ab", name or f"{made.name}-run", settings=about, inputs=inputs) as job:
        asked = counted(job, questions(), "questions")
        for _ in show.progress(asked, "asking", len(made.questions), "questions"):
            pass
    if stopped:
        show.say(f"decided after {stopped[0].done} of {stopped[0].of} questions")
    _tell(done[0], as_json)


@ab.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--all-pairs", is_flag=True, help="Compare each with each, not each with the first.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.json, report.md and report.html.")
@knobs(Experimenting, only=("primary", "guardrails", "goal", "margin", "alpha", "power", "correction", "permutations"))
@shared
def report(
    runs: tuple[str, ...], all_pairs: bool, out: Path | None, workspace: Path | None, config: Path | None,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Show what a comparison came to, or compare evaluations that are there.

    RUNS is one comparison, or two evaluations or more of the same questions, of which the first is the one the others
    are held against.
    """
    import json

    from mlxrag import settings as s
    from mlxrag.experiment import report as reports
    from mlxrag.experiment.compare import pairs
    from mlxrag.experiment.known import of_comparison, of_runs
    from mlxrag.workspace import open_workspace, resolve

    ws = open_workspace(workspace)
    first = resolve(ws, "runs", runs[0].removeprefix("runs/"))
    if len(runs) == 1 and not s.given(config, flags) and not all_pairs:
        made = json.loads((first.path / "report.json").read_text(encoding="utf-8"))
        folder: Path | None = first.path
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            folder, made = out, reports.write(out, made)
    else:
        from dataclasses import replace

        settings = s.read(config, flags).experimenting
        if len(runs) == 1 and first.manifest.get("what") == "ab":
            changes = {k: v for k, v in settings if k in s.given(config, flags)}
            given = of_comparison(first, changes, ws)
        else:
            given = of_runs(runs, settings, ws)
        if all_pairs:
            given = replace(given, which=pairs(list(given.scores), against_first=False))
        made = reports.build(given)
        folder = out
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            reports.write(out, made)
    show.result(made, as_json, lambda: _draw_report(made, folder))


def _plan_of(
    configs: tuple[Path, ...], dataset: str | None, split: str, settings: Any, given: frozenset[str], ws: Any
) -> tuple[Plan, Artefact | None, tuple[str, ...]]:
    """Return the plan that is named, or one of the config files, and what the flags change of it."""
    from dataclasses import replace

    from mlxrag.data.dataset import open_dataset
    from mlxrag.experiment.known import prepare
    from mlxrag.experiment.plan import open_plan

    if len(configs) == 1:
        made, source = open_plan(ws, str(configs[0]))
        changed = {k: v for k, v in settings.experimenting if k in given and v != getattr(made.settings, k)}
        words = tuple(f"{k} is {v}, planned was {getattr(made.settings, k)}" for k, v in changed.items())
        if changed:
            most = changed.get("max_questions") or None
            made = replace(
                made, settings=made.settings.model_copy(update=changed),
                questions=made.questions[:most], primary=changed.get("primary") or made.primary,
            )  # fmt: skip
        return made, source, words
    if not dataset:
        raise click.UsageError("name the questions with --data")
    name = _name(configs)
    return prepare(name, configs, open_dataset(ws, dataset), split, settings.experimenting, ws), None, ()


def _name(configs: tuple[Path, ...]) -> str:
    return "-".join(path.stem for path in configs)[:90]


def _answer(artefact: Artefact) -> dict[str, Any]:
    return {"kind": artefact.kind, "name": artefact.name, "version": artefact.version, "path": str(artefact.path)}


def _tell(artefact: Artefact, as_json: bool) -> None:
    import json

    made = json.loads((artefact.path / "report.json").read_text(encoding="utf-8"))
    value = _answer(artefact) | {
        "verdicts": made["verdicts"], "comparisons": made["comparisons"], "time_ratios": made["time_ratios"],
        "departures": made["about"].get("departures", []), "report": str(artefact.path / "report.html"),
    }  # fmt: skip
    show.result(value, as_json, lambda: _draw_report(made, artefact.path))


def _draw_plan(made: Plan, artefact: Artefact) -> None:
    names = [v.name for v in made.variants]
    show.table(("setting", *names), [(k, *v) for k, v in made.differs.items()], title="What differs")
    for warning in made.warnings:
        click.echo(f"Careful: {warning}.")
    for hypothesis in made.hypotheses:
        click.echo(f"Hypothesis: {hypothesis}.")
    p, c = made.power, made.cost
    basis = p["assumed"] or f"pilot of {p['pilot']} questions"
    need = f"{p['questions']:,} questions" if p["questions"] else "more than a million questions"
    click.echo(
        f"To see {100 * p['effect']:g} points of {made.primary} with a chance of {p['power']:g}: {need} ({basis})."
    )
    click.echo(
        f"There are {p['available']:,}: the chance is {p['chance']:.2f}; differences from {100 * p['detectable']:.1f} points show."
    )
    time = f"about {c['seconds'] / 60:.1f} minutes ({c['basis']})" if c.get("seconds") else f"time {c['basis']}"
    fits = "" if c["fits"] else " - which does not fit"
    click.echo(f"Cost: {time}; at most {show.size(c['peak'])} of a budget of {show.size(c['budget'])}{fits}.")
    click.echo(f"Frozen as {artefact.ref}. Next: mlxrag ab run {artefact.name}")


def _draw_report(made: dict[str, Any], folder: Path | None) -> None:
    for sentence in made["verdicts"]:
        click.echo(sentence)
    cells = [
        (
            c["measure"], f"{c['b']} against {c['a']}", c["mean_a"], c["mean_b"], c["difference"], c["low"], c["high"],
            c["p"], c["corrected"], c["n"],
        )
        for c in made["comparisons"]
    ]  # fmt: skip
    right = ("A", "B", "difference", "low", "high", "p", "corrected", "n")
    show.table(("measure", "B against A", *right), cells, right=right)
    for departure in made["about"].get("departures", []):
        click.echo(f"Departs from the plan: {departure}.")
    if folder is not None:
        click.echo(f"Report: {folder / 'report.html'}")
