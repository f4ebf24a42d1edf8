"""`mlxrag data`: make question sets, take them in and out, look them through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import workspace_option

if TYPE_CHECKING:
    from mlxrag.data.dataset import Dataset
    from mlxrag.data.example import Example

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
SHOWN = 20


@click.group()
def data() -> None:
    """Make and keep question sets."""


@data.command("import")
@click.argument("path")
@click.option("--name", required=True, help="What to call the dataset.")
@click.option("--format", "form", help="mlxrag, squad, clapnq, csv, jsonl, ragas, chat or hf; worked out unless given.")
@click.option("--split", "split", help="Put every row in this split.")
@JSON
@workspace_option
def import_(path: str, name: str, form: str | None, split: str | None, as_json: bool, workspace: Path | None) -> None:
    """Take in PATH: a file, a directory with train, valid and test files, or a hub id.

    Rows that cannot be used are listed with line and reason; the rest is kept.
    """
    from mlxrag.data.dataset import freeze
    from mlxrag.data.formats import read_examples
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    items = (
        (split or where, item) for where, item in show.progress(read_examples(path, form), "importing", unit="rows")
    )
    made = freeze(ws, name, items, inputs=[f"file:{path}"], settings={"format": form})
    _made(made, as_json)


@data.command("list")
@JSON
@workspace_option
def list_(as_json: bool, workspace: Path | None) -> None:
    """List the datasets and their versions."""
    from mlxrag.workspace import artefacts, current, open_workspace

    ws = open_workspace(workspace)
    rows: list[dict[str, Any]] = [
        {
            "name": a.name,
            "version": a.version,
            "current": current(ws, "datasets", a.name) == a.version,
            "counts": a.manifest["counts"],
            "documents": a.manifest.get("documents"),
            "made": a.manifest["made"],
        }
        for a in artefacts(ws, "datasets")
    ]

    def draw() -> None:
        cells = [
            (r["name"], r["version"], "*" if r["current"] else "", _counts(r["counts"]), r["documents"], r["made"][:16])
            for r in rows
        ]
        show.table(("name", "version", "current", "examples", "documents", "made"), cells, right=("documents",))

    show.result(rows, as_json, draw)


@data.command("show")
@click.argument("dataset")
@click.option("--split", default="all", help="train, valid, test or all.  [default: all]")
@click.option("--tag", help="Only examples with this tag.")
@click.option("--num", "-n", default=5, show_default=True, type=click.IntRange(1), help="How many examples.")
@click.option("--seed", type=int, help="Draw them at random, in proportion to the tags.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page to browse the examples in.")
@click.option("--refused", is_flag=True, help="Show what was not kept, and why.")
@JSON
@workspace_option
def show_(
    dataset: str, split: str, tag: str | None, num: int, seed: int | None, html: Path | None, refused: bool, as_json: bool,
    workspace: Path | None,
) -> None:  # fmt: skip
    """Show examples of DATASET, or write a page to browse them in."""
    from itertools import islice

    from mlxrag.data.dataset import open_dataset, sample
    from mlxrag.data.example import to_row
    from mlxrag.workspace import open_workspace

    opened = open_dataset(open_workspace(workspace), dataset)
    if refused:
        bad = [{"place": b.place, "reason": b.reason} for b in opened.refused()]
        show.result(bad, as_json, lambda: show.table(("place", "reason"), [tuple(b.values()) for b in bad]))
        return
    chosen: Iterator[Example] = iter(
        opened.split(split) if seed is None else sample(opened.split(split), num, seed=seed)
    )
    chosen = (e for e in chosen if tag is None or tag in e.tags)
    if html is not None:
        from mlxrag.data.browse import write_page

        written = write_page(chosen, html, title=opened.ref, limit=max(num, 2000))
        show.result(
            {"path": str(html), "examples": written}, as_json, lambda: click.echo(f"{written} examples in {html}")
        )
        return
    rows = list(islice(chosen, num))

    def draw() -> None:
        for example in rows:
            _draw(example)

    show.result([to_row(e) for e in rows], as_json, draw)


@data.command()
@click.argument("dataset")
@click.option("--name", help="What to call the result; the same name unless given.")
@click.option(
    "--shares",
    default="0.8,0.1,0.1",
    show_default=True,
    help="Shares of train, valid and test; two numbers make train and test.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed gives another split.")
@click.option(
    "--near",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0.3, 1.0),
    help="Similarity at which passages are the same.",
)
@click.option("--keep", help="A version whose documents stay in the split they have there.")
@JSON
@workspace_option
def split(
    dataset: str,
    name: str | None,
    shares: str,
    seed: int,
    near: float,
    keep: str | None,
    as_json: bool,
    workspace: Path | None,
) -> None:
    """Split DATASET by document: no document, and no near-duplicate passage, in two splits."""
    from mlxrag.data.dataset import freeze, open_dataset, split_by_document
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    opened = open_dataset(ws, dataset)
    kept = open_dataset(ws, keep) if keep else None
    items = split_by_document(opened, fractions(shares), seed=seed, near=near, keep=kept)
    inputs = [opened.ref, *([kept.ref] if kept else [])]
    made = freeze(
        ws, name or opened.name, show.progress(items, "splitting", len(opened), "examples"), inputs=inputs,
        settings={"shares": shares, "seed": seed, "near": near},
    )  # fmt: skip
    _made(made, as_json)


@data.command()
@click.argument("a")
@click.argument("b")
@JSON
@workspace_option
def diff(a: str, b: str, as_json: bool, workspace: Path | None) -> None:
    """Compare two versions: what came, went and changed, and whether the distributions moved."""
    from dataclasses import asdict

    from mlxrag.data.dataset import open_dataset
    from mlxrag.data.diff import difference
    from mlxrag.workspace import open_workspace

    ws = open_workspace(workspace)
    first, second = open_dataset(ws, a), open_dataset(ws, b)
    found = difference(first, second)

    def draw() -> None:
        parts = ("added", "removed", "changed", "moved")
        click.echo(f"{found.a} -> {found.b}")
        click.echo(", ".join(f"{len(getattr(found, part))} {part}" for part in parts) + f", {found.same} the same")
        examples = {e.id: e for d in (first, second) for e in d.split() if e.id in _few(found)}
        for part in parts:
            for item in getattr(found, part)[:5]:
                key = item[1] if isinstance(item, tuple) else item
                click.echo(
                    f"  {part}: {examples[key].question} -> {' | '.join(examples[key].answers) or '(unanswerable)'}"
                )
        cells = [(s.what, s.before, s.after, s.test, s.p) for s in found.shifts]
        show.table(("field", "before", "after", "test", "p (Holm)"), cells, title="Distributions")

    show.result(asdict(found), as_json, draw)


@data.command()
@click.argument("dataset")
@click.option(
    "--index",
    help="An index: examples whose documents are not as they are there are stale, and its encoder says how far the questions are apart.",
)
@click.option("--adapter", help="An adapter: overlap with what it was trained on is grave.")
@click.option("--strict", is_flag=True, help="Exit with 3 if anything grave is found.")
@JSON
@workspace_option
def audit(
    dataset: str, index: str | None, adapter: str | None, strict: bool, as_json: bool, workspace: Path | None
) -> None:
    """Look DATASET through for leakage, duplicates, faulty labels and contradictions."""
    from dataclasses import asdict
    from functools import partial

    from mlxrag.data.audit import audit as look
    from mlxrag.data.dataset import open_dataset
    from mlxrag.workspace import lineage, open_workspace, resolve

    ws = open_workspace(workspace)
    trained = []
    if adapter:
        seen = lineage(ws, resolve(ws, "adapters", adapter))
        trained = [open_dataset(ws, f"{s.name}@{s.version}") for s in seen if s.kind == "datasets"]
    documents = encoded = None
    if index:
        from mlxrag.model.encode import encode, load_encoder
        from mlxrag.rag.index import open_index

        with open_index(ws, index) as opened:
            documents = {d.source: d.id for d in opened.documents()}
            encoder = load_encoder(opened.encoding.encoder, ws, opened.encoding)
        encoded = partial(encode, encoder)
    found = look(open_dataset(ws, dataset), documents=documents, trained_on=trained, encode=encoded)
    show.result(asdict(found), as_json, lambda: _draw_audit(found))
    if strict and any(f.grave for f in found.findings):
        raise click.exceptions.Exit(3)


@data.command()
@click.argument("dataset")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, help="mlxrag, squad, clapnq, csv, ragas, chat or parquet.")
@click.option(
    "--split", "split_name", help="One split into the file PATH; unless given, every split into the directory PATH."
)
@JSON
@workspace_option
def export(dataset: str, path: Path, form: str, split_name: str | None, as_json: bool, workspace: Path | None) -> None:
    """Write DATASET in another format; `--to chat` is what `mlx_lm.lora --data` reads."""
    from mlxrag.data.dataset import open_dataset
    from mlxrag.data.export import write_examples
    from mlxrag.workspace import open_workspace

    opened = open_dataset(open_workspace(workspace), dataset)
    suffix = {"squad": ".json", "csv": ".csv", "parquet": ".parquet"}.get(form, ".jsonl")
    targets = {split_name: path} if split_name else {s: path / f"{s}{suffix}" for s in opened.counts}
    written = {}
    for name, target in targets.items():
        chosen = opened.split(name)
        written[str(target)] = write_examples(show.progress(chosen, name, len(chosen), "examples"), target, form)
    show.result(written, as_json, lambda: show.table(("file", "examples"), written.items(), right=("examples",)))


def fractions(text: str) -> dict[str, float]:
    """Read `0.8,0.1,0.1` as shares of train, valid and test; two numbers are train and test."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are no numbers such as 0.8,0.1,0.1", param_hint="--shares") from error
    names = {2: ("train", "test"), 3: ("train", "valid", "test")}.get(len(shares))
    if names is None:
        raise click.BadParameter("give two or three shares", param_hint="--shares")
    return dict(zip(names, shares, strict=True))


