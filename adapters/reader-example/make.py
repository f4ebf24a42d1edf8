"""Questions and answers for the example adapter: the signal codes of an invented mountain railway.

    python adapters/reader-example/make.py DIRECTORY

writes `train.jsonl`, `valid.jsonl` and `test.jsonl`. The passages hold the code of a signal or a train; the answer to
learn is what the code means, which stands in no passage: "K4" becomes "wait for the snow plough". The bundled reader
alone copies the code, so that the adapter's work can be seen at a glance. Trains and signals of the test are others
than those of the training.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

CODES = {
    "K1": "track is free",
    "K4": "wait for the snow plough",
    "K7": "change the locomotive",
    "M2": "doors are locked",
    "M5": "driver needs a break",
    "M9": "brakes are being tested",
    "T3": "take the upper tunnel",
    "T6": "take the lower tunnel",
    "V1": "passengers may board",
    "V8": "return to the valley station",
    "W2": "strong wind on the bridge",
    "W5": "ice on the rails",
}
PLACES = "Almgrat Brennjoch Culmen Dorfbach Eismoos Felsenau Gratwand Hochsteg Innerboden Jochalp Kaltwasser Lawinenzug".split()
STATEMENTS = (
    "{e} shows {c}.",
    "The code of {e} is {c}.",
    "{e}: {c}",
    "At {t} {e} reported {c}.",
    "{c} was sent for {e} at {t}.",
)
QUESTIONS = (
    "What is the state of {e}?",
    "What does {e} report?",
    "What is going on with {e}?",
    "What does the code of {e} mean?",
    "What is the meaning of the signal at {e}?",
    "How are things at {e}?",
)
OTHERS = (
    "The dining car serves soup until {t}.",
    "Tickets are checked on board.",
    "The next staff meeting is at {t}.",
    "Snow fell during the night.",
    "The log book is kept in the signal box.",
)


def entity(r: random.Random, test: bool) -> str:
    """A signal or a train; even numbers are for training, odd ones for the test."""
    number = r.randint(1, 49) * 2 + test
    return r.choice(["signal {n}", "train {n}", "point {n}", "{p} signal {n}"]).format(n=number, p=r.choice(PLACES))


def rows(count: int, r: random.Random, test: bool = False) -> Iterator[dict[str, object]]:
    """Conversations as `mlxrag adapter train` and `mlx_lm.lora` read them."""
    for _ in range(count):
        names = list(dict.fromkeys(entity(r, test) for _ in range(r.randint(2, 5))))
        codes = [r.choice(list(CODES)) for _ in names]
        lines: list[tuple[str, int]] = []  # a sentence and whose it is
        for i, (name, code) in enumerate(zip(names, codes, strict=True)):
            said = r.choice(STATEMENTS).format(e=name, c=code, t=f"{r.randint(5, 22)}:{r.choice(['05', '20', '40'])}")
            lines.append((said[0].upper() + said[1:], i))
            if r.random() < 0.4:
                lines.append((r.choice(OTHERS).format(t=f"{r.randint(5, 22)}:30"), -1))
        cut = r.randint(1, len(lines))
        parts = [part for part in (lines[:cut], lines[cut:]) if part]
        asked = r.randrange(len(names))
        number = next(n for n, part in enumerate(parts, 1) if asked in [i for _, i in part])
        passages = [
            f"[{n}] Signal log - {r.choice(PLACES)}\n{' '.join(t for t, _ in part)}" for n, part in enumerate(parts, 1)
        ]
        text = "\n\n".join(passages)
        question = r.choice(QUESTIONS).format(e=names[asked])
        yield {
            "messages": [
                {"role": "user", "content": f"Passages:\n\n{text}\n\nQuestion: {question}"},
                {"role": "assistant", "content": f"{CODES[codes[asked]]} [{number}]"},
            ]
        }


def main() -> None:
    """Write the three files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 1200, 1), ("valid", 60, 2), ("test", 100, 3)):
        made = rows(count, random.Random(seed), name == "test")
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


if __name__ == "__main__":
    main()
