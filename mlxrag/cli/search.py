"""`mlxrag search`: passages for a question."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Encoding, Retrieval

SNIPPET = 320
"""Characters of a passage that are shown, chosen around the words that match."""


@click.command()
@click.argument("question")
@knobs(Retrieval)
@knobs(Encoding, leave=("encode_tokens", "passage_prefix"))
@shared
def search(question: str, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Find the passages that answer a question best."""
    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.errors import BadInput
    from mlxrag.rag.index import open_index
    from mlxrag.rag.retrieve import marks, retrieve
    from mlxrag.workspace import open_workspace

    if not question.strip():
        raise BadInput("the question is empty")
    settings = s.read(config, flags)
    ws = open_workspace(workspace)
    with open_index(ws, settings.retrieval.index, retrieval=settings.retrieval) as index:
        encoder = reranker = None
        if settings.retrieval.retriever != "lexical":
            from mlxrag.model.encode import load_encoder

            # A question is encoded by what the index was made with, but for what was asked to be otherwise.
            told = {key: value for key, value in settings.encoding if key in s.given(config, flags)}
            encoding = index.encoding.model_copy(update=told)
            encoder = load_encoder(encoding.encoder, ws, encoding)
        if settings.retrieval.reranker:
            from mlxrag.model.rerank import load_reranker

            reranker = load_reranker(settings.retrieval.reranker, ws)
        hits = retrieve(index, encoder, question, settings.retrieval, reranker)
        spans = [marks(index, question, hit.passage.text) for hit in hits]
    value = {
        "question": question,
        "hits": [
            {
                "rank": hit.rank, "score": round(hit.score, 6), "by": hit.by, "source": hit.passage.source,
                "title": hit.passage.title, "place": hit.passage.place, "id": hit.passage.id, "text": hit.passage.text,
            }
            for hit in hits
        ],
    }  # fmt: skip

    def draw() -> None:
        from rich.text import Text

        console = show.out()
        if not hits:
            click.echo("Nothing was found.")
        for hit, found in zip(hits, spans, strict=True):
            head = Text(f"{hit.rank}. ", style="bold").append(hit.passage.source, style="bold cyan")
            if hit.passage.place:
                head.append(f"  {hit.passage.place}")
            head.append(f"  {hit.score:.3f}", style="dim")
            shown = snippet(hit.passage.text, found, console.is_terminal).wrap(console, console.width - 3)
            console.print(head, *(Text("   ").append_text(line) for line in shown), "", sep="\n")

    show.result(value, as_json, draw)


def snippet(text: str, spans: list[tuple[int, int]], styled: bool, width: int = SNIPPET) -> Any:
    """Return the stretch of a passage that has most matching words, as rich text with those words marked.

    Args:
        text: the passage.
        spans: matching words, in order.
        styled: mark by style, for a terminal; else by stars.
        width: characters to show.
    """
    from rich.text import Text

    start = 0
    if len(text) > width and spans:
        best = max(range(len(spans)), key=lambda i: sum(spans[i][0] <= s < spans[i][0] + width - 40 for s, _ in spans))
        start = max(0, min(spans[best][0] - 40, len(text) - width))
        start = text.rfind(" ", 0, start) + 1 if start else 0
    end = min(len(text), start + width)
    shown = Text("… " if start else "")
    at = start
    for low, high in spans:
        if at <= low and high <= end:
            shown.append(_squeezed(text[at:low]))
            # A pipe or a file has no colours, so there the words stand between stars.
            shown.append(text[low:high], style="bold reverse") if styled else shown.append(f"*{text[low:high]}*")
            at = high
    shown.append(_squeezed(text[at:end]))
    return shown.append(" …" if end < len(text) else "")


def _squeezed(text: str) -> str:
    """Return a text on one line, with one blank where several stood."""
    return re.sub(r"\s+", " ", text)