def made_answer(made: Dataset) -> dict[str, Any]:
    """Return what a command that makes a dataset answers."""
    return {
        "kind": "datasets", "name": made.name, "version": made.version, "path": str(made.artefact.path),
        "counts": dict(made.counts), "refused": sum(1 for _ in made.refused()),
    }  # fmt: skip


def _made(made: Dataset, as_json: bool) -> None:
    bad = list(made.refused())
    for row in bad[:SHOWN]:
        show.say(f"not kept: {row.place}: {row.reason}")
    if len(bad) > SHOWN:
        show.say(
            f"... and {len(bad) - SHOWN} more; see them with: mlxrag data show {made.name}@{made.version} --refused"
        )
    answer = made_answer(made)
    show.result(answer, as_json, lambda: click.echo(f"{made.ref}: {_counts(made.counts)}, {len(bad)} rows not kept"))


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _few(found: Any) -> set[str]:
    picked = [*found.added[:5], *found.removed[:5], *found.moved[:5], *(b for _, b in found.changed[:5])]
    return set(picked)


def _draw(example: Example) -> None:
    from rich.text import Text

    from mlxrag.data.browse import marked

    out = show.out()
    out.print(
        Text(example.question, style="bold"), Text(f"  [{', '.join(example.tags) or example.source}]", style="dim")
    )
    out.print(Text("  answer: "), Text(" | ".join(example.answers) or "(not in the documents)", style="green"), sep="")
    for passage in example.passages:
        out.print(Text(f"  {passage.source}  {passage.place}", style="dim"))
        body = Text("  ")
        for text, mark in marked(passage.text, (*example.evidence, *example.answers)):
            body.append(text.replace("\n", "\n  "), style="reverse" if mark else "")
        out.print(body)
    if example.gates:
        out.print(Text("  " + "; ".join(f"{k}: {v}" for k, v in example.gates.items()), style="dim"))
    out.print()


def _draw_audit(found: Any) -> None:
    click.echo(f"{found.dataset}: {_counts(found.counts)}")
    first = {f.kind: f for f in reversed(found.findings)}
    cells = [(k, "grave" if f.grave else "", found.times[k], f.detail) for k, f in reversed(first.items())]
    if cells:
        show.table(("finding", "", "times", "the first of them"), cells, title="Findings", right=("times",))
    else:
        click.echo("Nothing found")
    quality = [(n, s.n, s.missing, s.mean, *(s.quantiles or (None,) * 5)) for n, s in found.quality.items()]
    heads = ("quality", "n", "missing", "mean", "min", "25%", "50%", "75%", "max")
    show.table(heads, quality, right=heads[1:])
    for title, values in (("tags", found.tags), ("languages", found.languages), ("openings", found.openings)):
        click.echo(f"{title}: " + (", ".join(f"{k} {v}" for k, v in list(values.items())[:12]) or "none"))
    click.echo("diversity: " + ", ".join(f"{k} {v:.3f}" for k, v in found.diversity.items() if v is not None))


from mlxrag.cli import data_make as data_make  # noqa: E402  # adds its commands to the group
