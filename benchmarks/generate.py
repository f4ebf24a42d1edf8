"""Plain generation, one prompt: our loop against mlx_lm's `stream_generate`.  The target is parity.

    MKL_NUM_THREADS=1 python -m benchmarks.generate [--checkpoint q30] [--repeats 7]

128 tokens of prompt, 64 generated, text decoded as it comes.  Greedy tokens and text must be equal.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.checkpoint import checkpoint, passages
from benchmarks.interleaved import environment, finish, paired, take_turns
from benchmarks.peers import opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="q30")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    from mlx_lm.generate import stream_generate

    from mlxrag.model.generate import stream
    from mlxrag.settings import Sampling

    path = checkpoint(args.checkpoint)
    model, theirs = opened(path)
    prompt = passages(path)[0][:128]
    count = 64

    def ours():
        pieces = list(stream(model, prompt, Sampling(max_tokens=count), skip_special_tokens=False))
        rest = pieces[-1].seconds - pieces[0].prompt_seconds
        out = (tuple(p.token for p in pieces), "".join(p.text for p in pieces))
        return out, {"first_token": pieces[0].prompt_seconds, "per_token": rest / (count - 1)}

    def other():
        pieces = list(stream_generate(model.network, theirs, prompt, max_tokens=count))
        first = pieces[0].prompt_tokens / pieces[0].prompt_tps
        rest = pieces[-1].generation_tokens / pieces[-1].generation_tps
        out = (tuple(p.token for p in pieces), "".join(p.text for p in pieces))
        return out, {"first_token": first, "per_token": rest / (count - 1)}

    before = environment()
    timed = take_turns({"mlxrag": ours, "mlx_lm": other}, args.repeats)
    ratios = {
        "whole time": (paired(timed["mlx_lm"], timed["mlxrag"]), 0.97),
        "time per token": (paired(timed["mlx_lm"], timed["mlxrag"], "per_token"), 0.97),
    }
    return finish(
        "generate", f"128 tokens of prompt, {count} generated, {args.checkpoint} float32", timed, ratios, before
    )


if __name__ == "__main__":
    sys.exit(main())
