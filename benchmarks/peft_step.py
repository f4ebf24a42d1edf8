"""One training step with PEFT on torch, for `rag_sft.py`; runs in a Python that has torch, transformers and peft."""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {k: v for k, v in asked["shape"].items() if k not in ("model_type", "rope_theta")}
    model = Qwen3ForCausalLM(
        Qwen3Config(**shape, rope_parameters={"rope_type": "default", "rope_theta": asked["shape"]["rope_theta"]})
    )
    wanted = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        model, LoraConfig(r=asked["rank"], lora_alpha=asked["alpha"], target_modules=wanted, task_type="CAUSAL_LM")
    )
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    length = asked["context"] + asked["own"] + 1
    tokens = torch.randint(3, asked["shape"]["vocab_size"], (asked["pairs"], length))
    labels = tokens.clone()
    labels[:, : length - asked["answer"]] = -100

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()

    step()
    times = []
    for _ in range(asked["repeats"]):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
