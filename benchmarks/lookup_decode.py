"""Drafts copied from the passages, where none, some or all of an answer is copied: against mlx_lm's plain generation.

    MKL_NUM_THREADS=1 python -m benchmarks.lookup_decode [--checkpoint q100] [--repeats 5]

Random weights copy nothing, so the answers are replayed: every pass over the network is real, with its caches and cuts,
and the tokens it is said to choose are those of a script.  Four answers of 72 tokens, made of sentences of the passages
(copied) and of text that is nowhere in them.  The greedy tokens of the bundled reader, which does copy, are compared
beside it on real questions: with and without drafts they must be equal.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from benchmarks.checkpoint import checkpoint, passages
from benchmarks.interleaved import environment, finish, paired, take_turns
from benchmarks.peers import opened

COUNT = 72
SHARES = {0: 0.97, 60: 1.5, 100: 2.0}


def scripts(texts: list[list[int]], share: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return prompts (about 500 tokens of passages) and answers of which `share` per cent are copied in runs of 12 to 24."""
    draw = random.Random(seed)
    found = []
    for i in range(4):
        prompt = [token for text in texts[20 + 3 * i : 23 + 3 * i] for token in text][:500]
        fresh = [token for text in texts[100 + 3 * i : 103 + 3 * i] for token in text]
        answer: list[int] = []
        while len(answer) < COUNT:
            length = draw.randrange(12, 25)
            copied = draw.randrange(100) < share
            source = prompt if copied else fresh
            at = draw.randrange(0, len(source) - length)
            answer += source[at : at + length]
        found.append((prompt, answer[:COUNT]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="q100")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    from mlxrag.model.generate import Work, prefill
    from mlxrag.model.lookup import Lookup, calibrate, verified
    from mlxrag.settings import Caching

    path = checkpoint(args.checkpoint)
    model, _ = opened(path)
    texts = passages(path)
    cost = calibrate(model.network, context=500)
    caching = Caching()

    def engines(share: int):
        played = scripts(texts, share, seed=share)
        learned = Lookup(dict(cost))

        def drafted():
            out = []
            for prompt, answer in played:
                script = mx.array(answer, mx.uint32)
                work = Work(list(prompt), make_prompt_cache(model.network))
                prefill(model, work, caching)

                def choose(logits, step, script=script):
                    # The scores are computed as always; what they say is replaced.
                    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
                    said = mx.argmax(logprobs, axis=-1)
                    chosen = script[step : step + logits.shape[0]] + 0 * said
                    return chosen, mx.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0]

                rest = work.prompt[len(work.fed) :]
                out.append(tuple(t for t, _, _ in verified(model.network, work, rest, choose, learned, COUNT, caching)))
            return tuple(out), {"accepted_share": learned.accepted / max(learned.drafted, 1)}

        def plain():
            out = []
            for prompt, answer in played:
                script = iter([*answer, 0])

                def sampler(logprobs, script=script):
                    return mx.array([next(script)], mx.uint32) + 0 * mx.argmax(logprobs, axis=-1)

                steps = generate_step(mx.array(prompt), model.network, max_tokens=COUNT, sampler=sampler)
                out.append(tuple(int(token) for token, _ in steps))
            return tuple(out), {}

        return {f"mlxrag, {share} % copied": drafted, f"mlx_lm, {share} % copied": plain}

    before = environment()
    timed, ratios = {}, {}
    for share, target in SHARES.items():
        pair = take_turns(engines(share), args.repeats)
        timed |= pair
        slow, quick = pair[f"mlx_lm, {share} % copied"], pair[f"mlxrag, {share} % copied"]
        ratios[f"{share} % copied"] = (paired(slow, quick), target)
    reader = with_reader(args.repeats)
    if reader is not None:
        timed |= reader
        ratios["bundled reader, real questions"] = (paired(reader["reader, plain"], reader["reader, drafts"]), 0.97)
    workload = f"4 answers of {COUNT} tokens on 500 tokens of passages, replayed on {args.checkpoint} float32"
    return finish("lookup_decode", workload, timed, ratios, before, cost={str(k): round(v, 3) for k, v in cost.items()})


def with_reader(repeats: int):
    """Time the bundled reader on questions with their passages, with drafts and without; None where it is not there."""
    from mlxrag.errors import NotFound
    from mlxrag.model.generate import stream
    from mlxrag.model.load import load
    from mlxrag.model.lookup import Lookup
    from mlxrag.rag.answer import messages
    from mlxrag.rag.document import Hit, Passage
    from mlxrag.settings import Answering, Sampling

    try:
        model = load("reader")
    except NotFound:
        return None
    questions = [json.loads(line) for line in (Path(__file__).parent / "reader_questions.jsonl").open(encoding="utf-8")]
    samples = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"
    prompts = []
    for row in questions:
        file = samples / str(row.get("source", "")).removeprefix("documents/")
        if row.get("answerable") and file.suffix in (".md", ".txt") and file.is_file():
            text = file.read_text(encoding="utf-8")[:1800]
            hit = Hit(Passage("p", "d", row["source"], file.stem, "", 0, len(text), text), 1.0, "gold", 1)
            prompts.append(model.tokenizer.prompt(messages(row["question"], [hit], Answering())))
    prompts = prompts[:12]
    lookup = Lookup()

    def run(drafter):
        def one():
            out = []
            for prompt in prompts:
                out.append(tuple(p.token for p in stream(model, prompt, Sampling(max_tokens=48), drafter=drafter)))
            return tuple(out), {}

        return one

    return take_turns({"reader, drafts": run(lookup), "reader, plain": run(None)}, repeats) if prompts else None


if __name__ == "__main__":
    sys.exit(main())
