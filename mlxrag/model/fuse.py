"""Write an adapter into its base, and measure first what of it would survive.

Strategy: fusing into few bits rounds a small change away (a change of 1 % of a weight's norm keeps a cosine of 0.05 with
itself in 4 bits, and 0.88 in 8).  So for every layer the change that was learnt is compared with the change that is left
after rounding, and on answers the fused network with base and adapter: what share of the adapter's effect is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput, MlxragError
from mlxrag.model.adapter import Adapter
from mlxrag.model.attach import Adapters, check, parent_of, weight_of
from mlxrag.model.network import assemble
from mlxrag.model.write import write_model

Into = Literal["same", "8", "half"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What of a layer's change survives.

    Attributes:
        path: the layer.
        share: norm of the change over the norm of the weight.
        cosine: between the change that was learnt and the one that is left after rounding, -1 to 1.
        bits: of the fused weight; 0 is not quantized.
    """

    path: str
    share: float
    cosine: float
    bits: int


@dataclass(frozen=True, slots=True)
class Survival:
    """What a fused model keeps of its adapter.

    Attributes:
        layers: every changed layer, the worst first.
        kept: share of the adapter's effect on the answers that the fused model keeps: 1 less the divergence between
            adapter and fused over that between adapter and base; None without answers.
        agreement: share of answer tokens whose likeliest token is the adapter's; None without answers.
        tokens: answer tokens looked at.
    """

    layers: tuple[Layer, ...]
    kept: float | None
    agreement: float | None
    tokens: int

    @property
    def score(self) -> float:
        """What the gate looks at: the effect kept on answers, or without answers the mean cosine of the layers."""
        if self.kept is not None:
            return self.kept
        return sum(layer.cosine for layer in self.layers) / len(self.layers)


class WouldNotSurvive(MlxragError):
    """The gate said no: fusing would take away what was learnt."""


def fused_layers(network: nn.Module, adapter: Adapter, into: Into) -> tuple[dict[str, nn.Module], list[Layer]]:
    """Return the fused layers of a network by path, and what of each change survives.

    Args:
        network: the base, without an adapter in use; not changed.
        adapter: lora or dora.
        into: `same` keeps each layer's bits, `8` fuses into 8 bits, `half` into float16.

    Raises:
        BadInput: kind full, or experts. Mismatch: the adapter does not fit.
    """
    modules = dict(network.named_modules())
    check(adapter, modules, network.layers)
    if adapter.kind == "full":
        raise BadInput(f"adapter {adapter.name!r} replaces whole weights; there is nothing to fuse")
    made: dict[str, nn.Module] = {}
    layers = []
    for path, tensors in adapter.modules.items():
        module = modules[path]
        if tensors["lora_a"].ndim == 3:
            raise BadInput(f"{path}: experts are not fused; keep the adapter beside the base")
        base = weight_of(module).astype(mx.float32)
        embedded = isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
        product = tensors["lora_a"] @ tensors["lora_b"] * adapter.scale
        whole = base + (product if embedded else product.T)
        if "m" in tensors:
            whole = (tensors["m"] / mx.linalg.norm(whole, axis=1))[:, None] * whole
        made[path] = _layer(module, whole, into)
        wanted = whole - base
        left = weight_of(made[path]).astype(mx.float32) - base
        size, all_of_it = mx.linalg.norm(wanted), mx.linalg.norm(base)
        cosine = (wanted * left).sum() / mx.maximum(size * mx.linalg.norm(left), 1e-12)
        # A change of nothing is kept whole.
        cosine = mx.where(size == 0, 1.0, cosine)
        mx.eval(made[path].parameters(), cosine, size, all_of_it)
        layers.append(
            Layer(path, _float(size / all_of_it), _float(cosine), made[path].bits if "scales" in made[path] else 0)
        )
    return made, sorted(layers, key=lambda layer: layer.cosine)


