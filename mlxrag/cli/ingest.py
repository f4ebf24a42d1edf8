"""`mlxrag ingest`: files into an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Chunking, Encoding, Memory, Reading, Retrieval


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--rebuild", is_flag=True, help="Throw the index away first and make it anew.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any file was refused.")
@knobs(Retrieval, only=("index", "store"))
@knobs(Reading, Chunking, Encoding)
@knobs(Memory, only=("vector_cache",))
@shared
def ingest(
    paths: tuple[Path, ...],
    rebuild: bool,
    strict: bool,
    workspace: Path | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Read files and folders into an index, so that they can be searched and asked.

    Run it again after a change: files that are as they were are skipped, changed ones are read
    again, and those that are gone are removed.  It may be interrupted at any time.
    """
    import time
    from contextlib import closing

    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.errors import BadInput
    from mlxrag.model.encode import load_encoder
    from mlxrag.rag.index import open_index
    from mlxrag.rag.ingest import ingest as run
    from mlxrag.rag.read import find_files
    from mlxrag.rag.vector_cache import open_vectors
    from mlxrag.track import counted as followed
    from mlxrag.track import live
    from mlxrag.workspace import open_workspace

    settings = s.read(config, flags)
    ws = open_workspace(workspace)
    started = time.monotonic()
    # Looked for first: a mistyped path must not cost the index that --rebuild throws away.
    total = sum(1 for _ in find_files(paths, settings.reading))
    encoder = load_encoder(settings.encoding.encoder, ws, settings.encoding)
    name = settings.retrieval.index
    counted = {"indexed": 0, "unchanged": 0, "removed": 0}
    left: dict[str, list[dict[str, str]]] = {"empty": [], "refused": []}
    about = {"chunking": settings.chunking.model_dump(), "encoding": settings.encoding.model_dump()}
    with (
        live(ws, settings.tracking, "ingest", name, settings=about, inputs=[str(p) for p in paths]) as job,
        open_index(
            ws, name, encoder, encoding=settings.encoding, retrieval=settings.retrieval, create=True, rebuild=rebuild
        ) as index,
        closing(open_vectors(ws.root / "cache", settings.memory.vector_cache)) as cache,
    ):
        outcomes = followed(job, run(index, encoder, paths, settings, cache), "files")
        for outcome in show.progress(outcomes, f"Ingesting into {name}", total, "files"):
            if outcome.outcome in counted:
                counted[outcome.outcome] += 1
            else:
                left[outcome.outcome].append({"source": outcome.source, "reason": outcome.reason})
        if not any(counted.values()) and not any(left.values()):
            raise BadInput(f"{', '.join(map(str, paths))}: there is no file to read")
        now = index.counts()
        value = {
            "kind": "indexes", "name": name, "path": str(index.path), **counted, **left, **now,
            "encoder": encoder.name, "vectors": {"looked_up": cache.asked, "known": cache.found}, "seconds": round(time.monotonic() - started, 3),
        }  # fmt: skip
        job.log(
            None,
            seconds=time.monotonic() - started,
            **now,
            **counted,
            **{kind: len(rows) for kind, rows in left.items()},
        )

    def draw() -> None:
        if left["refused"] or left["empty"]:
            rows = [(kind, row["source"], row["reason"]) for kind in ("refused", "empty") for row in left[kind]]
            show.table(("outcome", "file", "reason"), rows)
        click.echo(
            f"{counted['indexed']} indexed, {counted['unchanged']} unchanged, {counted['removed']} removed, "
            f"{len(left['empty'])} empty, {len(left['refused'])} refused in {value['seconds']:.1f} s; "
            f"index {name!r} holds {now['passages']} passages of {now['documents']} documents."
        )
        if cache.asked:
            click.echo(f"{cache.found} of {cache.asked} texts were encoded before ({cache.found / cache.asked:.0%}).")

    show.result(value, as_json, draw)
    if not now["documents"]:
        raise BadInput("nothing was indexed: none of the files has text that can be read")
    if strict and left["refused"]:
        raise BadInput(f"{len(left['refused'])} of the files were refused")
