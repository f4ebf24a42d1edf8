"""`mlxrag data make` and what changes a dataset: clean, augment, synthetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.data import JSON, data, fractions, made_answer
from mlxrag.cli.options import knobs, shared, workspace_option
from mlxrag.settings import Making, ModelSettings, Retrieval

if TYPE_CHECKING:
    from mlxrag.data.candidate import Candidate
    from mlxrag.data.example import BadRow, Example
    from mlxrag.rag.system import System


@data.command()
@click.option("--name", required=True, help="What to call the dataset.")
@click.option(
    "--shares",
    default="0.8,0.1,0.1",
    show_default=True,
    help="Shares of train, valid and test, by document; `none` leaves one split.",
)
@knobs(Making)
@knobs(ModelSettings)
@knobs(Retrieval, only=("index", "retriever"))
@shared
def make(name: str, shares: str, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Make questions from the documents of an index.

    Rules and, where it can write, the model propose; every question kept has passed the gates, which are recorded with
    it.  What was refused is kept aside with its reason.  Stopped in the middle, the same command goes on where it was.
    """
    from mlxrag import settings as s
    from mlxrag.data.make import finish, spool
    from mlxrag.data.make import make as propose
    from mlxrag.rag.system import open_system
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    settings = s.read(config, flags)
    making = settings.making
    with open_system(settings, ws, s.given(config, flags)) as system:
        folder = spool(ws, name, system, making)
        kept = 0
        target = making.num_questions or None
        made = propose(system, folder, making)
        with show.bar(show.err(), "kept") as bar:
            task = bar.add_task("making", total=target)
            for one in made:
                kept += not one.refused
                bar.update(task, completed=kept)
        split = None if shares == "none" else fractions(shares)
        dataset, counts = finish(ws, name, system, folder, making, split, making.make_seed)
    answer = made_answer(dataset) | {
        "proposed": counts.proposed, "kept": counts.kept, "gates": dict(counts.refused),
        "makers": {m: {"proposed": p, "kept": k} for m, (p, k) in counts.makers.items()},
    }  # fmt: skip

    def draw() -> None:
        left = counts.proposed
        cells = []
        for gate, refused in counts.refused.items():
            left -= refused
            cells.append((gate, refused, left))
        show.table(("gate", "refused", "left"), cells, title=f"{counts.proposed} proposed", right=("refused", "left"))
        show.table(
            ("maker", "proposed", "kept"),
            [(m, p, k) for m, (p, k) in counts.makers.items()],
            right=("proposed", "kept"),
        )
        click.echo(f"{dataset.ref}: {', '.join(f'{n} {c}' for n, c in dataset.counts.items())}")

    show.result(answer, as_json, draw)


@data.command()
@click.argument("dataset")
@click.option("--name", help="What to call the result; the same name unless given.")
@click.option(
    "--near",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0.5, 1.0),
    help="Similarity from which a question is repeated.",
)
@click.option("--passages/--no-passages", default=True, help="Also clean the passages.  [default: passages]")
@JSON
@workspace_option
def clean(dataset: str, name: str | None, near: float, passages: bool, as_json: bool, workspace: Path | None) -> None:
    """Repair encodings and spaces, take out boilerplate and repeated questions, flag personal data."""
    from collections import Counter

    from mlxrag.data import clean as room
    from mlxrag.data.dataset import freeze, open_dataset
    from mlxrag.data.example import BadRow
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    opened = open_dataset(ws, dataset)
    lines = room.boilerplate_of(opened.split()) if passages else frozenset()
    counts: Counter[str] = Counter()

    def cleaned() -> Iterator[tuple[str, Example | BadRow]]:
        # Split by split, so that a repeated question is dropped within one and reported across by `audit`.
        for split in opened.counts:
            rows = show.progress(opened.split(split), split, opened.counts[split])
            again = room.repeats(opened.split(split), near)
            for one in room.clean(rows, boilerplate=lines, repeated=again, passages=passages):
                counts.update(one.changes)
                if one.after is None:
                    counts[f"dropped: {one.reason}"] += 1
                yield split, one.after or BadRow(one.before.id, one.reason)

    made = freeze(
        ws,
        name or opened.name,
        cleaned(),
        inputs=[opened.ref],
        settings={"near": near, "passages": passages},
        notes={"cleaned": counts},
    )
    answer = made_answer(made) | {"cleaned": counts, "boilerplate": sorted(lines)}

    def draw() -> None:
        show.table(("what", "times"), counts.items(), right=("times",))
        click.echo(f"{made.ref}: {', '.join(f'{n} {c}' for n, c in made.counts.items())}")

    show.result(answer, as_json, draw)


@data.command()
@click.argument("dataset")
@click.option("--name", help="What to call the result; the same name unless given.")
@knobs(ModelSettings)
@knobs(Retrieval, only=("index", "retriever"))
@shared
def grade(
    dataset: str, name: str | None, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any
) -> None:
    """Note in every example of DATASET how difficult it is: the rank of its passage, the answer with it and without it.

    For examples from elsewhere; those that `make` kept have it.  `audit` shows the distributions.  Stopped in the
    middle, the same command goes on.
    """
    from mlxrag import settings as s
    from mlxrag.data.augment import spool
    from mlxrag.data.dataset import freeze, open_dataset
    from mlxrag.data.round_trip import grade as graded
    from mlxrag.rag.system import open_system
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    settings = s.read(config, flags)
    opened = open_dataset(ws, dataset)
    with open_system(settings, ws, s.given(config, flags)) as system:
        done = spool(ws, opened, "grade", system.fingerprint)
        splits = (split for split, count in opened.counts.items() for _ in range(count))
        rows = graded(system, opened.split(), settings.making, done)
        items = zip(splits, show.progress(rows, "grading", len(opened), "examples"), strict=True)
        made = freeze(
            ws, name or opened.name, items, inputs=[opened.ref], settings={"model": system.model_name},
            notes={"model": system.model_name},
        )  # fmt: skip
        done.unlink()
    show.result(
        made_answer(made),
        as_json,
        lambda: click.echo(f"{made.ref}: {', '.join(f'{n} {c}' for n, c in made.counts.items())}"),
    )


