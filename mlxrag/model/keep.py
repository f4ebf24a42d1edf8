"""Models as versions of the workspace: taken from the hub cache in place, given settings of their own, cleaned up.

Versions are never changed.  A model from the hub is a version whose files are links into the hub's cache; a change of
its settings is a new version whose weights are the same files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxrag.errors import BadInput, NotFound, nearest
from mlxrag.model import hub
from mlxrag.model.checkpoint import read_checkpoint
from mlxrag.model.companions import TRAVEL, check_companions
from mlxrag.model.download import refuse_damage
from mlxrag.model.source import tidy_name
from mlxrag.settings import HOME, TABLES
from mlxrag.table import Invalid
from mlxrag.workspace import (
    KINDS,
    Artefact,
    Workspace,
    artefacts,
    create,
    leftovers,
    resolve,
    write_json,
)

# Tables whose settings a model may bring its own defaults for, and what mlxrag.json holds besides.
OWN_TABLES = ("answering", "caching", "retrieval", "sampling")
OWN_KEYS = ("context", "follow_up", "template_args")


def pull(ref: str, workspace: Workspace, *, name: str = "") -> Artefact:
    """Fetch a model of the hub (what is not in its cache yet) and make it a version, without copying it.

    Args:
        ref: `organisation/name` or `organisation/name@revision`.
        workspace: where the version goes.
        name: what to call it; the hub's name unless given.

    Raises:
        NotFound: not in the cache and the hub cannot be reached, or does not have it.
        BadInput: no hub id, or weights that cannot be used.
        Damaged: a file of the cache is not what the hub says it is.
    """
    folder = hub.fetch(ref)
    read_checkpoint(folder)
    repository = ref.partition("@")[0]
    commit = folder.name
    files = sorted({f for pattern in (*TRAVEL, "*.safetensors", "*.json") for f in folder.glob(pattern)})
    refuse_damage(ref, files)
    name = name or tidy_name(repository.rpartition("/")[2])
    with create(workspace, "models", name, inputs=[f"hub:{repository}@{commit}"], settings={"pulled": ref}) as draft:
        for file in files:
            (draft.path / file.name).symlink_to(file.resolve())
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        draft.note(
            source=f"hub:{repository}@{commit}",
            nbytes=sum(file.stat().st_size for file in files if file.suffix == ".safetensors"),
            companions=check_companions(draft.path, config),
        )
    assert draft.artefact is not None
    return draft.artefact


def configure(ref: str, changes: Mapping[str, str], workspace: Workspace) -> Artefact:
    """Make a version of a model that differs in its own settings alone (mlxrag.json); the weights are the same files.

    Args:
        ref: `name` or `name@version`.
        changes: values as text, by key: any setting of sampling, answering, retrieval or caching, `context`
            (tokens), `template_args` (a JSON object); an empty text takes a setting away.
        workspace: where it is.

    Raises:
        NotFound: no such model.
        BadInput: no such key (names the nearest), or a value beyond its limits.
    """
    old = resolve(workspace, "models", ref)
    file = old.path / "mlxrag.json"
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for key, text in changes.items():
        if text == "":
            values.pop(key, None)
        else:
            values[key] = checked(key, text)
    with create(workspace, "models", old.name, inputs=[old.ref], settings={"configured": dict(changes)}) as draft:
        for path in sorted(old.path.iterdir()):
            if path.name in ("manifest.json", "mlxrag.json"):
                continue
            share(path, draft.path / path.name)
        if values:
            write_json(draft.path / "mlxrag.json", dict(sorted(values.items())))
        kept = ("nbytes", "parameters", "bits_per_weight", "dtype", "quantization", "recipe", "proof", "source")
        draft.note(own_settings=values, **{key: old.manifest[key] for key in kept if key in old.manifest})
    assert draft.artefact is not None
    return draft.artefact


def share(path: Path, to: Path) -> None:
    """Let `to` be the same file as `path`: the same link, a hard link, or a copy where the disk has no links."""
    if path.is_symlink():
        to.symlink_to(path.readlink())
        return
    try:
        to.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, to)


def checked(key: str, text: str) -> Any:
    """Return the value that `text` means for `key`, within the limits of its setting.

    Raises:
        BadInput: no such key, or a value it does not take.
    """
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    if key == "context":
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"context is a number of tokens, not {text!r}")
        return value
    if key == "template_args":
        if not isinstance(value, dict):
            raise BadInput('template_args is a JSON object, such as {"enable_thinking": false}')
        return value
    if key == "follow_up":
        return value
    if HOME.get(key) not in OWN_TABLES:
        known = [known for known, table in HOME.items() if table in OWN_TABLES]
        raise BadInput(f"a model has no setting {key!r} of its own{nearest(key, [*known, *OWN_KEYS])}")
    table = TABLES[HOME[key]]
    if isinstance(table.model_fields[key].default, tuple) and not isinstance(value, list):
        value = [value]
    try:
        return getattr(table.model_validate({key: value}), key)
    except Invalid as error:
        raise BadInput(f"{key}: {error.faults[0][1]}, not {text!r}") from error


def scores_of(workspace: Workspace, model: Artefact) -> list[dict[str, Any]]:
    """Return what evaluations found of a version since it was made: run, dataset and figures, oldest first.

    A version is never changed, so its scores stay with the runs that were made from it.
    """
    made = [run for run in artefacts(workspace, "runs") if model.ref in run.manifest["inputs"]]
    made.sort(key=lambda run: str(run.manifest["made"]))
    return [
        {
            "run": run.ref,
            "dataset": (run.manifest.get("dataset") or {}).get("ref"),
            "figures": run.manifest["figures"],
        }
        for run in made
        if run.manifest.get("figures")
    ]


@dataclass(frozen=True)
class Waste:
    """Something a clean-up would take away: `what` it is, where, how many bytes it frees, and why it may go."""

    what: Literal["unfinished", "quantized on the way", "superseded"]
    ref: str
    path: Path
    nbytes: int
    why: str


def waste(workspace: Workspace, *, old: bool = False) -> Iterator[Waste]:
    """Yield what can be made again or was never finished.

    Args:
        workspace: where to look.
        old: also versions of models that are not `current` and that nothing was made from.
    """
    for path, nbytes in leftovers(workspace):
        yield Waste("unfinished", path.name, path, nbytes, "the process that made it is gone")
    made_from = {
        ref for kind in KINDS for artefact in artefacts(workspace, kind) for ref in artefact.manifest["inputs"]
    }
    for artefact in artefacts(workspace, "models"):
        if artefact.ref in made_from:
            continue
        if artefact.manifest["settings"].get("on_the_way"):
            why = "the next command that needs it makes it again"
            yield Waste("quantized on the way", artefact.ref, artefact.path, freed(artefact.path), why)
        elif old and resolve(workspace, "models", artefact.name).version != artefact.version:
            why = "not current, and nothing was made from it"
            yield Waste("superseded", artefact.ref, artefact.path, freed(artefact.path), why)


def freed(path: Path) -> int:
    """Return the bytes that removing a directory gives back: links and files that others share do not count."""
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(file.stat().st_size for file in files if file.stat().st_nlink == 1)


def find_version(workspace: Workspace, ref: str) -> Artefact:
    """Return a model of the workspace, with a hint at `model list` where there is none."""
    try:
        return resolve(workspace, "models", ref)
    except NotFound as error:
        raise NotFound(f"{error}; `mlxrag model list` shows what there is") from error
