"""Training that knows it will be quantized: the forward pass sees the weight as it will be after fusing.

Strategy: the fused weight `W + s·(AB)ᵀ` is quantized and dequantized on the way forward, and on the way back treated
as if it had not been (straight-through).  The base's weights stay as they are; only A, B and the magnitude learn.  So a
change that quantization would swallow has no effect on the loss, and the adapter learns changes that survive.
Source: Bengio et al., arXiv:1308.3432 (straight-through); Jacob et al., arXiv:1712.05877, section 3 (fake quantization).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxrag.errors import BadInput
from mlxrag.model.attach import adapter_layers, dimensions, weight_of


def form(module: nn.Module, bits: int) -> dict[str, Any]:
    """Return bits, group size and mode that the fused weight of a module will be quantized with.

    A quantized module keeps its own group size and mode where its bits are the wanted ones.

    Raises:
        BadInput: no group size fits its width.
    """
    if "scales" in module and module.bits == bits:
        return {"bits": bits, "group_size": module.group_size, "mode": module.mode}
    width = dimensions(module)[1]
    group = next((g for g in (64, 32) if width % g == 0), None)
    if group is None:
        raise BadInput(
            f"--qat {bits}: a layer has {width} inputs, which no group size divides; leave it out of --lora-keys"
        )
    return {"bits": bits, "group_size": group, "mode": "affine"}


def through(weight: mx.array, bits: int, group_size: int, mode: str) -> mx.array:
    """Return a weight `(out, in)` as it will be after quantizing; its gradient is that of the weight."""
    still = mx.stop_gradient(weight)
    packed = mx.quantize(still, group_size=group_size, bits=bits, mode=mode)
    rounded = mx.dequantize(*packed, group_size=group_size, bits=bits, mode=mode)
    return weight + (rounded.astype(weight.dtype) - still)


class QATLinear(nn.Module):
    """A lora or dora layer whose forward pass sees its fused weight quantized; parameters are those of mlx-lm's."""

    def __init__(self, linear: nn.Module, bits: int, dora: bool, r: int, dropout: float, scale: float) -> None:
        super().__init__()
        plain = adapter_layers()["dora" if dora else "lora"].from_base(linear, r=r, dropout=dropout, scale=scale)
        self.linear = linear
        self.lora_a, self.lora_b = plain.lora_a, plain.lora_b
        if dora:
            self.m = plain.m
        self.scale = scale
        self.form = form(linear, bits)

    @staticmethod
    def over(bits: int, dora: bool) -> Any:
        """Return what has the `from_base` of mlx-lm's layers, for this number of bits."""

        class Maker:
            @staticmethod
            def from_base(linear: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> QATLinear:
                return QATLinear(linear, bits, dora, r, dropout, scale)

        return Maker

    def fused(self) -> mx.array:
        """Return the weight `(out, in)` that fusing gives, before it is quantized."""
        base = weight_of(self.linear)
        whole = base + ((self.scale * self.lora_b.T) @ self.lora_a.T).astype(base.dtype)
        if "m" not in self:
            return whole
        size = mx.stop_gradient(mx.linalg.norm(whole.astype(mx.float32), axis=1))
        return ((self.m / size)[:, None] * whole).astype(base.dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """Map `(..., in)` to `(..., out)`."""
        y = x @ through(self.fused(), **self.form).T
        return y + self.linear.bias if "bias" in self.linear else y
