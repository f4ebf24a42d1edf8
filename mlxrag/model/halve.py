"""The type of what is not quantized: float16 where bfloat16 is slow, if the model stands it.

M1 and M2 GPUs have no native bfloat16.  Models trained in it may overflow in float16, so a choice made by
`auto` is checked on what was written: no infinite weight, no infinite activation, and a KL that does not matter.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from mlxrag.model.network import assemble
from mlxrag.model.proof import CLOSE_TOP1, compare, logits_once
from mlxrag.model.write import first_overflow

HALF_KL = 0.01  # nats per token that float16 may cost before `auto` goes back to the checkpoint's own type
OLD_CHIPS = ("Apple M1", "Apple M2")  # no native bfloat16


def this_chip() -> str:
    """Return the name of the processor that computes, such as `Apple M1 Pro`."""
    return str(mx.device_info().get("device_name") or platform.processor())


def choose_dtype(wanted: str, chip: str) -> tuple[mx.Dtype | None, str]:
    """Return the type for what is not quantized (None keeps the checkpoint's) and why.

    M1 and M2 have no native bfloat16; float16 there is 14 to 34 % faster (docs/models.md).

    Example:
        >>> choose_dtype("auto", "Apple M1 Pro")[1]
        'auto: float16, since Apple M1 Pro has no native bfloat16'
    """
    if wanted == "keep":
        return None, "keep: the checkpoint's own"
    if wanted != "auto":
        return getattr(mx, wanted), f"{wanted}: asked for"
    if chip.startswith(OLD_CHIPS):
        return mx.float16, f"auto: float16, since {chip} has no native bfloat16"
    return None, "auto: the checkpoint's own"


def half_fault(folder: Path, ids: Sequence[int]) -> str | None:
    """Return what is wrong with the float16 model in `folder`, or None: overflow of a weight or of an activation, or KL.

    The same weights are run in float16 and in float32, one weight in memory at a time.
    """
    if (name := first_overflow(folder)) is not None:
        return f"overflows in {name}"
    half = logits_once(assemble(folder).network, ids)
    found = assemble(folder)
    found.network.set_dtype(mx.float32)
    difference = compare(logits_once(found.network, ids), half)
    if not difference.kl_mean <= HALF_KL or difference.top1 < CLOSE_TOP1 - 0.05:
        return f"changes the logits (KL {difference.kl_mean:.2g}, top-1 agreement {difference.top1:.2f})"
    return None
