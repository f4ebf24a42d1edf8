"""A reference to a model -> Model: the one mutable object, to be closed.

Reads config, weights and tokenizer of a plain MLX or Hugging Face directory and builds mlx_lm's
network for it, as `mlx_lm.load` does but without transformers: a process answers in a fifth of the
time.  Formats that mlx_lm converts while loading (AWQ, GPTQ, bitnet, compressed-tensors, ModelOpt)
and models that bring their own code go through mlx_lm's loader.

Knows nothing of prompts and generation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput, NotFound, nearest
from mlxrag.memory import Hold, ledger
from mlxrag.model import hub
from mlxrag.model.adapter import find_adapter
from mlxrag.model.attach import resident
from mlxrag.model.beside import advice, stop_ids
from mlxrag.model.checkpoint import read_config
from mlxrag.model.limits import apply_limits, shrink_cache
from mlxrag.model.network import build as build
from mlxrag.model.network import load_network as load_network
from mlxrag.model.recipe import recipe_of
from mlxrag.model.speed import has_gpu, place
from mlxrag.model.tokenizer import Tokenizer, load_tokenizer
from mlxrag.settings import ModelSettings
from mlxrag.workspace import Workspace, bundled, names, resolve

READER = "reader"
HELPS = "a smaller model, fewer bits (--q-bits 4) or a larger --memory-budget would help"


@dataclass(eq=False)
class Model:
    """A network in memory with its tokenizer; use it in a `with` block or close it.

    Attributes:
        ref: what was asked for.
        name: a name for people.
        version: version in the workspace, or an empty string.
        path: its directory.
        config: config.json, normalized to the names that mlx_lm reads.
        network: an mlx_lm model; `network(ids (b, n), cache=...)` gives logits `(b, n, vocabulary)`.
        tokenizer: text to ids and back.
        advice: what the model's makers advise (mlxrag.json): `num_passages`, `context`, sampling defaults.
        notes: what loading changed, such as renamed config keys.
        hold: its bytes in the memory budget.
        needs: bytes of keys and values, by how many tokens and how they are kept, as they were counted once.
    """

    ref: str
    name: str
    version: str
    path: Path
    config: dict[str, Any]
    network: nn.Module
    tokenizer: Tokenizer
    advice: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hold: Hold | None = None
    needs: dict[tuple[int, int | None], int] = field(default_factory=dict)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back the memory; the model cannot be used until another is put into it (`swap.exchange`)."""
        placed = self.network.__dict__.get("_resident") if self.network is not None else None
        if placed is not None:
            placed.close()
        self.network = None
        mx.clear_cache()
        if self.hold is not None:
            self.hold.release()
        if not any(hold.kind == "weights" for hold in ledger().holds()):
            shrink_cache(ledger())  # nothing is left that would use them

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        text = self.config.get("text_config") or {}
        found = [self.advice.get("context"), self.config.get("max_position_embeddings"), text.get("max_position_embeddings"),
                 self.config.get("n_positions"), self.config.get("seq_length"), self.config.get("max_seq_len")]  # fmt: skip
        return int(next((n for n in found if isinstance(n, int) and n > 0), 2048))

    @property
    def adapter(self) -> str | None:
        """Name of the adapter in use."""
        if self.network is None:
            return None
        placed = self.network.__dict__.get("_resident")  # asking `resident` would make one, at a cost
        return placed.active if placed is not None else None

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for the weights without any adapter: equal means the same numbers come out."""
        return resident(self.network, self.name).base

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(array.nbytes for _, array in tree_flatten(self.network.parameters()))


def load(
    ref: str | Path,
    workspace: Workspace | None = None,
    *,
    adapter: str | Path | None = None,
    settings: ModelSettings | None = None,
) -> Model:
    """Load a model.

    Args:
        ref: a directory, `reader` (ships with mlxrag), a workspace `name[@version]`, or a hub id `org/name[@revision]`.
        workspace: where names are looked up.
        adapter: an adapter to put on: a directory or a workspace `name[@version]`.
        settings: how to load it.

    Raises:
        NotFound: nothing answers to `ref` (the nearest names are said), or the directory lacks weights or tokenizer.
        BadInput: weights that are no weights (Git LFS pointer, cut short, pickled), or that contradict the config.
        Mismatch: the adapter belongs to another model.
        WontFit: the weights do not fit into the memory budget.
    """
    settings = settings or ModelSettings()
    path, name, version = locate(ref, workspace)
    place(os.environ.get("MLXRAG_DEVICE", "auto"))
    recipe = recipe_of(settings)
    if recipe is not None and workspace is not None:
        from mlxrag.model.quick import quantized  # here, since it takes long to import

        path, name, version = quantized(path, name, version, recipe, workspace, settings.trust_remote_code)
        recipe = None
    label = f"{name}@{version}" if version else name
    hold = ledger().reserve(label, "weights", bytes_to_load(path, settings.load_dtype), helps=HELPS)
    try:
        if recipe is None:
            network, config, notes = load_network(
                path, dtype=settings.load_dtype, trust_remote_code=settings.trust_remote_code
            )
        else:
            from mlxrag.model.quick import quantize_in_memory

            network, config, notes = quantize_in_memory(path, recipe, settings.load_dtype, settings.trust_remote_code)
        tokenizer = load_tokenizer(path, stop_ids(path, config), str(config.get("model_type", "")))
        told = advice(path)
        tokenizer.template_args = dict(told.get("template_args") or {})
        model = Model(str(ref), name, version, path, config, network, tokenizer, told, notes, hold)
        if adapter:
            placed = resident(network, name)
            placed.use(placed.add(find_adapter(adapter, workspace)))
        hold.resize(model.nbytes, helps=HELPS)
        apply_limits(ledger())
    except BaseException:
        hold.release()
        raise
    return model


def bytes_to_load(path: Path, dtype: str) -> int:
    """Return the bytes that a checkpoint's weights will take in memory, from the sizes of its files.

    Half precision becomes float32 on a CPU unless `dtype` says otherwise, since it would be 30 times slower there.
    """
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    half = read_config(path).get("torch_dtype", read_config(path).get("dtype")) in ("float16", "bfloat16")
    quantized = "quantization" in read_config(path)
    return stored * 2 if half and not quantized and dtype in ("auto", "float32") and not has_gpu() else stored


def locate(ref: str | Path, workspace: Workspace | None = None) -> tuple[Path, str, str]:
    """Return directory, name and version (or an empty string) of what `ref` stands for.

    Raises:
        NotFound: nothing answers to it.
    """
    text = str(ref)
    path = Path(ref).expanduser()
    if path.is_dir():
        return path, path.resolve().name, ""
    if path.is_file():
        gguf = path.suffix.lower() == ".gguf"
        told = "a GGUF file is packed for another program" if gguf else "is a file"
        raise BadInput(f"{path}: {told}; give the directory that holds config.json and model.safetensors")
    if text == READER:
        return bundled("models/reader"), READER, ""
    known = names(workspace, "models") if workspace is not None else []
    if workspace is not None and text.partition("@")[0] in known:
        artefact = resolve(workspace, "models", text)
        return artefact.path, artefact.name, artefact.version
    if hub.is_hub_id(text) and not text.startswith((".", "/", "~")):
        return hub.fetch(text), text.partition("@")[0].split("/")[1], text.partition("@")[2]
    hint = nearest(text, [*known, READER])
    raise NotFound(f"no model {text!r}: not a directory, not in the workspace and no hub id (organisation/name){hint}")
