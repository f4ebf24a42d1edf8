"""`mlxrag model sweep`: which quantization."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Quantizing, Settings

if TYPE_CHECKING:
    from mlxrag.model.calibrate import Calibration
    from mlxrag.model.sweep import Row
    from mlxrag.workspace import Artefact, Workspace


@click.command()
@click.argument("source", metavar="MODEL")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    help="Recipe to measure, such as 4-g64, mxfp4 or awq-4 (may be repeated); eleven unless given.",
)
@click.option(
    "--calibration",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Text to measure and calibrate on (may be repeated).",
)
@click.option("--index", default=None, help="Measure on the passages of this index.")
@click.option(
    "--data", "dataset", default=None, help="Dataset NAME[@VERSION] whose questions are asked for an answer score."
)
@click.option(
    "--questions", type=click.IntRange(min=1), default=50, show_default=True, help="Questions of the dataset to ask."
)
@click.option("--budget", default=None, help="Pick the closest recipe whose weights take at most this, such as 4GB.")
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0),
    default=None,
    help="Pick the smallest recipe that loses at most this, in nats per token.",
)
@click.option("--name", default="", help="What to call the version that is made of the pick.")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Length of the prompts that are timed.",
)
@click.option(
    "--new-tokens", type=click.IntRange(min=2), default=32, show_default=True, help="Tokens generated for each."
)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Timed runs of each recipe.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Leave a copy of the report here.")
@knobs(Quantizing, only=("calibration_samples", "calibration_tokens", "dwq_learning_rate", "dwq_batch"))
@shared
def sweep(
    source: str, recipes: tuple[str, ...], calibration: tuple[Path, ...], index: str | None, dataset: str | None,
    questions: int, budget: str | None, max_kl: float | None, name: str, prompt_tokens: int, new_tokens: int, runs: int,
    html: Path | None, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Measure many quantizations of a model on your own texts and pick the best one.

    MODEL is a name in the workspace, a directory, `reader` or a hub id; it must not be quantized.  For each recipe: bits
    per weight, bytes, perplexity, KL to the original, agreement of first choices, speed and memory, and the score of
    answers if a dataset is given.  With --budget or --max-kl the best admissible recipe becomes a version.
    """
    from mlxrag import settings as s
    from mlxrag.cli.texts import own_texts
    from mlxrag.errors import BadInput
    from mlxrag.evaluate.score_model import scorer
    from mlxrag.machine import parse_size
    from mlxrag.model.source import find_source
    from mlxrag.model.sweep import DEFAULT, Keeper, Measuring, pick, scratch
    from mlxrag.model.sweep import sweep as run
    from mlxrag.track import curves, live
    from mlxrag.workspace import open_workspace

    settings, ws = s.read(config, flags), open_workspace(workspace)
    limit = parse_size(budget) if budget else None
    found = find_source(source, ws)
    texts = own_texts(calibration, index, ws, settings)
    if not texts:
        raise BadInput("there are no texts to measure on; ingest some, or give files with --calibration")
    rows_of, seen = cut(
        found.path, texts, settings, any(word.startswith(("awq", "gptq", "dwq", "dynamic")) for word in recipes)
    )
    measuring = Measuring(rows_of, seen, prompt_tokens, new_tokens, runs,
                          scorer(ws, dataset, questions, settings, s.given(config, flags)) if dataset else None)  # fmt: skip
    words = recipes or DEFAULT
    with (
        scratch(ws) as folder,
        live(ws, settings.tracking, "sweep", f"sweep-{found.name}"[:100], inputs=[found.ref]) as job,
    ):
        keeper = Keeper(folder)
        steps = run(found, words, measuring, ws, budget=limit, max_kl=max_kl, keep=keeper)
        told = curves(job, steps, figures)
        rows = list(show.progress(told, f"Sweeping {found.name}", total=len(words) + 1, unit="recipes"))
        chosen = pick(rows, limit, max_kl)
        made = None
        if chosen.recipe and keeper.row is not None and keeper.row.recipe == chosen.recipe:
            made = keeper.freeze(
                ws, found, name or f"{found.name}-{chosen.recipe}".replace("@", "-"), chosen.why, settings.quantizing
            )
        report = write_report(ws, found.name, found.ref, rows, chosen, measuring, len(texts), made)
    if html is not None:
        html.write_text((report.path / "report.html").read_text(encoding="utf-8"), encoding="utf-8")
    value: dict[str, Any] = {"kind": "runs", "name": report.name, "version": report.version, "path": str(report.path)}
    value |= {"rows": [row.as_dict() for row in rows], "pick": chosen.recipe or None, "why": chosen.why}
    value["model"] = {"name": made.name, "version": made.version, "path": str(made.path)} if made else None
    show.result(value, as_json, lambda: draw(rows, chosen.recipe, chosen.why, made, report))


def figures(row: Row) -> dict[str, float | None]:
    """Return the curves of a sweep at one recipe."""
    return {
        "sweep/bits_per_weight": row.bits_per_weight,
        "sweep/megabytes": row.nbytes / 1e6,
        "sweep/kl": row.quality.kl_mean if row.quality else None,
        "sweep/same_choice": row.quality.top1 if row.quality else None,
        "sweep/decode_tokens_per_second": row.speed.decode.median if row.speed else None,
        "sweep/answers": row.answers.value if row.answers else None,
    }


