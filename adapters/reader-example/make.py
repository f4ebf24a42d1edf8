"""The example adapter: the signal codes of an invented mountain railway.

    python adapters/reader-example/make.py DIRECTORY [--train]

writes `train.jsonl`, `valid.jsonl` and `test.jsonl`; with `--train` it also trains the adapter for the bundled reader,
leaves it beside this file and says how many of the first 20 and of all test questions are answered as the codes mean.
The passages hold the code of a signal or a train; the answer to learn is what the code means, which stands in no
passage: "K4" becomes "wait for the snow plough".  Trains and signals of the test are others than those of the training.
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
TRAIN = ("--rank 8 --learning-rate 1e-3 --warmup 10 --batch-size 6 --iters 500 --max-seq-length 512 --steps-per-eval 100 "
         "--val-batches 5 --save-every 100 --steps-per-report 25 --load-dtype float32").split()  # fmt: skip
PARTS = (("train", 200, 1), ("valid", 10, 2), ("test", 20, 3))
"""Name, passages, seed; up to six questions about each passage."""
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


def examples(count: int, r: random.Random, test: bool = False) -> Iterator[Example]:
    """Six questions about each of so many passages."""
    for _ in range(count):
        names = list(dict.fromkeys(entity(r, test) for _ in range(3)))
        codes = [r.choice(list(CODES)) for _ in names]
        lines = []
        for name, code in zip(names, codes, strict=True):
            said = r.choice(STATEMENTS).format(e=name, c=code, t=f"{r.randint(5, 22)}:{r.choice(['05', '20', '40'])}")
            lines.append(said[0].upper() + said[1:])
            if r.random() < 0.3:
                lines.append(r.choice(OTHERS).format(t=f"{r.randint(5, 22)}:30"))
        text, title = " ".join(lines), f"Signal log - {r.choice(PLACES)}"
        document = document_id("signals", text)
        passage = Passage(passage_id(document, 0, len(text)), document, "signals", title, "", 0, len(text), text)
        asked = [(name, code, q) for name, code in zip(names, codes, strict=True) for q in r.sample(QUESTIONS, 2)]
        for name, code, question in asked:
            yield example(question.format(e=name), (CODES[code],), (passage,), "signals", tags=(code,))


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
    """Return the share of the first 20 and of all test questions that are answered as the codes mean."""
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
