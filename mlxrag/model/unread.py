"""Which keys of a config change the mathematics and were read by nothing.

mlx-lm's `ModelArgs` drop every key they do not declare, and some declared ones are never looked at, so
what counts is what the network read while it was built and run (`proof.py` watches that).  This file
knows nothing of networks: it is given the names that were read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mlxrag.model.architectures import ACTIVATIONS, ALL_LAYERS_SLIDE
from mlxrag.model.config import decode_floats

# Keys that never change what a network computes at inference: identity, tokens, training; and those that only
# decide which tensors there are and in which shape, since a checkpoint that does not fit is refused anyway.
INERT = frozenset(
    """
    _name_or_path add_cross_attention architectures attention_bias attention_dropout attention_out_bias
    attention_probs_dropout_prob attn_pdrop first_k_dense_replace global_attn_every_n_layers head_dim hidden_size
    intermediate_size linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads
    linear_value_head_dim lm_head_bias mlp_bias mlp_layer_types n_inner num_attention_heads num_experts
    num_hidden_layers num_key_value_heads num_local_experts original_max_position_embeddings per_layer_config
    qkv_bias shared_intermediate_size use_bias
    auto_map block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of bos_token_id chunk_size
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id dropout dtype
    embd_pdrop embedding_dropout eod_token_id eos_token_id expand finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing head_type hidden_dropout hidden_dropout_prob id2label
    initializer_factor initializer_range input_jitter_noise is_decoder is_encoder_decoder label2id mamba_chunk_size
    mamba_expand mamba_ssm_cache_dtype max_position_embeddings max_window_layers mlxrag model_max_length model_type
    moe_norm_min moe_shared_expert_overlap mtp_layers_block_type n_ctx no_rope_layer_interval num_labels
    num_logits_to_keep num_nextn_predict_layers output_attentions output_hidden_states output_router_logits
    pad_token_id prefix problem_type qk_head_dim quantization quantization_config rescale_prenorm_residual
    resid_dropout resid_pdrop residual_dropout residual_in_fp32 return_dict rope_scaling router_aux_loss_coef
    router_jitter_noise router_z_loss_coef sep_token_id seq_length summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tf_legacy_loss tie_word_embeddings
    time_step_floor time_step_init_scheme time_step_max time_step_min time_step_scale tokenizer_class torch_dtype
    torchscript transformers_version unk_token_id use_associative_scan use_bfloat16 use_cache use_mamba_kernels
    use_mambapy use_mems use_return_dict vocab_size
    """.split()
)

# Values at which it does no harm that a key is not read: what it would change is plain.
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "attention_multiplier": (1,),
    "decoder_sparse_step": (1,),
    "embedding_multiplier": (1,),
    "layer_norm_epsilon": (1e-5,),
    "logits_scaling": (1,),
    "mamba_norm_before_gate": (True,),
    "partial_rotary_factor": (1,),
    "position_embedding_type": ("rope",),
    "pretraining_tp": (0, 1),
    "residual_multiplier": (1,),
    "rope_interleave": (True,),
    "scale_attn_weights": (True,),
    "sliding_window": (0,),
    "swiglu_alpha": (1.702,),
    "swiglu_limit": (7.0,),
    "time_step_limit": ([0.0, math.inf],),
    "scale_attention_softmax_in_fp32": (True,),
    "attention_softmax_in_fp32": (True,),
}
# Keys that repair.py writes into the weights.
FOLDED = frozenset({"key_multiplier"})
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "mamba_hidden_act")


def unread(config: Mapping[str, Any], read: Collection[str]) -> tuple[str, ...]:
    """Return the keys of `config` that change the mathematics, hold a telling value, and were not read.

    Args:
        config: config.json as written, before `normalize_config` added names to it.
        read: names that the network looked at while it was built and run.

    Returns:
        `key = value`, sorted; empty when everything that matters was read.
    """
    config = decode_floats(dict(config))
    kind = str(config.get("model_type"))
    usual = ACTIVATIONS.get(kind, ("silu", "swish"))
    rope = config.get("rope_parameters")
    found = []
    for key, value in config.items():
        if key in read or key in INERT or key in FOLDED or key.startswith("_") or value in (None, False, [], ()):
            continue
        if key == "num_experts_per_tok" and not (config.get("num_local_experts") or config.get("num_experts")):
            continue
        if value in HARMLESS.get(key, ()) or (key in ACTIVATION_KEYS and value in usual):
            continue
        if key == "rope_parameters":
            if not {"rope_theta", "rotary_emb_base", "rope_scaling"} & set(read):
                found.append(f"{key} = {value!r}")
            continue
        if key == "layer_types" and (
            len(set(value)) == 1 or {"sliding_window_pattern", "full_attention_interval"} & set(read)
        ):
            continue
        if key.startswith("sliding_window") and (window(config) is None or "layer_types" in read):
            continue
        if isinstance(value, dict) or (key == "partial_rotary_factor" and rope):
            continue
        found.append(f"{key} = {value!r}")
    if isinstance(rope, dict) and rope.get("truncate") is False and rope.get("rope_type") == "yarn":
        found.append("rope_parameters.truncate = False")
    return tuple(sorted(found))


def window(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens back the sliding layers of `config` look, or None if none slides."""
    size, kinds = config.get("sliding_window"), config.get("layer_types")
    if not isinstance(size, int) or size < 1 or config.get("use_sliding_window") is False:
        return None
    if isinstance(kinds, list):
        return size if "sliding_attention" in kinds else None
    if config.get("model_type") in ALL_LAYERS_SLIDE or config.get("use_sliding_window"):
        return size
    return size if config.get("sliding_window_pattern") else None


def exact_up_to(config: Mapping[str, Any], read: Collection[str]) -> int | None:
    """Return the length in tokens up to which mlx-lm computes what a normalized `config` says, or None for any.

    Beyond it, mlx-lm attends to everything where the checkpoint looks back a window, or the checkpoint
    changes its rope factors and mlx-lm does not.
    """
    limits = []
    if (size := window(config)) is not None:
        told = bool(config.get("layer_types")) and "layer_types" in read
        told = told or (config.get("sliding_window_pattern") != 1 and "sliding_window_pattern" in read)
        if "sliding_window" not in read or not told:
            limits.append(size)
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("rope_type") == "longrope" and "short_factor" in scaling:
        limits.append(int(scaling["original_max_position_embeddings"]))
    return min(limits, default=None)
