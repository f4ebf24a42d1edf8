"""A network's layers replaced by quantized ones, by recipe.

`QUANTIZERS` has one function per method.  The plain ones are lazy: nothing is read or computed until a
tensor is written, so a model larger than memory can be quantized.  The calibrated ones live in
`calibrate.py`, run mlx_lm's own functions on texts of the user, and need the whole model in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlxrag.errors import BadInput
from mlxrag.model import calibrate
from mlxrag.model.calibrate import Calibration
from mlxrag.model.recipe import MIXED, Recipe

Table = dict[str, Any]
Choice = Callable[[str, nn.Module], bool | dict[str, Any]]


def quantize_network(network: nn.Module, recipe: Recipe, calibration: Calibration | None = None) -> Table:
    """Quantize the layers of `network` in place.

    Args:
        network: an mlx_lm network that is not quantized yet; its weights may be unread.
        recipe: how.
        calibration: token ids and settings for the calibrated methods.

    Returns:
        the table `quantization` of config.json: group_size, bits, mode, and the layers that differ by path.

    Raises:
        BadInput: the network is quantized already, no layer can be divided into such groups, or the method
            does not know the architecture.
    """
    if quantized_leaves(network):
        raise BadInput("the model is quantized already; quantize the one it was made from, or --dequantize it first")
    if recipe.calibrated and calibration is None:
        raise BadInput(f"{recipe.name} needs texts to calibrate on; give some with --calibration")
    able = [path for path, module in leaves(network) if divisible(module, recipe.group_size)]
    if not able:
        raise BadInput(f"no layer can be divided into groups of {recipe.group_size}; try --q-group-size 32")
    table = QUANTIZERS[recipe.method](network, recipe, calibration)
    network.eval()
    return table


def leaves(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the leaf modules of a network with their paths."""
    found: list[tuple[str, nn.Module]] = tree_flatten(network.leaf_modules(), is_leaf=nn.Module.is_module)
    return found


def divisible(module: nn.Module, group_size: int) -> bool:
    """Return whether the rows of a layer's weights can be cut into groups."""
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0


def plain(network: nn.Module, recipe: Recipe, calibration: Calibration | None = None) -> Table:
    """Round each group of weights to the nearest of its 2^bits levels."""
    return apply(network, recipe, getattr(network, "quant_predicate", None))


def mixed(network: nn.Module, recipe: Recipe, calibration: Calibration | None = None) -> Table:
    """Give more bits to the value and down projections of the first, last and some middle layers (mlx_lm's recipes)."""
    with calibrate.quiet():
        from mlx_lm.convert import mixed_quant_predicate_builder

    word = next(word for word, bits in MIXED.items() if bits == (recipe.bits, recipe.high_bits))
    try:
        choice = mixed_quant_predicate_builder(word, network, recipe.group_size)
    except ValueError as error:
        raise BadInput(f"{word}: the network has no down_proj to give more bits to; use plain bits") from error
    return apply(network, recipe, choice)


def apply(network: nn.Module, recipe: Recipe, choice: Choice | None) -> Table:
    """Quantize what can be, as `choice` says of each path; return the table for config.json.

    Source: `quantize_model` of mlx_lm 0.32.2, utils.py.
    """
    usual = {"group_size": recipe.group_size, "bits": recipe.bits, "mode": recipe.mode}
    table: Table = dict(usual)

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not divisible(module, recipe.group_size):
            return False
        wish = choice(path, module) if choice else True
        if isinstance(wish, dict):
            wish = {"group_size": recipe.group_size, "mode": recipe.mode, **wish}
            if wish != usual:
                table[path] = wish
            return wish
        return bool(wish)

    nn.quantize(network, recipe.group_size, recipe.bits, mode=recipe.mode, class_predicate=choose)
    return table


def unpack(network: nn.Module) -> None:
    """Replace quantized layers by plain ones that hold the same rounded numbers; lazy.

    Layers of experts with a scale over all groups (some nvfp4 checkpoints of others) stay as they are.
    Also used for measuring on a CPU, where a product with packed weights is some 20 times slower than with plain ones.
    """
    for path, module in leaves(network):
        kind = type(module)
        if kind not in PLAIN or module.get("global_scale") is not None:
            continue
        plain_one = PLAIN[kind]("bias" in module)
        if "bias" in module:
            plain_one.bias = module.bias
        plain_one.weight = mx.dequantize(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, module.mode
        )
        network.update_modules(tree_unflatten([(path, plain_one)]))


def dequantize_network(network: nn.Module) -> None:
    """Replace all quantized layers by plain ones that hold the same rounded numbers; lazy.

    Raises:
        BadInput: nothing is quantized, or a layer has no plain form.
    """
    if not quantized_leaves(network):
        raise BadInput("the model is not quantized, so there is nothing to dequantize; leave out --dequantize")
    unpack(network)
    if left := quantized_leaves(network):
        raise BadInput(f"{left[0]} cannot be dequantized; use the model it was quantized from")


def quantized_leaves(network: nn.Module) -> list[str]:
    """Return the paths of the layers that are quantized."""
    return [path for path, module in leaves(network) if hasattr(module, "bits")]


def bits_per_weight(network: nn.Module) -> float:
    """Return bits of all arrays per parameter of the unquantized network, biases and norms included."""
    return 8 * nbytes(network) / parameters(network)


def nbytes(network: nn.Module) -> int:
    """Return the bytes of all arrays; nothing is evaluated."""
    return sum(array.nbytes for _, array in tree_flatten(network.parameters()))


def parameters(network: nn.Module) -> int:
    """Return how many parameters a network has, a packed one counted as what it stands for."""
    count = 0
    for _, module in leaves(network):
        arrays = dict(tree_flatten(module.parameters()))
        if hasattr(module, "bits") and "scales" in arrays:
            count += arrays["weight"].size * 32 // module.bits
            count += arrays["bias"].size if "bias" in arrays else 0
        else:
            count += sum(array.size for array in arrays.values())
    return count


# What a quantized layer becomes: an empty layer, with or without room for a bias.
PLAIN: dict[type[nn.Module], Callable[[bool], nn.Module]] = {
    nn.QuantizedLinear: lambda bias: nn.Linear(1, 1, bias=bias),
    nn.QuantizedEmbedding: lambda bias: nn.Embedding(1, 1),
    QuantizedSwitchLinear: lambda bias: SwitchLinear(1, 1, 1, bias=bias),
}

QUANTIZERS: dict[str, Callable[[nn.Module, Recipe, Calibration | None], Table]] = {
    "plain": plain,
    "mixed": mixed,
    "awq": calibrate.awq,
    "gptq": calibrate.gptq,
    "dwq": calibrate.dwq,
    "dynamic": calibrate.dynamic,
}
