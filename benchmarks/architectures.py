"""Tiny random checkpoints of many architectures, saved by transformers, through mlx_lm as it is and through mlxrag.

    python benchmarks/architectures.py --make checkpoints      (needs torch and transformers; writes about 600 MB)
    python benchmarks/architectures.py --table checkpoints     (needs mlxrag)

The rope base is 500, not the 10,000 that mlx-lm assumes where it finds none, and weights are large (0.15), so that a
mistake shows.  The table says for each checkpoint what mlx_lm computes (right within 1e-3; wrong, with the largest difference of a
logit and the share of equal first choices; or does not load) and mlxrag's verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BASE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
PLAIN = {"rope_theta": 500.0, "rope_type": "default"}
PART = {**PLAIN, "partial_rotary_factor": 0.5}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {"num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4,
       "n_shared_experts": 1, "first_k_dense_replace": 1, **MOE}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "head_dim": 16,
}
FALCON = {
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}
GRANITE = {"shared_intermediate_size": 64, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1,
           "layer_types": ["mamba", "attention"] * 2}  # fmt: skip
JAMBA = {
    "num_experts_per_tok": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [1.0 + 0.7 * i for i in range(8)]


def rope(kind: str, **more: Any) -> dict[str, Any]:
    """Return a rope table with another kind and base 500."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **more}}


