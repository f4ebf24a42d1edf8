"""`mlxrag eval`: ask a dataset's questions, report, gate against a baseline, let people judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared, workspace_option
from mlxrag.settings import Evaluating, ModelSettings, Retrieval, Sampling

if TYPE_CHECKING:
    from mlxrag.workspace import Artefact

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group("eval")
def eval() -> None:  # noqa: A001  # the command's name
    """Score the answers of a system."""


@eval.command("run")
@click.argument("system", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data", "dataset", required=True, help="Dataset to ask: NAME or NAME@VERSION.")
@click.option("--split", default="all", show_default=True, help="train, valid, test or all.")
@click.option("--num", type=click.IntRange(1), help="Ask only this many, drawn in proportion to the tags.")
@click.option("--name", help="What to call the run; the name of the config file, else `eval`, unless given.")
@click.option("--gold", is_flag=True, help="Hand the model the gold passages instead of retrieving.")
@knobs(Evaluating)
@knobs(ModelSettings, Retrieval, Sampling)
@shared
def run(
    system: Path | None, dataset: str, split: str, num: int | None, name: str | None, gold: bool, workspace: Path | None,
    config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Ask the questions of a dataset and report.

    SYSTEM is a TOML file; without one, the flags and defaults are the system.  Stopped in the middle, the same command
    goes on where it was.
    """
    from mlxrag import settings as s
    from mlxrag.data.dataset import open_dataset, sample
    from mlxrag.data.store import ById
    from mlxrag.evaluate.evaluate import evaluate
    from mlxrag.rag.system import open_system
    from mlxrag.track import counted, live
    from mlxrag.workspace import open_workspace

    config = system or config
    settings = s.read(config, flags)
    ws = open_workspace(workspace)
    opened = open_dataset(ws, dataset)
    rows = opened.split(split)
    seed = settings.evaluating.eval_seed
    examples = {e.id: e for e in sample(rows, num, seed=seed)} if num else ById(rows)
    selection = {"split": split, **({"num": num, "seed": seed} if num else {})}
    done: list[Any] = []
    called = name or (config.stem if config else "eval")
    with (
        live(ws, settings.tracking, "eval", called, inputs=[opened.ref]) as job,
        open_system(settings, ws, s.given(config, flags), index=not gold) as answering,
    ):
        asked = evaluate(
            answering, opened, examples, ws, called,
            selection=selection, gold=gold, finished=lambda artefact, report: done.append((artefact, report)),
        )  # fmt: skip
        for _ in show.progress(counted(job, asked, "questions"), "asking", len(examples), "questions"):
            pass
    artefact, report = done[0]
    answer = _answer(artefact) | {
        "examples": report.examples, "failed": len(report.failed), "figures": artefact.manifest["figures"],
        "quadrants": dict(report.quadrants), "report": str(artefact.path / "report.html"),
    }  # fmt: skip
    show.result(answer, as_json, lambda: _draw(artefact, report))


@eval.command()
@click.argument("run")
@click.option("--to", "form", type=click.Choice(["markdown", "html", "json"]), help="Write this to --out, or print it.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option(
    "--redo", is_flag=True, help="Compute the measures again from the kept answers, as a new version of the run."
)
@JSON
@workspace_option
def report(run: str, form: str | None, out: Path | None, redo: bool, as_json: bool, workspace: Path | None) -> None:
    """Show the report of RUN, or write it elsewhere."""
    from mlxrag.evaluate.evaluate import report_of, rescore
    from mlxrag.workspace import open_workspace, resolve, write_text

    ws = open_workspace(workspace)
    artefact = resolve(ws, "runs", run)
    if redo:
        artefact = rescore(ws, artefact)
    found = report_of(artefact)
    if form or out:
        suffix = {"markdown": "md", "json": "json"}.get(form or "", out.suffix[1:] if out and not form else "html")
        text = (artefact.path / f"report.{suffix}").read_text(encoding="utf-8")
        if out is None:
            click.echo(text, nl=False)
            return
        write_text(out, text)
    answer = _answer(artefact) | {"report": str(out or artefact.path / "report.html")}
    show.result(
        found if as_json and out is None else answer,
        as_json,
        lambda: _draw_report(found, artefact.ref, answer["report"]),
    )


