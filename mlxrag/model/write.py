"""An assembled network -> an MLX model directory, tensor by tensor.

What is written is what mlx_lm opens: config.json, model.safetensors (or numbered files and an index), and the
files that travel along.  Types are changed and layers quantized lazily, so the peak of memory is one tensor and
what it is made of, whatever the size of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from mlxrag.errors import BadInput
from mlxrag.model.calibrate import Calibration
from mlxrag.model.companions import copy_companions
from mlxrag.model.network import Assembled, assemble
from mlxrag.model.quantize import bits_per_weight, dequantize_network, nbytes, parameters, quantize_network
from mlxrag.model.recipe import Recipe
from mlxrag.model.tensors import write_weights
from mlxrag.workspace import write_json

Tell = Callable[[int, int], None]  # bytes written, bytes in all


@dataclass(frozen=True)
class Written:
    """Facts of a directory that was written: bytes of the weights, parameters, bits per weight, peak of memory, changes."""

    nbytes: int
    parameters: int
    bits_per_weight: float
    peak_bytes: int
    dtype: str
    quantization: Mapping[str, Any] | None
    notes: tuple[str, ...]


def write_model(
    found: Assembled,
    source: Path,
    folder: Path,
    *,
    dtype: mx.Dtype | None = None,
    recipe: Recipe | None = None,
    calibration: Calibration | None = None,
    dequantize: bool = False,
    tell: Tell | None = None,
) -> Written:
    """Write `found` into `folder`; its weights are **given away** while they are written.

    Args:
        found: the network; where nothing is calibrated its weights may be unread, and stay so until they are written.
        source: the directory whose tokenizer and other files travel along.
        folder: an existing directory.
        dtype: type of what is not quantized; None keeps it.
        recipe: how to quantize; None leaves the weights as they are.
        calibration: texts for calibrated recipes.
        dequantize: write quantized layers as plain ones.
        tell: called with bytes written and bytes in all.

    Raises:
        BadInput: the recipe does not fit the network, or nothing is there to dequantize.
    """
    mx.clear_cache()
    mx.reset_peak_memory()
    network, config = found.network, dict(found.config)
    own = dtype_of(network)
    if dequantize:
        dequantize_network(network)
        cast(network, getattr(mx, own))  # some modes give bfloat16 whatever the rest is
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if dtype is not None:
        cast(network, dtype)
    if recipe is not None:
        slow = recipe.calibrated and mx.default_device() == mx.cpu
        if slow:  # half precision is 30 to 60 times slower on a CPU, and calibration computes with the weights
            cast(network, mx.float32)
        table = quantize_network(network, recipe, calibration)
        if slow:
            cast(network, dtype or getattr(mx, own))
        config["quantization"] = config["quantization_config"] = table
    facts = (nbytes(network), parameters(network), bits_per_weight(network), dtype_of(network))
    write_config(
        config, folder / "config.json", keep_vision="vision_tower" in getattr(network, "model", {}), dtype=facts[3]
    )
    weights: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    network.update(tree_map(lambda _: mx.array([]), network.parameters()))
    for done in write_weights(folder, weights):
        if tell:
            tell(done, facts[0])
    peak = mx.get_peak_memory()
    copy_companions(source, folder)
    return Written(*facts[:3], peak, facts[3], config.get("quantization"), found.notes)


def cast(network: nn.Module, dtype: mx.Dtype) -> None:
    """Change the type of every floating array that the network allows to be changed; lazy.

    Source: `convert` of mlx_lm 0.32.2, convert.py.
    """
    may = getattr(network, "cast_predicate", lambda _: True)

    def change(path: str, array: mx.array) -> mx.array:
        return array.astype(dtype) if may(path) and mx.issubdtype(array.dtype, mx.floating) else array

    network.update(tree_map_with_path(change, network.parameters()))


def dtype_of(network: nn.Module) -> str:
    """Return the type most floating values of a network have, such as `float16`; `""` if it has none."""
    counts: dict[str, int] = {}
    for _, array in tree_flatten(network.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).rpartition(".")[2]
            counts[name] = counts.get(name, 0) + array.size
    return max(counts, key=lambda name: counts[name], default="")


def write_config(config: dict[str, Any], path: Path, *, keep_vision: bool, dtype: str) -> None:
    """Write config.json sorted, as mlx_lm does; numbers JSON cannot hold are tagged as transformers tags them."""
    kept = {key: value for key, value in config.items() if key != "_name_or_path"}
    if not keep_vision:
        kept.pop("vision_config", None)
    if dtype:
        kept["torch_dtype"] = kept["dtype"] = dtype
    write_json(path, tag_floats(dict(sorted(kept.items()))))


def tag_floats(value: Any) -> Any:
    """Write numbers that JSON has no word for as `{"__float__": "Infinity"}`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: tag_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tag_floats(item) for item in value]
    return value


def first_overflow(folder: Path) -> str | None:
    """Return the name of the first array in `folder` that holds an infinity or NaN, reading one at a time."""
    found = assemble(folder)
    weights: dict[str, mx.array] = dict(tree_flatten(found.network.parameters()))
    found.network.update(tree_map(lambda _: mx.array([]), found.network.parameters()))
    for name in sorted(weights):
        array = weights.pop(name)
        if mx.issubdtype(array.dtype, mx.floating) and not bool(mx.all(mx.isfinite(array)).item()):
            return name
    return None


def refuse_overflow(folder: Path, dtype: str) -> None:
    """Raise BadInput if a weight in `folder` became infinite when its type was changed."""
    if (name := first_overflow(folder)) is not None:
        raise BadInput(f"{name} does not fit into {dtype}; convert with --dtype bfloat16 or keep")
