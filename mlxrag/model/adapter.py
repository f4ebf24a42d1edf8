"""Adapters as files: read one from a directory and refuse what is not whole, sound and of this format.

The format is mlx-lm's: `adapter_config.json` and `adapters.safetensors`; `mlx_lm.generate --adapter-path` opens it.
Knows nothing of networks; `attach.py` puts an adapter on one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from mlxrag.errors import BadInput, Damaged, NotFound
from mlxrag.workspace import Workspace, resolve

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
Kind = Literal["lora", "dora", "full"]
LEAVES = ("lora_a", "lora_b", "m")


@dataclass(frozen=True, slots=True)
class Adapter:
    """Weights that change a base, and what they belong to.

    Attributes:
        name: what it is called; its directory's name or `name@version`.
        path: its directory.
        kind: lora, dora, or full (whole parameters are replaced).
        rank: columns of `lora_a`; 0 for full.
        scale: factor of the low-rank product.
        num_layers: blocks it changes, counted from the last; -1 is all.
        keys: module paths within a block, or whole paths; None is every layer that can be adapted.
        base: fingerprint of the network it was trained on; empty where the directory does not say.
        base_name: name of that network; empty where the directory does not say.
        weights: tensors by their path in the adapted network, `(in, rank)` and `(rank, out)` for linear layers.
        config: everything `adapter_config.json` says.
    """

    name: str
    path: Path
    kind: Kind
    rank: int
    scale: float
    num_layers: int
    keys: tuple[str, ...] | None
    base: str
    base_name: str
    weights: Mapping[str, mx.array]
    config: Mapping[str, Any] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(w.nbytes for w in self.weights.values())

    @property
    def modules(self) -> dict[str, dict[str, mx.array]]:
        """Tensors by module path, `{path: {"lora_a": ..., "lora_b": ..., "m": ...}}`; empty for kind full."""
        found: dict[str, dict[str, mx.array]] = {}
        if self.kind != "full":
            for name, w in self.weights.items():
                path, _, leaf = name.rpartition(".")
                found.setdefault(path, {})[leaf] = w
        return found


def find_adapter(ref: str | Path, workspace: Workspace | None = None) -> Path:
    """Return the directory that a path or a workspace `name[@version]` stands for.

    Raises:
        NotFound: neither a directory nor an adapter of the workspace.
    """
    path = Path(ref).expanduser()
    if path.is_dir():
        return path
    text = str(ref)
    if workspace is not None and not (text.startswith((".", "/", "~")) or "/" in text):
        return resolve(workspace, "adapters", text).path
    if path.is_file():
        raise BadInput(f"{path}: is a file; give the directory that holds {CONFIG} and {WEIGHTS}")
    raise NotFound(f"no adapter at {path}; it is a directory with {CONFIG} and {WEIGHTS}")


def read_adapter(path: str | Path, name: str = "") -> Adapter:
    """Read an adapter directory and refuse what is not a whole and sound mlx-lm adapter.

    Cost: loads the weights; a look at every value for NaN.

    Raises:
        NotFound: no such directory.
        BadInput: another format (PEFT, an older mlx-lm) or a configuration that says too little; says what to do.
        Damaged: a file is cut short, or a tensor holds NaN or infinity or lacks its partner.
    """
    folder = find_adapter(path)
    config = _config(folder)
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora", "full"):
        raise BadInput(f"{folder / CONFIG}: fine_tune_type {kind!r} is none of lora, dora, full")
    rank, scale, keys = _parameters(folder / CONFIG, config) if kind != "full" else (0, 1.0, None)
    weights = load_tensors(folder / WEIGHTS)
    said = config.get("base")
    base: dict[str, Any] = said if isinstance(said, dict) else {}
    adapter = Adapter(
        name=name or (f"{folder.parent.name}@{folder.name}" if (folder / "manifest.json").is_file() else folder.name),
        path=folder,
        kind=kind,
        rank=rank,
        scale=scale,
        num_layers=int(config.get("num_layers", -1)),
        keys=keys,
        base=str(base.get("fingerprint", "")),
        base_name=str(base.get("name", "") or config.get("model", "") or ""),
        weights=weights,
        config=config,
    )
    _sound(adapter)
    return adapter


def load_tensors(path: Path) -> dict[str, mx.array]:
    """Load a safetensors file after checking that it is whole.

    MLX reads tensors lazily, and a file that was cut short would end the process in the middle of the work.

    Raises:
        NotFound: no such file; Damaged: cut short or no safetensors file.
    """
    if not path.is_file():
        raise NotFound(f"{path}: is not there; the directory is no whole adapter")
    from safetensors import SafetensorError, safe_open  # here, since a model without an adapter needs none of it

    try:
        with safe_open(str(path), framework="numpy") as handle:
            handle.keys()
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path}: is cut short or no safetensors file ({error}); get or train it again") from error
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    return loaded


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if (folder / "adapter_model.safetensors").is_file() or (folder / "adapter_model.bin").is_file():
        raise BadInput(f"{folder}: is a PEFT adapter; bring it over with `mlxrag adapter import {folder}`")
    if not (folder / WEIGHTS).is_file() and list(folder.glob("*.npz")):
        raise BadInput(
            f"{folder}: holds .npz weights of an older mlx-lm; bring them over with `mlxrag adapter import {folder}`"
        )
    if not path.is_file():
        raise NotFound(f"{path}: is not there, so this is no adapter; it is a directory with {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: is not JSON ({error}); get or train the adapter again") from error
    if not isinstance(config, dict):
        raise Damaged(f"{path}: is not a JSON object; get or train the adapter again")
    if config.get("peft_type"):
        raise BadInput(f"{folder}: is a PEFT adapter; bring it over with `mlxrag adapter import {folder}`")
    if "num_layers" not in config and "lora_layers" in config:
        raise BadInput(
            f"{path}: says lora_layers, as an older mlx-lm did; bring it over with `mlxrag adapter import {folder}`"
        )
    return config


def _parameters(path: Path, config: Mapping[str, Any]) -> tuple[int, float, tuple[str, ...] | None]:
    lora = config.get("lora_parameters")
    if not isinstance(lora, dict) or not isinstance(lora.get("rank"), int):
        raise BadInput(f"{path}: lora_parameters must say rank and scale")
    if "scale" not in lora:
        hint = f"; alpha {lora['alpha']} is PEFT's word, scale is alpha / rank" if "alpha" in lora else ""
        raise BadInput(f"{path}: lora_parameters says no scale{hint}")
    if "num_layers" not in config:
        raise BadInput(f"{path}: says no num_layers")
    keys = lora.get("keys")
    return int(lora["rank"]), float(lora["scale"]), tuple(keys) if keys is not None else None


def _sound(adapter: Adapter) -> None:
    """Look at every tensor for what cannot be: NaN, infinity, a half of a pair, a name that is no adapter's."""
    if not adapter.weights:
        raise Damaged(f"{adapter.path / WEIGHTS}: holds no tensors; get or train the adapter again")
    names = list(adapter.weights)
    finite = [mx.isfinite(adapter.weights[n]).all() for n in names]
    mx.eval(finite)
    faults = [f"{n} holds NaN or infinity" for n, good in zip(names, finite, strict=True) if not good.item()]
    if adapter.kind != "full":
        for path, tensors in adapter.modules.items():
            strange = [leaf for leaf in tensors if leaf not in LEAVES]
            lacking = [leaf for leaf in ("lora_a", "lora_b") if leaf not in tensors]
            lacking += ["m"] if adapter.kind == "dora" and "m" not in tensors else []
            if adapter.kind == "lora" and "m" in tensors:
                strange.append("m")
            faults += [f"{path}.{leaf} is no tensor of a {adapter.kind} adapter" for leaf in strange]
            faults += [f"{path}.{leaf} is missing" for leaf in lacking]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise Damaged(f"{adapter.path / WEIGHTS}: {'; '.join(faults[:4])}{more}; get or train the adapter again")
