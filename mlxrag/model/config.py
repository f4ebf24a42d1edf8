"""config.json as mlx-lm reads it: what newer writers renamed, put back.

transformers 5 keeps everything about rotary positions in one table, `rope_parameters`, and some
per-layer facts in lists; mlx-lm's `ModelArgs` read the older flat names and fall back to a
default, silently, when they are missing.  Strategy: rewrite the config to the older names (both
are kept) and note each change.  What is not read even so is the business of `unread.py`.

This file knows nothing of arrays, weights or mlx-lm; it maps dictionaries to dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxrag.model.architectures import LAYER_KINDS, MISSING, SAME_AS, WRAPPED, Config

# Networks that read `full_attention_interval` and not the list of layer kinds.
LINEAR = ("qwen3_next", "qwen3_5")
# Rope types that mean "nothing but a base".
PLAIN_ROPE = ("default", "none", "")


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
    nested = result.get("text_config")
    if isinstance(nested, dict) and nested.get("model_type") not in WRAPPED:
        result["text_config"], inner = normalize_config(nested)
        notes += [f"text_config.{note}" for note in inner]
    return result, tuple(notes)


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


def fix_longrope(config: Config, notes: list[str]) -> None:
    """Make mlx-lm's longrope use the short factors, which hold for the lengths the model was trained on.

    Source: transformers 5.23, modeling_rope_utils.py, `_compute_longrope_parameters`: the long factors are for
    sequences beyond `original_max_position_embeddings`.  mlx-lm uses the long ones for every length, and takes the
    attention factor from `max_position_embeddings` alone.
    """
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type") not in ("longrope", "su"):
        return
    if "short_factor" not in scaling or scaling.get("long_factor") == scaling["short_factor"]:
        return
    trained = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    trained = int(trained or config["max_position_embeddings"])
    changed = scaling | {"long_factor": scaling["short_factor"], "original_max_position_embeddings": trained}
    put(config, notes, "rope_scaling", changed | {"kept_long_factor": scaling["long_factor"]}, "short_factor")
    put(config, notes, "original_max_position_embeddings", trained, "rope_scaling")
    factor = scaling.get("factor") or config["max_position_embeddings"] / trained
    if (attention := scaling.get("attention_factor")) is not None:
        factor = math.exp((attention**2 - 1) * math.log(trained))
    if (wanted := round(trained * factor)) != config["max_position_embeddings"]:
        put(config, notes, "max_position_embeddings", wanted, "the factor of longrope")


def fix_yarn(config: Config, notes: list[str]) -> None:
    """Write an explicit `attention_factor` of yarn as the `mscale` that gives the same."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type") != "yarn":
        return
    factor, attention = scaling.get("factor"), scaling.get("attention_factor")
    if attention is None or not factor or factor <= 1:
        return
    changed = scaling | {"mscale": (attention - 1) / (0.1 * math.log(factor)), "mscale_all_dim": 0}
    put(config, notes, "rope_scaling", changed, "attention_factor")


def name_layers(config: Config, notes: list[str]) -> None:
    """Write the kinds of layers in the words, or as the pattern, that mlx-lm reads.

    `sliding_window_pattern` p means: layer i attends to everything where p divides i + 1.  So does
    `full_attention_interval` of networks whose other layers are linear.
    """
    kinds = config.get("layer_types")
    if not isinstance(kinds, list):
        return
    words = LAYER_KINDS.get(str(config.get("model_type")))
    if words and (renamed := [words.get(kind, kind) for kind in kinds]) != kinds:
        put(config, notes, "layer_types", renamed, "layer_types")
    pattern = period(kinds)
    if str(config.get("model_type")).startswith(LINEAR) and pattern is not None:
        put(config, notes, "full_attention_interval", pattern, "layer_types")
    if "sliding_attention" not in kinds:
        return
    if config.get("model_type") == "exaone4":
        letters = "".join("L" if kind == "sliding_attention" else "G" for kind in kinds)
        put(config, notes, "sliding_window_pattern", letters, "layer_types")
    elif pattern is not None and not (config.get("model_type") == "gemma3_text" and pattern > len(kinds)):
        put(config, notes, "sliding_window_pattern", pattern, "layer_types")


def period(kinds: Sequence[str]) -> int | None:
    """Return p where layer i is full exactly when p divides i + 1, or None if no p says that.

    Example:
        >>> period(["sliding_attention", "full_attention"] * 2)
        2
    """
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    first = full[0] + 1 if full else len(kinds) + 1
    return first if full == [i for i in range(len(kinds)) if (i + 1) % first == 0] else None


