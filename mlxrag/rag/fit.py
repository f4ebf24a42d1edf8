"""A prompt that fits into the model's context: the oldest turns go first, then whole passages from the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxrag.errors import BadInput
from mlxrag.model.load import Model
from mlxrag.rag.answer import Turn, ask_text, messages
from mlxrag.rag.document import Hit
from mlxrag.rag.rungs import context_of

if TYPE_CHECKING:
    from mlxrag.rag.system import System


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits: its ids, the hits and turns it kept, and how many it did not."""

    ids: tuple[int, ...]
    text: str
    hits: tuple[Hit, ...]
    segments: tuple[int, ...]
    dropped_passages: int
    dropped_turns: int


def fit(system: System, question: str, hits: Sequence[Hit], history: Sequence[Turn] = ()) -> Fitted:
    """Lay out the prompt and make it fit: the oldest turns go first, then whole passages from the bottom.

    Room for the answer is kept: what `max_tokens` asks for, at most a quarter of the context.

    Raises:
        BadInput: the question alone does not fit.
    """
    model, answering = system.model, system.settings.answering
    context = context_of(system)
    room = context - min(system.settings.sampling.max_tokens, max(1, context // 4))

    def ids(turns: int, passages: int) -> list[int]:
        return model.tokenizer.prompt(messages(question, hits[:passages], answering, history[turns:]))

    turns, passages = 0, len(hits)
    laid = ids(turns, passages)
    while len(laid) > room and turns < len(history):
        turns += 1
        laid = ids(turns, passages)
    if len(laid) > room:
        low, high = 0, passages - 1  # the most passages that fit; fewer always do
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(ids(turns, middle)) <= room else (low, middle - 1)
        passages = low
        laid = ids(turns, passages)
    if (len(laid) > room or (hits and not passages)) and context < model.context:
        # That memory is short is no reason to refuse: the question is answered from its best passage.
        room = model.context - min(system.settings.sampling.max_tokens, max(1, model.context // 4))
        passages = min(1, len(hits))
        laid = ids(turns, passages)
    if len(laid) > room or (hits and not passages):
        what = "with its best passage" if hits and len(laid) <= room else "alone"
        raise BadInput(
            f"the question {what} takes {len(ids(turns, min(1, len(hits))))} tokens and the model {model.name} "
            f"has room for {room}; shorten it, or take a model with a longer context"
        )
    kept = tuple(hits[:passages])
    return Fitted(
        tuple(laid),
        ask_text(question, kept),
        kept,
        _segments(model, laid, messages(question, kept, answering, history[turns:])),
        len(hits) - passages,
        turns,
    )


def _segments(model: Model, laid: Sequence[int], chat: Sequence[dict[str, str]]) -> tuple[int, ...]:
    """Return where in the prompt the instruction and the passages end, in tokens.

    Found by laying out the same conversation with another last question: what is alike is what repeats.
    """
    text = chat[-1]["content"]
    at = text.rfind("Question: ")
    other = [*chat[:-1], {**chat[-1], "content": text[: at + len("Question: ")] + "\x00"}]
    twin = model.tokenizer.prompt(other)
    same = next((i for i, (a, b) in enumerate(zip(laid, twin, strict=False)) if a != b), min(len(laid), len(twin)))
    return (same,) if 0 < same < len(laid) else ()
