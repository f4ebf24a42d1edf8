"""Weights of checkpoints that mlx-lm has the network for but whose tensors it does not take as they are.

Each repair is exact: names change, tensors are split or transposed, biases and columns that a network
insists on are added as zeros.  All of it is lazy; nothing is computed until a tensor is written or used.
A repair finds nothing to do on weights that were repaired before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

Weights = dict[str, mx.array]
Repair = Callable[[Mapping[str, Any], Weights], tuple[Weights, tuple[str, ...]]]
EXPERT = re.compile(r"(.+\.mlp)\.experts\.(\d+)\.((?:gate|up|down)_proj)\.weight")


def repair(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """Return the weights under the names and in the shapes that mlx-lm's `sanitize` expects, and notes.

    Args:
        config: config.json as the checkpoint has it, before `normalize_config`.
        weights: tensors by name, as loaded.
    """
    fix = REPAIRS.get(str(config.get("model_type")))
    return fix(config, weights) if fix else (weights, ())


def split_experts(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """gpt_oss that is not packed: `experts.gate_up_proj` `(e, in, 2·out)`, gate and up interleaved, to one tensor each."""
    done: Weights = {}
    for name, array in weights.items():
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            done[f"{stem}.gate_proj.weight"] = mx.contiguous(array[..., ::2].swapaxes(-1, -2))
            done[f"{stem}.up_proj.weight"] = mx.contiguous(array[..., 1::2].swapaxes(-1, -2))
        elif last == "gate_up_proj_bias":
            done[f"{stem}.gate_proj.bias"] = mx.contiguous(array[..., ::2])
            done[f"{stem}.up_proj.bias"] = mx.contiguous(array[..., 1::2])
        elif last == "down_proj" and stem.endswith("experts"):
            done[f"{stem}.down_proj.weight"] = mx.contiguous(array.swapaxes(-1, -2))
        elif last == "down_proj_bias":
            done[f"{stem}.down_proj.bias"] = array
        else:
            done[name] = array
    changed = done.keys() != weights.keys()
    # Packed checkpoints keep their `_blocks` for mlx-lm to split.
    if not changed or any(name.endswith("_blocks") for name in weights):
        return weights, ()
    return done, ("experts: gate_up_proj split into gate_proj and up_proj",)


def widen_neox(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """gpt_neox: mlx-lm's MLP is always 4 times as wide as the model, and attention always has biases."""
    done, notes = dict(weights), []
    hidden = int(config["hidden_size"])
    for name, array in weights.items():
        short = 4 * hidden - array.shape[-1 if name.endswith("dense_4h_to_h.weight") else 0]
        if short <= 0:
            continue
        if name.endswith("dense_4h_to_h.weight"):
            done[name] = mx.pad(array, [(0, 0), (0, short)])
        elif name.endswith("dense_h_to_4h.weight"):
            done[name] = mx.pad(array, [(0, short), (0, 0)])
        elif name.endswith("dense_h_to_4h.bias"):
            done[name] = mx.pad(array, [(0, short)])
    if any(done[name] is not weights[name] for name in weights):
        notes.append(f"mlp: widened from {config.get('intermediate_size')} to {4 * hidden} with zeros")
    if config.get("attention_bias") is False:
        for part, width in (("query_key_value", 3 * hidden), ("dense", hidden)):
            for name in [name for name in weights if name.endswith(f"attention.{part}.weight")]:
                bias = name.removesuffix("weight") + "bias"
                if bias not in done:
                    done[bias] = mx.zeros((width,), weights[name].dtype)
                    notes.append(f"{bias}: zeros")
    return done, tuple(notes)


