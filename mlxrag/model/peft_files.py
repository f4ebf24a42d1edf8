"""PEFT's adapters as files: read one by the modules of a network, and refuse by name what mlx-lm has no counterpart of.

PEFT keeps `lora_A.weight (r, in)` and `lora_B.weight (out, r)` under `base_model.model.<module>`, and scales by
alpha / r, or alpha / sqrt(r) with rsLoRA; ranks and alphas may differ between modules.
Source: peft 0.21, `tuners/lora/layer.py` and `utils/save_and_load.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound, nearest
from mlxrag.model.adapter import load_tensors
from mlxrag.model.attach import can_adapt, weight_of

PEFT_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TENSOR = re.compile(
    r"(?P<path>.+?)\.(?P<leaf>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?P<rest>(\.\w+)*)"
)
EXPERT = re.compile(r"(?P<before>.+)\.experts\.(?P<number>\d+)\.(?P<name>\w+)")
# Settings of PEFT that mlx-lm has no counterpart of, and the values that switch them off.
NOT_OURS: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "fan_in_fan_out": (False, None),
    "megatron_config": (None, {}),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
}
CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def read_peft(
    source: Path, config: Mapping[str, Any], network: nn.Module
) -> tuple[dict[str, dict[str, mx.array]], dict[str, float], list[str]]:
    """Read PEFT's tensors by module path of the network.

    Args:
        source: directory with adapter_config.json and the tensors.
        config: what adapter_config.json says.
        network: the base.

    Returns:
        tensors: by module and PEFT's name, float32, those of experts stacked; the scale of each module; and what could
        not be kept as it was, for people.

    Raises:
        BadInput: something that mlx-lm has no counterpart of. Mismatch: a tensor has no place in the network.
        Damaged: cut short, empty, NaN or infinity.
    """
    _refuse(source, config)
    notes: list[str] = []
    if (source / "adapter_model.bin").is_file() and not (source / PEFT_WEIGHTS).is_file():
        raise BadInput(
            f"{source}: adapter_model.bin may run code when it is opened; save it as {PEFT_WEIGHTS} with peft"
        )
    modules = {path for path, module in network.named_modules() if can_adapt(module)}
    parts: dict[str, dict[str, mx.array]] = {}
    scales: dict[str, float] = {}
    unknown: list[str] = []
    for key, tensor in load_tensors(source / PEFT_WEIGHTS).items():
        name = key.removeprefix(PREFIX)
        match = TENSOR.fullmatch(name)
        if match is None:
            if not _is_base(name, tensor, network):
                unknown.append(key)
            continue
        theirs = match["path"].removesuffix(".base_layer")
        path = _path(theirs, modules)
        if path is None:
            unknown.append(key)
            continue
        expert = EXPERT.fullmatch(theirs)
        leaf = f"{match['leaf']}.{int(expert['number']):05d}" if expert else match["leaf"]
        parts.setdefault(path, {})[leaf] = tensor.astype(mx.float32)
        scales[path] = _scale(config, theirs)
    parts = {path: _stacked(given) for path, given in parts.items()}
    unknown.sort()
    if unknown:
        hint = nearest(unknown[0].removeprefix(PREFIX), modules)
        raise Mismatch(
            f"{source}: {len(unknown)} tensors have no place in this model, such as {unknown[0]}{hint}; the adapter is for "
            f"another architecture ({config.get('base_model_name_or_path') or 'it does not say which'})"
        )
    if not parts:
        raise Damaged(f"{source / PEFT_WEIGHTS}: holds no adapter tensors; save it again with peft")
    bad = [p for p, given in parts.items() if not all(mx.isfinite(t).all().item() for t in given.values())]
    if bad:
        raise Damaged(f"{source / PEFT_WEIGHTS}: {bad[0]} holds NaN or infinity; train the adapter again")
    if config.get("use_dora") and config.get("lora_dropout"):
        notes.append("dropout is left out: mlx-lm's dora applies it in another place")
    return parts, scales, notes


def _stacked(given: dict[str, mx.array]) -> dict[str, mx.array]:
    """Return a module's tensors with those of its experts, `leaf.number`, stacked in the experts' order."""
    found: dict[str, list[mx.array]] = {}
    for name, tensor in sorted(given.items()):
        found.setdefault(name.partition(".")[0], []).append(tensor)
    return {leaf: mx.stack(tensors) if f"{leaf}.00000" in given else tensors[0] for leaf, tensors in found.items()}


def _refuse(source: Path, config: Mapping[str, Any]) -> None:
    faults = []
    if str(config["peft_type"]).upper() != "LORA":
        faults.append(f"peft_type {config['peft_type']}")
    for name, fine in NOT_OURS.items():
        if config.get(name) not in fine:
            faults.append(f"{name} {config[name]!r}")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGED_BASE):
        faults.append(
            f"init_lora_weights {start!r}, which changes the base; convert it with peft's path_initial_model_for_weight_conversion"
        )
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        faults.append(f"task_type {task!r}")
    if faults:
        raise BadInput(f"{source}: mlx-lm has no counterpart of {'; '.join(faults)}")


def _scale(config: Mapping[str, Any], path: str) -> float:
    rank = _pattern(config.get("rank_pattern"), path, config.get("r", 8))
    alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", 8))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _pattern(patterns: Mapping[str, float] | None, path: str, otherwise: float) -> float:
    """The value of the first pattern that a module's path ends in, as PEFT's `get_pattern_key` finds it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return otherwise


def _path(theirs: str, modules: set[str]) -> str | None:
    """Where PEFT's module is in the network: under the same path, in stacked experts, or under a model's wrapper."""
    expert = EXPERT.fullmatch(theirs)
    tries = [theirs]
    if expert:
        tries.append(f"{expert['before']}.switch_mlp.{expert['name']}")
    tries += [
        f"{wrapper}{t}" for t in list(tries) for wrapper in ("model.", "language_model.", "language_model.model.")
    ]
    tries += [t.removeprefix("model.") for t in list(tries)]
    return next((t for t in tries if t in modules), None)


def _is_base(name: str, tensor: mx.array, network: nn.Module) -> bool:
    """Return whether a tensor is the base's own, which PEFT saves beside adapted embeddings."""
    path = name.removesuffix(".weight").removesuffix(".base_layer")
    modules = dict(network.named_modules())
    if path == "lm_head" and path not in modules:
        path = "model.embed_tokens"
    if path not in modules or "weight" not in modules[path]:
        return False
    weight = weight_of(modules[path])
    same = weight.shape == tensor.shape
    return same and bool(mx.allclose(weight.astype(mx.float32), tensor.astype(mx.float32), atol=1e-2, rtol=1e-2).item())


def read_json(path: Path) -> dict[str, Any]:
    """Return an adapter's configuration.

    Raises:
        NotFound: no such file. Damaged: no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{path}: is not there, so this is no adapter") from error
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: is not JSON ({error}); get the adapter again") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path}: is not a JSON object; get the adapter again")
    return value
