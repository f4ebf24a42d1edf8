"""Fewer layers: the blocks that change their input least are left out, and what that costs is measured.

Off by default and seldom free: a model loses more per byte this way than by quantization (docs/models.md has figures).

Source: Men et al. 2024, ShortGPT, equation 1: the influence of a block is 1 minus the mean cosine between what goes
into it and what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxrag.errors import BadInput
from mlxrag.model.network import Assembled, build, quantize_to_fit

LAYER = re.compile(r"^(?P<before>.*?\b(?:layers|h|blocks)\.)(?P<number>\d+)(?P<after>\..*)$")
# Keys that say by arithmetic what each layer is; leaving one out would change what the others are.
BY_ARITHMETIC = ("sliding_window_pattern", "full_attention_interval", "attn_layer_period", "expert_layer_period",
                 "decoder_sparse_step", "moe_layer_interval", "first_k_dense_replace", "num_kv_shared_layers")  # fmt: skip
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass
class Seen:
    """Sum of cosines and how many, of one block."""

    cosines: float = 0.0
    tokens: int = 0


class Watch:
    """Stands in for a block, passes everything on, and notes how far its output points from its input."""

    def __init__(self, block: nn.Module, seen: Seen) -> None:
        """Stand in for `block`."""
        self.block, self.seen = block, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)

    def __call__(self, x: mx.array, *args: Any, **options: Any) -> Any:
        out = self.block(x, *args, **options)
        y = out[0] if isinstance(out, tuple) else out
        a, b = x.astype(mx.float32), y.astype(mx.float32)
        norms = mx.linalg.norm(a, axis=-1) * mx.linalg.norm(b, axis=-1)
        cosine = mx.sum(a * b, axis=-1) / mx.maximum(norms, 1e-9)
        self.seen.cosines += float(mx.sum(cosine))
        self.seen.tokens += cosine.size
        return out


def influence(network: nn.Module, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the block influence of every layer on texts: 0 changes nothing, up to 2 turns everything round.

    Args:
        network: an mlx_lm network; it is as before afterwards.
        rows: token ids of each text.

    Raises:
        BadInput: the network has no list of layers.
    """
    holder = holder_of(network)
    blocks = list(holder.layers)
    found = [Seen() for _ in blocks]
    holder.layers = [Watch(block, seen) for block, seen in zip(blocks, found, strict=True)]
    try:
        for row in rows:
            mx.eval(network(mx.array([list(row)])))
    finally:
        holder.layers = blocks
    return [1 - seen.cosines / max(seen.tokens, 1) for seen in found]


def holder_of(network: nn.Module) -> Any:
    """Return the module that has the list of layers as its own.

    Raises:
        BadInput: there is none.
    """
    for _, module in [("", network), *network.named_modules()]:
        if isinstance(module.get("layers"), list) and module["layers"]:
            return module
    raise BadInput("this network has no list of layers, so none can be left out")


def least(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the numbers of the `count` layers of least influence, never the first or the last.

    Raises:
        BadInput: that would leave fewer than two layers.
    """
    if count < 1 or count > len(scores) - 2:
        raise BadInput(f"of {len(scores)} layers 1 to {len(scores) - 2} can be left out, not {count}")
    inner = range(1, len(scores) - 1)
    return tuple(sorted(sorted(inner, key=lambda i: scores[i])[:count]))


def drop_layers(found: Assembled, numbers: Sequence[int]) -> Assembled:
    """Return the network without some layers; weights stay unread.

    Args:
        found: the network; it is used up.
        numbers: layers to leave out.

    Raises:
        BadInput: the config says by arithmetic what each layer is, so that leaving one out would change the others.
    """
    config = dict(found.config)
    inner = config["text_config"] = dict(config["text_config"]) if isinstance(config.get("text_config"), dict) else {}
    if not inner:
        del config["text_config"]
    table = inner or config
    for key in BY_ARITHMETIC:
        if isinstance(table.get(key), int) and table[key] > 1:
            raise BadInput(f"{key} = {table[key]} says what each layer is by its number; no layer can be left out")
    count = next((name for name in COUNTS if isinstance(table.get(name), int)), None)
    if count is None:
        raise BadInput("config.json does not say how many layers there are")
    total = table[count]
    kept = [i for i in range(total) if i not in set(numbers)]
    for name, value in list(table.items()):
        if isinstance(value, list) and len(value) == total:
            table[name] = [value[i] for i in kept]
    table[count] = len(kept)
    weights = renumbered(dict(tree_flatten(found.network.parameters())), kept)
    network = build(config)
    if config.get("quantization"):
        config["quantization"] = quantization_of(config["quantization"], kept)
        quantize_to_fit(network, config["quantization"], weights)
    network.eval()
    network.load_weights(list(weights.items()), strict=True)
    note = f"layers: {', '.join(map(str, numbers))} of {total} left out"
    return replace(found, network=network, config=config, notes=(*found.notes, note))


def renumbered(weights: Mapping[str, mx.array], kept: Sequence[int]) -> dict[str, mx.array]:
    """Return the weights of the kept layers under their new numbers, and everything that is in no layer."""
    place = {old: new for new, old in enumerate(kept)}
    done = {}
    for name, array in weights.items():
        found = LAYER.match(name)
        if found is None:
            done[name] = array
        elif int(found["number"]) in place:
            done[f"{found['before']}{place[int(found['number'])]}{found['after']}"] = array
    return done


def quantization_of(table: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return a config's quantization table with the layers' new numbers."""
    place = {old: new for new, old in enumerate(kept)}
    done: dict[str, Any] = {}
    for name, value in table.items():
        found = LAYER.match(f"{name}.") if "." in name else None
        if found is None:
            done[name] = value
        elif int(found["number"]) in place:
            done[f"{found['before']}{place[int(found['number'])]}{found['after']}".removesuffix(".")] = value
    return done
