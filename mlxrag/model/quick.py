"""Quantize on the way: `--q-bits 4` on any command that loads a model.

The first time the model is quantized tensor by tensor into the workspace, under a name that says what it is and a
version that stands for the source's bytes; every later time that version is loaded like any other.  The whole
unquantized model is never in memory.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput, NotFound
from mlxrag.model.checkpoint import read_checkpoint
from mlxrag.model.network import assemble, compute_dtype
from mlxrag.model.quantize import quantize_network
from mlxrag.model.recipe import Recipe
from mlxrag.model.write import Tell, cast, write_model
from mlxrag.workspace import Workspace, create, resolve

SAMPLES = 16  # places of a weight file that the fingerprint looks at, besides its header, size and time
SAMPLE_BYTES = 4096


def quantized(
    path: Path, name: str, version: str, recipe: Recipe, workspace: Workspace, trust_remote_code: bool = False,
    tell: Tell | None = None,
) -> tuple[Path, str, str]:  # fmt: skip
    """Return directory, name and version of the model in `path` quantized by `recipe`, making it if need be.

    Raises:
        BadInput: it is quantized already, or cannot be quantized like that.
    """
    if recipe.calibrated:
        raise BadInput(f"{recipe.name} looks at texts first; make it with `mlxrag model quantize` and load the result")
    print_of = fingerprint(path, recipe)
    mine = f"{name}-{recipe.name}"[:100]
    try:
        known = resolve(workspace, "models", f"{mine}@{print_of}")
        return known.path, mine, print_of
    except NotFound:
        pass
    source = f"models/{name}@{version}" if version else f"directory:{path.resolve()}"
    settings = {"recipe": recipe.name, "on_the_way": True}
    with create(workspace, "models", mine, inputs=[source], settings=settings, version=print_of) as draft:
        found = assemble(path, trust_remote_code=trust_remote_code)
        written = write_model(found, path, draft.path, recipe=recipe, tell=tell)
        draft.note(
            nbytes=written.nbytes, parameters=written.parameters, bits_per_weight=written.bits_per_weight,
            peak_bytes=written.peak_bytes, dtype=written.dtype, recipe=recipe.name, source=source, notes=list(found.notes),
        )  # fmt: skip
    assert draft.artefact is not None
    return draft.artefact.path, mine, print_of


def fingerprint(path: Path, recipe: Recipe) -> str:
    """Return 12 hex digits for the weights in `path` and a recipe, without reading gigabytes.

    It takes in config.json, and of each weight file the header, the size, the time it was changed and some samples.
    """
    found = read_checkpoint(path)
    digest = hashlib.sha256(recipe.name.encode())
    digest.update((path / "config.json").read_bytes())
    for file in found.files:
        facts = file.stat()
        digest.update(f"{file.name} {facts.st_size} {facts.st_mtime_ns}".encode())
        with file.open("rb") as stream:
            head = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(head))
            for place in range(SAMPLES):
                stream.seek(8 + head + (facts.st_size - 8 - head) * place // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def quantize_in_memory(
    path: Path, recipe: Recipe, dtype: str, trust_remote_code: bool
) -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
    """Load and quantize a model without keeping the result, one layer at a time; for callers without a workspace."""
    found = assemble(path, trust_remote_code=trust_remote_code)
    found.config["quantization"] = quantize_network(found.network, recipe)
    target = compute_dtype(dtype, found.network)
    if target is not None:
        cast(found.network, target)
    for _, module in found.network.named_modules():
        mx.eval(module.parameters() if not module.children() else {})
        mx.clear_cache()
    mx.eval(found.network.parameters())
    return found.network, found.config, (*found.notes, f"quantized: {recipe.name}")
