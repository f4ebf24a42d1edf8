"""Another version into a running process: between two turns, unload before load, and back again if that fails.

The Model stays the same object, so whoever holds it (a conversation, a server) goes on with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mlxrag.errors import NotFound
from mlxrag.model.load import Model, load
from mlxrag.settings import ModelSettings
from mlxrag.workspace import Workspace, resolve


def moved(model: Model, workspace: Workspace) -> str | None:
    """Return `name@version` of what `model`'s name stands for now, if it was asked for by name and that has changed.

    Costs one small file; a conversation may ask before every turn.
    """
    if not model.version or "@" in model.ref:
        return None
    try:
        now = resolve(workspace, "models", model.ref)
    except NotFound:
        return None
    same = now.path == model.path
    if model.name != model.ref:  # quantized on the way: what it was made of is what was asked for
        manifest = json.loads((model.path / "manifest.json").read_text(encoding="utf-8"))
        same = now.ref in manifest["inputs"]
    return None if same else f"{now.name}@{now.version}"


def exchange(
    model: Model,
    ref: str | Path,
    workspace: Workspace | None = None,
    *,
    adapter: str | Path | None = None,
    settings: ModelSettings | None = None,
    opener: Callable[..., Model] = load,
) -> None:
    """Put another model into `model`: its weights go first, so that the two are never in memory together.

    Args:
        model: what is loaded now; afterwards it is the other one.
        ref: as for `load`.
        workspace: where names are looked up.
        adapter: an adapter for the new one.
        settings: how to load it.
        opener: loads a model; a test hands in one that fails.

    Raises:
        MlxragError: why the new one could not be loaded; `model` is the old one again, with its adapter where that came
            from a file.
    """
    old, asked = model.path, model.ref
    as_it_is = settings
    if settings is not None and "quantization" in model.config:
        as_it_is = settings.model_copy(update={"q_bits": None, "q_group_size": None, "q_mode": "affine"})
    model.close()
    try:
        fresh = opener(ref, workspace, adapter=adapter, settings=settings)
    except Exception:  # whatever went wrong, what was there before answers on
        back = opener(old, workspace, adapter=adapter, settings=as_it_is)
        name, version = model.name, model.version
        adopt(model, back, asked)
        model.name, model.version = name, version
        raise
    # A name goes on standing for whatever is current, also after it was followed to a version.
    adopt(model, fresh, asked if str(ref).partition("@")[0] == asked else str(ref))


def adopt(model: Model, fresh: Model, ref: str) -> None:
    """Make `model` what `fresh` is, under the name it was asked for by."""
    for field in ("name", "version", "path", "config", "network", "tokenizer", "advice", "notes", "hold", "needs"):
        setattr(model, field, getattr(fresh, field))
    model.ref = ref
