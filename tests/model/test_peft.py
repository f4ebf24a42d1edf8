"""PEFT adapters come over and go back exactly; what has no counterpart is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound
from mlxrag.model.adapter import read_adapter
from mlxrag.model.attach import attach, detach, fingerprint
from mlxrag.model.peft import import_adapter
from mlxrag.model.peft_export import export_adapter
from tests.toys import finish, llama_toy, qwen_toy, write_adapter

WORDS = mx.array([[1, 5, 9, 2, 7]])
GOLD = Path(__file__).parent.parent / "reference" / "peft"


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("keys", [None, ("self_attn.q_proj",), ("model.embed_tokens", "mlp.up_proj")], ids=str)
@pytest.mark.parametrize("layers", [-1, 2])
def test_out_and_back_gives_the_same_bits(tmp_path: Path, kind: str, keys: tuple[str, ...] | None, layers: int) -> None:
    """Export and import: every tensor, the scale, and the logits on the base."""
    if kind == "dora" and keys and "model.embed_tokens" in keys:
        keys = keys[1:]
    network = llama_toy()
    ours = read_adapter(write_adapter(tmp_path / "a", network, kind=kind, keys=keys, layers=layers, rank=8, scale=0.5))
    export_adapter(ours, tmp_path / "peft", network)
    made = import_adapter(
        tmp_path / "peft", network, tmp_path / "b", {"name": "toy", "fingerprint": fingerprint(network)}
    )
    back = read_adapter(tmp_path / "b")
    assert made.difference < 1e-4 and made.modules == len(ours.modules)
    assert back.weights.keys() == ours.weights.keys() and back.scale == ours.scale
    assert all(mx.array_equal(back.weights[k], ours.weights[k]).item() for k in ours.weights)
    attach(network, ours)
    first = network(WORDS)
    attach(network, back)
    assert mx.array_equal(network(WORDS), first).item()


def test_the_targets_name_exactly_the_adapted_modules(tmp_path: Path) -> None:
    """Last names where every such layer is adapted, one expression where only some blocks are."""
    import re

    network = llama_toy()
    for layers in (-1, 1):
        ours = read_adapter(write_adapter(tmp_path / f"a{layers}", network, layers=layers))
        export_adapter(ours, tmp_path / f"p{layers}", network)
        wanted = json.loads((tmp_path / f"p{layers}" / "adapter_config.json").read_text())["target_modules"]
        if layers == -1:
            assert wanted == ["down_proj", "q_proj", "v_proj"]
        else:
            hits = {p for p, _ in network.named_modules() if re.fullmatch(wanted, p)}
            assert hits == set(ours.modules)


def changed(folder: Path, **more: Any) -> Path:
    """A copy of the golden adapter `patterns` with other settings."""
    shutil.copytree(GOLD / "patterns", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | more))
    return folder


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"lora_bias": True, "layer_replication": [[0, 2]]}, r"lora_bias True; layer_replication \[\[0, 2\]\]"),
    ],
)
def test_what_mlx_lm_has_no_counterpart_of_is_refused_by_name(tmp_path: Path, more: dict[str, Any], match: str) -> None:
    """All faults in one message."""
    with pytest.raises(BadInput, match=match):
        import_adapter(changed(tmp_path / "p", **more), llama_toy(), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_architecture_is_refused_naming_a_tensor(tmp_path: Path) -> None:
    """BERT's paths have no place in a llama."""
    folder = changed(tmp_path / "bert", base_model_name_or_path="bert-base-uncased")
    names = {
        f"base_model.model.bert.encoder.layer.0.attention.self.query.lora_{x}.weight": mx.zeros((4, 4)) for x in "AB"
    }
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), names)
    with pytest.raises(Mismatch, match=r"self\.query\.lora_A.*another architecture \(bert-base-uncased\)"):
        import_adapter(folder, llama_toy(), tmp_path / "out", {})


def test_a_pickle_a_cut_file_and_nan_are_refused(tmp_path: Path) -> None:
    """Nothing that could run code is opened."""
    folder = changed(tmp_path / "bin")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadInput, match="may run code"):
        import_adapter(folder, llama_toy(), tmp_path / "out", {})
    folder = changed(tmp_path / "cut")
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[:-50])
    with pytest.raises(Damaged, match="cut short"):
        import_adapter(folder, llama_toy(), tmp_path / "out", {})
    with pytest.raises(NotFound, match="no adapter at"):
        import_adapter(tmp_path / "none", llama_toy(), tmp_path / "out", {})


def test_a_quantized_base_takes_a_peft_adapter(tmp_path: Path) -> None:
    """The proof is by the formula on the dequantized weights."""
    network = qwen_toy(bits=4)
    ours = read_adapter(write_adapter(tmp_path / "a", network, keys=None))
    export_adapter(ours, tmp_path / "peft")
    assert import_adapter(tmp_path / "peft", network, tmp_path / "b", {}).difference < 1e-3


@pytest.mark.parametrize("bits", [0, 4])
def test_adapters_of_experts_go_out_and_come_back_proved(tmp_path: Path, bits: int) -> None:
    """More than ten experts, so that their order is by number; the logits are those of PEFT's formula."""
    from mlx_lm.models import qwen3_moe

    mx.random.seed(0)
    args = qwen3_moe.ModelArgs(
        model_type="qwen3_moe", hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
        num_experts=12, num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[], moe_intermediate_size=32,
        rms_norm_eps=1e-6, vocab_size=64, num_key_value_heads=2, head_dim=16, rope_theta=10000.0,
        tie_word_embeddings=True, max_position_embeddings=512, norm_topk_prob=True,
    )  # fmt: skip
    network = finish(qwen3_moe.Model(args), bits)
    keys = ("self_attn.q_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj")
    ours = read_adapter(write_adapter(tmp_path / "a", network, keys=keys))
    export_adapter(ours, tmp_path / "peft", network)
    assert import_adapter(tmp_path / "peft", network, tmp_path / "b", {}).difference < 1e-3
    back = read_adapter(tmp_path / "b")
    assert all(mx.array_equal(back.weights[k], ours.weights[k]).item() for k in ours.weights)


@pytest.mark.parametrize("form", ["layers", "npz", "alpha"])
def test_older_mlx_lm_adapters_come_over(tmp_path: Path, form: str) -> None:
    """`lora_layers`, .npz weights and alpha become what mlx-lm writes today; the logits are the same."""
    network = llama_toy()
    good = write_adapter(tmp_path / "a", network, rank=4, scale=2.0)
    attach(network, good)
    expected = network(WORDS)
    detach(network)
    old = tmp_path / "old"
    shutil.copytree(good, old)
    config = json.loads((old / "adapter_config.json").read_text())
    config["lora_layers"] = config.pop("num_layers")
    if form == "npz":
        loaded = mx.load(str(old / "adapters.safetensors"))
        assert isinstance(loaded, dict)
        mx.savez(str(old / "adapters.npz"), **loaded)
        (old / "adapters.safetensors").unlink()
    if form == "alpha":
        config["lora_parameters"]["alpha"] = config["lora_parameters"].pop("scale") * 4
    (old / "adapter_config.json").write_text(json.dumps(config))
    made = import_adapter(old, network, tmp_path / "new", {"name": "toy", "fingerprint": fingerprint(network)})
    assert made.source == "mlx-lm" and made.notes
    attach(network, tmp_path / "new")
    assert mx.array_equal(network(WORDS), expected).item()
