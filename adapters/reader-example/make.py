"""The example adapter: the signal colours of an invented mountain railway.

    python adapters/reader-example/make.py DIRECTORY [--train]

writes `train.jsonl`, `valid.jsonl` and `test.jsonl`; with `--train` it also trains the adapter for the bundled reader,
leaves it beside this file and says how many of the first 20 and of all test questions are answered as the colours mean.
The passages hold the colour of a signal or a train; the answer to learn adds what the colour means, which stands in no
passage: "red" becomes "red: wait for the snow plough".  Trains and signals of the test are others than those of the training.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mlxrag.data.example import Example, example, from_row, to_row
from mlxrag.model.attach import attach
from mlxrag.model.load import load
from mlxrag.rag.document import Passage, document_id, passage_id
from mlxrag.settings import Answering, ModelSettings
from mlxrag.train.tokens import read_records
from mlxrag.train.validate import answer_measures

HERE = Path(__file__).resolve().parent
TRAIN = ("--rank 8 --learning-rate 1e-3 --warmup 10 --batch-size 6 --iters 100 --max-seq-length 512 --steps-per-eval 50 "
         "--val-batches 2 --save-every 40 --steps-per-report 20 --load-dtype float32").split()  # fmt: skip
PARTS = (("train", 200, 1), ("valid", 10, 2), ("test", 20, 3))
"""Name, passages, seed; six questions about each passage."""
CODES = {
    "green": "track is free",
    "red": "wait for the snow plough",
    "blue": "change the locomotive",
    "yellow": "doors are locked",
    "white": "brakes are being tested",
    "black": "take the upper tunnel",
    "orange": "passengers may board",
    "brown": "ice on the rails",
}
PLACES = "Almgrat Brennjoch Culmen Dorfbach Eismoos Felsenau Gratwand Hochsteg Innerboden Jochalp Kaltwasser Lawinenzug".split()
STATEMENTS = (
    "{e} shows {c}.",
    "The colour of {e} is {c}.",
    "{e}: {c}.",
    "At {t} {e} showed {c}.",
    "At {t} {c} was set for {e}.",
)
QUESTIONS = (
    "What is the state of {e}?",
    "What does {e} report?",
    "What is going on with {e}?",
    "What does the colour of {e} mean?",
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


def examples(count: int, r: random.Random, test: bool = False) -> Iterator[Example]:
    """Six questions about each of so many passages."""
    for _ in range(count):
        name, code = entity(r, test), r.choice(list(CODES))
        said = r.choice(STATEMENTS).format(e=name, c=code, t=f"{r.randint(5, 22)}:{r.choice(['05', '20', '40'])}")
        lines = [said[0].upper() + said[1:], *(o.format(t=f"{r.randint(5, 22)}:30") for o in r.sample(OTHERS, 2))]
        r.shuffle(lines)
        text, title = " ".join(lines), f"Signal log - {r.choice(PLACES)}"
        document = document_id("signals", text)
        passage = Passage(passage_id(document, 0, len(text)), document, "signals", title, "", 0, len(text), text)
        for question in QUESTIONS:
            answers = (f"{code}: {CODES[code]}",)
            yield example(question.format(e=name), answers, (passage,), "signals", tags=(code,))


def write(folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in PARTS:
        made = {e.id: e for e in examples(count, random.Random(seed), name == "test")}
        lines = [json.dumps(to_row(e)) + "\n" for e in made.values()]
        if name == "test":  # so that the first 20 are about different passages
            random.Random(seed).shuffle(lines)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def score(folder: Path, adapter: Path | None) -> dict[str, float]:
    """Return the share of the first 20 and of all test questions that are answered as the colours mean."""
    tested = [from_row(row) for row in read_records(folder / "test.jsonl") if isinstance(row, dict)]
    with load("reader", settings=ModelSettings(load_dtype="float32")) as model:
        if adapter is not None:
            attach(model.network, adapter)
        found = {
            f"of {n}": answer_measures(model, tested[:n], Answering(), n, 16)()["exact_match"]
            for n in (20, len(tested))
        }
    return found


def main() -> None:
    """Write the data; train and score where that is asked for."""
    folder = Path(sys.argv[1])
    write(folder)
    if "--train" in sys.argv[2:]:
        command = ["adapter", "train", "--model", "reader", "--data", str(folder), "--name", "reader-example", *TRAIN]
        places = ["--adapter-path", str(HERE), "--workspace", str(folder / "workspace")]
        subprocess.run([sys.executable, "-m", "mlxrag", *command, *places], check=True)
        for name, adapter in (("reader alone", None), ("with the adapter", HERE)):
            print(name, json.dumps(score(folder, adapter)))  # noqa: T201  # what it is run for


if __name__ == "__main__":
    main()
