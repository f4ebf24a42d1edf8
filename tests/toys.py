"""Toy networks with the real architectures of mlx_lm, and toy adapters for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlxrag.model  # noqa: F401  # isort: skip  # the light stand-in for mlx_lm
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama, qwen3

from mlxrag.model.attach import adaptable, adapter_layers, shapes

VOCABULARY = 64


def llama_toy(seed: int = 0, layers: int = 3, tied: bool = True, bits: int = 0, **more: Any) -> nn.Module:
    """A llama of 32 dims; `bits` quantizes it."""
    mx.random.seed(seed)
    settings: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": layers,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": tied,
        **more,
    }
    return finish(llama.Model(llama.ModelArgs.from_dict(settings)), bits)


def qwen_toy(
    seed: int = 0, layers: int = 3, tied: bool = True, bits: int = 0, vocabulary: int = VOCABULARY
) -> nn.Module:
    """A qwen3 of 64 dims with q and k norms."""
    mx.random.seed(seed)
    args = qwen3.ModelArgs(
        model_type="qwen3",
        hidden_size=64,
        num_hidden_layers=layers,
        intermediate_size=96,
        num_attention_heads=4,
        rms_norm_eps=1e-6,
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        head_dim=16,
        tie_word_embeddings=tied,
        rope_theta=10000.0,
    )
    return finish(qwen3.Model(args), bits)


def finish(network: nn.Module, bits: int) -> nn.Module:
    if bits:
        nn.quantize(network, group_size=32, bits=bits)
    network.freeze()
    network.eval()
    mx.eval(network.parameters())
    return network


def write_adapter(
    path: Path,
    network: nn.Module,
    *,
    seed: int = 1,
    kind: str = "lora",
    rank: int = 4,
    scale: float = 2.0,
    layers: int = -1,
    keys: tuple[str, ...] | None = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"),
    base: dict[str, str] | None = None,
    size: float = 0.1,
) -> Path:
    """Write a random adapter for a network in mlx-lm's format, with the help of mlx-lm's layers."""
    modules = dict(network.named_modules())
    mx.random.seed(seed)
    weights: dict[str, mx.array] = {}
    for name in adaptable(modules, network.layers, layers, keys):
        for leaf, shape in shapes(modules[name], rank, kind).items():
            weights[f"{name}.{leaf}"] = mx.random.normal(shape) * size
            if leaf == "m":
                weights[f"{name}.m"] = 1 + mx.abs(weights[f"{name}.m"])
    path.mkdir(parents=True)
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    lora: dict[str, Any] = {"rank": rank, "scale": scale, "dropout": 0.0}
    if keys is not None:
        lora["keys"] = list(keys)
    config: dict[str, Any] = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": lora}
    if base:
        config["base"] = base
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def fresh_load(network: nn.Module, path: Path) -> nn.Module:
    """Put an adapter on a network the way mlx_lm itself does."""
    adapter_layers()
    from mlx_lm.tuner.utils import load_adapters

    network = load_adapters(network, str(path))
    network.eval()
    return network


class Letters:
    """A tokenizer whose tokens are letters, `<s>` and `<e>`; with `forgets`, earlier answers become dots."""

    def __init__(self, forgets: bool = False) -> None:
        self.forgets = forgets
        self.eos_ids = frozenset({2})

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids = []
        while text:
            special = {"<s>": 1, "<e>": 2}.get(text[:3])
            ids.append(special or ord(text[0]) % 60000 + 3)
            text = text[3:] if special else text[1:]
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        return [1, *self.encode(text)]

    def text(self, token: int) -> str:
        return {1: "<s>", 2: "<e>"}.get(token) or chr(token - 3)

    def prompt(self, messages: Any, add_generation_prompt: bool = True, **_: Any) -> list[int]:
        parts = []
        for i, message in enumerate(messages):
            old = self.forgets and message["role"] == "assistant" and i < len(messages) - 1
            parts.append(f"{message['role']}:{'...' if old else message['content']}<e>")
        return self.encode("<s>" + "".join(parts) + ("assistant:" if add_generation_prompt else ""))


def write_model(folder: Path) -> Path:
    """Write a llama of 32 dims with a tokenizer of letters as a model directory."""
    from mlx.utils import tree_flatten
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    network = llama_toy(vocab_size=VOCABULARY * 2, hidden_size=32, intermediate_size=48, layers=2)
    folder.mkdir(parents=True)
    weights = dict(tree_flatten(network.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    config = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": VOCABULARY * 2,
        "tie_word_embeddings": True, "max_position_embeddings": 512, "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    words = {w: i for i, w in enumerate(["<pad>", "<end>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<end>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    kept = {"eos_token": "<end>", "unk_token": "<unk>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder
