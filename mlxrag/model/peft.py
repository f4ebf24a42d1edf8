"""PEFT adapter -> ours, with a proof; adapters of older mlx-lm versions go through `older.py`.

mlx-lm keeps the transposes of PEFT's tensors and one rank and one scale for all modules, so different ones are padded
with zeros and folded into `lora_b`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import Damaged, Mismatch, NotFound
from mlxrag.model.adapter import CONFIG, WEIGHTS, Adapter, read_adapter
from mlxrag.model.attach import Adapters, adaptable, parent_of, shapes, weight_of
from mlxrag.model.older import import_old
from mlxrag.model.peft_files import PEFT_WEIGHTS, read_json, read_peft
from mlxrag.workspace import write_json


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made.

    Attributes:
        source: `PEFT` or `mlx-lm`, the format it came from.
        modules: how many modules of the network it changes.
        difference: largest difference between the logits with the new adapter and those by the source's own formula.
        notes: what could not be kept as it was, for people.
    """

    source: str
    modules: int
    difference: float
    notes: tuple[str, ...] = field(default=())


def import_adapter(source: Path, network: nn.Module, target: Path, base: Mapping[str, str]) -> Imported:
    """Write an adapter of PEFT, or of an older mlx-lm, as one of ours.

    Args:
        source: directory with adapter_config.json and the tensors.
        network: the base it is for, without an adapter in use.
        target: directory for the new one; made if it is not there.
        base: name and fingerprint of the network, recorded with it.

    Raises:
        NotFound: no such adapter.
        BadInput: it uses something that mlx-lm has no counterpart of; every such thing is named.
        Mismatch: it does not fit the network, or its logits are not those of its own formula.
        Damaged: a file is cut short, or a tensor holds NaN or infinity.
    """
    if not source.is_dir():
        raise NotFound(f"no adapter at {source}; it is a directory with {CONFIG} and {PEFT_WEIGHTS}")
    config = read_json(source / CONFIG)
    if not config.get("peft_type"):
        adapter, notes = import_old(source, config, network, target, base)
        return Imported("mlx-lm", len(adapter.modules), 0.0, tuple(notes))
    parts, scales, told = read_peft(source, config, network)
    weights, lora, layers = _to_mlx(parts, scales, network, bool(config.get("use_dora")))
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / WEIGHTS), weights, {"format": "mlx"})
    write_json(
        target / CONFIG,
        {
            "fine_tune_type": "dora" if config.get("use_dora") else "lora",
            "num_layers": layers,
            "lora_parameters": lora,
            "model": base.get("name") or config.get("base_model_name_or_path") or "",
            "base": dict(base),
            "from": {"peft": {k: config.get(k) for k in ("r", "lora_alpha", "use_rslora", "base_model_name_or_path")}},
        },
    )
    difference = prove(network, read_adapter(target), parts, scales)
    return Imported("PEFT", len(parts), difference, tuple(told))


def prove(
    network: nn.Module, adapter: Adapter, parts: Mapping[str, Mapping[str, mx.array]], scales: Mapping[str, float]
) -> float:
    """Return the largest difference between the logits of an adapter in use and those by PEFT's own formula.

    PEFT's formula is worked out on its own tensors: `W + scaling·B·A` as one matrix, for DoRA with its rows brought
    to the lengths of the magnitude vector.

    Raises:
        Mismatch: they differ by more than a thousandth of the largest logit.
    """
    # A table of positions may be smaller than the vocabulary; ids below its size are ids of both.
    words = [m for _, m in network.named_modules() if isinstance(m, nn.Embedding | nn.QuantizedEmbedding)]
    vocabulary = min(m.weight.shape[0] for m in words)
    tokens = (mx.arange(1, 25) * 7919 % vocabulary)[None]
    with Adapters(network) as adapters:
        adapters.use(adapters.add(adapter))
        ours = network(tokens)
    modules = dict(network.named_modules())
    old: list[tuple[Any, Any, Any]] = []
    try:
        for path, given in parts.items():
            holder, key = parent_of(network, path)
            old.append((holder, key, holder[key]))
            holder[key] = _merged(modules[path], given, scales[path])
        theirs = network(tokens)
        mx.eval(ours, theirs)
    finally:
        for holder, key, module in old:
            holder[key] = module
    difference = mx.abs(ours - theirs).max().item()
    largest = mx.abs(theirs).max().item()
    assert isinstance(difference, float) and isinstance(largest, float)
    if difference > 1e-3 * max(1.0, largest):
        raise Mismatch(
            f"adapter {adapter.name!r}: the logits differ by {difference:.2g} from those of PEFT's formula; the base is another one"
        )
    return difference


