"""A way to make weights smaller, as a value: written as one word, compared, recorded.

This file knows nothing of arrays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mlxrag.errors import BadInput
from mlxrag.settings import ModelSettings, Quantizing

Method = Literal["plain", "mixed", "awq", "gptq", "dwq", "dynamic"]
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
# The one group size and the bits of the modes whose scales are bytes.
FIXED: dict[str, tuple[int, int]] = {"mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
MIXED: dict[str, tuple[int, int]] = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}
CALIBRATED = ("awq", "gptq", "dwq", "dynamic")
WORD = re.compile(
    r"(?:(?P<method>awq|gptq|dwq|dynamic)-)?(?P<what>\d+|mixed_\d_\d|mxfp4|nvfp4|mxfp8)"
    r"(?:-to-(?P<high>\d))?(?:-g(?P<group>\d+))?(?:@(?P<bpw>[\d.]+))?"
)


@dataclass(frozen=True)
class Recipe:
    """How to quantize.

    Attributes:
        method: plain rounding, mixed bits by place, or one of the calibrated ones.
        bits: of most layers.
        group_size: weights that share a scale.
        mode: affine, mxfp4, nvfp4 or mxfp8.
        high_bits: of the layers that a mixed or dynamic recipe spares; else equal to `bits`.
        target_bpw: what dynamic aims at, in bits per weight; 0 for the others.
    """

    method: Method
    bits: int
    group_size: int
    mode: str = "affine"
    high_bits: int = 0
    target_bpw: float = 0.0

    @property
    def name(self) -> str:
        """The word that `parse` reads, such as `4-g64`, `mixed_4_6`, `awq-4-g64`, `dynamic-4-to-6-g64@5`."""
        if self.mode != "affine":
            return self.mode if self.method == "plain" else f"{self.method}-{self.mode}"
        group = f"-g{self.group_size}"
        if self.method == "plain":
            return f"{self.bits}{group}"
        if self.method == "mixed":
            return f"mixed_{self.bits}_{self.high_bits}{group}"
        if self.method == "dynamic":
            return f"dynamic-{self.bits}-to-{self.high_bits}{group}@{self.target_bpw:g}"
        return f"{self.method}-{self.bits}{group}"

    @property
    def calibrated(self) -> bool:
        """Whether it needs texts to look at."""
        return self.method in CALIBRATED


def parse(word: str) -> Recipe:
    """Read a recipe: `4`, `4-g32`, `mxfp4`, `mixed_4_6`, `awq-4`, `gptq-4-g64`, `dwq-3`, `dynamic-4-to-6@5`.

    Raises:
        BadInput: not a recipe, or bits and group size that MLX does not have.

    Example:
        >>> parse("awq-4").name
        'awq-4-g64'
    """
    found = WORD.fullmatch(word.strip())
    if not found:
        known = "4-g64, mxfp4, nvfp4, mxfp8, mixed_4_6, awq-4, gptq-4, dwq-4, dynamic-4-to-6@5"
        raise BadInput(f"{word!r} is no recipe; write one like {known}")
    method, what, group = found["method"], found["what"], int(found["group"] or 64)
    if what in FIXED:
        if method or found["group"] or found["high"]:
            raise BadInput(f"{word!r}: {what} has one group size and no calibrated form; write {what}")
        size, bits = FIXED[what]
        return Recipe("plain", bits, size, what, bits)
    if what.startswith("mixed"):
        if method or what not in MIXED:
            raise BadInput(f"{word!r}: the mixed recipes are {', '.join(MIXED)}")
        low, high = MIXED[what]
        return checked(Recipe("mixed", low, group, "affine", high))
    bits = int(what)
    if method == "dynamic":
        high = int(found["high"] or min(bits + 1, 6))
        return checked(Recipe("dynamic", bits, group, "affine", high, float(found["bpw"] or bits + 1)))
    if found["high"] or found["bpw"]:
        raise BadInput(f"{word!r}: only dynamic takes a second number of bits and a target")
    return checked(Recipe(method or "plain", bits, group, "affine", bits))  # type: ignore[arg-type]  # the pattern saw to it


def checked(recipe: Recipe) -> Recipe:
    """Return the recipe if MLX has such bits and groups.

    Raises:
        BadInput: it has not.
    """
    for bits in {recipe.bits, recipe.high_bits}:
        if bits not in AFFINE_BITS:
            raise BadInput(f"{bits} bits per weight cannot be packed; MLX has {', '.join(map(str, AFFINE_BITS))}")
    if recipe.group_size not in AFFINE_GROUPS:
        raise BadInput(f"groups of {recipe.group_size} are not possible; MLX has 32, 64 and 128")
    if recipe.method == "gptq" and recipe.bits not in (2, 4, 8):
        raise BadInput(f"gptq packs 2, 4 or 8 bits, not {recipe.bits}")
    if recipe.method == "dwq" and recipe.bits == 8:
        raise BadInput("dwq trains the scales of fewer than 8 bits; at 8 there is nothing to win")
    return recipe


def recipe_of(model: ModelSettings, quantizing: Quantizing | None = None, *, always: bool = False) -> Recipe | None:
    """Return the recipe that the flags ask for, or None if they ask for none.

    Args:
        model: `q_bits`, `q_group_size`, `q_mode`.
        quantizing: `quant_predicate`, `quantizer` and what belongs to them.
        always: take mlx_lm's default (4 bits in groups of 64) if nothing is asked for.

    Raises:
        BadInput: flags that exclude each other, or bits and groups that MLX does not have.
    """
    group, quantizing = model.q_group_size, quantizing or Quantizing()
    if quantizing.quant_predicate:
        if model.q_mode != "affine" or model.q_bits or quantizing.quantizer != "plain":
            raise BadInput("--quant-predicate brings its own bits: leave out --q-bits, --q-mode and --quantizer")
        return parse(f"{quantizing.quant_predicate}-g{group or 64}")
    if model.q_mode != "affine":
        size, bits = FIXED[model.q_mode]
        if model.q_bits not in (None, bits) or group not in (None, size) or quantizing.quantizer != "plain":
            raise BadInput(f"--q-mode {model.q_mode} means {bits} bits in groups of {size}, and is not calibrated")
        return parse(model.q_mode)
    if model.q_bits is None and group is None and quantizing.quantizer == "plain" and not always:
        return None
    bits, method = model.q_bits or 4, quantizing.quantizer
    if method == "dynamic":
        return parse(f"dynamic-{bits}-to-{quantizing.high_bits}-g{group or 64}@{quantizing.target_bpw:g}")
    return parse(f"{'' if method == 'plain' else method + '-'}{bits}-g{group or 64}")