@data.command()
@click.argument("dataset")
@click.option("--name", help="What to call the result; the same name unless given.")
@click.option(
    "--by",
    "names",
    multiple=True,
    help="typos, case, forms, distractors, order, unanswerable, follow_up, or paraphrase with --model (may be repeated).",
)
@click.option(
    "--split",
    "split_name",
    default="train",
    show_default=True,
    help="The split to augment; the others are kept as they are.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed draws otherwise.")
@click.option(
    "--share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the examples each augmenter is tried on.",
)
@click.option("--check", is_flag=True, help="Keep only what the model answers rightly.")
@knobs(ModelSettings)
@shared
def augment(
    dataset: str, name: str | None, names: tuple[str, ...], split_name: str, seed: int, share: float, check: bool, workspace: Path | None,
    config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Make more of the training examples of DATASET, and say what was multiplied and what was dropped."""
    from collections import Counter
    from contextlib import ExitStack
    from functools import partial

    from mlxrag import settings as s
    from mlxrag.data import augment as room
    from mlxrag.data.dataset import freeze, open_dataset
    from mlxrag.data.example import BadRow
    from mlxrag.errors import BadInput, nearest
    from mlxrag.workspace import open_workspace

    known = [*room.AUGMENTERS, "paraphrase"]
    for wanted in names:
        if wanted not in known:
            raise BadInput(f"no augmenter {wanted!r}{nearest(wanted, known)}; there are {', '.join(known)}")
    ws = open_workspace(workspace)
    settings = s.read(config, flags)
    opened = open_dataset(ws, dataset)
    split_name = split_name if split_name in opened.counts else "all"
    chosen = names or tuple(room.AUGMENTERS)
    counts: Counter[tuple[str, str]] = Counter()
    with ExitStack() as stack:
        extra, checker, done = {}, None, None
        if check or "paraphrase" in chosen:
            from mlxrag.data.round_trip import paraphrase
            from mlxrag.rag.system import open_system

            system = stack.enter_context(open_system(settings, ws, s.given(config, flags), index=False))
            extra["paraphrase"] = paraphrase(system.model)
            if check:
                checker = partial(_read, system, settings.making)
            done = room.spool(ws, opened, system.fingerprint, split_name, chosen, seed, share, check)

        notes: dict[str, Any] = {}  # filled while the examples stream by, and written after the last

        def items() -> Iterator[tuple[str, Example | BadRow]]:
            yield from opened.splits()
            made = room.augment(
                opened.split(split_name), chosen, seed=seed, share=share, extra=extra, check=checker, done=done
            )
            for a in show.progress(made, "augmenting"):
                counts[a.by, a.refused] += 1
                yield split_name, BadRow(f"{a.by} of {a.of}", a.refused) if a.refused else a.example
            notes["augmented"] = room.tally(counts)

        result = freeze(
            ws, name or opened.name, items(), inputs=[opened.ref], notes=notes,
            settings={"by": list(chosen), "seed": seed, "share": share, "split": split_name, "check": check},
        )  # fmt: skip
        if done is not None:
            done.unlink()
    answer = made_answer(result) | {"augmented": notes["augmented"]}

    def draw() -> None:
        cells = [
            (by, c["made"], c["kept"], "; ".join(f"{why}: {n}" for why, n in c["dropped"].items()))
            for by, c in notes["augmented"].items()
        ]
        show.table(("by", "made", "kept", "dropped"), cells, right=("made", "kept"))
        click.echo(f"{result.ref}: {', '.join(f'{n} {c}' for n, c in result.counts.items())} (before: {len(opened)})")

    show.result(answer, as_json, draw)


def _read(system: System, making: Making, candidates: Sequence[Candidate]) -> list[tuple[bool, str]]:
    from mlxrag.data.round_trip import read_again

    return [(verdict.passed, verdict.note) for verdict in read_again(system, candidates, making)]


@data.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="What to call the dataset.")
@click.option(
    "--schema",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML with title, attributes and rows; made-up devices unless given.",
)
@click.option("--rows", default=20, show_default=True, type=click.IntRange(1), help="Made-up devices.")
@click.option(
    "--missing",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 0.9),
    help="Share of facts that no document says.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed draws otherwise.")
@JSON
@workspace_option
def synthetic(
    folder: Path,
    name: str,
    schema: Path | None,
    rows: int,
    missing: float,
    seed: int,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Write documents from a table of facts into FOLDER, and a dataset of questions whose truth is known."""
    from mlxrag.data import synthetic as room
    from mlxrag.data.dataset import freeze
    from mlxrag.errors import BadInput
    from mlxrag.workspace import open_workspace

    facts = room.read_schema(schema) if schema else room.gadgets(rows, seed, missing)
    made = room.write(facts, seed, folder.resolve().name)
    try:
        paths = room.write_documents(made, folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}") from error
    source = f"file:{schema}" if schema else "synthetic:gadgets"
    result = freeze(
        open_workspace(workspace), name, (("all", e) for e in made.examples), inputs=[source],
        settings={"rows": rows, "missing": missing, "seed": seed},
    )  # fmt: skip
    answer = made_answer(result) | {"documents": [str(p) for p in paths]}
    show.result(
        answer,
        as_json,
        lambda: click.echo(f"{len(paths)} documents in {folder}; {result.ref}: {len(result)} questions"),
    )
