"""Decoders as encoders, such as Qwen3-Embedding: the trunk of a language model that mlx_lm has.

Apart from `encode.py` because `mlx.nn` and mlx_lm's files take longer to import than a search lasts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.checkpoint import Checkpoint, check_parameters
from mlxrag.model.config import normalize_config
from mlxrag.model.tensors import read_in


def build_decoder(
    checkpoint: Checkpoint, weights: dict[str, mx.array], bits: int = 0
) -> Callable[[mx.array, mx.array | None], mx.array]:
    """Return the trunk of a decoder (without language-model head) as a function of ids and mask.

    The mask is not used: a decoder never looks at what is padded on the right.

    Args:
        checkpoint: a checked checkpoint, possibly quantized.
        weights: its tensors.
        bits: quantize to this many bits, or 0 to leave the weights as they are.

    Raises:
        BadInput: mlx_lm has no such architecture, or the weights do not fit it.
    """
    kind = checkpoint.config["model_type"]
    try:
        module = importlib.import_module(f"mlx_lm.models.{kind}")
    except ImportError as error:
        raise BadInput(
            f"{checkpoint.path}: an encoder of type {kind!r} is neither of the BERT family nor known to mlx_lm"
        ) from error
    config, _ = normalize_config(checkpoint.config)
    trunk: nn.Module = module.Model(module.ModelArgs.from_dict(config)).model
    mine = {name.removeprefix("model."): value for name, value in weights.items() if not name.startswith("lm_head.")}
    if told := checkpoint.config.get("quantization"):
        nn.quantize(
            trunk,
            group_size=told["group_size"],
            bits=told["bits"],
            class_predicate=lambda name, module: f"{name}.scales" in mine,
        )
    if mx.default_device() == mx.Device(mx.cpu):
        # MLX is 30 times slower with half precision on the CPU.
        half = (mx.float16, mx.bfloat16)
        mine = {name: value.astype(mx.float32) if value.dtype in half else value for name, value in mine.items()}
    wanted = {name: value.shape for name, value in tree_flatten(trunk.parameters())}
    check_parameters(checkpoint.path, wanted, {name: value.shape for name, value in mine.items()})
    trunk.load_weights(list(mine.items()))
    if bits:
        nn.quantize(trunk, group_size=64, bits=bits, class_predicate=divisible)
    read_in(value for _, value in tree_flatten(trunk.parameters()))
    trunk.eval()
    return lambda ids, mask: trunk(ids)


def divisible(name: str, module: nn.Module) -> bool:
    """Return whether a layer can be quantized in groups of 64."""
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 64 == 0