P = {"rope_parameters": PLAIN}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 128}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", P), "llama, biases": ("llama", {**P, "attention_bias": True, "mlp_bias": True}),
    "llama, head_dim 32": ("llama", {**P, "head_dim": 32}), "llama, gelu": ("llama", {**P, "hidden_act": "gelu"}),
    "llama, llama3 rope": ("llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=64)),
    "llama, linear rope": ("llama", rope("linear", factor=4.0)), "llama, dynamic rope": ("llama", rope("dynamic", factor=4.0)),
    "llama, yarn": ("llama", rope("yarn", **YARN)), "llama, yarn with attention_factor": ("llama", rope("yarn", attention_factor=1.0, **YARN)),
    "llama, yarn with mscale": ("llama", rope("yarn", mscale=0.7, mscale_all_dim=0.5, **YARN)),
    "llama, longrope": ("llama", rope("longrope", factor=4.0, **LONGROPE)),
    "mistral, window 16": ("mistral", {**P, "sliding_window": 16}), "ministral3": ("ministral3", {"head_dim": 16}),
    "mixtral": ("mixtral", {**P, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", P), "qwen2, yarn": ("qwen2", rope("yarn", **YARN)),
    "qwen2, window 16": ("qwen2", {**P, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}),
    "qwen2_moe": ("qwen2_moe", {**P, "num_experts": 4, "shared_expert_intermediate_size": 32, **MOE}),
    "qwen3": ("qwen3", {**P, "head_dim": 32}), "qwen3_moe": ("qwen3_moe", {**P, "head_dim": 16, "num_experts": 4, **MOE}),
    "qwen3_next": ("qwen3_next", {"num_experts": 4, "shared_expert_intermediate_size": 32, **MOE, **LINEAR}),
    "qwen3_5_text": ("qwen3_5_text", LINEAR),
    "gemma": ("gemma", {**P, "head_dim": 16}), "gemma2, window 16": ("gemma2", {**P, **GEMMA}),
    "gemma2, window 512": ("gemma2", {**P, **GEMMA, "sliding_window": 512}),
    "gemma3_text, two bases": ("gemma3_text", {**GEMMA, "num_hidden_layers": 7, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}}),
    "gemma3_text, pattern 3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 6, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2}),
    "gemma4_text": ("gemma4_text", {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6, "sliding_window": 16,
                                    "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16}),
    "starcoder2": ("starcoder2", P), "olmo": ("olmo", P), "olmo, clip_qkv": ("olmo", {**P, "clip_qkv": 0.1}), "olmo2": ("olmo2", P),
    "olmo3": ("olmo3", {"sliding_window": 16}), "olmoe": ("olmoe", {**P, "num_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("phi", {"num_key_value_heads": 4, "rope_parameters": PART}), "phi, qk_layernorm": ("phi", {"num_key_value_heads": 4, "qk_layernorm": True}),
    "phi3, half rotated": ("phi3", {"rope_parameters": PART}), "phi3, window 16": ("phi3", {**P, "sliding_window": 16}),
    "phi3, longrope": ("phi3", {"original_max_position_embeddings": 128, **rope("longrope", **LONGROPE)}),
    "phimoe": ("phimoe", {**P, "num_local_experts": 4}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": PART}), "gpt_neox, no attention bias": ("gpt_neox", {"attention_bias": False}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gptj": ("gptj", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "rotary_dim": 8}),
    "gpt_bigcode": ("gpt_bigcode", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gpt_oss": ("gpt_oss", {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    "stablelm": ("stablelm", {"rope_parameters": PART}), "cohere": ("cohere", P), "cohere2": ("cohere2", {**P, "sliding_window": 16, "num_hidden_layers": 8}),
    "granite": ("granite", {**P, "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_multiplier": 0.015}),
    "granitemoe": ("granitemoe", {**P, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoehybrid": ("granitemoehybrid", {**GRANITE, "num_local_experts": 0}),
    "smollm3": ("smollm3", {**P, "num_hidden_layers": 8}), "glm": ("glm", {"head_dim": 16, "rope_parameters": PART}),
    "glm4": ("glm4", {"head_dim": 16, "rope_parameters": PART}),
    "glm4_moe": ("glm4_moe", {"head_dim": 16, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **MOE, "rope_parameters": PART}),
    "ernie4_5": ("ernie4_5", {**P, "head_dim": 16}),
    "ernie4_5_moe": ("ernie4_5_moe", {**P, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1}),
    "exaone4": ("exaone4", {**P, "sliding_window": 16, "num_hidden_layers": 8}), "seed_oss": ("seed_oss", {**P, "head_dim": 16}),
    "nemotron": ("nemotron", {"rope_parameters": PART}), "helium": ("helium", {**P, "head_dim": 16}), "apertus": ("apertus", P),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**P, "head_dim": 16}),
    "lfm2": ("lfm2", {**P, "layer_types": ["conv", "full_attention"] * 2}),
    "deepseek_v2": ("deepseek_v2", {**P, **MLA, "q_lora_rank": None}), "deepseek_v3": ("deepseek_v3", {**P, **MLA, "q_lora_rank": 16, "n_group": 1, "topk_group": 1}),
    "falcon_h1": ("falcon_h1", FALCON),
    "mamba": ("mamba", {"state_size": 8}), "mamba2": ("mamba2", {"state_size": 16, "head_dim": 16, "num_heads": 8, "n_groups": 1}),
    "llama, tied": ("llama", {**P, "tie_word_embeddings": True}), "qwen2, tied": ("qwen2", {**P, "tie_word_embeddings": True}),
    "qwen3, tied": ("qwen3", {**P, "head_dim": 16, "tie_word_embeddings": True}), "mistral": ("mistral", {**P, "sliding_window": None}),
    "mistral, head_dim 32": ("mistral", {**P, "sliding_window": None, "head_dim": 32}), "phi3": ("phi3", P),
    "gemma3_text": ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    "gemma3, multimodal": ("gemma3", {"text_config": {**BASE, **GEMMA, "num_hidden_layers": 7}, "vision_config": VISION, "mm_tokens_per_image": 4,
                                      "image_token_index": 500, "boi_token_index": 501, "eoi_token_index": 502}),
    "gemma4, multimodal": ("gemma4", {"text_config": {**BASE, "head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6, "sliding_window": 16,
                                                      "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16},
                                      "vision_config": None, "audio_config": None}),
    "qwen3_5, multimodal": ("qwen3_5", {"text_config": {**BASE, **LINEAR}, "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14, "num_position_embeddings": 16},
        "image_token_id": 500, "video_token_id": 501, "vision_start_token_id": 502, "vision_end_token_id": 503}),
    "qwen3_5_moe_text": ("qwen3_5_moe_text", {"num_experts": 4, "shared_expert_intermediate_size": 32, **MOE, **LINEAR}),
    "qwen3_5_text, every second": ("qwen3_5_text", {**LINEAR, "layer_types": ["linear_attention", "full_attention"] * 2}),
    "qwen2_moe, every second": ("qwen2_moe", {**P, "num_experts": 4, "decoder_sparse_step": 2, "shared_expert_intermediate_size": 32, **MOE}),
    "qwen3_moe, one dense": ("qwen3_moe", {**P, "head_dim": 16, "num_experts": 4, "mlp_only_layers": [0], "norm_topk_prob": True, **MOE}),
    "afmoe": ("afmoe", {**P, "head_dim": 16, "num_experts": 4, "sliding_window": 16, **MOE}),
    "cwm": ("cwm", {"head_dim": 16, "sliding_window": 16}), "ministral": ("ministral", {**P, "head_dim": 16, "sliding_window": 16}),
    "dots1": ("dots1", {**P, "head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **MOE}),
    "exaone_moe": ("exaone_moe", {**P, "head_dim": 16, "num_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window": 16, **MOE}),
    "falcon_h1, multipliers": ("falcon_h1", {**FALCON, "embedding_multiplier": 2.0, "lm_head_multiplier": 0.5, "attention_in_multiplier": 1.5,
                                             "ssm_in_multiplier": 0.7, "key_multiplier": 0.8}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 8}),
    "glm4_moe_lite": ("glm4_moe_lite", {**P, **MLA, "q_lora_rank": 16, "n_group": 1, "topk_group": 1}),
    "lfm2_moe": ("lfm2_moe", {**P, "num_experts": 4, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2, **MOE}),
    "mellum": ("mellum", {"head_dim": 16, "num_local_experts": 4, "num_experts": 4, **MOE}),
    "minimax_m2": ("minimax_m2", {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": PART}),
    "nanochat": ("nanochat", P), "internlm3": ("internlm3", {**P, "head_dim": 16}),
    "nemotron_h": ("nemotron_h", {"head_dim": 16, "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1,
                                  "hybrid_override_pattern": "M*-M"}),
    "olmo_hybrid": ("olmo_hybrid", {**LINEAR, "linear_num_key_heads": 4, "rope_parameters": PLAIN}),
    "recurrent_gemma": ("recurrent_gemma", {"lru_width": 64, "attention_window_size": 64, "num_hidden_layers": 3, "num_key_value_heads": 1}),
    "solar_open": ("solar_open", {"head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, **MOE}),
    "deepseek_v2, yarn": ("deepseek_v2", {**rope("yarn", mscale=0.7, mscale_all_dim=0.7, **YARN), **MLA, "q_lora_rank": None}),
    "deepseek_v3, yarn": ("deepseek_v3", {**rope("yarn", mscale=1.0, mscale_all_dim=1.0, **YARN), **MLA, "q_lora_rank": 16, "n_group": 1, "topk_group": 1}),
    "deepseek_v32": ("deepseek_v32", {**P, **MLA, "q_lora_rank": 16, "n_group": 1, "topk_group": 1, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 64}),
    "cohere, qk_norm": ("cohere", {**P, "use_qk_norm": True}), "gpt_neox, tanh, serial": ("gpt_neox", {"rope_parameters": PART, "use_parallel_residual": False,
                                                                                               "hidden_act": "gelu_new"}),
    "stablelm, qk_layernorm": ("stablelm", {"rope_parameters": PART, "qk_layernorm": True}),
    "stablelm, parallel": ("stablelm", {"rope_parameters": PART, "use_parallel_residual": True}),
    "granitemoehybrid, experts": ("granitemoehybrid", {**GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoehybrid, rope": ("granitemoehybrid", {**GRANITE, "num_local_experts": 0, "position_embedding_type": "rope"}),
    "jamba, no experts": ("jamba", {**JAMBA, "num_experts": 1}),
    "llama4_text": ("llama4_text", {**P, "head_dim": 16, "intermediate_size_mlp": 128, "num_local_experts": 4, "num_experts_per_tok": 1}),
    "minicpm3": ("minicpm3", {**rope("longrope", factor=4.0, short_factor=SHORT[:4], long_factor=LONG[:4], original_max_position_embeddings=128),
                              "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4}),
    "minimax": ("minimax", {**P, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}), "bitnet": ("bitnet", P),
    "gemma3n_text": ("gemma3n_text", {"head_dim": 16, "num_hidden_layers": 6, "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16,
                                      "sliding_window": 16, "num_kv_shared_layers": 0, "laurel_rank": 8, "intermediate_size": [128] * 6,
                                      "activation_sparsity_pattern": [0.0] * 6}),
    "arcee": ("arcee", P), "bloom": ("bloom", {"n_head": 4, "n_layer": 3}), "falcon": ("falcon", {}), "persimmon": ("persimmon", {"rope_parameters": PART}),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "granitemoeshared": ("granitemoeshared", {**P, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32}),
    "jamba": ("jamba", {**JAMBA, "num_experts": 2}),
}  # fmt: skip
OWN_SIZES = {"gpt2": (), "gptj": (), "gpt_bigcode": (), "gemma3": (), "gemma4": (), "qwen3_5": (), "mamba": ("hidden_size", "num_hidden_layers", "intermediate_size"),
             "mamba2": ("hidden_size", "num_hidden_layers")}  # fmt: skip


def make(folder: Path, initial: bool, names: list[str]) -> None:
    """Write a checkpoint, and the logits and greedy tokens transformers computes, for each case."""
    import numpy as np

    torch, transformers = import_module("torch"), import_module("transformers")
    transformers.logging.set_verbosity_error()
    ids = torch.tensor([np.random.default_rng(0).integers(3, 512, size=48).tolist()])
    for name in names or CASES:
        kind, more = CASES[name]
        place = folder / name.replace(", ", "-").replace(" ", "-")
        if (place / "reference.npz").is_file():
            continue
        sizes = ("vocab_size", "bos_token_id", "eos_token_id", *OWN_SIZES.get(kind, tuple(BASE)))
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **{**{k: v for k, v in BASE.items() if k in sizes}, **more})
        network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in () if initial else network.parameters():
                noise = torch.randn(weight.shape, generator=draw)
                weight.copy_(noise * 0.15 if weight.ndim > 1 else weight + noise * 0.05)
            values, seen, after = network(ids, use_cache=False).logits.float().numpy(), ids, []
            for _ in range(16):
                after.append(int(network(seen, use_cache=False).logits[0, -1].argmax()))
                seen = torch.cat([seen, torch.tensor([[after[-1]]])], dim=1)
        network.save_pretrained(place)
        np.savez(place / "reference.npz", ids=ids.numpy(), logits=values)
        (place / "reference.json").write_text(json.dumps({"greedy": after}))


def plain(path: Path) -> str:
    """Return what mlx_lm computes from the checkpoint as it is."""
    from mlx_lm.utils import load_model

    from mlxrag.model.proof import compare, logits_once, read_reference

    reference = read_reference(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            network, _ = load_model(path)
            found = compare(reference.logits, logits_once(network, reference.ids))
    except (Exception, SystemExit):
        return "does not load"
    return "right" if found.max_difference <= 1e-3 else f"wrong: {found.max_difference:.2g}, {found.top1:.2f}"


def ours(path: Path) -> str:
    """Return mlxrag's verdict."""
    from mlxrag.errors import MlxragError
    from mlxrag.model.network import assemble
    from mlxrag.model.proof import prove, read_reference, watched

    try:
        with watched() as read:
            found = assemble(path)
        proof = prove(found, read, read_reference(path))
    except MlxragError as error:
        return f"refused: {str(error).removeprefix(str(path)).strip(': ')[:90]}"
    assert proof.difference is not None
    limit = f", up to {proof.exact_up_to} tokens" if proof.exact_up_to else ""
    keys = f"; not read: {', '.join(proof.unread)}" if proof.unread and proof.status != "proven" else ""
    lost = f"; no place for {proof.dropped[0]}" if proof.dropped else ""
    return f"{proof.status}, {proof.difference.max_difference:.1e}{limit}{keys}{lost}"


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--initial", action="store_true", help="keep the small weights that transformers begins with")
    parser.add_argument("--case", action="append", default=[], choices=CASES, help="only this one (may be repeated)")
    asked = parser.parse_args()
    if asked.make:
        asked.make.mkdir(parents=True, exist_ok=True)
        make(asked.make, asked.initial, asked.case)
    if asked.table:
        import_module("mlxrag.model")
        print("| checkpoint | mlx_lm as it is | mlxrag |\n|---|---|---|")
        for path in sorted(asked.table.iterdir()):
            print(f"| {path.name} | {plain(path)} | {ours(path)} |", flush=True)


if __name__ == "__main__":
    main()
