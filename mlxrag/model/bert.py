"""The BERT family as an MLX network: BERT, RoBERTa and XLM-RoBERTa encoders, with or without a scoring head.

Knows nothing of tokenizers, pooling or files; `renamed` maps the tensor names of a Hugging Face
checkpoint to this network's.  The three projections of an attention layer are one matrix here.

Source: Devlin et al. 2019 (arXiv:1810.04805); names and layout as in transformers' `modeling_bert.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

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


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each followed by a residual sum and a norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm_attention = nn.LayerNorm(shape.width, eps=shape.eps)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)
        self.norm_mlp = nn.LayerNorm(shape.width, eps=shape.eps)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """Map `(b, t, width)` to the same shape."""
        b, t, width = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, mask).transpose(0, 2, 1, 3).reshape(b, t, width)
        x = self.norm_attention(x + self.out(mixed))
        return self.norm_mlp(x + self.down(gelu(self.up(x))))


class Head(nn.Module):
    """The scoring head of a cross-encoder, over the first token."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.labels)

    def __call__(self, first: mx.array) -> mx.array:
        """Map `(b, width)` to `(b, labels)` logits."""
        return self.out(mx.tanh(self.dense(first)))


class Bert(nn.Module):
    """Token ids to one vector per token."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.first_position = shape.first_position
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.types = nn.Embedding(shape.types, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.layers = [Layer(shape) for _ in range(shape.layers)]
        if shape.labels:
            self.head = Head(shape)

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
        where = mx.arange(self.first_position, self.first_position + ids.shape[1])
        x = self.words(ids) + self.positions(where)
        x = x + (self.types(types) if types is not None else self.types(mx.array([0])))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        return x


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
