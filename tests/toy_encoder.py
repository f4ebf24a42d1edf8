"""A BERT of 64 dims with random weights and a byte tokenizer: a real checkpoint that takes milliseconds."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mlxrag.model.bert import parameters, shape_of

CONFIG = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 260,
    "max_position_embeddings": 130,
    "type_vocab_size": 2,
}


def write_encoder(path: Path, pooling: str = "mean_tokens", seed: int = 0, **config: object) -> Path:
    """Write a checkpoint as sentence-transformers does, and return its directory."""
    path.mkdir(parents=True, exist_ok=True)
    whole = {**CONFIG, **config}
    (path / "config.json").write_text(json.dumps(whole))
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    mx.save_safetensors(str(path / "model.safetensors"), toy_weights(whole, seed))
    return path


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are bytes, with [CLS] before and [SEP] after a text."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def toy_weights(config: dict[str, object], seed: int) -> dict[str, mx.array]:
    """Random weights under Hugging Face's names."""
    weights = {}
    for name, shape in parameters(shape_of(config)).items():
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        array = rng.standard_normal(shape).astype(np.float32) * 0.2
        if "norm" in name and name.endswith("weight"):
            array += 1.0
        parts = {"": array}
        if ".qkv." in name:
            parts = dict(zip(("query", "key", "value"), np.split(array, 3), strict=True))
        for part, one in parts.items():
            weights[_hub_name(name, part)] = mx.array(one)
    return weights


def _hub_name(name: str, part: str) -> str:
    for ours, theirs in (
        ("words.", "embeddings.word_embeddings."),
        ("positions.", "embeddings.position_embeddings."),
        ("types.", "embeddings.token_type_embeddings."),
        ("qkv.", f"attention.self.{part}."),
        ("norm_attention.", "attention.output.LayerNorm."),
        ("norm_mlp.", "output.LayerNorm."),
        ("out.", "attention.output.dense."),
        ("up.", "intermediate.dense."),
        ("down.", "output.dense."),
    ):
        if ours in name:
            return name.replace(ours, theirs).replace("layers.", "encoder.layer.")
    return name.replace("norm.", "embeddings.LayerNorm.")


def write_reranker(path: Path) -> Path:
    """Write a toy cross-encoder with one output."""
    write_encoder(path)
    weights = dict(mx.load(str(path / "model.safetensors")))
    rng = np.random.default_rng(3)
    for name, shape in {
        "bert.pooler.dense.weight": (64, 64),
        "bert.pooler.dense.bias": (64,),
        "classifier.weight": (1, 64),
        "classifier.bias": (1,),
    }.items():
        weights[name] = mx.array(rng.standard_normal(shape).astype(np.float32) * 0.2)
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    return path
