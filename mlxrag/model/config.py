"""config.json as mlx-lm reads it: what newer writers renamed, put back; what would be ignored, said.

transformers 5 keeps everything about rotary positions in one table, `rope_parameters`, and some
per-layer facts in lists; mlx-lm's `ModelArgs` read the older flat names and fall back to a
default, silently, when they are missing.  Strategy: rewrite the config to the older names (both
are kept), note each change, and after the network is built report every key that changes the
mathematics and that nothing has read.

This file knows nothing of arrays, weights or mlx-lm; it maps dictionaries to dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Config = dict[str, Any]

# Rope types that mean "nothing but a base".
PLAIN_ROPE = ("default", "none", "")

# Keys that never change what a network computes at inference: identity, tokens, training, output.
INERT = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _commit_hash _from_model_config
    add_cross_attention architectures attention_dropout attention_probs_dropout_prob attn_pdrop auto_map
    bos_token_id chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id
    dropout dtype embd_pdrop embedding_dropout eos_token_id finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing head_type hidden_dropout hidden_dropout_prob id2label
    initializer_factor initializer_range is_decoder is_encoder_decoder label2id
    max_position_embeddings mlxrag model_max_length model_type num_labels output_attentions
    output_hidden_states output_router_logits pad_token_id prefix problem_type quantization
    quantization_config resid_dropout resid_pdrop residual_dropout return_dict router_aux_loss_coef
    router_jitter_noise router_z_loss_coef sep_token_id summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params tf_legacy_loss
    tokenizer_class torch_dtype torchscript transformers_version unk_token_id use_bfloat16 use_cache
    use_return_dict use_mems rope_parameters rope_scaling seq_length
    """.split()  # noqa: SIM905 - a list of quoted words reads worse
)

# Values at which it does no harm that a key is not read: the layer it would change is plain.
# A tuple lists several; None stands for null.
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "attention_out_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, 1.0, None),
    "final_logit_softcapping": (None,),
    "hidden_act": ("silu", "swish"),
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    "logits_scaling": (1, 1.0, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "pretraining_tp": (0, 1, None),
    "qk_layernorm": (False, None),
    "residual_multiplier": (1, 1.0, None),
    "rope_traditional": (False, None),
    "sliding_window": (None,),
    "use_bidirectional_attention": (False, None),
    "use_parallel_residual": (False, None),
    "use_qk_norm": (False, None),
    "use_sliding_window": (False, None),
}


