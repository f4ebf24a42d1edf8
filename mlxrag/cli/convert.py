"""`mlxrag model convert` and `mlxrag model quantize`: models made of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import ModelSettings, Quantizing

if TYPE_CHECKING:
    from mlxrag.model.convert import Converted

BITS = ("q_bits", "q_group_size", "q_mode")


@click.command()
@click.argument("source")
@click.option("--name", default="", help="What to call it; the source's name unless given.")
@click.option("--mlx-path", type=click.Path(path_type=Path), help="Write to this new directory, not to the workspace.")
@click.option("--revision", default="", help="Branch, tag or commit of a hub id.")
@click.option(
    "-q", "--quantize", "quantized", is_flag=True, help="Quantize: 4 bits in groups of 64 unless told otherwise."
)
@click.option("-d", "--dequantize", is_flag=True, help="Write a quantized model's weights as plain numbers.")
@click.option(
    "--calibration", multiple=True, type=click.Path(path_type=Path), help="Text to calibrate on (may be repeated)."
)
@click.option("--index", default=None, help="Calibrate on the passages of this index.")
@knobs(ModelSettings, only=(*BITS, "trust_remote_code"))
@knobs(Quantizing)
@shared
def convert(
    source: str, name: str, mlx_path: Path | None, revision: str, quantized: bool, dequantize: bool,
    calibration: tuple[Path, ...], index: str | None, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Convert a checkpoint to MLX and prove that it computes the same.

    SOURCE is a directory in Hugging Face's layout or a hub id.  The result is compared with the checkpoint's own
    logits: those in reference.npz beside it, or those of transformers and torch if they are installed.
    """
    if quantized and dequantize:
        raise click.UsageError("-q and -d exclude each other: a model is quantized, or made plain again")
    if quantized and flags["q_bits"] is None and not flags["q_mode"] and not flags["quant_predicate"]:
        flags["q_bits"] = 4
    _convert(source, name, mlx_path, revision, dequantize, calibration, index, workspace, config, as_json, flags)


@click.command()
@click.argument("source", metavar="MODEL")
@click.option("--name", default="", help="What to call it; the model's name and the recipe unless given.")
@click.option("--mlx-path", type=click.Path(path_type=Path), help="Write to this new directory, not to the workspace.")
@click.option(
    "--calibration", multiple=True, type=click.Path(path_type=Path), help="Text to calibrate on (may be repeated)."
)
@click.option("--index", default=None, help="Calibrate on the passages of this index.")
@knobs(ModelSettings, only=(*BITS, "trust_remote_code"))
@knobs(Quantizing)
@shared
def quantize(
    source: str, name: str, mlx_path: Path | None, calibration: tuple[Path, ...], index: str | None,
    workspace: Path | None, config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make a smaller version of a model and say what it costs.

    MODEL is a name in the workspace, a directory, `reader` or a hub id.  Without flags: 4 bits in groups of 64.
    Calibrated quantizers look at your own texts: files given with --calibration, or the passages of an index.
    """
    from mlxrag import settings as s
    from mlxrag.model.recipe import recipe_of
    from mlxrag.workspace import open_workspace

    settings = s.read(config, flags)
    recipe = recipe_of(settings.model, settings.quantizing, always=True)
    assert recipe is not None
    if not settings.quantizing.quant_predicate and settings.model.q_mode == "affine":
        flags["q_bits"] = recipe.bits
    if not name and mlx_path is None:
        from mlxrag.model.source import find_source

        found = find_source(source, open_workspace(workspace))
        name = f"{found.name}-{recipe.name}".replace("@", "-")[:100]
    _convert(source, name, mlx_path, "", False, calibration, index, workspace, config, as_json, flags)


def _convert(
    source: str, name: str, mlx_path: Path | None, revision: str, dequantize: bool, calibration: tuple[Path, ...],
    index: str | None, workspace: Path | None, config: Path | None, as_json: bool, flags: dict[str, Any],
) -> None:  # fmt: skip
    from mlxrag import settings as s
    from mlxrag.cli.texts import own_texts
    from mlxrag.model.convert import convert as run
    from mlxrag.workspace import open_workspace

    settings, ws = s.read(config, flags), open_workspace(workspace)
    wants = settings.quantizing.quantizer != "plain"
    texts = own_texts(calibration, index, ws, settings) if wants or calibration else []

    def go(tell: Callable[[int, int], None] | None) -> Converted:
        return run(source, ws, name=name, out=mlx_path, revision=revision, model=settings.model,
                   quantizing=settings.quantizing, dequantize=dequantize, texts=texts, tell=tell)  # fmt: skip

    console = show.err()
    if console.is_terminal:
        with show.bar(console, "MB") as bar:
            task = bar.add_task("Writing", total=None)
            made = go(lambda done, total: bar.update(task, completed=done // 10**6, total=max(total // 10**6, 1)))
    else:
        made = go(None)
    show.result(answer(made), as_json, lambda: draw(made))


def answer(made: Converted) -> dict[str, Any]:
    """Return what a command that made a model says in JSON."""
    names = {"kind": "models", "name": made.path.name, "version": None, "path": str(made.path)}
    if made.artefact is not None:
        names |= {"name": made.artefact.name, "version": made.artefact.version}
    kept = ("nbytes", "parameters", "bits_per_weight", "peak_bytes", "dtype", "dtype_reason", "recipe", "proof", "difference",
            "companions", "notes", "source")  # fmt: skip
    return {**names, **{key: made.facts[key] for key in kept if key in made.facts}}


def draw(made: Converted) -> None:
    """Say what was made and what is known about it."""
    facts = made.facts
    name = made.artefact.ref.removeprefix("models/") if made.artefact else str(made.path)
    click.echo(
        f"{name}: {show.size(facts['nbytes'])}, {facts['bits_per_weight']:.2f} bits per weight, "
        f"{facts['parameters'] / 1e6:.1f} M parameters; writing took {show.size(facts['peak_bytes'])} of memory."
    )
    click.echo(f"{made.proof.sentence()}.")
    if facts["recipe"] and (lost := facts["difference"]):
        click.echo(
            f"Quantized by {facts['recipe']}: KL {lost['kl_mean']:.2g} nats per token (p99 {lost['kl_p99']:.2g}), "
            f"top-1 agreement {lost['top1']:.2f} on the probe text."
        )
    elif lost := facts["difference"]:
        click.echo(f"What was written differs by KL {lost['kl_mean']:.2g} nats per token on the probe text.")
    if facts["dtype_reason"].startswith("auto: float16"):
        click.echo(f"{facts['dtype_reason'].removeprefix('auto: ')}.")
    for note in facts["notes"]:
        show.say(f"changed {note}")
    if facts["companions"]["tokenizer"] == "absent":
        show.say("the checkpoint has no tokenizer; put tokenizer.json beside the weights before use")
    for text in facts["companions"].get("round_trip", []):
        show.say(f"the tokenizer does not give back {text!r} as it was")
