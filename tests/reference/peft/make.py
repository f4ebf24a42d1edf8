"""Makes the files of this folder with transformers, torch and peft: a tiny llama, three adapters, their logits.

python tests/reference/peft/make.py      (torch 2.13.0, transformers 5.23.0, peft 0.21.2)
"""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
TOKENS = [[1, 5, 9, 2, 7, 30, 31, 44], [3, 3, 8, 60, 12, 0, 2, 9]]
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        target_modules=EVERY,
        rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 6},
        alpha_pattern={"v_proj": 3},
        task_type="CAUSAL_LM",
    ),
    "dora": LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    "embedding": LoraConfig(
        r=3,
        lora_alpha=3,
        target_modules=["embed_tokens", "v_proj"],
        layers_to_transform=[1],
        task_type="CAUSAL_LM",
    ),
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    return model


def main() -> None:
    save_file({k: v.contiguous() for k, v in base().state_dict().items()}, HERE / "base.safetensors")
    tokens = torch.tensor(TOKENS)
    logits = {"base": base()(tokens).logits.detach().numpy()}
    for name, config in ADAPTERS.items():
        if name == "embedding":
            config.target_modules = r"model\.embed_tokens|model\.layers\.1\.self_attn\.v_proj"
            config.layers_to_transform = None
        torch.manual_seed(7)
        model = get_peft_model(base(), config).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_" in key:
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(HERE / name)
        logits[name] = model(tokens).logits.detach().numpy()
        (HERE / name / "README.md").unlink(missing_ok=True)
    np.savez_compressed(HERE / "logits.npz", tokens=np.array(TOKENS), **logits)


if __name__ == "__main__":
    main()