@eval.command()
@click.argument("run")
@click.argument("other", required=False)
@click.option("--judge", "ref", required=True, help="Model that judges: a name, a path or a hub id.")
@JSON
@workspace_option
def judge(run: str, other: str | None, ref: str, as_json: bool, workspace: Path | None) -> None:
    """Have a local model judge whether the passages support RUN's answers, or choose between RUN and OTHER.

    Nothing is asked again.  It says how far the verdicts follow the order of the options, how far they agree with
    people's votes, and whether the judge is kinder to its own model.  Stopped in the middle, the same command goes on.
    """
    from mlxrag.evaluate.evaluate import judge_pair, judge_run
    from mlxrag.model.load import load
    from mlxrag.workspace import open_workspace, resolve

    ws = open_workspace(workspace)
    runs = [resolve(ws, "runs", name) for name in ((run, other) if other else (run,))]
    with load(ref, ws) as model:
        artefact, found = judge_pair(ws, runs, model) if other else judge_run(ws, runs[0], model)
    show.result(_answer(artefact) | {"judged": found}, as_json, lambda: _draw_judged(artefact, found))


def _draw_judged(artefact: Artefact, found: dict[str, Any]) -> None:
    place, people = found["position"], found["people"]
    click.echo(f"{artefact.ref}: {place['n']} verdicts of {found['judge']}")
    if place["n"]:
        click.echo(
            f"the option named first: {place['first']:.2f} on average (0.50 without a bias); {place['turned']:.0%} change sides with the order"
        )
    if "preferred" in found:
        p = found["preferred"]
        click.echo(
            f"{found['runs'][0]} is better: {_number(p['mean'])} {_bounds(p['low'], p['high'])}, n {p['n']}, missing {p['missing']}"
        )
        own = found["self_preference"]
        if own is not None:
            click.echo(
                f"its own answers ({found['own']}) where both are equally right: {_number(own['mean'])} {_bounds(own['low'], own['high'])}, n {own['n']}"
            )
    if people is None:
        click.echo("nobody has voted on these answers, so nothing says how far it agrees with people")
    else:
        click.echo(
            f"against people on {people['n']} answers: kappa {_number(people['kappa'])}, AUROC {_number(people['auroc'])}, bias {_number(people['bias'])}"
        )


