"""`mlxrag ask`: an answer from the documents, with citations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxrag.cli.options import knobs, shared
from mlxrag.settings import Answering, Caching, Encoding, ModelSettings, Retrieval, Sampling

if TYPE_CHECKING:
    from mlxrag.rag.answer import Answer
    from mlxrag.rag.system import System

LEFT_OUT = ("draft_model", "num_draft_tokens")


@click.command()
@click.argument("question")
@knobs(ModelSettings, leave=LEFT_OUT)
@knobs(Retrieval)
@knobs(Encoding, only=("encoder",))
@knobs(Answering, Sampling)
@knobs(Caching, leave=("decode_concurrency",))
@shared
def ask(question: str, workspace: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Answer a question from your documents, with citations.

    The documents are those of the index that `mlxrag ingest` made.  Exit code 0 also when the answer
    is that the documents do not say.
    """
    from mlxrag import settings as s
    from mlxrag.cli import show
    from mlxrag.errors import BadInput
    from mlxrag.rag.answer import Answer
    from mlxrag.rag.system import open_system, stream_answer
    from mlxrag.workspace import open_workspace

    if not question.strip():
        raise BadInput("the question is empty")
    settings = s.read(config, flags)
    answer: Answer | None = None
    with open_system(settings, open_workspace(workspace), s.given(config, flags), degrade=True) as system:
        remark(system, settings.model.model)
        for part in stream_answer(system, question):
            if isinstance(part, Answer):
                answer = part
            elif not as_json:
                click.echo(part, nl=False)
    assert answer is not None
    show.result(answer.as_json(), as_json, lambda: draw(answer))


def remark(system: System, asked: str) -> None:
    """Say which model answers, where the user did not choose one and it is the small one that ships."""
    from mlxrag.cli import show
    from mlxrag.model.load import READER

    if not asked and system.model.name == READER:
        millions = system.model.nbytes / 1e6
        show.say(f"Answering with the bundled reader, a small model ({millions:.0f} MB); --model takes a better one.")


def draw(answer: Answer) -> None:
    """Print what stands below the text of an answer: its sources, and what a reader should know of it."""
    from mlxrag.cli import show

    click.echo("\n")
    cited = {citation.n for citation in answer.citations}
    if answer.cites_nothing:
        click.echo("  Passages it was given:")
    for n, hit in enumerate(answer.hits, 1):
        if n in cited or answer.cites_nothing:
            place = f", {hit.passage.place}" if hit.passage.place else ""
            click.echo(f"  [{n}] {hit.passage.source}{place}")
    for line in (*savings(answer), *warnings(answer)):
        show.say(line)


def savings(answer: Answer) -> list[str]:
    """Return what the keys and values of earlier prompts have saved, once they have saved something."""
    from mlxrag.cli import show

    usage, kept = answer.usage, answer.usage.get("cache", {})
    if not usage.get("reused_tokens"):
        return []
    return [
        f"{usage['reused_tokens']:,} of {usage['prompt_tokens']:,} prompt tokens were not processed again; so far "
        f"{kept['hit_rate']:.0%} of all, {kept['seconds_saved']:.1f} s saved, {show.size(kept['bytes'])} kept."
    ]


def warnings(answer: Answer) -> list[str]:
    """Return what to say of how an answer came about, and of what is not as it should be."""
    found = [f"Searched for: {answer.searched}"] if answer.searched else []
    if answer.cites_nothing:
        found.append("This answer cites no passage; check it against the documents.")
    if answer.wrong_citations:
        numbers = ", ".join(str(n) for n in answer.wrong_citations)
        found.append(f"The answer cites passages that it was not given: {numbers}.")
    if answer.dropped_turns:
        found.append(
            f"The {answer.dropped_turns} oldest turns of the conversation did not fit into the model's context."
        )
    if answer.dropped_passages:
        found.append(
            f"{answer.dropped_passages} of {answer.dropped_passages + len(answer.hits)} passages did not fit into the "
            "model's context and were left out, from the bottom."
        )
    for step in answer.usage.get("memory", {}).get("steps", ()):
        freed = f", {step['freed'] / 1e6:.0f} MB freed; {step['cost']}" if step["direction"] == "down" else ""
        found.append(f"Memory: {'gave up' if freed else 'took back'}: {step['rung']}{freed}.")
    if answer.usage.get("finish_reason") == "length":
        found.append("The answer was cut at --max-tokens.")
    return found
