"""Run as a program: logits and greedy tokens of a checkpoint by transformers and torch, float32, on the CPU.

Reads one JSON document (`path`, `ids`, `greedy`, `out`) from stdin and writes reference.npz, reference.json and
by.json into `out`.  It runs in a process of its own, so that torch's memory is given back and its libraries do not
meet MLX's.  Nothing else imports this file.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Do one job."""
    job = json.loads(sys.stdin.read())
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    transformers.logging.set_verbosity_error()
    network = transformers.AutoModelForCausalLM.from_pretrained(
        job["path"], dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, local_files_only=True
    ).eval()
    ids = torch.tensor([job["ids"]])
    with torch.no_grad():
        values = network(ids, use_cache=False).logits.float().numpy()
        tokens, seen = [], ids
        for _ in range(job["greedy"]):
            tokens.append(int(network(seen, use_cache=False).logits[0, -1].argmax()))
            seen = torch.cat([seen, torch.tensor([[tokens[-1]]])], dim=1)
    out = Path(job["out"])
    np.savez(out / "reference.npz", ids=ids.numpy(), logits=values)
    (out / "reference.json").write_text(json.dumps({"greedy": tokens}), encoding="utf-8")
    by = f"transformers {transformers.__version__} and torch {torch.__version__}"
    (out / "by.json").write_text(json.dumps(by), encoding="utf-8")


if __name__ == "__main__":
    main()