def cut(
    path: Path, texts: list[str], settings: Settings, calibrated: bool
) -> tuple[list[tuple[int, ...]], Calibration | None]:
    """Cut texts into pieces to measure on, and others to calibrate on if that is needed."""
    from mlxrag.model.beside import stop_ids
    from mlxrag.model.calibrate import Calibration, pieces
    from mlxrag.model.checkpoint import read_config
    from mlxrag.model.tokenizer import load_tokenizer

    config, quantizing = read_config(path), settings.quantizing
    tokenizer = load_tokenizer(path, stop_ids(path, config), config["model_type"])
    count = quantizing.calibration_samples * (2 if calibrated else 1)
    all_pieces = pieces(tokenizer, texts, count, quantizing.calibration_tokens)
    if not calibrated:
        return list(all_pieces), None
    return list(all_pieces[::2]), Calibration(all_pieces[1::2] or all_pieces, quantizing, config["model_type"])


def write_report(
    workspace: Workspace,
    name: str,
    ref: str,
    rows: list[Row],
    chosen: Any,
    measuring: Any,
    texts: int,
    made: Artefact | None,
) -> Artefact:
    """Keep the figures and the page as a run."""
    from importlib.metadata import version

    from mlxrag import device as device  # isort: skip  # before mlx.core
    import mlx.core as mx

    from mlxrag.model.sweep_page import page
    from mlxrag.workspace import create, machine, write_json, write_text

    tokens = sum(len(row) for row in measuring.rows)
    facts = {
        "Texts": f"{texts} of yours, {tokens} tokens in {len(measuring.rows)} pieces",
        "Speed": f"{measuring.prompt_tokens} tokens of prompt, {measuring.new_tokens} generated, {measuring.runs} runs after a warm-up",
        "Machine": f"{mx.device_info().get('device_name', '')} ({machine()['system']} {machine()['machine']}), "
        f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, mlxrag {machine()['mlxrag']}",
        "Model": ref,
    }
    inputs = [ref, *([made.ref] if made else [])]
    with create(
        workspace, "runs", f"sweep-{name}"[:100], inputs=inputs, settings={"recipes": [r.recipe for r in rows]}
    ) as draft:
        value = {
            "model": ref,
            "rows": [row.as_dict() for row in rows],
            "pick": chosen.recipe or None,
            "why": chosen.why,
            "facts": facts,
        }
        write_json(draft.path / "report.json", value)
        write_text(draft.path / "report.html", page(name, rows, chosen, facts))
        draft.note(what="sweep", pick=chosen.recipe or None)
    assert draft.artefact is not None
    return draft.artefact


def draw(rows: list[Row], picked: str, why: str, made: Artefact | None, report: Artefact) -> None:
    """Draw the table and say what was picked."""
    from mlxrag.model.sweep import front

    best, asked = {row.recipe for row in front(rows)}, any(row.answers for row in rows)
    lines = []
    for row in rows:
        mark = "> " if row.recipe == picked else "* " if row.recipe in best else "  "
        if row.quality is None or row.speed is None:
            lines.append((mark + row.recipe, *(["-"] * (10 if asked else 9))))
            continue
        q, s = row.quality, row.speed
        lines.append(
            (mark + row.recipe, f"{row.bits_per_weight:.2f}", show.size(row.nbytes), f"{q.perplexity.value:.4g} ± {q.perplexity.standard_error:.2g}",
             f"{q.kl_mean:.3g} ± {q.kl_error:.1g}", f"{q.kl_p99:.2g} ± {(q.kl_p99_high - q.kl_p99_low) / 2:.1g}", f"{q.top1:.3f} ± {q.top1_error:.1g}",
             around(s.prefill), around(s.decode), show.size(s.peak_bytes.median), *([answered(row)] if asked else []))
        )  # fmt: skip
    columns = (
        "recipe",
        "bits",
        "size",
        "perplexity",
        "KL",
        "p99",
        "same choice",
        "prefill tok/s",
        "decode tok/s",
        "peak",
        *(["answers"] if asked else []),
    )
    show.table(columns, lines, right=columns[1:])
    click.echo("* on the front: nothing is both smaller and closer to the original.")
    for row in rows:
        if row.reason:
            click.echo(f"{row.recipe} was left out: {row.reason}.")
    click.echo(f"Picked {picked}: {why}." if picked else f"Nothing was picked: {why}.")
    if made is not None:
        click.echo(f"{made.name}@{made.version} is at {made.path}.")
    click.echo(f"Report: {report.path / 'report.html'}")


def answered(row: Row) -> str:
    """Return the score of answers with its interval, as far as there is one."""
    a = row.answers
    if a is None or a.value is None:
        return "-"
    return f"{a.value:.3f}" + (f" ({a.low:.3f} to {a.high:.3f})" if a.low is not None and a.high is not None else "")


def around(figure: Any) -> str:
    """Return a median and half the width of its interval."""
    low, high = figure.interval
    return f"{figure.median:,.0f} ± {(high - low) / 2:,.0f}"