def survival(
    network: nn.Module, adapter: Adapter, into: Into, answers: Sequence[tuple[Sequence[int], int]] = ()
) -> tuple[dict[str, nn.Module], Survival]:
    """Return the fused layers and what they keep of the adapter.

    Args:
        network: the base, without an adapter in use; as it was afterwards.
        adapter: lora or dora.
        into: see `fused_layers`.
        answers: token ids of prompt and answer, and where the answer begins.

    Cost: three forward passes of every answer.
    """
    made, layers = fused_layers(network, adapter, into)
    if not answers:
        return made, Survival(tuple(layers), None, None, 0)
    base = [_log_probabilities(network, *answer) for answer in answers]
    with Adapters(network) as adapters:
        adapters.use(adapters.add(adapter, any_base=True))
        theirs = [_log_probabilities(network, *answer) for answer in answers]
    with placed(network, made):
        ours = [_log_probabilities(network, *answer) for answer in answers]
    away = sum(_divergence(a, b) for a, b in zip(theirs, base, strict=True))
    lost = sum(_divergence(a, b) for a, b in zip(theirs, ours, strict=True))
    tokens = sum(a.shape[0] for a in theirs)
    same = sum(_float((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(theirs, ours, strict=True))
    kept = 1 - lost / away if away > 0 else 1.0
    return made, Survival(tuple(layers), kept, same / tokens, tokens)


def gate(found: Survival, threshold: float, into: Into, bits: int) -> None:
    """Refuse a fused model that keeps too little of its adapter.

    Raises:
        WouldNotSurvive: says how much is kept, and what to do instead.
    """
    if found.score >= threshold:
        return
    how = "of the effect on the answers" if found.kept is not None else "of the change (cosine)"
    instead = ["keep the adapter beside the base (--adapter-path)"]
    if into == "same" and bits and bits < 8:
        instead.append("fuse into 8 bits or half precision (--into 8, --into half)")
        instead.append(f"train with --qat {bits}")
    elif into == "8":
        instead.append("fuse into half precision (--into half)")
    raise WouldNotSurvive(
        f"fusing would keep {max(0.0, found.score):.0%} {how}, less than {threshold:.0%}; {', or '.join(instead)}"
    )


def write_fused(source: Path, folder: Path, made: Mapping[str, nn.Module], into: Into) -> dict[str, Any]:
    """Write the model of a directory with these layers in place of its own; mlx_lm opens it.

    Args:
        source: directory of the base.
        folder: an existing, empty directory.
        made: fused layers by path.
        into: how they were made.

    Returns:
        facts for the manifest: bytes, bits per weight.
    """
    found = assemble(source)
    config = found.config
    for path, layer in made.items():
        holder, key = parent_of(found.network, path)
        holder[key] = layer
    for name in ("quantization", "quantization_config"):
        if isinstance(config.get(name), dict) and into != "same":
            table = dict(config[name])
            for path, layer in made.items():
                table[path] = (
                    False
                    if into == "half"
                    else {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
                )
            config[name] = table
    if "quantization" not in config and into == "8":
        one = next(iter(made.values()))
        table = {"group_size": one.group_size, "bits": one.bits, "mode": one.mode}
        rest = [
            p for p, m in found.network.named_modules() if isinstance(m, nn.Linear | nn.Embedding) and p not in made
        ]
        config["quantization"] = config["quantization_config"] = {**table, **dict.fromkeys(rest, False)}
    written = write_model(found, source, folder)
    return {"nbytes": written.nbytes, "bits_per_weight": written.bits_per_weight}


@contextmanager
def placed(network: nn.Module, made: Mapping[str, nn.Module]) -> Any:
    """Put layers in place of a network's own for the time of a block."""
    old = []
    for path, layer in made.items():
        holder, key = parent_of(network, path)
        old.append((holder, key, holder[key]))
        holder[key] = layer
    try:
        yield
    finally:
        for holder, key, module in old:
            holder[key] = module


def _layer(module: nn.Module, weight: mx.array, into: Into) -> nn.Module:
    """A layer like `module` with another weight `(out, in)` float32."""
    rows, columns = weight.shape
    embedded = isinstance(module, nn.Embedding | nn.QuantizedEmbedding)
    plain: nn.Module = nn.Embedding(1, 1) if embedded else nn.Linear(1, 1, bias="bias" in module)
    kind = module.scales.dtype if "scales" in module else module.weight.dtype
    if kind not in (mx.float16, mx.bfloat16, mx.float32):  # mx and nv formats keep their scales in bytes
        kind = mx.float32 if mx.default_device() == mx.Device(mx.cpu) else mx.float16
    plain.weight = weight.astype(mx.float16 if into == "half" and kind != mx.float32 else kind)
    if "bias" in module:
        plain.bias = module.bias
    quantized = "scales" in module
    if into == "half" or (into == "same" and not quantized):
        made = plain
    else:
        bits = 8 if into == "8" else module.bits
        mode = module.mode if quantized and into == "same" else "affine"
        group = module.group_size if quantized and (into == "same" or module.mode == "affine") else 64
        while columns % group and group > 32:
            group //= 2
        if columns % group:
            raise BadInput(
                f"a layer of {rows} x {columns} cannot be divided into groups of {group}; fuse into half precision"
            )
        made = plain.to_quantized(group_size=group, bits=bits, mode=mode)
    made.freeze()
    made.eval()
    return made


def _log_probabilities(network: nn.Module, ids: Sequence[int], first: int) -> mx.array:
    """Log-probabilities `(tokens of the answer, vocabulary)` float32."""
    logits = network(mx.array([list(ids[:-1])]))[0, first - 1 :].astype(mx.float32)
    found = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(found)
    return found


def _divergence(p: mx.array, q: mx.array) -> float:
    return _float((mx.exp(p) * (p - q)).sum())


def _float(value: mx.array) -> float:
    found: Any = value.item()
    return float(found)
