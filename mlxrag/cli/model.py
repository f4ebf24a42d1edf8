"""`mlxrag model`: the versions of models, listed, shown, taken into use, removed; other files hold the commands that make them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import shared
from mlxrag.errors import nearest

if TYPE_CHECKING:
    from mlxrag.workspace import Artefact

# Commands of files of their own, imported when they are called.
ELSEWHERE = {
    "convert": "mlxrag.cli.convert",
    "quantize": "mlxrag.cli.convert",
    "sweep": "mlxrag.cli.sweep",
    "choose": "mlxrag.cli.choose",
    "prune": "mlxrag.cli.prune",
}


class ModelGroup(click.Group):
    """The commands of this file and those of `ELSEWHERE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            command = getattr(import_module(ELSEWHERE[cmd_name]), cmd_name)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"no command {args[0]!r}{nearest(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=ModelGroup)
def model() -> None:
    """Convert, quantize, choose and keep models."""


@model.command()
@click.argument("ref", metavar="HUB_ID")
@click.option("--name", default="", help="What to call it; the hub's name unless given.")
@click.option("--revision", default="", help="Branch, tag or commit.")
@shared
def pull(ref: str, name: str, revision: str, workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Take a model of the Hugging Face hub into the workspace; its cache is used in place, nothing is copied."""
    from mlxrag.model.keep import pull as run
    from mlxrag.workspace import open_workspace

    made = run(f"{ref}@{revision}" if revision else ref, open_workspace(workspace), name=name)
    _show_artefact(made, as_json)


@model.command("list")
@shared
def list_models(workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """List the models of the workspace and their versions; the one in use is marked."""
    from mlxrag.workspace import artefacts, current, names, open_workspace

    ws = open_workspace(workspace)
    rows = []
    for name in names(ws, "models"):
        used = current(ws, "models", name)
        rows += [{**brief(found), "current": found.version == used} for found in artefacts(ws, "models", name)]

    def table() -> None:
        if not rows:
            click.echo(
                "No models yet; `mlxrag model convert` or `mlxrag model pull` makes one, and `reader` ships with mlxrag."
            )
            return
        lines = [
            (("* " if r["current"] else "  ") + r["name"], r["version"], show.size(r["nbytes"]) if r["nbytes"] else None,
             r["bits_per_weight"], r["recipe"] or r["dtype"], r["proof"], r["made"])
            for r in rows
        ]  # fmt: skip
        columns = ("model", "version", "size", "bits/weight", "recipe", "proof", "made")
        show.table(columns, lines, right=("size", "bits/weight"))

    show.result({"models": rows}, as_json, table)


def brief(found: Artefact) -> dict[str, Any]:
    """Return the facts of a version that a list shows."""
    manifest: Mapping[str, Any] = found.manifest
    return {
        "name": found.name,
        "version": found.version,
        "path": str(found.path),
        **{key: manifest.get(key) for key in ("nbytes", "bits_per_weight", "parameters", "recipe", "dtype", "made")},
        "proof": (manifest.get("proof") or {}).get("status"),
        "inputs": manifest["inputs"],
    }


@model.command("show")
@click.argument("ref", metavar="NAME[@VERSION]")
@click.option("--verify", "check", is_flag=True, help="Read every file and compare its hash with the manifest.")
@shared
def show_model(ref: str, check: bool, workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Show what is known about a model: where it came from, settings, proof, size, its own settings, scores since."""
    from mlxrag.model.beside import advice
    from mlxrag.model.keep import find_version, scores_of
    from mlxrag.workspace import lineage, open_workspace, verify

    ws = open_workspace(workspace)
    found = find_version(ws, ref)
    if check:
        verify(found)
    value: dict[str, Any] = {
        "kind": "models", "name": found.name, "version": found.version, "path": str(found.path),
        "lineage": [one.ref for one in lineage(ws, found)], "own_settings": advice(found.path), "scores": scores_of(ws, found),
        "manifest": dict(found.manifest),
    }  # fmt: skip

    def table() -> None:
        manifest = found.manifest
        rows: list[tuple[str, Any]] = [
            ("path", found.path), ("made from", ", ".join(manifest["inputs"]) or None), ("made", manifest["made"]),
            ("size", show.size(manifest["nbytes"]) if manifest.get("nbytes") else None),
            ("bits per weight", manifest.get("bits_per_weight")), ("recipe", manifest.get("recipe")),
            ("type", manifest.get("dtype")),
            ("own settings", ", ".join(f"{key}={one}" for key, one in value["own_settings"].items()) or None), ("notes", "; ".join(manifest.get("notes", [])) or None),
        ]  # fmt: skip
        proof = manifest.get("proof")
        if proof:
            rows.insert(
                3,
                (
                    "proof",
                    f"{proof['status']}, against {proof['by']}"
                    if proof["difference"]
                    else f"not proven: {proof['by']}",
                ),
            )
        for score in value["scores"]:
            means = {key: one["mean"] for key, one in score["figures"].items() if one["mean"] is not None}
            told = ", ".join(f"{key} {mean:.3g}" for key, mean in means.items())
            rows.append((score["run"].removeprefix("runs/"), f"{told} on {score['dataset']}"))
        show.table(("", found.ref.removeprefix("models/")), rows)
        if check:
            click.echo("All files are as they were written.")

    show.result(value, as_json, table)


@model.command()
@click.argument("ref", metavar="NAME@VERSION")
@shared
def use(ref: str, workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Let a model's name stand for a version from now on; going back is the same command.

    A running `mlxrag chat` takes it up before the next turn.
    """
    from mlxrag.model.keep import find_version
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import use as run

    ws = open_workspace(workspace)
    find_version(ws, ref)
    _show_artefact(run(ws, "models", ref), as_json, "is now in use")


@model.command()
@click.argument("ref", metavar="NAME@VERSION")
@click.option("--force", is_flag=True, help="Remove it even if something else was made from it.")
@shared
def remove(ref: str, force: bool, workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Remove a version; refused while something else was made from it."""
    from mlxrag.model.keep import find_version
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import remove as run

    ws = open_workspace(workspace)
    find_version(ws, ref)
    _show_artefact(run(ws, "models", ref, force=force), as_json, "was removed")


@model.command()
@click.argument("ref", metavar="NAME[@VERSION]")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@shared
def configure(ref: str, changes: tuple[str, ...], workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Give a model settings of its own: a new version with the same weights, which becomes current.

    Keys: context (tokens), template_args (JSON), and every setting of sampling, answering, retrieval and caching, such as
    temp=0.2, stop=END or system_prompt="...".  KEY= takes a setting away.  A flag of a command wins over them.
    """
    from mlxrag.model.keep import configure as run
    from mlxrag.model.keep import find_version
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import use as take

    wrong = [change for change in changes if "=" not in change]
    if wrong:
        raise click.UsageError(f"{wrong[0]!r} is not KEY=VALUE")
    ws = open_workspace(workspace)
    find_version(ws, ref)
    made = run(ref, dict(change.split("=", 1) for change in changes), ws)
    take(ws, "models", f"{made.name}@{made.version}")
    _show_artefact(made, as_json, "is now in use")


@model.command()
@click.option("--old", is_flag=True, help="Also versions that are not current and that nothing was made from.")
@click.option("--yes", is_flag=True, help="Take it away; without this, only show what would be freed.")
@shared
def clean(old: bool, yes: bool, workspace: Path | None, config: Path | None, as_json: bool) -> None:
    """Show what could be removed and what that would free; with --yes, remove it."""
    import shutil

    from mlxrag.model.keep import waste
    from mlxrag.workspace import open_workspace
    from mlxrag.workspace import remove as run

    ws = open_workspace(workspace)
    found = list(waste(ws, old=old))
    for one in found if yes else []:
        if one.what == "unfinished":
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            run(ws, "models", one.ref.removeprefix("models/"))
    total = sum(one.nbytes for one in found)
    value = {
        "removed": yes,
        "nbytes": total,
        "found": [{"what": one.what, "ref": one.ref, "nbytes": one.nbytes} for one in found],
    }

    def table() -> None:
        if found:
            rows = [(one.what, one.ref, show.size(one.nbytes), one.why) for one in found]
            show.table(("what", "which", "frees", "because"), rows, right=("frees",))
        end = "freed." if yes else "would be freed; --yes does it." if found else "would be freed."
        click.echo(f"{show.size(total)} {end}")

    show.result(value, as_json, table)


def _show_artefact(found: Artefact, as_json: bool, what: str = "") -> None:
    value = {"kind": "models", "name": found.name, "version": found.version, "path": str(found.path)}
    text = f"{found.name}@{found.version} {what or f'is at {found.path}'}."
    show.result(value, as_json, lambda: click.echo(text))
