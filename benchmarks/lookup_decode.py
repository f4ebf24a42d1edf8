"""Drafts copied from the passages, where none, some or all of an answer is copied: against mlx_lm's plain decoding.

    MKL_NUM_THREADS=1 python -m benchmarks.lookup_decode [--checkpoint q100] [--repeats 5]

Two networks.  Random weights copy nothing, so on the large one answers are replayed: every pass over the network is real,
with its caches and cuts, and the tokens it is said to choose are those of a script, made of pieces of the passages
(copied) and of text that is nowhere in them.  On the bundled reader the answers are its own greedy ones, to real prompts
and beginnings of sentences of their passages, sorted by how much of each turned out to be copied; tokens with and without
drafts must be equal.  The prompt is processed before the clock starts.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import checkpoint, passages
from benchmarks.interleaved import Timed, environment, finish, paired, take_turns
from benchmarks.peers import opened

COUNT = 72
SHARES = {0: 0.97, 60: 1.5, 100: 2.0}
BANDS = {0: (0, 20), 60: (45, 75), 100: (95, 100)}  # per cent copied that the reader's own answers are sorted into
PER_BAND = 4


def scripts(texts: list[list[int]], share: int, answers: int) -> list[tuple[list[int], list[int]]]:
    """Return prompts (about 500 tokens of passages) and answers of which `share` per cent are copied in runs of 12 to 24."""
    draw = random.Random(share)
    found = []
    for i in range(answers):
        prompt = [token for text in texts[20 + 3 * i : 23 + 3 * i] for token in text][:500]
        fresh = [token for text in texts[100 + 3 * i : 103 + 3 * i] for token in text]
        answer: list[int] = []
        copied = 0
        while len(answer) < COUNT:
            length = draw.randrange(12, 25)
            # What was copied too little so far is copied next, so that each answer has its share.
            copy_it = 100 * (copied + length / 2) < share * (len(answer) + length)
            source = prompt if copy_it else fresh
            at = draw.randrange(0, len(source) - length)
            answer += source[at : at + length]
            copied += length * copy_it
        found.append((prompt, answer[:COUNT]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="q100")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--answers", type=int, default=3)
    args = parser.parse_args()
    from mlxrag.errors import NotFound
    from mlxrag.model.load import load
    from mlxrag.model.row_cost import calibrate

    path = checkpoint(args.checkpoint)
    model, _ = opened(path)
    texts = passages(path)
    cost = calibrate(model.network, context=500)
    before = environment()
    timed: dict[str, Timed] = {}
    ratios: dict[str, Any] = {}
    facts: dict[str, Any] = {"cost": {"large": rounded(cost)}}
    for share, target in SHARES.items():
        pair = take_turns(replayed(model, scripts(texts, share, args.answers), cost, share), args.repeats)
        compare(timed, ratios, pair, f"{args.checkpoint} replayed, {share} % copied", target)
    try:
        reader = load("reader")
    except NotFound:
        facts["reader"] = "is not there"
    else:
        reader.tokenizer.eos_ids = frozenset()
        cost = calibrate(reader.network, context=300)
        facts["cost"]["reader"] = rounded(cost)
        sorted_answers = bands(reader)
        facts["reader"] = {f"{share} %": [round(one[2]) for one in found] for share, found in sorted_answers.items()}
        for share, found in sorted_answers.items():
            if found:
                pair = take_turns(own_answers(reader, [one[0] for one in found], cost, share), args.repeats)
                compare(timed, ratios, pair, f"reader, {share} % copied", SHARES[share])
    workload = (
        f"answers of {COUNT} tokens on passages: {args.answers} replayed on {args.checkpoint} float32 for each share, and the "
        "bundled reader's own; decoding alone"
    )
    return finish("lookup_decode", workload, timed, ratios, before, **facts)


def compare(timed: dict[str, Timed], ratios: dict[str, Any], pair: dict[str, Timed], name: str, target: float) -> None:
    ours, theirs = pair.values()
    timed |= pair
    ratios[name] = (paired(theirs, ours, "decoding"), target)
    ratios[f"{name}, processor time"] = (paired(theirs, ours, "decoding_processor"), None)


def rounded(cost: dict[int, float]) -> dict[str, float]:
    return {str(rows): round(value, 3) for rows, value in cost.items()}


def timed_decoding(prefilled: Sequence[tuple[list[int], list[Any]]], decode: Callable[..., list[int]]) -> Any:
    """Return an engine that decodes after each prompt, and counts the decoding alone."""

    def run() -> tuple[tuple[tuple[int, ...], ...], dict[str, float]]:
        out, seconds, busy = [], 0.0, 0.0
        for number, (prompt, cache) in enumerate(prefilled):
            own = copy.deepcopy(cache)
            began, spent = time.perf_counter(), time.process_time()
            out.append(tuple(decode(number, prompt, own)))
            seconds += time.perf_counter() - began
            busy += time.process_time() - spent
        return tuple(out), {"decoding": seconds, "decoding_processor": busy}

    return run


def prefill_all(model: Any, prompts: Sequence[list[int]]) -> list[tuple[list[int], list[Any]]]:
    from mlxrag.model.generate import processed
    from mlxrag.settings import Caching

    return [(list(prompt), processed(model, prompt[:-1], Caching())) for prompt in prompts]


def drafted(model: Any, prompt: list[int], cache: list[Any], choose: Any, lookup: Any) -> list[int]:
    from mlxrag.model.generate import Work
    from mlxrag.model.lookup import verified
    from mlxrag.settings import Caching

    work = Work(prompt, cache, fed=prompt[:-1])
    steps = verified(model.network, work, prompt[-1:], choose, lookup, COUNT, Caching())
    return [token for token, _, _ in steps]


def plain(model: Any, prompt: list[int], cache: list[Any], sampler: Any = None) -> list[int]:
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    steps = generate_step(
        mx.array(prompt[-1:]),
        model.network,
        max_tokens=COUNT,
        prompt_cache=cache,
        **({"sampler": sampler} if sampler else {}),
    )
    return [int(token) for token, _ in steps]


def replayed(
    model: Any, played: list[tuple[list[int], list[int]]], cost: dict[int, float], share: int
) -> dict[str, Any]:
    """Return both engines on answers that are scripted: scores are computed as always, what they say is replaced."""
    import mlx.core as mx

    from mlxrag.model.lookup import Lookup

    learned = Lookup(dict(cost))
    ready = prefill_all(model, [prompt for prompt, _ in played])

    def ours(number: int, prompt: list[int], cache: list[Any]) -> list[int]:
        script = mx.array(played[number][1], mx.uint32)

        def choose(logits: mx.array, step: int) -> tuple[mx.array, mx.array]:
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            chosen = script[step : step + logits.shape[0]] + 0 * mx.argmax(logprobs, axis=-1)
            return chosen, mx.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0]

        return drafted(model, prompt, cache, choose, learned)

    def theirs(number: int, prompt: list[int], cache: list[Any]) -> list[int]:
        script = iter([*played[number][1], 0])
        return plain(
            model, prompt, cache, lambda scores: mx.array([next(script)], mx.uint32) + 0 * mx.argmax(scores, axis=-1)
        )

    return {
        f"mlxrag, large, {share} %": timed_decoding(ready, ours),
        f"mlx_lm, large, {share} %": timed_decoding(ready, theirs),
    }


def own_answers(model: Any, prompts: list[list[int]], cost: dict[int, float], share: int) -> dict[str, Any]:
    """Return both engines on the greedy answers of a network itself."""
    import mlx.core as mx

    from mlxrag.model.lookup import Lookup

    learned = Lookup(dict(cost))
    ready = prefill_all(model, prompts)

    def choose(logits: mx.array, step: int) -> tuple[mx.array, mx.array]:
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.argmax(logprobs, axis=-1)
        return chosen, mx.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0]

    return {
        f"mlxrag, reader, {share} %": timed_decoding(
            ready, lambda number, prompt, cache: drafted(model, prompt, cache, choose, learned)
        ),
        f"mlx_lm, reader, {share} %": timed_decoding(ready, lambda number, prompt, cache: plain(model, prompt, cache)),
    }


def bands(model: Any) -> dict[int, list[tuple[list[int], list[int], float]]]:
    """Return prompts whose greedy answer is copied to none, to some and wholly: prompt, answer, per cent copied.

    The prompts ask about a sample document and begin the answer with the first words of a sentence, of that document or
    of another; what the network makes of it is counted, not assumed.
    """
    from mlxrag.rag.answer import messages
    from mlxrag.rag.document import Hit, Passage
    from mlxrag.settings import Answering

    samples = Path(__file__).resolve().parent.parent / "mlxrag" / "samples" / "documents"
    texts = [file.read_text(encoding="utf-8")[:1500] for file in sorted(samples.rglob("*.md"))]
    found: dict[int, list[tuple[list[int], list[int], float]]] = {share: [] for share in BANDS}
    draw = random.Random(0)
    for _ in range(48):
        text, other = draw.sample(texts, 2)
        hit = Hit(Passage("p", "d", "sample.md", "", "", 0, len(text), text), 1.0, "gold", 1)
        prompt = model.tokenizer.prompt(messages("What does the document say?", [hit], Answering()))
        source = model.tokenizer.encode(draw.choice([text, text, other]))
        at = draw.randrange(0, max(1, len(source) - 10))
        prompt += source[at : at + draw.choice([0, 2, 4, 8])]
        [(_, cache)] = prefill_all(model, [prompt])
        answer = plain(model, prompt, cache)
        per_cent = copied_share(prompt, answer)
        for share, (low, high) in BANDS.items():
            if low <= per_cent <= high and len(found[share]) < PER_BAND:
                found[share].append((prompt, answer, per_cent))
        if all(len(one) == PER_BAND for one in found.values()):
            break
    return found


def copied_share(prompt: list[int], answer: list[int], n: int = 4) -> float:
    """Return how many per cent of an answer's tokens stand in runs of at least `n` that the prompt has too.

    Example:
        >>> copied_share([1, 2, 3, 4, 5], [9, 2, 3, 4, 5, 9, 9, 9])
        50.0
    """
    there = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)}
    inside = set()
    for i in range(len(answer) - n + 1):
        if tuple(answer[i : i + n]) in there:
            inside.update(range(i, i + n))
    return 100 * len(inside) / len(answer)


if __name__ == "__main__":
    sys.exit(main())
