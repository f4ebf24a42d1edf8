"""A model directory -> mlx_lm's network with its weights, without transformers.

Formats that mlx_lm converts while loading (AWQ, GPTQ, bitnet, compressed-tensors, ModelOpt) and models that
bring their own code go through mlx_lm's loader.  This file knows nothing of names, tokenizers and prompts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.checkpoint import check_parameters, read_checkpoint
from mlxrag.model.config import normalize_config
from mlxrag.model.repair import repair
from mlxrag.model.tensors import read_in

# Model types that are another type's network. Source: MODEL_REMAPPING of mlx_lm 0.32.2, utils.py.
SAME_NETWORK = {
    "mistral": "llama",
    "llava": "mistral3",
    "phi-msft": "phixtral",
    "falcon_mamba": "mamba",
    "joyai_llm_flash": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2_vl",
    "minimax_m2": "minimax",
    "iquestcoder": "llama",
    "xverse": "llama",
    "gemma4_unified": "gemma4",
    "deepseek_v41_text": "deepseek_v41",
}
# Tensors that every network computes for itself.
USELESS = ("rotary_emb.inv_freq", "attn.bias", "attention.bias", "masked_bias")
# The only bits and group size of the modes whose scales are bytes.
BYTE_SCALED = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}


@dataclass
class Assembled:
    """A network whose weights are named but not read yet: arrays are evaluated when they are used.

    Attributes:
        network: in evaluation mode.
        config: normalized to the names mlx_lm reads.
        written: config.json as the directory has it.
        notes: what was changed in config and weights.
        dropped: names of tensors of the checkpoint that the network has no use for.
    """

    network: nn.Module
    config: dict[str, Any]
    written: Mapping[str, Any]
    notes: tuple[str, ...]
    dropped: tuple[str, ...] = ()


def load_network(
    path: Path, *, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
    """Build the network of a model directory and put its weights in.

    Args:
        path: the directory.
        dtype: `auto` keeps what the file has, but makes half precision float32 where MLX computes on a CPU
            (half precision is 30 to 60 times slower there); or the type to convert to.
        trust_remote_code: allow the directory's own Python code to run.

    Returns:
        the network in evaluation mode, its normalized config, and notes of what was changed.

    Raises:
        NotFound, BadInput: see `load`.
    """
    found = assemble(path, trust_remote_code=trust_remote_code)
    network, notes = found.network, found.notes
    target = compute_dtype(dtype, network)
    if target is not None:
        network.set_dtype(target)
        notes = (*notes, f"dtype: weights converted to {str(target).rpartition('.')[2]}")
    read_in(array for _, array in tree_flatten(network.parameters()))
    return network, found.config, notes


def assemble(path: Path, *, trust_remote_code: bool = False) -> Assembled:
    """Build the network of a model directory around weights that are read when they are used.

    Raises:
        NotFound, BadInput: see `load`.

    Source: `load_model` of mlx_lm 0.32.2, utils.py.
    """
    found = read_checkpoint(path, trust_remote_code=trust_remote_code)
    config, notes = normalize_config(found.config)
    if "quantization" not in config and (_foreign(path, config) or "model_file" in config):
        return _by_mlx_lm(path, config, found.config, trust_remote_code, notes)
    network = build(config, path)
    weights: dict[str, mx.array] = {}
    try:
        for file in found.files:
            loaded: Any = mx.load(str(file))
            weights.update(loaded)
        repaired, more = repair(found.config, weights)
        weights = network.sanitize(dict(repaired)) if hasattr(network, "sanitize") else dict(repaired)
        if config.get("quantization"):
            quantize_to_fit(network, config["quantization"], weights)
    except (KeyError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise BadInput(f"{path}: config.json and weights do not belong together ({reason})") from error
    wanted = {key: array.shape for key, array in tree_flatten(network.parameters())}
    check_parameters(path, wanted, {key: array.shape for key, array in weights.items()})
    network.eval()
    network.load_weights(list(weights.items()), strict=True)
    return Assembled(network, config, found.config, (*notes, *more), left_over(repaired, weights))


def left_over(given: Mapping[str, mx.array], taken: Mapping[str, mx.array]) -> tuple[str, ...]:
    """Return the names of the tensors that `sanitize` threw away, where counting their values can tell which.

    Names that are gone may only have been renamed, or stacked with others; but then their values are still there.
    So the values are counted, and the kinds of tensors (names with the layer left out) that make up the difference
    are named.  Precomputed rotary tables and masks are not, nor what holds nothing but zeros.
    """
    lost = sum(a.size for a in given.values()) - sum(a.size for a in taken.values())
    kinds: dict[str, list[str]] = {}
    for name in given:
        if name in taken:
            continue
        if name.endswith(USELESS) or name == "lm_head.weight":
            lost -= given[name].size
            continue
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    sizes = {kind: sum(given[name].size for name in names) for kind, names in kinds.items()}
    if lost <= 0:
        return ()
    for count in (1, 2, 3):
        for some in combinations(sorted(sizes), count):
            if sum(sizes[kind] for kind in some) == lost:
                names = sorted(name for kind in some for name in kinds[kind])
                return tuple(n for n in names if given[n].size > 1_000_000 or bool(mx.any(given[n] != 0).item()))
    return (f"{lost} values",)


def build(config: Mapping[str, Any], path: Path | None = None) -> nn.Module:
    """Build mlx_lm's network for a normalized config, with random weights.

    Raises:
        BadInput: mlx_lm has no such model type, or the config lacks or contradicts something.
    """
    kind = str(config["model_type"])
    where = f"{path / 'config.json'}: " if path else ""
    if kind == "bailing_hybrid" and "BailingMoeV3ForCausalLM" in (config.get("architectures") or ()):
        kind = "bailing_moe_v3"
    name = SAME_NETWORK.get(kind, kind)
    if not name.replace("-", "_").isidentifier():
        raise BadInput(f"{where}model_type {kind!r} is no name of a network")
    try:
        module = importlib.import_module(f"mlx_lm.models.{name}")
        model_class, args_class = module.Model, module.ModelArgs
    except (ModuleNotFoundError, AttributeError, SystemExit) as error:  # mlx_lm's olmo exits without its own package
        raise BadInput(f"{where}model_type {kind!r} is not one that mlx_lm can run") from error
    try:
        network: nn.Module = model_class(args_class.from_dict(dict(config)))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, AssertionError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{where}does not describe a {kind} network: {reason}") from error
    return network


def quantize_to_fit(network: nn.Module, quantization: Mapping[str, Any], weights: Mapping[str, mx.array]) -> None:
    """Replace layers by quantized ones wherever the weights are quantized, so that they fit.

    Args:
        network: as `build` gave it.
        quantization: the config's table: group_size, bits, mode, and exceptions by module path.
        weights: after `sanitize`.
    """

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if path in quantization:
            special: bool | dict[str, Any] = quantization[path]
            return special
        if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
            return False
        packed, scales = weights[f"{path}.weight"], weights[f"{path}.scales"]
        width = module.weight.shape[-1]
        group, bits = width // scales.shape[-1], packed.shape[-1] * 32 // width
        mode = "affine" if scales.dtype != mx.uint8 else BYTE_SCALED.get((bits, group))
        if mode is None:
            raise BadInput(f"{path}: {bits} bits in groups of {group} with byte scales is no mode that MLX knows")
        params: dict[str, Any] = {"group_size": group, "bits": bits, "mode": mode}
        if f"{path}.global_scale" in weights:
            params["global_scale"] = True
        return params

    nn.quantize(
        network,
        group_size=quantization.get("group_size") or 64,
        bits=quantization.get("bits") or 4,
        mode=quantization.get("mode", "affine"),
        class_predicate=choose,
    )


def _foreign(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether the weights are in a quantized format that mlx_lm converts while it loads."""
    table = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    return bool(table) or (path / "hf_quant_config.json").is_file()


def _by_mlx_lm(
    path: Path, config: dict[str, Any], written: Mapping[str, Any], trust_remote_code: bool, notes: tuple[str, ...]
) -> Assembled:
    from mlx_lm.utils import load_model

    try:
        network, loaded = load_model(path, lazy=True, model_config=config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise BadInput(f"{path}: {str(error).splitlines()[0]}") from error
    return Assembled(network, loaded, written, notes)


def compute_dtype(wanted: str, network: nn.Module) -> mx.Dtype | None:
    """Return the type to convert to, or None."""
    if wanted == "keep":
        return None
    if wanted != "auto":
        target: mx.Dtype = getattr(mx, wanted)
        return target
    if mx.default_device() != mx.cpu:
        return None
    half = [a for _, a in tree_flatten(network.parameters()) if a.dtype in (mx.float16, mx.bfloat16)]
    return mx.float32 if half else None
