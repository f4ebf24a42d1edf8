"""What single architectures call things: keys that transformers 5 renamed or leaves out, and what mlx-lm takes for granted.

Data, found by running tiny random checkpoints of some hundred configurations through transformers 5.23
and mlx-lm 0.32.2 (the table is in docs/models.md).  `config.py` applies it; nothing here computes weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = dict[str, Any]
Value = Callable[[Config], Any]


def constant(value: Any) -> Value:
    """Return a rule that gives `value` whatever the config."""
    return lambda config: value


def taken(key: str) -> Value:
    """Return a rule that gives the value of another key."""
    return lambda config: config.get(key)


# Networks that mlx-lm has under another name, or not at all but as a case of another one.
# The second kind needs the weights that repair.py makes of the checkpoint's.
SAME_AS: Mapping[str, str] = {
    "cwm": "llama",
    "glm": "llama",
    "ministral": "llama",
    "olmo": "stablelm",
}

# Text halves that mlx-lm knows only inside a multimodal config: model type -> the one that wraps it.
WRAPPED: Mapping[str, str] = {"qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_moe"}

# Keys that mlx-lm demands, or whose default there is another, where the config does not have them.
MISSING: Mapping[str, Mapping[str, Value]] = {
    "apertus": {"mlp_bias": constant(False), "post_norm": constant(False), "qk_norm": constant(True)},
    "deepseek_v2": {
        # mlx-lm always builds the yarn rope; a factor of 1 makes it the plain one.
        "rope_scaling": lambda c: {
            "type": "yarn", "rope_type": "yarn", "factor": 1.0,
            "original_max_position_embeddings": c["max_position_embeddings"],
        },
    },
    "exaone4": {"head_dim": lambda c: c["hidden_size"] // c["num_attention_heads"]},
    "exaone_moe": {"is_moe_layer": lambda c: [kind == "sparse" for kind in c["mlp_layer_types"]]},
    "gpt2": {"n_ctx": taken("n_positions")},
    "gpt_bigcode": {"n_inner": lambda c: 4 * c["n_embd"]},
    "granitemoehybrid": {"position_embedding_type": constant("nope")},
    "lfm2": {"block_dim": taken("hidden_size")},
    "mamba2": {"intermediate_size": lambda c: c["expand"] * c["hidden_size"]},
    "mellum": {"num_experts": taken("num_local_experts")},
    "minimax_m2": {
        "rotary_dim": lambda c: round(c["head_dim"] * float(c.get("partial_rotary_factor") or 1.0)),
        "shared_intermediate_size": constant(0),
    },
    "olmo": {
        "layer_norm_eps": constant(1e-5),
        "partial_rotary_factor": constant(1.0),
        "qk_layernorm": constant(False),
        "use_parallel_residual": constant(False),
        "use_qkv_bias": taken("attention_bias"),
    },
    "solar_open": {"first_k_dense_replace": constant(0), "partial_rotary_factor": constant(1.0)},
}  # fmt: skip

# Names of layer kinds that transformers 5 writes, where mlx-lm compares with the older ones.
LAYER_KINDS: Mapping[str, Mapping[str, str]] = {
    "granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"},
}

# The activation that mlx-lm's network computes whatever `hidden_act` says.  Where it is not named, it is silu.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "apertus": ("xielu",),
    "gemma": ("gelu",),
    "gemma2": ("gelu_pytorch_tanh", "gelu_new"),
    "gemma3_text": ("gelu_pytorch_tanh", "gelu_new"),
    "gemma3n_text": ("gelu_pytorch_tanh", "gelu_new"),
    "gemma4_text": ("gelu_pytorch_tanh", "gelu_new"),
    "gpt2": ("gelu_new", "gelu_pytorch_tanh"),
    "gpt_bigcode": ("gelu",),
    "gpt_neox": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "gptj": ("gelu_new", "gelu_pytorch_tanh"),
    "nemotron": ("relu2",),
    "nemotron_h": ("relu2", "silu"),
    "phi": ("gelu_new", "gelu_pytorch_tanh"),
    "recurrent_gemma": ("gelu_pytorch_tanh", "gelu_new"),
    "starcoder2": ("gelu",),
}

# Where `sliding_window` alone, without a list of layer kinds, means that every layer slides.
ALL_LAYERS_SLIDE = frozenset({"mistral", "mixtral", "phi3", "phimoe", "starcoder2"})