def _merged(module: nn.Module, given: Mapping[str, mx.array], scale: float) -> nn.Module:
    weight = weight_of(module).astype(mx.float32)
    if "lora_embedding_A" in given:
        whole = weight + scale * (given["lora_embedding_B"] @ given["lora_embedding_A"]).T
        made: nn.Module = nn.Embedding(*whole.shape)
    elif weight.ndim == 3:
        from mlx_lm.models.switch_layers import SwitchLinear

        whole = weight + scale * (given["lora_B"] @ given["lora_A"])
        experts, rows, columns = whole.shape
        made = SwitchLinear(columns, rows, experts, bias="bias" in module)
    else:
        whole = weight + scale * (given["lora_B"] @ given["lora_A"])
        made = nn.Linear(whole.shape[1], whole.shape[0], bias="bias" in module)
    if "bias" in module:
        made.bias = module.bias
    if "lora_magnitude_vector" in given:
        whole = (given["lora_magnitude_vector"].reshape(-1) / mx.linalg.norm(whole, axis=1))[:, None] * whole
    made.weight = whole
    return made


def _to_mlx(
    parts: Mapping[str, Mapping[str, mx.array]], scales: Mapping[str, float], network: nn.Module, dora: bool
) -> tuple[dict[str, mx.array], dict[str, Any], int]:
    """Return mlx-lm's tensors, `lora_parameters` and `num_layers`."""
    modules = dict(network.named_modules())
    pairs: dict[str, tuple[mx.array, mx.array]] = {}
    for path, given in parts.items():
        try:
            pairs[path] = _pair(given)
        except KeyError as error:
            raise Damaged(f"{path}: {error.args[0]} is missing; save the adapter again with peft") from error
    ranks = {path: b.shape[-1] if b.ndim == 3 else b.shape[0] for path, (_, b) in pairs.items()}
    rank = max(ranks.values())
    one = len(set(ranks.values())) == 1 and len({scales[p] for p in pairs}) == 1
    scale = next(iter(scales.values())) if one else 1.0
    weights: dict[str, mx.array] = {}
    for path, (a, b) in pairs.items():
        if not one:
            pad = rank - ranks[path]
            wide = a.ndim == 3
            a = mx.pad(a, [(0, 0), (0, pad), (0, 0)] if wide else [(0, 0), (0, pad)])
            b = mx.pad(b * scales[path], [(0, 0), (0, 0), (0, pad)] if wide else [(0, pad), (0, 0)])
        weights[f"{path}.lora_a"], weights[f"{path}.lora_b"] = mx.contiguous(a), mx.contiguous(b)
        if dora:
            if "lora_magnitude_vector" not in parts[path]:
                raise Damaged(f"{path}: lora_magnitude_vector is missing; save the adapter again with peft")
            weights[f"{path}.m"] = parts[path]["lora_magnitude_vector"].reshape(-1)
    keys, layers = _keys(set(pairs), network)
    for path in adaptable(modules, network.layers, layers, keys):
        if path not in pairs:
            weights.update(_nothing(path, modules[path], rank, dora))
    mx.eval(weights)
    return weights, {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(keys)}, layers


def _pair(given: Mapping[str, mx.array]) -> tuple[mx.array, mx.array]:
    if given.get("lora_A", mx.array(0)).ndim == 3:
        return given["lora_A"], given["lora_B"]
    if "lora_embedding_A" in given:
        return given["lora_embedding_A"].T, given["lora_embedding_B"].T
    return given["lora_A"].T, given["lora_B"].T


def _nothing(path: str, module: nn.Module, rank: int, dora: bool) -> dict[str, mx.array]:
    """Tensors that change nothing, for layers that mlx-lm's keys and layers take in and the adapter does not."""
    made = {f"{path}.{leaf}": mx.zeros(shape) for leaf, shape in shapes(module, rank, "lora").items()}
    if dora:
        made[f"{path}.m"] = mx.linalg.norm(weight_of(module).astype(mx.float32), axis=1)
    return made


def _keys(paths: set[str], network: nn.Module) -> tuple[tuple[str, ...], int]:
    """Return the keys that name these modules, and how many of the last blocks they are in."""
    order = {id(block): i for i, block in enumerate(network.layers)}
    blocks = {path: order[id(module)] for path, module in network.named_modules() if id(module) in order}
    keys: dict[str, None] = {}
    first = len(order)
    for path in sorted(paths):
        block = next((b for b in blocks if path.startswith(b + ".")), None)
        keys[path[len(block) + 1 :] if block else path] = None
        if block:
            first = min(first, blocks[block])
    layers = len(order) - first
    return tuple(keys), layers if 0 < layers < len(order) else -1
