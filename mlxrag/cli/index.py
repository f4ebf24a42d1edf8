"""`mlxrag index`: what is made ready beside an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Answering, Caching, Encoding, ModelSettings, Retrieval, Sampling


@click.group()
def index() -> None:
    """Make popular passages ready before somebody asks."""


@index.command()
@click.option(
    "--size", default="500MB", show_default=True, help="Most that keys and values may take on disk, such as 2GB."
)
@click.option("--sets", "count", default=0, help="Most sets of passages; 0 is as many as fit.  [default: 0]")
@knobs(ModelSettings, leave=("draft_model", "num_draft_tokens"))
@knobs(Retrieval, only=("index", "store"))
@knobs(Encoding, only=("encoder",))
@knobs(Answering)
@knobs(Sampling, only=("max_tokens",))
@knobs(Caching, only=("cache_disk_bits", "max_kv_size", "kv_bits", "kv_group_size", "quantized_kv_start"))
@shared
def warm(size: str, count: int, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Process the passages that questions were answered from most often, and keep the result on disk.

    Which passages that were is taken from the log of `mlxrag ask` and `mlxrag chat`.  Later questions that find the
    same passages, with the same model and settings, read what was kept instead of processing it.
    """
    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.machine import parse_size
    from mlxrag.rag.system import open_system
    from mlxrag.rag.warm import warm as warmed
    from mlxrag.workspace import open_workspace

    limit, settings = parse_size(size), s.read(config, flags)
    sets, total = [], 0
    with open_system(settings, open_workspace(workspace), s.given(config, flags)) as system:
        for one in warmed(system, limit, count):
            took = f"{one.seconds:.2f} s" if one.seconds else "ready before"
            show.say(f"{len(one.passages)} passages, asked {one.asked} times: {one.tokens} tokens, {took}")
            total += one.nbytes
            sets.append(
                {"passages": list(one.passages), "asked": one.asked, "tokens": one.tokens, "bytes": one.nbytes,
                 "seconds": round(one.seconds, 4)}
            )  # fmt: skip
        folder = str(system.store.folder)
    value = {"warmed": sets, "bytes": total, "limit": limit, "path": folder}
    show.result(
        value, as_json, lambda: click.echo(f"{len(sets)} sets of passages are ready, {show.size(total)} in {folder}")
    )
