"""Ours -> PEFT's format, for peft, vLLM and llama.cpp's converter."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput
from mlxrag.model.adapter import CONFIG, Adapter
from mlxrag.model.attach import can_adapt
from mlxrag.model.peft_files import PEFT_WEIGHTS, PREFIX
from mlxrag.workspace import write_json


def export_adapter(adapter: Adapter, target: Path, network: nn.Module | None = None) -> None:
    """Write an adapter in PEFT's format, for peft, vLLM and llama.cpp's converter.

    Args:
        adapter: lora or dora.
        target: directory; made if it is not there.
        network: its base, if at hand: lists the layers by name where all of them are adapted.

    Raises:
        BadInput: an adapter of kind full.
    """
    if adapter.kind == "full":
        raise BadInput(f"adapter {adapter.name!r} replaces whole weights, which PEFT has no format for")
    tensors: dict[str, mx.array] = {}
    for path, given in adapter.modules.items():
        a, b = given["lora_a"], given["lora_b"]
        embedded = path.rpartition(".")[2] in ("embed_tokens", "wte", "word_embeddings")
        if a.ndim == 3:
            before, _, name = path.replace(".switch_mlp.", ".\0.").partition(".\0.")
            for number in range(a.shape[0]):
                key = f"{PREFIX}{before}.experts.{number}.{name}"
                tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a[number], b[number]
        elif embedded:
            tensors[f"{PREFIX}{path}.lora_embedding_A"], tensors[f"{PREFIX}{path}.lora_embedding_B"] = a.T, b.T
        else:
            tensors[f"{PREFIX}{path}.lora_A.weight"], tensors[f"{PREFIX}{path}.lora_B.weight"] = a.T, b.T
        if "m" in given:
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = given["m"]
    tensors = {k: mx.contiguous(v.astype(mx.float32)) for k, v in tensors.items()}
    target.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(target / PEFT_WEIGHTS), tensors, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "lora_dropout": float((adapter.config.get("lora_parameters") or {}).get("dropout", 0.0)),
        "target_modules": _targets(adapter, network),
        "bias": "none",
        "use_rslora": False,
        "use_dora": adapter.kind == "dora",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(target / CONFIG, config)


def _targets(adapter: Adapter, network: nn.Module | None) -> list[str] | str:
    """Name the modules for PEFT: by their last names where every such layer is adapted, else by one expression."""
    paths = [p for p in adapter.modules if ".switch_mlp." not in p]
    names = sorted({p.rpartition(".")[2] for p in paths})
    if network is not None:
        every = {p for p, m in network.named_modules() if can_adapt(m) and p.rpartition(".")[2] in names}
        if every == set(paths):
            return names
    numbers = sorted({n for p in paths for n in re.findall(r"\.(\d+)\.", p)}, key=int)
    inner = sorted({re.escape(re.sub(r"\.\d+\.", ".#.", p)).replace(r"\#", "#") for p in paths})
    return "|".join(p.replace("#", f"({'|'.join(numbers)})") for p in inner)
