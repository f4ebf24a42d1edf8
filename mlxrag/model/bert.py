"""The BERT family as an MLX network: BERT, RoBERTa and XLM-RoBERTa encoders, with or without a scoring head.

Knows nothing of tokenizers, pooling or files; `renamed` maps the tensor names of a Hugging Face
checkpoint to this network's.  The three projections of an attention layer are one matrix here.
The network is its weights and a function over them: `mlx.nn` would double the time that a search
takes to start.

Source: Devlin et al. 2019 (arXiv:1810.04805); names and layout as in transformers' `modeling_bert.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlxrag.errors import BadInput
from mlxrag.model.elementwise import attention, gelu

FAMILY = ("bert", "roberta", "xlm-roberta")

# Hugging Face name -> ours; tried in order, the first match wins.
NAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.word_embeddings\.", "words."),
    (r"embeddings\.position_embeddings\.", "positions."),
    (r"embeddings\.token_type_embeddings\.", "types."),
    (r"embeddings\.LayerNorm\.", "norm."),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.", r"layers.\1.\2."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.out."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"layers.\1.norm_attention."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.up."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.down."),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm_mlp."),
    (r"pooler\.dense\.", "head.dense."),
    (r"classifier\.dense\.", "head.dense."),
    (r"classifier\.out_proj\.", "head.out."),
    (r"classifier\.", "head.out."),
)


@dataclass(frozen=True)
class Shape:
    """The numbers of config.json that a network is built from.

    Attributes:
        first_position: where positions start; RoBERTa's start after the padding id.
        labels: outputs of the scoring head; 0 is an encoder without one.
    """

    vocabulary: int
    width: int
    heads: int
    layers: int
    inner: int
    positions: int
    types: int
    eps: float
    first_position: int
    labels: int


def shape_of(config: Mapping[str, Any], labels: int = 0) -> Shape:
    """Read a `Shape` from config.json.

    Raises:
        BadInput: another architecture, activation or kind of position than this network has.
    """
    kind = config["model_type"]
    if kind not in FAMILY:
        raise BadInput(f"an encoder of type {kind!r} is not one of {', '.join(FAMILY)}")
    if (act := config.get("hidden_act", "gelu")) != "gelu":
        raise BadInput(f"the encoder's activation {act!r} is not gelu, the one this network has")
    if (position := config.get("position_embedding_type") or "absolute") != "absolute":
        raise BadInput(f"the encoder's positions are {position!r}, and only absolute ones are known")
    first = 0 if kind == "bert" else int(config.get("pad_token_id") or 0) + 1
    try:
        return Shape(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            inner=config["intermediate_size"],
            positions=config["max_position_embeddings"],
            types=config.get("type_vocab_size", 2),
            eps=config.get("layer_norm_eps", 1e-12),
            first_position=first,
            labels=labels,
        )
    except KeyError as error:
        raise BadInput(f"the encoder's config.json lacks {error.args[0]!r}") from error


@dataclass(frozen=True, eq=False)
class Bert:
    """A network that is ready to run.

    Attributes:
        shape: what it was built from.
        weights: its parameters by name, as `parameters` lists them; of a quantized one also `scales` and `biases`.
        bits: of quantized weights.
        group_size: of quantized weights.
    """

    shape: Shape
    weights: Mapping[str, mx.array]
    bits: int = 0
    group_size: int = 64

    def __call__(self, ids: mx.array, mask: mx.array | None = None, types: mx.array | None = None) -> mx.array:
        """Return the last hidden states.

        Args:
            ids: `(b, t)` int32, padded on the right.
            mask: `(b, 1, 1, t)`, 0 where there is a token and a large negative number where there is padding;
                None where nothing is padded.
            types: `(b, t)` int32 segment of each token; None is segment 0 throughout.

        Returns:
            `(b, t, width)`; rows of padding hold no meaning.
        """
        first = self.shape.first_position
        x = self.rows("words", ids) + self.rows("positions", mx.arange(first, first + ids.shape[1]))
        x = self.norm("norm", x + self.rows("types", mx.array([0]) if types is None else types))
        for i in range(self.shape.layers):
            x = self.layer(f"layers.{i}", x, mask)
        return x

    def layer(self, name: str, x: mx.array, mask: mx.array | None) -> mx.array:
        """Map `(b, t, width)` to the same: attention and a perceptron, each with a residual sum and a norm."""
        b, t, width = x.shape
        q, k, v = self.linear(f"{name}.qkv", x).reshape(b, t, 3, self.shape.heads, -1).transpose(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, mask).transpose(0, 2, 1, 3).reshape(b, t, width)
        x = self.norm(f"{name}.norm_attention", x + self.linear(f"{name}.out", mixed))
        inner = gelu(self.linear(f"{name}.up", x))
        return self.norm(f"{name}.norm_mlp", x + self.linear(f"{name}.down", inner))

    def scores(self, hidden: mx.array) -> mx.array:
        """Map hidden states `(b, t, width)` to the logits `(b, labels)` of the head over the first token."""
        return self.linear("head.out", mx.tanh(self.linear("head.dense", hidden[:, 0])))

    def linear(self, name: str, x: mx.array) -> mx.array:
        """Return `x` times the matrix `name`, and its bias."""
        w, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        if (scales := self.weights.get(f"{name}.scales")) is None:
            return mx.addmm(bias, x, w.T)
        biases = self.weights.get(f"{name}.biases")
        return bias + mx.quantized_matmul(x, w, scales, biases, True, self.group_size, self.bits)

    def rows(self, name: str, ids: mx.array) -> mx.array:
        """Return the rows of the table `name` for some ids."""
        w = self.weights[f"{name}.weight"][ids]
        if (scales := self.weights.get(f"{name}.scales")) is None:
            return w
        return mx.dequantize(w, scales[ids], self.weights[f"{name}.biases"][ids], self.group_size, self.bits)

    def norm(self, name: str, x: mx.array) -> mx.array:
        """Return `x` normalized over its last axis, scaled and shifted."""
        return mx.fast.layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.shape.eps)


def parameters(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a network that is not quantized."""
    w, n = shape.width, shape.inner
    found: dict[str, tuple[int, ...]] = {
        "words.weight": (shape.vocabulary, w),
        "positions.weight": (shape.positions, w),
        "types.weight": (shape.types, w),
    }
    matrices = {"qkv": (3 * w, w), "out": (w, w), "up": (n, w), "down": (w, n)}
    matrices = {f"layers.{i}.{name}": size for i in range(shape.layers) for name, size in matrices.items()}
    if shape.labels:
        matrices |= {"head.dense": (w, w), "head.out": (shape.labels, w)}
    norms = ["norm", *(f"layers.{i}.{name}" for i in range(shape.layers) for name in ("norm_attention", "norm_mlp"))]
    for name, size in matrices.items():
        found |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    return found | {f"{name}.{part}": (w,) for name in norms for part in ("weight", "bias")}


