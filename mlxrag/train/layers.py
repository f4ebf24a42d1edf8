"""What of a network is trained: adapter layers put over its own, or the layers themselves; and taken off again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxrag.errors import BadInput, Mismatch, nearest
from mlxrag.model.adapter import CONFIG, WEIGHTS, load_tensors, read_adapter
from mlxrag.model.attach import adaptable, adapter_layers, can_adapt, parent_of, resident
from mlxrag.settings import Training
from mlxrag.workspace import write_json


@contextmanager
def trainable(network: nn.Module, training: Training) -> Iterator[tuple[str, ...]]:
    """Make what `training` says trainable while the block runs; then the network is as it was, bit for bit.

    Args:
        network: the base; an adapter in use is put aside.
        training: `fine_tune_type`, `rank`, `scale`, `dropout`, `lora_keys`, `num_layers`, `qat`, `train_seed`,
            `resume_adapter_file`.

    Yields:
        the keys of the adapted layers, as `adapter_config.json` has them; empty for full.

    Raises:
        BadInput: no layer answers to a key, more layers than there are, or a kind that this base cannot be trained in.
        Mismatch: the adapter to begin with does not fit.
    """
    here = resident(network)
    before = here.active
    here.use(None)
    if training.num_layers > len(network.layers):
        raise BadInput(f"--num-layers {training.num_layers}: the model has {len(network.layers)} layers")
    network.freeze()
    mx.random.seed(training.train_seed)
    old: list[tuple[Any, Any, Any]] = []
    try:
        if training.fine_tune_type == "full":
            keys: tuple[str, ...] = ()
            old = _unfreeze(network, training.num_layers)
        else:
            keys = layer_keys(network, training.lora_keys)
            old = _wrap(network, training, keys)
        if training.resume_adapter_file:
            begin_with(network, Path(training.resume_adapter_file), here.base)
        network.train()
        yield keys
    finally:
        for holder, key, value in old:
            holder[key] = value
        network.freeze()
        network.eval()
        here.use(before)


class LoRALinear(nn.Module):
    """A lora layer with the parameters and first weights of mlx-lm's, in fewer passes over its outputs.

    The scale is on the product with `rank` columns, and the sum is that of the second product (`addmm`).  On one thread of
    a CPU a step on shared passages takes 0.95 times as long.
    """

    def __init__(self, linear: nn.Module, r: int, dropout: float, scale: float) -> None:
        super().__init__()
        plain = adapter_layers()["lora"].from_base(linear, r=r, dropout=dropout, scale=scale)
        self.linear, self.dropout = linear, plain.dropout
        self.lora_a, self.lora_b = plain.lora_a, plain.lora_b
        self.scale = scale

    @staticmethod
    def from_base(linear: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> LoRALinear:
        """Return the layer over a linear one, quantized or not."""
        return LoRALinear(linear, r, dropout, scale)

    def __call__(self, x: mx.array) -> mx.array:
        """Map `(..., in)` to `(..., out)`."""
        low = self.scale * (self.dropout(x) @ self.lora_a)
        return mx.addmm(self.linear(x), low, self.lora_b).astype(x.dtype)


def begin_with(network: nn.Module, path: Path, base: str) -> None:
    """Give what is trained the weights of an adapter, so that training goes on with it on other data or settings.

    Args:
        network: with its adapter layers.
        path: an adapter's directory, or one of its .safetensors files.
        base: fingerprint of the network without them.

    Raises:
        NotFound, BadInput, Damaged: see `read_adapter`.
        Mismatch: it belongs to another base, or holds other layers or ranks than those that are trained.
    """
    if path.is_dir():
        adapter = read_adapter(path)
        if adapter.base and adapter.base != base:
            raise Mismatch(
                f"adapter {adapter.name!r} was trained on {adapter.base_name or 'a base'} ({adapter.base}), not on this "
                f"one ({base}); train on that base"
            )
        given = dict(adapter.weights)
    else:
        given = load_tensors(path)
    here = weights_of(network)
    faults = [f"{name} is missing" for name in here if name not in given]
    faults += [f"{name} is not trained" for name in given if name not in here]
    faults += [
        f"{n}: {given[n].shape} in place of {w.shape}"
        for n, w in here.items()
        if n in given and given[n].shape != w.shape
    ]
    if faults:
        raise Mismatch(
            f"--resume-adapter-file {path}: {'; '.join(faults[:3])}{' and more' if len(faults) > 3 else ''}; train with its "
            "own --fine-tune-type, --rank, --num-layers and --lora-keys"
        )
    network.update(tree_unflatten([(name, w.astype(here[name].dtype)) for name, w in given.items()]))


def layer_keys(network: nn.Module, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of the layers to adapt: those that end in a wanted name, or every linear layer of a block.

    Raises:
        BadInput: no layer answers to a name.
    """
    inside = dict.fromkeys(p for block in network.layers for p, m in block.named_modules() if can_adapt(m))
    outside = [p for p, m in network.named_modules() if can_adapt(m) and not any(p.endswith("." + k) for k in inside)]
    if not wanted:
        return tuple(inside)
    found: dict[str, None] = {}
    for name in wanted:
        hits = [p for p in (*inside, *outside) if p == name or p.endswith("." + name)]
        if not hits:
            raise BadInput(
                f"--lora-keys {name}: no layer of the model is called so{nearest(name, [*inside, *outside])}"
            )
        found.update(dict.fromkeys(hits))
    return tuple(found)


