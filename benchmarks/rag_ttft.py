"""Three sets of passages, four questions on each, about 1,000 tokens a prompt: time to the first token.

    MKL_NUM_THREADS=1 python -m benchmarks.rag_ttft [--checkpoint q30] [--repeats 5]

Peers: `mlx_lm.generate` on each prompt, and the same with the instruction's cache kept by hand, which is what most
programs do.  Ours keeps instruction and passages.  Then the cache of one prompt is written to disk and read back, which
is compared with processing the prompt.  Greedy tokens must be equal.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkpoint import checkpoint, passages
from benchmarks.interleaved import Timed, environment, finish, paired, take_turns
from benchmarks.peers import generate_one, opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="q30")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from mlxrag.model.cache import KVStore
    from mlxrag.model.generate import stream
    from mlxrag.settings import Sampling

    path = checkpoint(args.checkpoint)
    model, _ = opened(path)
    texts = passages(path)
    instruction = [token for text in texts[:2] for token in text][:200]
    documents = [[token for text in texts[10 + 4 * i : 14 + 4 * i] for token in text][:760] for i in range(3)]
    asked = [[texts[40 + 4 * i + j][:24] for j in range(4)] for i in range(3)]
    count = 8

    def prompts():
        for document, questions in zip(documents, asked, strict=True):
            for question in questions:
                yield document, [*instruction, *document, *question]

    def plain():
        out, firsts = [], []
        for _, prompt in prompts():
            tokens, first = generate_one(model, prompt, count)
            out.append(tokens)
            firsts.append(first)
        return tuple(out), {"first_token": sum(firsts) / len(firsts)}

    def with_instruction():
        base = make_prompt_cache(model.network)
        model.network(mx.array(instruction)[None], cache=base)
        mx.eval([c.state for c in base])
        out, firsts = [], []
        for _, prompt in prompts():
            cache = copy.deepcopy(base)
            tokens, first = generate_one(model, prompt[len(instruction) :], count, prompt_cache=cache)
            out.append(tokens)
            firsts.append(first)
        return tuple(out), {"first_token": sum(firsts) / len(firsts)}

    def ours():
        store = KVStore(1 << 30)
        out, firsts = [], []
        for document, prompt in prompts():
            pieces = list(
                stream(
                    model, prompt, Sampling(max_tokens=count), store=store, segments=(len(instruction) + len(document),)
                )
            )
            out.append(tuple(piece.token for piece in pieces))
            firsts.append(pieces[0].prompt_seconds)
        return tuple(out), {"first_token": sum(firsts) / len(firsts)}

    before = environment()
    timed = take_turns(
        {"mlxrag": ours, "mlx_lm generate": plain, "mlx_lm, instruction kept": with_instruction}, args.repeats
    )
    disk, processed, size = from_disk(model, [*instruction, *documents[0]], args.repeats)
    ratios = {
        "time to the first token, against generate": (
            paired(timed["mlx_lm generate"], timed["mlxrag"], "first_token"),
            4.0,
        ),
        "the same, against an instruction kept": (
            paired(timed["mlx_lm, instruction kept"], timed["mlxrag"], "first_token"),
            3.0,
        ),
        "whole time, against generate": (paired(timed["mlx_lm generate"], timed["mlxrag"]), 2.0),
        "read from disk, against processing": (paired(processed, disk), 50.0),
    }
    timed = {**timed, "read from disk": disk, "process the prompt": processed}
    length = len(instruction) + len(documents[0]) + 24
    workload = (
        f"3 sets of passages x 4 questions, {length} tokens a prompt, {count} generated, {args.checkpoint} float32"
    )
    return finish("rag_ttft", workload, timed, ratios, before, disk_bytes=size)


def from_disk(model, prompt: list[int], repeats: int) -> tuple[Timed, Timed, int]:
    """Time reading a kept prompt from disk, until its arrays are in memory, and processing it."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from mlxrag.model.cache import KVStore
    from mlxrag.model.cache_key import store_key
    from mlxrag.settings import Caching

    reading, processing = Timed(), Timed()
    key = store_key(model, Caching())
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            began = time.perf_counter()
            cache = make_prompt_cache(model.network)
            model.network(mx.array(prompt)[None], cache=cache)
            mx.eval([c.state for c in cache])
            processing.runs.setdefault("seconds", []).append(time.perf_counter() - began)
            KVStore(1 << 30, Path(folder), 1 << 30).save(key, prompt, cache)
            fresh = KVStore(1 << 30, Path(folder), 1 << 30)
            began = time.perf_counter()
            again, reused = fresh.take(key, [*prompt, 5])
            mx.eval([c.state[:2] for c in again])
            reading.runs.setdefault("seconds", []).append(time.perf_counter() - began)
            if reused != len(prompt) or not mx.array_equal(
                again[-1].keys[..., :reused, :], cache[-1].keys[..., :reused, :]
            ):
                raise SystemExit("FAIL: what was read is not what was written")
        size = next(Path(folder).glob("*.safetensors")).stat().st_size
    return reading, processing, size


if __name__ == "__main__":
    sys.exit(main())