@eval.command()
@click.argument("run")
@click.option("--baseline", required=True, help="Run to hold it against.")
@click.option(
    "--max-drop", "drops", multiple=True, required=True, help="MEASURE=NUMBER, such as f1=0.02 (may be repeated)."
)
@click.option(
    "--alpha",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="A drop counts when its p-value is at most this.",
)
@knobs(Evaluating, only=("interval", "resamples", "eval_seed"))
@shared
def gate(
    run: str,
    baseline: str,
    drops: tuple[str, ...],
    alpha: float,
    workspace: Path | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Exit with 3 if RUN is significantly worse than the baseline on the same questions, or lacks a figure."""
    from dataclasses import asdict

    from mlxrag import settings as s
    from mlxrag.evaluate.evaluate import examples_of, read_scores
    from mlxrag.evaluate.figures import home
    from mlxrag.evaluate.gate import gate as hold
    from mlxrag.evaluate.gate import limits
    from mlxrag.workspace import open_workspace, resolve

    ws = open_workspace(workspace)
    before, after = resolve(ws, "runs", baseline), resolve(ws, "runs", run)
    homes = {i: home(e) for i, e in examples_of(ws, before).items()}
    settings = s.read(config, flags).evaluating
    checks = hold(read_scores(before.path), read_scores(after.path), homes, limits(drops), settings, alpha=alpha)
    passed = all(c.verdict == "passed" for c in checks)
    value = {"run": after.ref, "baseline": before.ref, "passed": passed, "checks": [asdict(c) for c in checks]}

    def draw() -> None:
        cells = [
            (
                c.measure,
                c.baseline,
                c.run,
                c.change,
                _bounds(c.low, c.high),
                c.p,
                c.n,
                c.missing,
                c.limit,
                c.verdict,
                c.why,
            )
            for c in checks
        ]
        heads = ("measure", "baseline", "run", "change", "interval", "p", "n", "missing", "limit", "verdict", "")
        show.table(heads, cells, title=f"{after.ref} against {before.ref}")

    show.result(value, as_json, draw)
    if not passed:
        raise click.exceptions.Exit(3)


def _answer(artefact: Artefact) -> dict[str, Any]:
    return {"kind": artefact.kind, "name": artefact.name, "version": artefact.version, "path": str(artefact.path)}


def _draw(artefact: Artefact, made: Any) -> None:
    from mlxrag.evaluate.report import to_json

    _draw_report(to_json(made), artefact.ref, str(artefact.path / "report.html"))


def _draw_report(found: dict[str, Any], ref: str, place: str) -> None:
    cells = [
        (f["measure"], f["mean"], _bounds(f["low"], f["high"]), f["n"], f["missing"], f["documents"])
        for f in found["figures"]
    ]
    heads = ("measure", "mean", "interval", "n", "missing", "documents")
    show.table(
        heads,
        cells,
        title=f"{ref}: {found['examples']} questions, {len(found['failed'])} without an answer",
        right=heads[1:],
    )
    click.echo("; ".join(f"{name}: {count}" for name, count in sorted(found["quadrants"].items())))
    for note in found["notes"]:
        show.say(f"note: {note}")
    click.echo(place)


def _bounds(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


@eval.command()
@click.argument("run")
@click.argument("other", required=False)
@click.option(
    "--port",
    default=8017,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port on this machine; 0 takes a free one.",
)
@click.option("--num", type=click.IntRange(1), help="Vote on only this many questions, drawn with the seed.")
@click.option(
    "--scale",
    "scales",
    multiple=True,
    help="NAME=RUBRIC, for one run (may be repeated); right, supported and useful unless given.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the orders and sides.")
@click.option("--finish", is_flag=True, help="Do not open the page: write what was voted so far as a run, and show it.")
@JSON
@workspace_option
def human(
    run: str, other: str | None, port: int, num: int | None, scales: tuple[str, ...], seed: int, finish: bool, as_json: bool,
    workspace: Path | None,
) -> None:  # fmt: skip
    """Let people vote on the answers of RUN, or on RUN against OTHER side by side, on a page of this machine.

    The page is blind and needs the keyboard only; every vote is saved at once.  Stop it with Ctrl-C, and go on with the
    same command; `--finish` writes the votes as scores, with agreement and preference strengths.
    """
    from mlxrag.evaluate.round import finish_round, open_round, read_scales
    from mlxrag.workspace import open_workspace, resolve

    ws = open_workspace(workspace)
    runs = [resolve(ws, "runs", ref) for ref in ((run, other) if other else (run,))]
    session = open_round(ws, runs, read_scales(scales), seed=seed, limit=num)
    if not finish:
        from mlxrag.evaluate.round import serve

        serve(session, port, lambda url: show.say(f"vote at {url} (Ctrl-C stops; then add --finish to see the result)"))
        return
    artefact, summary = finish_round(ws, session, runs)
    answer = _answer(artefact) | {"summary": summary}
    show.result(answer, as_json, lambda: _draw_votes(artefact, summary))


def _draw_votes(artefact: Artefact, found: dict[str, Any]) -> None:
    click.echo(f"{artefact.ref}: {sum(found['votes'].values())} votes on {found['items']} questions")
    show.table(("rater", "votes"), found["votes"].items(), right=("votes",))
    if found["choices"]:
        show.table(("choice", "votes"), found["choices"].items(), right=("votes",))
    for s in found["strengths"]:
        told = f"log-odds {_number(s['log_odds'])} {_bounds(s['low'], s['high'])}, wins {_number(s['win_rate'])} without ties"
        if s["log_odds"] is None:
            told = "no strength: too few votes, or all went one way"
        elif s["low"] == s["high"]:
            told = "log-odds 0, what the other is held against"
        click.echo(f"{s['system']}: {told}")
    for name, (count, mean) in found["scales"].items():
        click.echo(f"{name}: mean {mean:.2f} of 5, n {count}")
    for name, alpha in found["alpha"].items():
        click.echo(f"agreement on {name}: Krippendorff's alpha {_number(alpha)}")
    for pair in found["pairs"]:
        click.echo(
            f"{' and '.join(pair['raters'])}: {pair['agreed']:.0%} the same of {pair['n']}, Cohen's kappa {_number(pair['kappa'])}"
        )
    if found["left"] is not None:
        click.echo(f"left side chosen: {found['left']:.0%}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