def add_phimoe_biases(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """Phimoe saved without biases: mlx-lm's network always has them."""
    wanted = [] if config.get("attention_bias", True) else [f"self_attn.{part}_proj" for part in "qkvo"]
    wanted += [] if config.get("lm_head_bias", True) else ["lm_head"]
    done = dict(weights)
    for name, array in weights.items():
        stem = name.removesuffix(".weight")
        if stem != name and any(stem.endswith(part) for part in wanted):
            done.setdefault(f"{stem}.bias", mx.zeros((array.shape[0],), array.dtype))
    added = len(done) - len(weights)
    return done, ((f"{added} biases: zeros",) if added else ())


def add_olmo_norms(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """olmo, run as stablelm: its norms have no parameters, so theirs are ones and zeros; its tied head is written out."""
    done = dict(weights)
    some = next(iter(weights.values()))
    width = int(config["hidden_size"])
    norms = ["model.norm"]
    for layer in range(int(config["num_hidden_layers"])):
        norms += [f"model.layers.{layer}.{part}_layernorm" for part in ("input", "post_attention")]
    for norm in norms:
        done.setdefault(f"{norm}.weight", mx.ones((width,), some.dtype))
        done.setdefault(f"{norm}.bias", mx.zeros((width,), some.dtype))
    if "model.embed_tokens.weight" in done:
        done.setdefault("lm_head.weight", done["model.embed_tokens.weight"])
    return done, (f"{len(norms)} norms without parameters: ones and zeros",)


def split_glm(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """Glm, run as llama: one tensor each for gate and up, and a bias of zeros where llama has one and glm has not."""
    done: Weights = {}
    for name, array in weights.items():
        if name.endswith("mlp.gate_up_proj.weight"):
            gate, up = mx.split(array, 2, axis=0)
            done[name.replace("gate_up_proj", "gate_proj")] = gate
            done[name.replace("gate_up_proj", "up_proj")] = up
            continue
        done[name] = array
        if name.endswith("self_attn.o_proj.weight") and config.get("attention_bias"):
            done[name.removesuffix("weight") + "bias"] = mx.zeros((array.shape[0],), array.dtype)
    return done, ("mlp: gate_up_proj split into gate_proj and up_proj",)


def rename_tensors(names: Mapping[str, str]) -> Repair:
    """Return a repair that replaces parts of names: old -> new."""

    def fix(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
        done: Weights = {}
        for name, array in weights.items():
            for old, new in names.items():
                name = name.replace(old, new)
            done[name] = array
        return done, (("tensors renamed",) if done.keys() != weights.keys() else ())

    return fix


def write_head(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """minicpm3 with tied embeddings: mlx-lm divides by the width ratio only before a head of its own."""
    if not config.get("tie_word_embeddings") or "lm_head.weight" in weights:
        return weights, ()
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, ("lm_head: written out",)


def strip_transformer(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """gpt2 under the names transformers 5 writes: mlx-lm puts `model.` before names without `transformer.`."""
    done = {name.removeprefix("transformer."): array for name, array in weights.items()}
    return done, (("transformer. taken from the names",) if done.keys() != weights.keys() else ())


def fold_key_multiplier(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """falcon_h1: what mlx-lm's `sanitize` leaves out when it folds multipliers into the weights.

    It looks for `key_proj`, and there is none, so keys miss `key_multiplier`; values miss `attention_in_multiplier`.
    Folded weights are known as `sanitize` knows them, by the axes of the convolution.
    """
    kernel = weights["model.layers.0.mamba.conv1d.weight"].shape
    if kernel[-1] <= kernel[1]:
        return weights, ()
    factors = {"k_proj": config.get("key_multiplier", 1.0), "v_proj": config.get("attention_in_multiplier", 1.0)}
    done, notes = dict(weights), []
    for part, factor in factors.items():
        if factor != 1:
            names = [name for name in weights if name.endswith(f"self_attn.{part}.weight")]
            done |= {name: weights[name] * factor for name in names}
            notes.append(f"self_attn.{part}: multiplied by {factor}")
    return done, tuple(notes)


def stack_experts(config: Mapping[str, Any], weights: Weights) -> tuple[Weights, tuple[str, ...]]:
    """qwen3_5_moe with one tensor for each expert, as transformers 5 saves it, to one tensor for all."""
    done: Weights = {}
    parts: dict[str, dict[int, mx.array]] = {}
    for name, array in weights.items():
        if found := EXPERT.fullmatch(name):
            parts.setdefault(f"{found[1]}.switch_mlp.{found[3]}.weight", {})[int(found[2])] = array
        else:
            done[name] = array
    done |= {name: mx.stack([experts[i] for i in sorted(experts)]) for name, experts in parts.items()}
    return done, ((f"experts: {len(parts)} tensors stacked",) if parts else ())


NANOCHAT = {"model.embed_tokens": "transformer.wte", "model.layers": "transformer.h", "self_attn.": "attn.c_", "c_q_proj": "c_q",
            "c_k_proj": "c_k", "c_v_proj": "c_v", "c_o_proj": "c_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
OLMO_HYBRID = {"attention_layer_norm": "input_layernorm", "feedforward_layer_norm": "post_attention_layernorm"}
REPAIRS: dict[str, Repair] = {
    "falcon_h1": fold_key_multiplier,
    "glm": split_glm,
    "gpt2": strip_transformer,
    "gpt_neox": widen_neox,
    "gpt_oss": split_experts,
    "minicpm3": write_head,
    "nanochat": rename_tensors(NANOCHAT),
    "olmo": add_olmo_norms,
    "olmo_hybrid": rename_tensors(OLMO_HYBRID),
    "phimoe": add_phimoe_biases,
    "qwen3_5_moe": stack_experts,
    "qwen3_5_moe_text": stack_experts,
}