def unslide_short_gemma(config: Config, notes: list[str]) -> None:
    """Let a gemma3 with fewer layers than its pattern, so that all slide, attend to everything instead.

    mlx-lm looks up the cache of layer `pattern - 1` and fails where there is none; up to one window the
    two are the same.
    """
    layers = config.get("num_hidden_layers")
    kinds = config.get("layer_types") or ["sliding_attention"] * min(
        config.get("sliding_window_pattern", 6) - 1, layers or 0
    )
    if config.get("model_type") != "gemma3_text" or len(kinds) != layers or set(kinds) != {"sliding_attention"}:
        return
    put(config, notes, "sliding_window_pattern", 1, "layer_types")
    put(config, notes, "rope_theta", config.get("rope_local_base_freq", 10_000.0), "rope_local_base_freq")
    put(config, notes, "rope_scaling", None, "layer_types")


def unslide_llama(config: Config, notes: list[str]) -> None:
    """Let a llama whose layers all slide attend to everything instead: mlx-lm looks for a layer that does not slide.

    Up to one window the two are the same.
    """
    kind = str(config.get("model_type"))
    if SAME_AS.get(kind, kind) == "llama" and set(config.get("layer_types") or ()) == {"sliding_attention"}:
        put(config, notes, "layer_types", None, "layer_types")
        put(config, notes, "use_sliding_window", True, "layer_types")


def untie(config: Config, notes: list[str]) -> None:
    """Let minicpm3 have a head of its own (`repair.write_head` gives it one)."""
    if config.get("model_type") == "minicpm3":
        put(config, notes, "tie_word_embeddings", False, "the architecture")


def fill_missing(config: Config, notes: list[str]) -> None:
    """Write the keys that some networks demand and that newer writers leave out or renamed."""
    for new, old in (("num_local_experts", "num_experts"), ("num_experts", "num_local_experts")):
        if config.get(new) is not None and config.get(old) is None:
            put(config, notes, old, config[new], new)
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if heads and "num_key_value_heads" in config and config["num_key_value_heads"] is None:
        put(config, notes, "num_key_value_heads", heads, "num_attention_heads")
    if heads and width and "head_dim" in config and config["head_dim"] is None:
        put(config, notes, "head_dim", width // heads, "hidden_size")
    for key, rule in MISSING.get(str(config.get("model_type")), {}).items():
        if config.get(key) is not None:
            continue
        try:
            value = rule(config)
        except (KeyError, TypeError):
            continue  # what it follows from is missing too; the network will say so
        if value is not None:
            put(config, notes, key, value, "what the architecture implies")
    if "dtype" in config and "torch_dtype" not in config:
        config["torch_dtype"] = config["dtype"]  # the type of the weights, no mathematics
    if config.get("model_type") == "granitemoehybrid" and not config.get("num_local_experts"):
        # Without experts the shared MLP is the only one, and mlx-lm sizes it by intermediate_size.
        put(config, notes, "intermediate_size", config.get("shared_intermediate_size"), "shared_intermediate_size")
    layers = config.get("per_layer_config")
    if config.get("model_type") == "gemma4_text" and isinstance(layers, dict):
        wide = [entry["head_dim"] for entry in layers.values() if "head_dim" in entry]
        put(config, notes, "global_head_dim", max(wide, default=config.get("head_dim")), "per_layer_config")


def rotate_as_llama(config: Config, notes: list[str]) -> None:
    """Write glm's rope, which turns the first part of each head, as the proportional rope of mlx-lm's llama.

    mlx-lm's own glm turns whole heads.  Its proportional rope takes powers of the base over the whole head, so
    the base must grow for the frequencies to be the same: theta^(e / turned) = (theta^(head / turned))^(e / head).
    """
    if config.get("model_type") != "glm":
        return
    share = float(config.get("partial_rotary_factor") or 0.5)
    scaling = {"type": "proportional", "rope_type": "proportional", "partial_rotary_factor": share}
    put(config, notes, "rope_scaling", scaling, "partial_rotary_factor")
    put(config, notes, "rope_theta", float(config.get("rope_theta", 10_000.0)) ** (1 / share), "partial_rotary_factor")
    put(config, notes, "rope_traditional", True, "the architecture")
    config["mlp_bias"] = False
    # Left under its name it would be read again, and the base put back.
    config["kept_rope_parameters"] = config.pop("rope_parameters", None)


def rename(config: Config, notes: list[str]) -> None:
    """Name the network of mlx-lm that computes the same, where it has none of the config's own name."""
    kind = str(config.get("model_type"))
    if kind in SAME_AS:
        put(config, notes, "model_type", SAME_AS[kind], "the same network under another name")
    elif kind in WRAPPED:
        config["text_config"] = dict(config)
        put(config, notes, "model_type", WRAPPED[kind], "the same network, wrapped")


STEPS: tuple[Callable[[Config, list[str]], None], ...] = (
    flatten_rope,
    name_rope_type,
    fix_longrope,
    fix_yarn,
    name_layers,
    unslide_short_gemma,
    unslide_llama,
    untie,
    fill_missing,
    rotate_as_llama,
    rename,
)