def normalize_config(config: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Return `config` with the names that mlx-lm reads, and one note for each thing that was changed.

    Nested `text_config` tables of multimodal checkpoints are normalized likewise.  Nothing is taken
    away, so what reads the newer names finds them; applying the function twice changes nothing more.

    Args:
        config: config.json as parsed.

    Returns:
        config: a new dictionary.
        notes: what was put where, as `key: old -> new`, in the order it was done.

    Example:
        >>> normalize_config({"model_type": "qwen2", "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})[1]
        ('rope_theta: absent -> 10000.0 (from rope_parameters)',)
    """
    result: Config = decode_floats(dict(config))
    notes: list[str] = []
    for step in STEPS:
        step(result, notes)
    if isinstance(nested := result.get("text_config"), dict):
        result["text_config"], inner = normalize_config(nested)
        notes += [f"text_config.{note}" for note in inner]
    return result, tuple(notes)


def unread(config: Mapping[str, Any], read: Collection[str]) -> tuple[str, ...]:
    """Return the keys of `config` that change the mathematics, hold a telling value, and were not read.

    Args:
        config: a normalized config.
        read: names that the network looked at while it was built and run.

    Returns:
        `key = value`, sorted; empty when everything that matters was read.
    """
    found = []
    for key, value in config.items():
        if key in read or key in INERT or key.startswith("_") or isinstance(value, dict):
            continue
        if key in HARMLESS:
            if value in HARMLESS[key]:
                continue
        elif value is None or value is False:
            continue
        found.append(f"{key} = {value!r}")
    return tuple(sorted(found))


def decode_floats(value: Any) -> Any:
    """Undo transformers' tags for numbers JSON cannot hold: `{"__float__": "Infinity"}` -> inf."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: decode_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode_floats(item) for item in value]
    return value


def put(config: Config, notes: list[str], key: str, value: Any, source: str) -> None:
    """Set `key`, and note it where that is a change."""
    old = config.get(key, "absent")
    if old == value and type(old) is type(value):
        return
    config[key] = value
    if not (old in ("absent", None) and value is None):
        notes.append(f"{key}: {old} -> {value} (from {source})")


def flatten_rope(config: Config, notes: list[str]) -> None:
    """Write `rope_theta`, `rope_scaling` and the rotated share from `rope_parameters`."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or not rope:
        return
    layers = {key: value for key, value in rope.items() if isinstance(value, dict)}
    whole = layers.get("full_attention") or (next(iter(layers.values())) if layers else rope)
    local = layers.get("sliding_attention")
    if "rope_theta" in whole:
        put(config, notes, "rope_theta", whole["rope_theta"], "rope_parameters")
        if config.get("model_type") == "gpt_neox":
            put(config, notes, "rotary_emb_base", whole["rope_theta"], "rope_parameters")
    if local is not None and "rope_theta" in local:
        put(config, notes, "rope_local_base_freq", local["rope_theta"], "rope_parameters")
    if (share := whole.get("partial_rotary_factor")) is not None:
        key = "rotary_pct" if config.get("model_type") == "gpt_neox" else "partial_rotary_factor"
        put(config, notes, key, share, "rope_parameters")
    kind = whole.get("rope_type") or whole.get("type") or "default"
    if kind not in PLAIN_ROPE:
        scaling = {k: v for k, v in whole.items() if k not in ("rope_theta", "partial_rotary_factor")}
        put(config, notes, "rope_scaling", scaling | {"rope_type": kind, "type": kind}, "rope_parameters")
    elif config.get("rope_scaling") is None:
        config["rope_scaling"] = None


def name_rope_type(config: Config, notes: list[str]) -> None:
    """Write the kind of a `rope_scaling` table under both of its names, `type` and `rope_type`."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict):
        return
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind and (scaling.get("type") is None or scaling.get("rope_type") is None):
        put(config, notes, "rope_scaling", scaling | {"type": kind, "rope_type": kind}, "rope_scaling")


def derive_pattern(config: Config, notes: list[str]) -> None:
    """Write `sliding_window_pattern` from a periodic `layer_types`, and the other way round for mistral.

    `sliding_window_pattern` p means: layer i attends to everything where p divides i + 1.
    """
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" in kinds:
        pattern = period(kinds)
        if pattern is not None:
            put(config, notes, "sliding_window_pattern", pattern, "layer_types")
    elif not kinds and config.get("model_type") == "mistral" and config.get("sliding_window"):
        # mlx-lm runs mistral as llama, which windows only the layers named in layer_types.
        put(config, notes, "layer_types", ["sliding_attention"] * config["num_hidden_layers"], "sliding_window")


def period(kinds: Sequence[str]) -> int | None:
    """Return p where layer i is full exactly when p divides i + 1, or None if no p says that.

    Example:
        >>> period(["sliding_attention", "full_attention"] * 2)
        2
    """
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    first = full[0] + 1 if full else len(kinds) + 1
    return first if full == [i for i in range(len(kinds)) if (i + 1) % first == 0] else None


def fill_required(config: Config, notes: list[str]) -> None:
    """Write the keys that some `ModelArgs` demand and that newer writers leave out when they follow from others."""
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if heads and config.get("num_key_value_heads") is None and "num_attention_heads" in config:
        put(config, notes, "num_key_value_heads", heads, "num_attention_heads")
    if heads and width and config.get("head_dim") is None and "head_dim" in config:
        put(config, notes, "head_dim", width // heads, "hidden_size")
    if "dtype" in config and "torch_dtype" not in config:
        config["torch_dtype"] = config["dtype"]  # the type of the weights, no mathematics


STEPS: tuple[Callable[[Config, list[str]], None], ...] = (
    flatten_rope,
    name_rope_type,
    derive_pattern,
    fill_required,
)
