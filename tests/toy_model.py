"""Whole toy model directories: a real architecture, random float32 weights, a real tokenizer and chat template."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # isort: skip  # the light stand-in for mlx_lm
import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlxrag.model.network import build

TEXT = """Every employee has 28 days of paid leave a year. The ox trailer carries 80 kg and costs 1,290 euro.
Question: Answer: Passages: Not in the documents. Cite passages like [1] [2] [3]. The shop opens at nine on Monday.
A man was happy and a dog ran. She said hello to the little bird, and they played in the park all day long."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<s>", "<|end|>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>")

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    # Windows of 16 tokens in two of three layers: caches that cannot be cut back once they have slid.
    "gemma3_text": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 16,
    },
    # Recurrent layers.
    "mamba": {
        "model_type": "mamba",
        "architectures": ["MambaForCausalLM"],
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
    },
}


@cache
def tokenizer_json() -> str:
    """A byte-level BPE of about 400 tokens with control tokens in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer.to_str()


def write_model(
    path: Path,
    arch: str = "llama",
    seed: int = 0,
    template: bool = True,
    advice: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Write a model directory; equal arguments write equal bytes."""
    path.mkdir(parents=True, exist_ok=True)
    text = tokenizer_json()
    vocabulary = Tokenizer.from_str(text).get_vocab_size()
    config = {**BASE, "vocab_size": vocabulary, **ARCHITECTURES[arch], **more}
    mx.random.seed(seed)
    network = build(config)
    weights = {
        name: mx.random.normal(w.shape) * 0.08 if w.ndim > 1 else w for name, w in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(text)
    tokens = {
        "bos_token": "<s>",
        "eos_token": "<|end|>",
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(tokens))
    if template:
        (path / "chat_template.jinja").write_text(TEMPLATE)
    if advice:
        (path / "mlxrag.json").write_text(json.dumps(advice))
    return path
