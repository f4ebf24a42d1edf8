"""`mlxrag adapter`: train adapters, look them through, swap, fuse, take them in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared, workspace_option
from mlxrag.settings import Answering, ModelSettings, Training

if TYPE_CHECKING:
    from mlxrag.workspace import Artefact

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group()
def adapter() -> None:
    """Train, swap, import and fuse adapters."""


@adapter.command()
@knobs(ModelSettings, only=("model", "load_dtype", "q_bits", "q_group_size", "q_mode"))
@click.option("--data", required=True, help="Dataset NAME[@VERSION], a .jsonl file, or a directory with train.jsonl.")
@click.option("--name", default="adapter", show_default=True, help="What to call the adapter.")
@click.option("--seed", "train_seed", type=int, help="Seed of the first weights, the order of the data and dropout.")
@click.option("--adapter-path", "copy_to", type=click.Path(path_type=Path), help="Leave a copy of the adapter here.")
@click.option("--in-process", is_flag=True, help="Do not train in a child process.")
@knobs(Training, leave=("train_seed",))
@knobs(Answering, only=("system_prompt",))
@shared
def train(
    data: str,
    name: str,
    copy_to: Path | None,
    in_process: bool,
    workspace: Path | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train an adapter on questions and answers; the same command goes on where one was stopped.

    Flags are those of mlx_lm.lora.  The adapter is a plain mlx-lm directory.  Started by `mlx.launch`,
    each process takes its share of every batch.
    """
    from mlxrag import settings as s
    from mlxrag.cli.watch import watch
    from mlxrag.errors import BadInput
    from mlxrag.track import live, steps
    from mlxrag.train.job import finish_job, make_job, run_job
    from mlxrag.train.processes import alone, is_first
    from mlxrag.train.worker import supervise
    from mlxrag.workspace import lock, open_workspace

    settings, ws = s.read(config, flags), open_workspace(workspace)
    if not settings.model.model:
        raise BadInput("--model: say which model to train on: a directory, a name of the workspace, or reader")
    job = make_job(
        ws, settings.model.model, data, name, settings.training, settings.answering, settings.model, settings.memory
    )
    here = in_process or not alone()
    if not is_first():  # the first one writes and speaks for all
        for _ in run_job(job):
            pass
        return
    with (
        lock(ws, f"training-{name}"),
        live(ws, settings.tracking, "train", name, settings=job.training, inputs=[data]) as told,
    ):
        for _ in watch(steps(told, run_job(job) if here else supervise(job)), settings.training.steps_per_report):
            pass
        made = finish_job(job)
    if copy_to is not None:
        _copy(made, copy_to)

    def draw() -> None:
        scores = made.manifest["scores"]
        base, best = scores["base"] or {}, scores["best"] or {}
        rows = [(k, base.get(k), best.get(k)) for k in best if k != "iteration"]
        show.table(("on the validation data", "base", "adapter"), rows, right=("base", "adapter"))
        click.echo(f"{made.ref}  {made.path}")

    show.result(_facts(made), as_json, draw)


@adapter.command("list")
@JSON
@workspace_option
def list_(as_json: bool, workspace: Path | None) -> None:
    """List the adapters and their versions."""
    from mlxrag.workspace import artefacts, current, open_workspace

    ws = open_workspace(workspace)
    rows = [
        {**_facts(a), "current": current(ws, "adapters", a.name) == a.version, "made": a.manifest["made"]}
        for a in artefacts(ws, "adapters")
    ]

    def draw() -> None:
        cells = []
        for r in rows:
            scores = r["scores"] or {}
            best = scores.get("best") or {}
            base = (r["base"] or {}).get("name", "")
            cells.append((r["name"], r["version"], "*" if r["current"] else "", base, best.get("valid_loss"),
                          best.get("exact_match"), r["made"][:16]))  # fmt: skip
        columns = ("name", "version", "current", "base", "validation loss", "exact match", "made")
        show.table(columns, cells, right=("validation loss", "exact match"))

    show.result(rows, as_json, draw)