def quantized(network: Bert, bits: int, group_size: int = 64) -> Bert:
    """Return the network with its matrices and tables in `bits` bits, but those that do not divide into groups."""
    weights = dict(network.weights)
    for name, value in network.weights.items():
        if value.ndim == 2 and value.shape[1] % group_size == 0:
            small = dict(zip(("weight", "scales", "biases"), mx.quantize(value, group_size, bits), strict=True))
            weights |= {f"{name.removesuffix('weight')}{part}": array for part, array in small.items()}
    return Bert(network.shape, weights, bits, group_size)


def renamed(weights: Mapping[str, mx.array], labels: int = 0) -> dict[str, mx.array]:
    """Return the tensors of a checkpoint under this network's names.

    Language-model heads, stored position ids and, without a scoring head, the pooler are left out;
    queries, keys and values are joined, quantized or not (their rows are independent).

    Args:
        weights: tensors by the names of the checkpoint.
        labels: outputs of the scoring head; 0 leaves it out.
    """
    found: dict[str, mx.array] = {}
    for name, value in weights.items():
        name = re.sub(r"^(bert|roberta|model)\.", "", name)
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        for pattern, ours in NAMES:
            new, count = re.subn(f"^{pattern}", ours, name)
            if count:
                if labels or not new.startswith("head."):
                    found[new] = value
                break
    for name in [name for name in found if ".query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in found for part in parts):
            found[name.replace(".query.", ".qkv.")] = mx.concatenate([found.pop(part) for part in parts], axis=0)
    return found
