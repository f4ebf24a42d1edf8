"""transformers on torch, for `plain_peers.py`: runs in a Python that has both, and answers each line with a generation."""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers import __version__ as version

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    print(json.dumps({"torch": torch.__version__, "transformers": version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        cache, token = DynamicCache(), None
        began, busy = time.perf_counter(), time.process_time()
        out = model(input_ids=torch.tensor([asked["prompt"]]), past_key_values=cache, logits_to_keep=1)
        token = int(out.logits[0, -1].argmax())
        first, first_busy = time.perf_counter() - began, time.process_time() - busy
        tokens = [token]
        for _ in range(asked["count"] - 1):
            out = model(input_ids=torch.tensor([[token]]), past_key_values=cache)
            token = int(out.logits[0, -1].argmax())
            tokens.append(token)
        rest = time.perf_counter() - began - first
        print(json.dumps({"tokens": tokens, "first": first, "rest": rest, "first_busy": first_busy}), flush=True)


if __name__ == "__main__":
    main()