@adapter.command("show")
@click.argument("ref")
@JSON
@workspace_option
def show_(ref: str, as_json: bool, workspace: Path | None) -> None:
    """Show an adapter of the workspace, or a directory: what it is, its base, what it is made from."""
    from mlxrag.model.adapter import find_adapter, read_adapter
    from mlxrag.workspace import open_workspace, resolve

    ws = open_workspace(workspace)
    found = read_adapter(find_adapter(ref, ws))
    manifest: dict[str, Any] = {}
    if (found.path / "manifest.json").is_file():
        manifest = dict(resolve(ws, "adapters", found.name).manifest)
    value = {
        "name": found.name, "path": str(found.path), "kind": found.kind, "rank": found.rank, "scale": found.scale,
        "num_layers": found.num_layers, "keys": list(found.keys or ()), "tensors": len(found.weights),
        "bytes": found.nbytes, "base": {"name": found.base_name, "fingerprint": found.base},
        "inputs": manifest.get("inputs", []), "scores": manifest.get("scores"), "settings": manifest.get("settings"),
    }  # fmt: skip

    def draw() -> None:
        for key, item in value.items():
            shown = show.size(item) if key == "bytes" else json.dumps(item) if isinstance(item, dict | list) else item
            click.echo(f"{key:12}{shown}")

    show.result(value, as_json, draw)


@adapter.command()
@click.argument("ref")
@JSON
@workspace_option
def use(ref: str, as_json: bool, workspace: Path | None) -> None:
    """Let NAME alone mean this version from now on; going back is the same command."""
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import use as move

    made = move(open_workspace(workspace), "adapters", ref)
    show.result(_facts(made), as_json, lambda: click.echo(f"{made.name} is {made.version}"))


@adapter.command()
@click.argument("ref")
@click.option("--force", is_flag=True, help="Also when something was made from it.")
@JSON
@workspace_option
def remove(ref: str, force: bool, as_json: bool, workspace: Path | None) -> None:
    """Remove a version of an adapter."""
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import remove as drop

    gone = drop(open_workspace(workspace), "adapters", ref, force=force)
    show.result(_facts(gone), as_json, lambda: click.echo(f"{gone.ref} is gone"))


@adapter.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The base: a directory, NAME[@VERSION], a hub id, or reader.")
@click.option("--name", required=True, help="What to call the adapter.")
@JSON
@workspace_option
def import_(source: Path, model: str, name: str, as_json: bool, workspace: Path | None) -> None:
    """Take in an adapter of PEFT or of an older mlx-lm, and prove its logits against its own formula."""
    from mlxrag.model.attach import fingerprint
    from mlxrag.model.load import load
    from mlxrag.model.peft import import_adapter
    from mlxrag.train.job import base_ref
    from mlxrag.workspace import create, open_workspace

    ws = open_workspace(workspace)
    with load(model, ws) as base:
        fact = {"name": base_ref(base), "fingerprint": fingerprint(base.network)}
        with create(ws, "adapters", name, inputs=[fact["name"], f"file:{source.resolve()}"]) as draft:
            made = import_adapter(source, base.network, draft.path, fact)
            draft.note(base=fact, proof={"source": made.source, "difference": made.difference}, notes=list(made.notes))
    artefact = draft.artefact
    assert artefact is not None
    for note in made.notes:
        show.say(note)

    def draw() -> None:
        click.echo(f"{artefact.ref}  {artefact.path}")
        click.echo(
            f"{made.modules} layers; logits differ from {made.source}'s formula by at most {made.difference:.1e}"
        )

    show.result({**_facts(artefact), "difference": made.difference, "notes": list(made.notes)}, as_json, draw)


@adapter.command()
@click.argument("ref")
@click.argument("target", type=click.Path(path_type=Path))
@JSON
@workspace_option
def export(ref: str, target: Path, as_json: bool, workspace: Path | None) -> None:
    """Write an adapter to TARGET in PEFT's format, for peft, vLLM and llama.cpp's converter."""
    from mlxrag.errors import BadInput
    from mlxrag.model.adapter import find_adapter, read_adapter
    from mlxrag.model.peft_export import export_adapter
    from mlxrag.workspace import open_workspace

    found = read_adapter(find_adapter(ref, open_workspace(workspace)))
    if target.exists() and any(target.iterdir()):
        raise BadInput(f"{target}: is there already; give an empty or a new directory")
    export_adapter(found, target)
    show.result({"path": str(target), "adapter": found.name}, as_json, lambda: click.echo(str(target)))


