"""`mlxrag model prune`: fewer layers, a smaller vocabulary, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Quantizing


@click.command()
@click.argument("source", metavar="MODEL")
@click.option(
    "--drop-layers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave out this many layers, those of least influence.",
)
@click.option("--trim-vocabulary", is_flag=True, help="Keep only the tokens that the texts and everyday language need.")
@click.option(
    "--keep-top",
    type=click.IntRange(min=0),
    default=4096,
    show_default=True,
    help="Most common tokens that stay whether the texts have them or not.",
)
@click.option(
    "--calibration", multiple=True, type=click.Path(path_type=Path), help="Text to measure on (may be repeated)."
)
@click.option("--index", default=None, help="Measure on the passages of this index.")
@click.option("--name", default="", help="What to call the result.")
@click.option("--dry-run", is_flag=True, help="Only measure; make nothing.")
@knobs(Quantizing, only=("calibration_samples", "calibration_tokens"))
@shared
def prune(
    source: str, drop_layers: int, trim_vocabulary: bool, keep_top: int, calibration: tuple[Path, ...], index: str | None,
    name: str, dry_run: bool, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make a model smaller by leaving out layers or tokens, measured on your own texts.

    Layers go by their influence on the texts; tokens go if neither the texts nor the most common ones need them.  The
    result is a new version; the table says what it costs in KL and perplexity and what it saves in bytes.
    """
    from mlxrag import settings as s
    from mlxrag.cli.texts import own_texts
    from mlxrag.errors import BadInput
    from mlxrag.model.smaller import smaller
    from mlxrag.model.source import find_source
    from mlxrag.workspace import open_workspace

    if not drop_layers and not trim_vocabulary:
        raise click.UsageError("nothing to do: give --drop-layers N, --trim-vocabulary, or both")
    settings, ws = s.read(config, flags), open_workspace(workspace)
    texts = own_texts(calibration, index, ws, settings)
    if not texts:
        raise BadInput("there are no texts to measure on; ingest some, or give files with --calibration")
    made = smaller(find_source(source, ws), texts, ws, settings.quantizing, drop_layers=drop_layers,
                   keep_top=keep_top if trim_vocabulary else None, name=name, keep=not dry_run)  # fmt: skip
    artefact = made.artefact
    value = {"kind": "models", "name": artefact.name if artefact else None, "version": artefact.version if artefact else None,
             "path": str(artefact.path) if artefact else None, **made.facts}  # fmt: skip

    def draw() -> None:
        facts = made.facts
        before, after = facts["before"], facts["after"]
        rows = [
            ("weights", show.size(before["nbytes"]), show.size(after["nbytes"])),
            ("layers", before["layers"], after["layers"]),
            ("tokens", before["tokens"], after["tokens"]),
            ("perplexity", f"{before['perplexity']:.4g}", f"{after['perplexity']:.4g}"),
            ("KL to the original", "0", f"{after['kl_mean']:.3g}" if after["kl_mean"] is not None else "other tokens"),
            ("same first choice", "1", f"{after['top1']:.3f}" if after["top1"] is not None else "-"),
        ]
        show.table(("", "before", "after"), rows, right=("before", "after"))
        if facts["influence"]:
            click.echo(
                "Influence of the layers: " + ", ".join(f"{i}: {v:.3f}" for i, v in enumerate(facts["influence"]))
            )
        if facts["lost_mass"] is not None:
            click.echo(
                f"Tokens that are gone had {100 * facts['lost_mass']:.2f} % of the probability; {100 * facts['same_cuts']:.1f} % of your texts "
                f"are cut as before; other text takes {100 * (facts['growth'] - 1):+.1f} % tokens."
            )
        click.echo(f"{artefact.name}@{artefact.version} is at {artefact.path}." if artefact else "Nothing was made.")

    show.result(value, as_json, draw)
