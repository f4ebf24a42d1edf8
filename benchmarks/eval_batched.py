"""Evaluation in batches against mlx_lm's generate, question by question, on the same prompts; greedy answers must be equal.

    MKL_NUM_THREADS=1 python -m benchmarks.eval_batched --questions 1000

Synthetic documents, five questions on each; both sides get the gold passage and two others in the same order,
whole.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any


def until_the_end(network: Any, prompt: list[int], count: int, ends: frozenset[int]) -> list[int]:
    """Run the loop of mlx_lm's generate, which stops at the end of the answer."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    out: list[int] = []
    for token, _ in generate_step(mx.array(prompt), network, max_tokens=count):
        if int(token) in ends:
            break
        out.append(int(token))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reader")
    parser.add_argument("--questions", type=int, default=1000)
    given = parser.parse_args()

    from dataclasses import replace

    from mlxrag.data.synthetic import gadgets, write
    from mlxrag.evaluate.run import answer_all
    from mlxrag.rag.answer import messages
    from mlxrag.rag.document import Hit
    from mlxrag.rag.system import open_system
    from mlxrag.settings import Caching, ModelSettings, Sampling, Settings
    from mlxrag.workspace import open_workspace

    count = 24
    found = list(write(gadgets(given.questions // 5 + 2)).examples)
    home = {e.passages[0].id: e.passages[0] for e in found}
    examples = []
    for example in found[: given.questions]:
        rng = random.Random(example.passages[0].id)
        others = rng.sample([p for p in home.values() if p.id != example.passages[0].id], 2)
        examples.append(replace(example, passages=(example.passages[0], *others)))
    settings = Settings(
        model=ModelSettings(model=given.model), sampling=Sampling(max_tokens=count), caching=Caching(lookup=False)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open_system(settings, open_workspace(folder), {"max_tokens", "num_sentences"}, index=False) as system,
    ):
        start = time.process_time(), time.perf_counter()
        ours = [row.answer.text for row in answer_all(system, examples, Path(folder, "run"), gold=True)]
        batched = time.process_time() - start[0], time.perf_counter() - start[1]
        answering, tokenizer = system.settings.answering, system.model.tokenizer
        start = time.process_time(), time.perf_counter()
        theirs = []
        for example in examples:
            hits = [Hit(p, 1.0, "gold", n) for n, p in enumerate(example.passages, 1)]
            prompt = tokenizer.prompt(messages(example.question, hits, answering))
            theirs.append(
                tokenizer.decode(until_the_end(system.model.network, prompt, count, tokenizer.eos_ids)).strip()
            )
        alone = time.process_time() - start[0], time.perf_counter() - start[1]
    same = sum(a.strip() == b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{len(examples)} questions: in batches {batched[1]:.1f} s ({batched[0]:.1f} CPU), one by one with mlx_lm {alone[1]:.1f} s "
        f"({alone[0]:.1f} CPU); {alone[1] / batched[1]:.2f} times as fast ({alone[0] / batched[0]:.2f} by CPU); {same} answers the same"
    )


if __name__ == "__main__":
    main()