@adapter.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--name", required=True, help="What to call the merged adapter.")
@click.option(
    "--weight", "weights", multiple=True, type=float, help="Weight of each adapter, in order; equal ones unless given."
)
@click.option(
    "--method", type=click.Choice(["linear", "ties", "dare"]), default="linear", show_default=True, help="How."
)
@click.option(
    "--density",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of entries kept by ties and dare.",
)
@click.option("--rank", type=click.IntRange(0), default=0, help="Rank of the merged adapter; worked out unless given.")
@click.option("--seed", type=int, default=0, help="Seed of dare.")
@JSON
@workspace_option
def merge(
    refs: tuple[str, ...],
    name: str,
    weights: tuple[float, ...],
    method: str,
    density: float,
    rank: int,
    seed: int,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Merge adapters of one base with weights."""
    from mlxrag.model.adapter import find_adapter, read_adapter
    from mlxrag.model.merge import merge_adapters
    from mlxrag.workspace import create, open_workspace

    ws = open_workspace(workspace)
    found = [read_adapter(find_adapter(ref, ws)) for ref in refs]
    shares = weights or (1 / len(found),) * len(found)
    inputs = [f"adapters/{a.name}" if "@" in a.name else f"file:{a.path.resolve()}" for a in found]
    settings = {"method": method, "weights": list(shares), "density": density, "rank": rank, "seed": seed}
    with create(ws, "adapters", name, inputs=inputs, settings=settings) as draft:
        made = merge_adapters(found, shares, draft.path, method=method, density=density, rank=rank, seed=seed)
        draft.note(base={"name": found[0].base_name, "fingerprint": found[0].base}, kept=made.kept)
    artefact = draft.artefact
    assert artefact is not None

    def draw() -> None:
        click.echo(f"{artefact.ref}  {artefact.path}")
        click.echo(f"rank {made.rank}, which keeps at least {made.kept:.0%} of every layer's merged change")

    show.result({**_facts(artefact), "rank": made.rank, "kept": made.kept}, as_json, draw)


@adapter.command()
@click.argument("ref")
@click.option("--model", help="The base; the one the adapter names unless given.")
@click.option("--name", required=True, help="What to call the fused model.")
@click.option(
    "--into",
    type=click.Choice(["same", "8", "half"]),
    default="same",
    show_default=True,
    help="Bits of the fused layers.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Least share of the effect that must survive.",
)
@click.option(
    "--data", help="Questions to measure on: a dataset or file; the adapter's own validation data unless given."
)
@click.option(
    "--questions",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="Answers looked at; 0 looks at the layers only.",
)
@JSON
@workspace_option
def fuse(
    ref: str,
    model: str | None,
    name: str,
    into: str,
    threshold: float,
    data: str | None,
    questions: int,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Write an adapter into its base, if enough of it survives (exit code 3 if not)."""
    import sys

    from mlxrag.model.fuse import WouldNotSurvive
    from mlxrag.train.fusing import fuse_adapter
    from mlxrag.workspace import open_workspace

    try:
        made, found = fuse_adapter(
            open_workspace(workspace),
            ref,
            name,
            model=model,
            into=into,
            threshold=threshold,
            data=data,
            questions=questions,
        )
    except WouldNotSurvive as error:
        reason = str(error)
        show.result({"refused": reason}, as_json, lambda: click.echo(f"mlxrag: {reason}", err=True))
        sys.exit(3)

    def draw() -> None:
        worst = found.layers[:5]
        show.table(("layer", "change / weight", "cosine kept", "bits"), [(w.path, w.share, w.cosine, w.bits or None) for w in worst],
                   title="the layers that keep least", right=("change / weight", "cosine kept", "bits"))  # fmt: skip
        if found.kept is not None:
            click.echo(
                f"on {found.tokens} answer tokens the fused model keeps {found.kept:.1%} of the effect; {found.agreement:.1%} of the likeliest tokens agree"
            )
        click.echo(f"{made.ref}  {made.path}")

    value = {**_facts(made), "kept": found.kept, "agreement": found.agreement, "tokens": found.tokens}
    show.result(value, as_json, draw)


def _facts(made: Artefact) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "kind": made.kind, "name": made.name, "version": made.version, "path": str(made.path),
        "base": manifest.get("base"), "inputs": manifest["inputs"], "scores": manifest.get("scores"),
    }  # fmt: skip


def _copy(made: Artefact, target: Path) -> None:
    import shutil

    from mlxrag.model.adapter import CONFIG, WEIGHTS

    target.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS, CONFIG):
        shutil.copy2(made.path / file, target / file)
