"""Model directories to measure with: random weights, real architecture, a tokenizer trained on this project's texts.

Built once into `~/.cache/mlxrag-benchmarks` (or `MLXRAG_BENCHMARKS`); equal names are equal bytes.  Speed does not
depend on what the weights are; what a model says does, so outputs are compared and never read.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import mlxrag.model  # noqa: F401  # isort: skip  # loads MKL before mlx
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlxrag.model.network import build

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 8192
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES = {
    "q30": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
            "intermediate_size": 1536},
    "q100": {"hidden_size": 768, "num_hidden_layers": 14, "num_attention_heads": 12, "num_key_value_heads": 4,
             "intermediate_size": 2304},
    "q3": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
           "intermediate_size": 512},
}  # fmt: skip


def home() -> Path:
    return Path(os.environ.get("MLXRAG_BENCHMARKS", "~/.cache/mlxrag-benchmarks")).expanduser()


def texts() -> list[str]:
    """This project's own prose and code, in a fixed order."""
    files = [p for folder in ("docs", "mlxrag", "tests") for p in sorted((ROOT / folder).rglob("*"))]
    kept = [p for p in files if p.suffix in (".md", ".txt", ".html", ".rst", ".py", ".csv", ".json")]
    return [p.read_text(encoding="utf-8", errors="replace") for p in kept if p.stat().st_size < 200_000]


def checkpoint(name: str = "q30") -> Path:
    """Return the directory of a checkpoint, building it the first time."""
    path = home() / f"{name}-1"
    if (path / "model.safetensors").is_file():
        return path
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64, "rms_norm_eps": 1e-6,
        "vocab_size": VOCABULARY, "max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True,
        "torch_dtype": "float32", "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, **SHAPES[name],
    }  # fmt: skip
    (draft / "config.json").write_text(json.dumps(config))
    (draft / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    rng = np.random.default_rng(0)
    network = build(config)
    weights = {
        key: mx.array(
            rng.standard_normal(w.shape, dtype=np.float32) * 0.05 if w.ndim > 1 else np.ones(w.shape, np.float32)
        )
        for key, w in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(draft / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.save(str(draft / "tokenizer.json"))
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (draft / "tokenizer_config.json").write_text(json.dumps({**tokens, "chat_template": TEMPLATE}))
    try:
        draft.rename(path)
    except OSError:  # another process was quicker
        shutil.rmtree(draft)
    return path


def passages(path: Path, shortest: int = 150, longest: int = 220, count: int = 200, seed: int = 0) -> list[list[int]]:
    """Return paragraphs of this project's texts as token ids, each within the lengths, in a shuffled order."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    found: list[list[int]] = []
    for text in texts():
        held = ""
        for part in text.split("\n\n"):
            held += part + "\n\n"
            ids = [i for i in tokenizer.encode(held).ids if i > 2]
            if len(ids) >= shortest:
                found.append(ids[:longest])
                held = ""
    random.Random(seed).shuffle(found)
    return found[:count]
