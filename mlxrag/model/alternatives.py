"""Smaller models that can stand in for one when memory is short: made from it, made beside it, or below it on the ladder.

Only what is on this machine counts; nothing is made or downloaded for it.  What a step is known to cost is told from the
figures of `mlxrag model sweep` where there are some, else from the ladder's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrag.model import hub
from mlxrag.model.choose import cached, read_ladder
from mlxrag.model.load import READER, Model, bytes_to_load, locate
from mlxrag.workspace import Artefact, Workspace, artefacts


@dataclass(frozen=True, slots=True)
class Alternative:
    """A smaller model: how it is asked for, its bytes in memory, and what it is known to cost in quality."""

    ref: str
    nbytes: int
    cost: str


def smaller(model: Model, workspace: Workspace) -> list[Alternative]:
    """Return the smaller models that can stand in for this one, the largest first."""
    now = model.nbytes if model.network is not None else bytes_to_load(model.path, "auto")
    return stand_ins(model.ref, workspace, (model.path, model.name, model.version), now)


def stand_ins(
    ref: str, workspace: Workspace, found: tuple[Path, str, str] | None = None, below: int | None = None
) -> list[Alternative]:
    """Return the smaller models that can stand in for what `ref` names, the largest first.

    Args:
        ref: as for `load`.
        workspace: where versions are.
        found: directory, name and version of it, where they are known.
        below: bytes that they must stay below; those of its files unless given.

    Raises:
        NotFound: nothing answers to `ref`.
    """
    path, name, version = found or locate(ref, workspace)
    known = artefacts(workspace, "models")
    names = {f"models/{name}@{version}", f"directory:{path.resolve()}"}
    if ref == READER:
        names.add(f"bundled:{READER}")
    own = next((a for a in known if version and a.path == path), None)
    family = names | set(own.manifest["inputs"] if own is not None else ())
    others = [
        Alternative(f"{a.name}@{a.version}", bytes_to_load(a.path, "auto"), _told(a, workspace))
        for a in known
        if family & {a.ref, *a.manifest["inputs"]} and a.ref not in names
    ]
    others += _on_the_ladder(ref)
    now = below if below is not None else bytes_to_load(path, "auto")
    return sorted((a for a in others if a.nbytes < now), key=lambda a: -a.nbytes)


def _told(artefact: Artefact, workspace: Workspace) -> str:
    """Return what a sweep measured of this model, or of this recipe on the model it was made from."""
    row: dict[str, Any] | None = artefact.manifest.get("sweep")
    if row is None:
        inputs = set(artefact.manifest["inputs"])
        sweeps = [r for r in artefacts(workspace, "runs") if r.manifest.get("what") == "sweep"]
        for run in reversed([r for r in sweeps if inputs & set(r.manifest["inputs"])]):
            rows = json.loads((run.path / "report.json").read_text(encoding="utf-8"))["rows"]
            row = next((r for r in rows if r["recipe"] == artefact.manifest.get("recipe")), None)
            if row is not None:
                break
    if not row or not row.get("quality"):
        return "quality not measured (mlxrag model sweep measures it)"
    quality, answers = row["quality"], row.get("answers")
    said = f"KL {quality['kl_mean']:.3g} nats per token, {quality['top1']:.1%} same choices"
    return said + (f", {answers['measure']} {answers['value']:.3f}" if answers else "") + " by sweep"


def _on_the_ladder(ref: str) -> list[Alternative]:
    """Return the models of configs/tiers.toml that are in the hub's cache, if this one is of them."""
    rungs = read_ladder()
    mine = next((rung for rung in rungs if rung.hub == ref.partition("@")[0]), None)
    if mine is None:
        return []
    here = [rung for rung in rungs if rung.hub in cached(rungs) and rung.hub != mine.hub]
    return [
        Alternative(
            rung.hub,
            bytes_to_load(Path(hub.fetch(rung.hub)), "auto"),
            f"known score {mine.quality:.1f} to {rung.quality:.1f}",
        )
        for rung in here
    ]