def weights_of(network: nn.Module) -> dict[str, mx.array]:
    """Return what is trained, by path."""
    return dict(tree_flatten(network.trainable_parameters()))


def write_adapter(
    folder: Path,
    weights: dict[str, mx.array],
    training: Training,
    keys: tuple[str, ...],
    base: dict[str, str],
) -> None:
    """Write an adapter that mlx_lm opens, the weights first and the configuration last.

    Args:
        folder: where; made if it is not there.
        weights: tensors by path.
        training: recorded with it.
        keys: of the adapted layers.
        base: name and fingerprint of the network it belongs to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".writing.safetensors"
    mx.save_safetensors(str(temporary), weights, {"format": "mlx"})
    temporary.replace(folder / WEIGHTS)
    full = training.fine_tune_type == "full"
    lora = {"rank": training.rank, "scale": training.scale, "dropout": training.dropout, "keys": list(keys)}
    config = {
        **json.loads(training.model_dump_json()),
        "fine_tune_type": training.fine_tune_type,
        "num_layers": training.num_layers,
        "lora_parameters": None if full else lora,
        "model": base.get("name", ""),
        "base": base,
    }
    write_json(folder / CONFIG, config)


def _unfreeze(network: nn.Module, num_layers: int) -> list[tuple[Any, Any, Any]]:
    """Make the last blocks' own parameters trainable; return what they were."""
    blocks = network.layers[-max(num_layers, 0) :]
    if any("scales" in module for block in blocks for _, module in block.named_modules()):
        raise BadInput("--fine-tune-type full needs a model that is not quantized; use lora or dora on this one")
    old = []
    for block in blocks:
        block.unfreeze()
        for _, module in block.named_modules():
            old += [(module, key, value) for key, value in module.items() if isinstance(value, mx.array)]
    return old


def _wrap(network: nn.Module, training: Training, keys: tuple[str, ...]) -> list[tuple[Any, Any, Any]]:
    """Put trainable layers over the network's own; return what was there."""
    layers = adapter_layers()
    modules = dict(network.named_modules())
    dora = training.fine_tune_type == "dora"
    old = []
    # In mlx-lm's order, so that a seed gives the first weights that mlx_lm.lora would draw.
    order = {id(m): n for n, m in enumerate(m for block in network.layers for _, m in block.named_modules())}
    paths = adaptable(modules, network.layers, training.num_layers, keys)
    for path in sorted(paths, key=lambda p: order.get(id(modules[p]), len(order))):
        module = modules[path]
        if dora and "scales" in module and 32 % module.bits:
            raise BadInput(
                f"--fine-tune-type dora: mlx-lm's layer miscounts the inputs of {module.bits}-bit weights; use lora, "
                "or weights of 2, 4 or 8 bits"
            )
        if type(module).__name__ in ("SwitchLinear", "QuantizedSwitchLinear"):
            if dora:
                raise BadInput(f"--fine-tune-type dora: {path} holds experts, which can only be adapted as lora")
            made = layers["switch"]
        elif isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
            if dora and "scales" in module:
                raise BadInput(
                    f"--fine-tune-type dora: {path} is a quantized embedding, which mlx-lm adapts as lora only"
                )
            made = layers["dora_embedding" if dora else "embedding"]
        elif training.qat:
            from mlxrag.train.qat import QATLinear

            made = QATLinear.over(training.qat, dora)
        else:
            made = layers["dora"] if dora else LoRALinear
        layer = made.from_base(module, r=training.rank, scale=training.scale, dropout=training.dropout)
        holder, key = parent_of(network, path)
        old.append((holder, key, module))
        holder[key] = layer
    if not old:
        raise BadInput("there is no layer to adapt; give other --lora-keys or --num-layers")
    return old
