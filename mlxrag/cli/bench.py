"""`mlxrag bench`: speed and memory of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli import show
from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Caching, ModelSettings

if TYPE_CHECKING:
    from mlxrag.bench import Compared, Measured


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--bits", multiple=True, type=click.IntRange(2, 8), help="Also quantized to this many bits (may be repeated)."
)
@click.option(
    "--prompt-tokens",
    "lengths",
    multiple=True,
    type=click.IntRange(min=2),
    help="Length of a prompt (may be repeated; 128 and 512 unless given).",
)
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Tokens to generate.")
@click.option("--runs", type=click.IntRange(min=1), default=10, show_default=True, help="Measured runs.")
@click.option(
    "--warm", type=click.IntRange(min=0), default=2, show_default=True, help="Runs before, which are not counted."
)
@click.option("--compare", "old", type=click.Path(path_type=Path, dir_okay=False), help="Measurement to compare with.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the measurement here, for a later --compare."
)
@knobs(ModelSettings, only=("load_dtype", "q_group_size", "q_mode"))
@knobs(Caching, only=("prefill_step_size", "kv_bits"))
@shared
def bench(
    models: tuple[str, ...], bits: tuple[int, ...], lengths: tuple[int, ...], new_tokens: int, runs: int, warm: int,
    old: Path | None, out: Path | None, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Measure time to the first token, prefill, decoding, loading and memory of models.

    MODEL is a name in the workspace, a directory, a hub id, or `reader` (the default).  Figures are medians with an
    interval.  With --compare each figure is called faster, slower or no different from the runs of an earlier measurement.
    """
    from dataclasses import asdict

    from mlxrag import settings as s
    from mlxrag.bench import bench as run
    from mlxrag.bench import busy, compare, read_report, report
    from mlxrag.model.speed import remember_bench
    from mlxrag.workspace import open_workspace, write_json

    settings, ws = s.read(config, flags), open_workspace(workspace)
    before = read_report(old) if old is not None else None
    chosen, widths, sizes = models or ("reader",), (None, *bits), lengths or (128, 512)
    steps = run(chosen, ws, bits=widths, prompt_lengths=sizes, new_tokens=new_tokens, runs=runs, warm=warm,
                settings=settings.model, caching=settings.caching)  # fmt: skip
    cells = list(show.progress(steps, "Measuring", total=len(chosen) * len(widths) * len(sizes), unit="cells"))
    asked = {"new_tokens": new_tokens, "runs": runs, "warm": warm, "model": settings.model.model_dump(),
             "caching": settings.caching.model_dump()}  # fmt: skip
    for one in cells:
        if one.case.bits is None:
            remember_bench(one.case.model, one.prefill.median, one.decode.median)
    value = report(cells, asked)
    verdicts = compare(before, value) if before is not None else []
    if busy(value) or (before is not None and busy(before)):
        show.say("the machine was busy with other work; differences may be its, not the program's")
    if out is not None:
        write_json(out, value)
    if verdicts:
        value["compared"] = [asdict(one) for one in verdicts]
    show.result(value, as_json, lambda: draw(cells, verdicts))


def draw(cells: list[Measured], verdicts: list[Compared]) -> None:
    """Draw the figures and the verdicts."""
    rows = [
        (one.case.model, f"{one.case.bits} bit" if one.case.bits else "as it is", one.case.prompt_tokens,
         around(one.first_token, 1000, 1), around(one.prefill), around(one.decode, 1, 1), around(one.load, 1, 3),
         show.size(one.peak_bytes.median), show.size(one.resident_bytes.median))
        for one in cells
    ]  # fmt: skip
    columns = (
        "model",
        "bits",
        "prompt",
        "first token ms",
        "prefill tok/s",
        "decode tok/s",
        "load s",
        "peak",
        "process",
    )
    show.table(columns, rows, right=columns[2:])
    if verdicts:
        lines = [
            (one.key, one.figure, one.then, one.now, f"{one.ratio:.3f}", f"{one.p:.3f}", one.verdict)
            for one in verdicts
        ]
        heads = ("cell", "figure", "then", "now", "now / then", "p", "verdict")
        show.table(heads, lines, title="Compared run by run", right=heads[2:6])


def around(figure: Any, unit: float = 1.0, digits: int = 0) -> str:
    """Return a median with its interval."""
    low, high = figure.interval
    return f"{figure.median * unit:,.{digits}f} ({low * unit:,.{digits}f} to {high * unit:,.{digits}f})"
