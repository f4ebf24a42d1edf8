"""What a step of a network takes besides its weights and caches, from its config alone: a linear model of its arrays.

The coefficients were fitted to MLX's measured peak (`benchmarks/memory_grid.py` draws new configurations and prints the
errors).  Imports nothing that takes long: a search asks here before it encodes its question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

# Arrays that are alive at once at the peak of a prefill step, in units of their size: scores `(b, heads, n, context)`,
# the MLP's hidden layer `(b, n, inner)`, the residual stream `(b, n, d)`, queries, and keys of one layer.
SCORES, INNER, STREAM, QUERIES, KEYS = 1.11, 2.25, 10.1, 2.65, 0.9
FUSED_INNER, GELU_INNER = 1.85, 1.3
# Of an encoder's step: scores, once more where they are masked, and the residual stream of one layer or of more.
ENCODER_STREAM, ENCODER_STREAM_ONE = 10.6, 5.6
# Head sizes for which Metal has fused attention, which never holds the scores. Source: mlx 0.32, scaled_dot_product_attention.cpp.
FUSED_HEADS = frozenset({64, 80, 96, 128, 256})


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network that its memory depends on."""

    heads: int
    kv_heads: int
    head_dim: int
    width: int
    inner: int
    vocabulary: int
    layers: int
    window: int | None
    fused_mlp: bool
    gelu: bool


def work_bytes(
    config: Mapping[str, Any],
    tokens: int,
    *,
    batch: int = 1,
    step: int = 2048,
    size: int = 4,
    metal: bool | None = None,
) -> int:
    """Predict the intermediate arrays at the peak of a prefill step, in bytes.

    Args:
        config: config.json.
        tokens: prompt length, per row.
        batch: rows at once.
        step: prompt tokens per step.
        size: bytes of one element.
        metal: whether attention is Metal's.
    """
    shape = read_shape(config)
    fused = (mx.metal.is_available() if metal is None else metal) and shape.head_dim in FUSED_HEADS
    peak = 0.0
    for start in range(0, max(tokens - 1, 1), step):
        n = min(step, max(tokens - 1, 1) - start)
        seen = start + n
        if shape.window is not None:
            seen = min(seen, shape.window + n - 1)
        scores = 0 if fused else SCORES * shape.heads * n * seen
        inner = (INNER + FUSED_INNER * shape.fused_mlp + GELU_INNER * shape.gelu) * n * shape.inner
        stream = STREAM * n * shape.width + QUERIES * n * shape.heads * shape.head_dim
        keys = KEYS * shape.kv_heads * shape.head_dim * seen
        peak = max(peak, batch * (scores + inner + stream + keys) * size)
    logits = 4.0 * batch * shape.vocabulary * size
    return int(max(peak, logits))


def encoder_bytes(config: Mapping[str, Any], rows: int, width: int, *, metal: bool | None = None) -> int:
    """Predict what encoding a batch takes besides the encoder's weights, in bytes.

    Args:
        config: config.json of the encoder.
        rows: texts at once.
        width: tokens of the longest.
        metal: whether attention is Metal's; looked up unless given.
    """
    shape = read_shape(config)
    fused = mx.metal.is_available() if metal is None else metal
    scores = 0.0 if fused else 2.0 * rows * shape.heads * width * width
    stream = ENCODER_STREAM if shape.layers > 1 else ENCODER_STREAM_ONE
    return int(4 * (scores + rows * width * (shape.inner + stream * shape.width)))


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Read the sizes from a config under the names that architectures give them."""
    plain = dict(config.get("text_config") or config)

    def first(*names: str, default: int = 0) -> int:
        return next((int(plain[name]) for name in names if isinstance(plain.get(name), int)), default)

    width = first("hidden_size", "n_embd", "d_model", "model_dim", default=1024)
    heads = first("num_attention_heads", "n_head", "n_heads", "num_heads", default=16)
    experts = first("num_experts_per_tok", "num_experts_per_token", default=1)
    inner = first("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", default=4 * width)
    kind = str(plain.get("model_type", ""))
    layers = first("num_hidden_layers", "n_layer", "n_layers", "num_layers", default=24)
    window = first("sliding_window") or None
    pattern = first("sliding_window_pattern")
    if kind.startswith("gemma3") and pattern and any((i + 1) % pattern == 0 for i in range(layers - 1)):
        window = None  # a full layer sets the peak; the last layer's attention is not run in a prefill step
    elif not kind.startswith("gemma3"):
        window = None
    return Shape(
        heads=heads,
        kv_heads=first("num_key_value_heads", "num_kv_heads", default=heads),
        head_dim=first("head_dim", default=width // heads),
        width=width,
        inner=inner * experts,
        vocabulary=first("vocab_size", default=32000),
        layers=layers,
        window=window,
        fused_mlp=kind.startswith("phi3"),
        gelu=kind.startswith("gemma"),
    )
