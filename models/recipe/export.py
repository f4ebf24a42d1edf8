"""A checkpoint of the recipe -> a Hugging Face directory that transformers, mlx-lm and mlxrag open."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .network import Reader, Size
from .tokenizer import ASSISTANT, END, PAD, USER

# The system message is left out: it is the same every time, and the reader was trained to follow it without reading it.
# In a conversation the newest passages stand first and of what was said only the last question and answer follow, which
# is what the reader was trained on; passages of earlier turns are left out.
TEMPLATE = (
    "{%- set chat = messages | rejectattr('role', 'equalto', 'system') | list -%}"
    "{%- if chat | length > 3 -%}{%- set chat = chat[-3:] -%}{%- endif -%}"
    "{%- set found = namespace(passages='') -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' and 'Question: ' in message['content'] -%}"
    "{%- set before = message['content'].split('Question: ')[:-1] | join('Question: ') | trim -%}"
    "{%- if before -%}{%- set found.passages = before + '\n\n' -%}{%- endif -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in chat -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '" + USER + "' + (found.passages if loop.first else '') -}}"
    "{%- if 'Question: ' in message['content'] -%}{{- 'Question: ' + (message['content'].split('Question: ')[-1] | trim) -}}"
    "{%- else -%}{{- message['content'] | trim -}}{%- endif -%}"
    "{%- elif message['role'] == 'assistant' -%}{{- '"
    + ASSISTANT
    + " ' + (message['content'] | trim) + '"
    + END
    + "' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "' -}}{%- endif -%}"
)
CONTEXT = 2048


def weights(reader: Reader) -> dict[str, torch.Tensor]:
    """The network's weights under the names of Qwen3, in float16; stacked matrices are cut apart."""
    out = {"model.embed_tokens.weight": reader.embed_tokens.weight, "model.norm.weight": reader.norm.weight}
    for i, layer in enumerate(reader.layers):
        state, at = layer.state_dict(), f"model.layers.{i}"
        q, k, v = state["qkv.weight"].chunk(3)
        gate, up = state["gate_up.weight"].chunk(2)
        out |= {
            f"{at}.self_attn.{n}_proj.weight": w
            for n, w in (("q", q), ("k", k), ("v", v), ("o", state["o_proj.weight"]))
        }
        out |= {
            f"{at}.mlp.{n}_proj.weight": w for n, w in (("gate", gate), ("up", up), ("down", state["down_proj.weight"]))
        }
        out |= {f"{at}.self_attn.{n}_norm.weight": state[f"{n}_norm.weight"] for n in "qk"}
        out |= {f"{at}.{n}.weight": state[f"{n}.weight"] for n in ("input_layernorm", "post_attention_layernorm")}
    return {name: w.detach().to(torch.float16).contiguous().clone() for name, w in out.items()}


def begin(reader: Reader, directory: Path) -> None:
    """Copy the weights of an exported directory of the same shape into `reader`, to train on from it."""
    found, state = load_file(directory / "model.safetensors"), reader.state_dict()
    for name in state:
        at = name.replace("layers.", "model.layers.") if name.startswith("layers.") else f"model.{name}"
        if name.endswith("qkv.weight"):
            parts = [at.replace("qkv", f"self_attn.{n}_proj") for n in "qkv"]
        elif name.endswith("gate_up.weight"):
            parts = [at.replace("gate_up", f"mlp.{n}_proj") for n in ("gate", "up")]
        elif name.startswith("layers."):
            at = at.replace("o_proj", "self_attn.o_proj").replace("down_proj", "mlp.down_proj")
            parts = [at.replace("q_norm", "self_attn.q_norm").replace("k_norm", "self_attn.k_norm")]
        else:
            parts = [at]
        state[name] = torch.cat([found[p].float() for p in parts])
    reader.load_state_dict(state)


def config(size: Size, ids: dict[str, int]) -> dict[str, object]:
    """``config.json``; `rope_theta` stands where transformers and mlx-lm both read it."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.hidden,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head,
        "hidden_act": "silu",
        "rms_norm_eps": size.epsilon,
        "rope_theta": size.theta,
        "rope_scaling": None,
        "max_position_embeddings": CONTEXT,
        "vocab_size": size.vocabulary,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "use_sliding_window": False,
        "torch_dtype": "float16",
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
    }


def write(reader: Reader, tokenizer_path: Path, out: Path, advice: dict[str, object]) -> dict[str, int]:
    """Write the directory `out`.

    Args:
        reader: the trained network.
        tokenizer_path: its tokenizer.
        out: the directory; files of the same names are replaced, others (the model card) stay.
        advice: ``mlxrag.json``, recommended settings.

    Returns:
        bytes of each file.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    ids = {t: tokenizer.token_to_id(t) for t in (PAD, USER, ASSISTANT, END)}
    save_file(weights(reader), out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    files: dict[str, object] = {
        "config.json": config(reader.size, ids),
        "generation_config.json": {
            "do_sample": False,
            "max_new_tokens": 64,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": PAD,
            "additional_special_tokens": [USER, ASSISTANT],
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
            "chat_template": TEMPLATE,
        },
        "mlxrag.json": advice,
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return {p.name: p.stat().st_size for p in sorted(out.iterdir())}


def average(paths: list[Path]) -> Reader:
    """The mean of several checkpoints' weights, one checkpoint being the plain case."""
    saved = [torch.load(p, weights_only=True, map_location="cpu") for p in paths]
    reader = Reader(Size(**saved[0]["size"]))
    reader.load_state_dict(
        {k: torch.stack([s["reader"][k].float() for s in saved]).mean(0) for k in saved[0]["reader"]}
    )
    return reader


def describe(size: Size) -> str:
    """The shape in one line, for the model card."""
    return ", ".join(f"{k} {v}" for k, v in asdict(size).items())
