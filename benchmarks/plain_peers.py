"""Plain reading of a prompt and plain decoding beside transformers on torch: rows that others win are shown too.

    MKL_NUM_THREADS=1 python -m benchmarks.plain_peers --torch-python PYTHON [--checkpoint q30] [--repeats 5]

The same random checkpoint, float32, one thread each, in turns; torch runs in a process of its own that stays.  The greedy
tokens must be equal.  There is no target: kernels are MLX's and torch's, not ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.checkpoint import checkpoint, passages
from benchmarks.interleaved import environment, finish, paired, take_turns
from benchmarks.peers import opened

COUNT = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="a Python with torch and transformers")
    parser.add_argument("--checkpoint", default="q30")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from mlxrag.model.generate import stream
    from mlxrag.settings import Sampling

    path = checkpoint(args.checkpoint)
    model, _ = opened(path)
    prompt = [token for text in passages(path)[:3] for token in text][:512]
    script = str(Path(__file__).with_name("torch_peer.py"))
    peer = subprocess.Popen(
        [args.torch_python, script, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    assert peer.stdin is not None and peer.stdout is not None
    try:
        versions = json.loads(peer.stdout.readline())

        def ours():
            pieces = list(stream(model, prompt, Sampling(max_tokens=COUNT)))
            rest = pieces[-1].seconds - pieces[0].prompt_seconds
            return tuple(p.token for p in pieces), {"prompt": pieces[0].prompt_seconds, "decoding": rest}

        def torch():
            peer.stdin.write(json.dumps({"prompt": prompt, "count": COUNT}) + "\n")
            peer.stdin.flush()
            told = json.loads(peer.stdout.readline())
            return tuple(told["tokens"]), {"prompt": told["first"], "decoding": told["rest"]}

        before = environment()
        timed = take_turns({"mlxrag": ours, "transformers on torch": torch}, args.repeats)
    finally:
        peer.stdin.close()
        peer.wait(timeout=30)
    ratios = {
        f"{what}, against torch": (paired(timed["transformers on torch"], timed["mlxrag"], figure), None)
        for what, figure in (("reading the prompt", "prompt"), ("decoding", "decoding"))
    }
    workload = f"512 tokens of prompt, {COUNT} generated, {args.checkpoint} float32"
    return finish("plain_peers", workload, timed, ratios, before, peer_versions=versions)


if __name__ == "__main__":
    sys.exit(main())
