"""All six pairs of the four systems of OpenAI's GSM8K paper on its 1,319 test questions, with corrections.

    python -m benchmarks.gsm8k_pairs [example_model_solutions.jsonl.gz]

Data: github.com/openai/grade-school-math, example_model_solutions.jsonl (MIT). Independent figures: the share right and
an interval by the normal law of paired proportions, worked out here from the four counts alone.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from pathlib import Path

from mlxrag.experiment.compare import compare_all, decided, pairs
from mlxrag.settings import Experimenting

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "gsm8k"


def read(path: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return system -> measure -> question -> right."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {s: {"correct": {f"{i:04d}": float(row[s]["is_correct"]) for i, row in enumerate(rows)}} for s in SYSTEMS}


def by_hand(a: dict[str, float | None], b: dict[str, float | None]) -> tuple[float, float, float]:
    """Difference and 95 % interval of paired proportions from the counts of flips (Agresti 2013, equation 11.2)."""
    gains = sum(x == 0 and y == 1 for x, y in zip(a.values(), b.values(), strict=True))
    losses = sum(x == 1 and y == 0 for x, y in zip(a.values(), b.values(), strict=True))
    n = len(a)
    difference = (gains - losses) / n
    error = math.sqrt((gains + losses) / n - difference**2) / math.sqrt(n)
    return difference, difference - 1.959964 * error, difference + 1.959964 * error


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT / "example_model_solutions.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path}: not here; get example_model_solutions.jsonl from github.com/openai/grade-school-math")
    scores = read(path)
    for system in SYSTEMS:
        values = scores[system]["correct"].values()
        print(f"{system}: {100 * sum(v or 0.0 for v in values) / len(values):.2f} % of {len(values)}")
    settings = Experimenting()
    print("\n| A | B | difference | 95 % interval | by hand | wins : losses | p | Holm | B is | detectable |")
    print("|---|---|---:|---|---|---:|---:|---:|---|---:|")
    for c in compare_all(scores, {}, settings, "correct", which=pairs(SYSTEMS, against_first=False)):
        assert c.difference is not None and c.low is not None and c.high is not None and c.effect is not None
        assert c.p is not None and c.corrected is not None and c.detectable is not None
        _, low, high = by_hand(scores[c.a]["correct"], scores[c.b]["correct"])
        print(
            f"| {c.a} | {c.b} | {100 * c.difference:+.2f} | {100 * c.low:.2f} to {100 * c.high:.2f} "
            f"| {100 * low:.2f} to {100 * high:.2f} | {c.effect.wins} : {c.effect.losses} | {c.p:.2g} | {c.corrected:.2g} "
            f"| {decided(c, settings)} | {100 * c.detectable:.1f} |"
        )


if __name__ == "__main__":
    main()
