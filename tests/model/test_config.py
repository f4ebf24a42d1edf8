"""Configs of newer writers become what mlx-lm reads."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.model.config import normalize_config, period
from mlxrag.model.unread import exact_up_to, unread, window


def test_the_base_of_the_rope_is_put_back() -> None:
    """`rope_theta` comes out of `rope_parameters`, and a note says so."""
    config, notes = normalize_config(
        {"model_type": "qwen2", "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}
    )
    assert config["rope_theta"] == 5e4 and config["rope_parameters"]["rope_theta"] == 5e4
    assert notes == ("rope_theta: absent -> 50000.0 (from rope_parameters)",)


def test_a_scaled_rope_is_named_both_ways() -> None:
    """A scaling table carries its kind as `type` and as `rope_type`, whoever wrote it."""
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
    config, _ = normalize_config({"model_type": "llama", "rope_parameters": rope})
    assert config["rope_scaling"]["type"] == config["rope_scaling"]["rope_type"] == "llama3"
    old, _ = normalize_config({"model_type": "phi3", "rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert old["rope_scaling"]["type"] == "linear"


def test_layers_of_two_kinds_give_two_bases_and_a_pattern() -> None:
    """Nested rope tables and a periodic list of layer kinds become gemma3's flat keys."""
    config, _ = normalize_config(
        {
            "model_type": "gemma3_text",
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
        }
    )
    assert (config["rope_theta"], config["rope_local_base_freq"], config["sliding_window_pattern"]) == (1e6, 1e4, 2)


def test_a_yarn_attention_factor_becomes_the_mscale_that_gives_it() -> None:
    """mlx-lm's formula with the new mscale gives the factor that was asked for."""
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "attention_factor": 1.25}
    scaling = normalize_config({"model_type": "llama", "rope_parameters": rope})[0]["rope_scaling"]
    assert 0.1 * scaling["mscale"] * math.log(4.0) + 1.0 == pytest.approx(1.25)


def test_text_halves_are_normalized_too() -> None:
    """A multimodal config's `text_config` gets the same treatment."""
    config, notes = normalize_config(
        {"model_type": "x", "text_config": {"model_type": "llama", "rope_parameters": {"rope_theta": 7.0}}}
    )
    assert config["text_config"]["rope_theta"] == 7.0
    assert notes == ("text_config.rope_theta: absent -> 7.0 (from rope_parameters)",)


def test_numbers_json_cannot_hold_are_read() -> None:
    """transformers' tag for infinity becomes infinity."""
    assert (
        normalize_config({"model_type": "mamba2", "time_step_limit": [0.0, {"__float__": "Infinity"}]})[0][
            "time_step_limit"
        ][1]
        == math.inf
    )


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "glm", "num_attention_heads": 2, "hidden_size": 16, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"model_type": "gemma3_text", "num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2,
         "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
        {"model_type": "olmo", "hidden_size": 16, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
        {"model_type": "phi3", "max_position_embeddings": 128, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 32}},
        {"model_type": "qwen3_5_text", "num_hidden_layers": 2, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    ],
    ids=lambda c: c["model_type"],
)  # fmt: skip
def test_normalizing_what_was_written_changes_nothing(config: dict) -> None:
    """A converted directory is read as it was meant: the function is idempotent on its own output."""
    once, _ = normalize_config(config)
    again, _ = normalize_config(json.loads(json.dumps(once)))
    assert again == once


@given(st.lists(st.sampled_from(["sliding_attention", "full_attention"]), min_size=1, max_size=12))
def test_a_pattern_says_exactly_which_layers_are_full(kinds: list[str]) -> None:
    """Where there is a pattern p, layer i is full if and only if p divides i + 1."""
    p = period(kinds)
    if p is not None:
        assert [kind == "full_attention" for kind in kinds] == [(i + 1) % p == 0 for i in range(len(kinds))]


def test_what_is_not_read_is_reported_unless_it_does_no_harm() -> None:
    """A telling value of an unread key is named; identity, sizes and plain values are not."""
    config = {
        "model_type": "llama",
        "hidden_act": "gelu",
        "clip_qkv": 0.1,
        "vocab_size": 5,
        "mlp_bias": False,
        "logits_scaling": 1.0,
    }
    assert unread(config, {"vocab_size"}) == ("clip_qkv = 0.1", "hidden_act = 'gelu'")
    assert unread({"model_type": "phi", "hidden_act": "gelu_new"}, ()) == ()
    assert unread({"model_type": "llama", "rope_parameters": {"rope_theta": 1.0}}, ()) != ()


def test_a_window_that_is_not_applied_limits_the_length() -> None:
    """Up to the window, attending to everything is the same; beyond it is not."""
    assert window({"model_type": "mistral", "sliding_window": 32}) == 32
    assert window({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False}) is None
    assert exact_up_to({"model_type": "mistral", "sliding_window": 32}, {"sliding_window", "layer_types"}) == 32
    kinds = ["sliding_attention", "full_attention"]
    told = {"model_type": "olmo3", "sliding_window": 32, "layer_types": kinds}
    assert exact_up_to(told, {"sliding_window", "layer_types"}) is None
    assert exact_up_to(told, {"vocab_size"}) == 32
