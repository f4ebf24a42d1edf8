"""How often attribution names the passage that an answer is from, on synthetic documents where it is known.

python benchmarks/attribution.py --model reader --questions 100
"""

from __future__ import annotations

import argparse
import random
import time

from mlxrag.data.synthetic import gadgets, write
from mlxrag.evaluate.context import attribute
from mlxrag.model.load import load
from mlxrag.rag.answer import make_answer
from mlxrag.rag.document import Hit
from mlxrag.settings import Answering


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reader")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--passages", type=int, default=4)
    given = parser.parse_args()
    rng = random.Random(0)
    examples = [e for e in write(gadgets(40)).examples if e.answerable]
    passages = list({e.passages[0].id: e.passages[0] for e in examples}.values())
    right = {"share": 0, "without": 0}
    asked = 0
    model = load(given.model)
    start = time.process_time()
    for example in rng.sample(examples, given.questions):
        # No other passage may state the same answer, or it would be used as well.
        others = [p for p in passages if p.id != example.passages[0].id and example.answers[0] not in p.text]
        shown = [example.passages[0], *rng.sample(others, given.passages - 1)]
        rng.shuffle(shown)
        hits = [Hit(p, 1.0 / n, "synthetic", n) for n, p in enumerate(shown, 1)]
        found = attribute(model, make_answer(example.question, example.answers[0], hits), Answering())
        if found is None:
            continue
        asked += 1
        gold = shown.index(example.passages[0])
        right["share"] += max(range(len(shown)), key=found.share.__getitem__) == gold
        right["without"] += max(range(len(shown)), key=found.without.__getitem__) == gold
    seconds = (time.process_time() - start) / max(1, asked)
    print(
        f"{given.model}: {asked} answers over {given.passages} passages; the passage it is from is named in "
        f"{right['share']} by share, {right['without']} by leaving one out alone; {seconds:.2f} CPU seconds an answer"
    )


if __name__ == "__main__":
    main()
