"""Makes architectures.npz: tiny random checkpoints of many architectures, with logits by transformers and torch.

    python tests/golden/make_architectures.py     (torch 2.13, transformers 5.24)

Every weight is a multiple of 1/32 in -127/32..127/32 and kept as one byte, so that it is exact in float32.  Keys:
`<name>/config` (bytes of config.json as transformers saves it), `<name>/w/<tensor>` (int8), `<name>/ids`, `<name>/logits`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

BASE = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
PLAIN = {"rope_theta": 500.0, "rope_type": "default"}
HALF = {**PLAIN, "partial_rotary_factor": 0.5}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.0, 5.0]
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {"rope_parameters": PLAIN}),
    "llama-llama3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
    "llama-dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}}),
    "llama-yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
                                                 "original_max_position_embeddings": 32}}),
    "llama-yarn-attention": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "attention_factor": 1.3,
                                                           "original_max_position_embeddings": 32}}),
    "llama-longrope": ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 500.0, "factor": 2.0, "short_factor": SHORT,
                                                     "long_factor": LONG, "original_max_position_embeddings": 64}}),
    "llama-gelu": ("llama", {"rope_parameters": PLAIN, "hidden_act": "gelu"}),
    "mistral-window": ("mistral", {"rope_parameters": PLAIN, "sliding_window": 8}),
    "mixtral": ("mixtral", {"rope_parameters": PLAIN, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", {"rope_parameters": PLAIN}),
    "qwen2-moe": ("qwen2_moe", {"rope_parameters": PLAIN, "num_experts": 3, "shared_expert_intermediate_size": 8, **MOE}),
    "qwen3": ("qwen3", {"rope_parameters": PLAIN, "head_dim": 8}),
    "qwen3-moe": ("qwen3_moe", {"rope_parameters": PLAIN, "head_dim": 8, "num_experts": 3, **MOE}),
    "gemma2": ("gemma2", {"rope_parameters": PLAIN, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}),
    "gemma3-pattern": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8, "num_hidden_layers": 3,
                                       "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "gemma3-short": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}),
    "starcoder2": ("starcoder2", {"rope_parameters": PLAIN}),
    "olmo": ("olmo", {"rope_parameters": PLAIN}),
    "olmo2": ("olmo2", {"rope_parameters": PLAIN}),
    "olmo3": ("olmo3", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi": ("phi", {"rope_parameters": HALF, "num_key_value_heads": 2}),
    "falcon-h1": ("falcon_h1", {"head_dim": 8, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
                                "mamba_expand": 1, "key_multiplier": 0.4, "attention_in_multiplier": 1.5, "ssm_in_multiplier": 0.7}),
    "minimax-m2": ("minimax_m2", {"head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2, "rope_parameters": HALF}),
    "ministral": ("ministral", {"rope_parameters": PLAIN, "head_dim": 8, "sliding_window": 8}),
    "qwen3.5-moe": ("qwen3_5_moe_text", {"num_experts": 3, "shared_expert_intermediate_size": 8, **MOE, "head_dim": 16, "linear_num_key_heads": 1,
                                         "linear_num_value_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
                                         "layer_types": ["linear_attention", "full_attention"]}),
    "phi3": ("phi3", {"rope_parameters": HALF}),
    "phi3-longrope": ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 500.0, "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64}}),
    "gpt-neox": ("gpt_neox", {"rope_parameters": HALF, "attention_bias": False}),
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "stablelm": ("stablelm", {"rope_parameters": HALF}),
    "cohere": ("cohere", {"rope_parameters": PLAIN}),
    "cohere2": ("cohere2", {"rope_parameters": PLAIN, "sliding_window": 8, "num_hidden_layers": 4}),
    "granite": ("granite", {"rope_parameters": PLAIN, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
                            "attention_multiplier": 0.3}),
    "smollm3": ("smollm3", {"rope_parameters": PLAIN, "no_rope_layers": [1, 0]}),
    "glm": ("glm", {"rope_parameters": HALF, "head_dim": 8, "attention_bias": True}),
    "glm4": ("glm4", {"rope_parameters": HALF, "head_dim": 8}),
    "ernie4-5": ("ernie4_5", {"rope_parameters": PLAIN, "head_dim": 8}),
    "exaone4": ("exaone4", {"rope_parameters": PLAIN, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "nemotron": ("nemotron", {"rope_parameters": HALF}),
    "lfm2": ("lfm2", {"rope_parameters": PLAIN, "layer_types": ["conv", "full_attention"]}),
    "granitemoehybrid": ("granitemoehybrid", {"num_local_experts": 0, "shared_intermediate_size": 8, "mamba_n_heads": 4, "mamba_d_head": 8,
                                              "mamba_d_state": 8, "mamba_n_groups": 1, "layer_types": ["mamba", "attention"]}),
    "gpt-oss": ("gpt_oss", {"head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 8}),
}  # fmt: skip


def main() -> None:
    """Make the file."""
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    ids = torch.tensor([np.random.default_rng(0).integers(3, 48, size=24).tolist()])
    for name, (kind, more) in CASES.items():
        base = {
            key: value
            for key, value in BASE.items()
            if kind != "gpt2" or key in ("vocab_size", "bos_token_id", "eos_token_id")
        }
        torch.manual_seed(0)
        network = (
            AutoModelForCausalLM.from_config(
                AutoConfig.for_model(kind, **{**base, **more}), attn_implementation="eager"
            )
            .float()
            .eval()
        )
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in network.parameters():
                noise = torch.randn(weight.shape, generator=draw) * (0.3 if weight.ndim > 1 else 0.1)
                weight.copy_(((weight if weight.ndim == 1 else 0) + noise).mul(32).round().clamp(-127, 127) / 32)
            logits = network(ids, use_cache=False).logits.float().numpy()
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            config = json.loads(Path(folder, "config.json").read_text())
            for tensor, weight in load_file(Path(folder, "model.safetensors")).items():
                scaled = weight.float().numpy() * 32
                assert np.array_equal(scaled, scaled.round()) and np.abs(scaled).max() <= 127, (name, tensor)
                arrays[f"{name}/w/{tensor}"] = scaled.astype(np.int8)
        arrays[f"{name}/config"] = np.frombuffer(json.dumps(config).encode(), np.uint8)
        arrays[f"{name}/ids"], arrays[f"{name}/logits"] = ids.numpy(), logits

    np.savez_compressed(Path(__file__).with_name("architectures.npz"), **arrays)


if __name__ == "__main__":
    main()
