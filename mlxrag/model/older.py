"""Adapters of older mlx-lm versions -> ours: `lora_layers`, alpha in place of scale, .npz weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import Damaged, NotFound
from mlxrag.model.adapter import CONFIG, WEIGHTS, Adapter, load_tensors, read_adapter
from mlxrag.model.attach import Adapters
from mlxrag.workspace import write_json


def import_old(
    source: Path, config: dict[str, Any], network: nn.Module, target: Path, base: Mapping[str, str]
) -> tuple[Adapter, list[str]]:
    """Write what an older mlx-lm wrote as an adapter of today, and look whether it fits.

    Args:
        source: directory of the old one.
        config: what its adapter_config.json says.
        network: the base, without an adapter in use.
        target: directory for the new one; made if it is not there.
        base: name and fingerprint of the network, recorded with it.

    Returns:
        the new adapter, and what is called otherwise now, for people.

    Raises:
        NotFound: no weights. Damaged: they cannot be read. Mismatch: they do not fit the network.
    """
    notes = []
    fresh = dict(config)
    if "num_layers" not in fresh and "lora_layers" in fresh:
        fresh["num_layers"] = fresh.pop("lora_layers")
        notes.append("lora_layers is called num_layers now")
    lora = dict(fresh.get("lora_parameters") or {})
    if lora and "scale" not in lora and "alpha" in lora:
        lora["scale"] = lora["alpha"] / lora["rank"]
        notes.append(f"scale is {lora['scale']:g}: alpha {lora['alpha']} / rank {lora['rank']}")
    fresh["lora_parameters"] = lora
    packed = sorted(source.glob("*.npz"))
    if (source / WEIGHTS).is_file():
        weights = load_tensors(source / WEIGHTS)
    elif packed:
        weights = {}
        with suppress(RuntimeError, ValueError):
            loaded = mx.load(str(packed[0]))
            weights = dict(loaded) if isinstance(loaded, dict) else {}
        if not weights:
            raise Damaged(f"{packed[0]}: cannot be read; train the adapter again")
        notes.append(f"{packed[0].name} is {WEIGHTS} now")
    else:
        raise NotFound(f"{source}: holds neither {WEIGHTS} nor .npz weights")
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / WEIGHTS), weights, {"format": "mlx"})
    write_json(target / CONFIG, {**fresh, "base": dict(base)})
    adapter = read_adapter(target)
    with Adapters(network) as adapters:
        adapters.add(adapter)
    return adapter, notes
