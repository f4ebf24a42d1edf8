"""A sheet: the passages of one prompt and the conversations about them, as text with spans.

The layout is the one of ``mlxrag.rag.answer.messages``; a test holds the two together.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

REFUSAL = "Not in the documents."


@dataclass(frozen=True)
class Piece:
    """One passage before it has its number."""

    title: str
    place: str
    text: str


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `piece` is None where the passages do not say."""

    question: str
    answer: str = REFUSAL
    piece: int | None = None
    """Index of the passage that says it."""
    start: int = -1
    """Where in that passage's text the answer stands; -1 if it is not copied."""


@dataclass(frozen=True)
class Sheet:
    """Passages and conversations (each one or two turns, each as if alone) about them."""

    pieces: Sequence[Piece]
    talks: Sequence[Sequence[Turn]]


def layout(pieces: Sequence[Piece]) -> tuple[str, list[int], list[int]]:
    """The passages as the prompt shows them.

    Returns:
        the text up to the question, where each passage's number stands, where each passage's text starts.
    """
    text, numbers, starts = "Passages:", [], []
    for i, piece in enumerate(pieces, 1):
        head = f"[{i}] {piece.title}" + (f" - {piece.place}" if piece.place else "")
        numbers.append(len(text) + 3)
        starts.append(len(text) + 2 + len(head) + 1)
        text += f"\n\n{head}\n{piece.text}"
    return text, numbers, starts


def ask(question: str, first: bool = True) -> str:
    """The question as it follows the passages, or as it follows an answer."""
    return f"\n\nQuestion: {question}" if first else f"Question: {question}"


def reply(turn: Turn, order: Sequence[int] | None = None) -> str:
    """The answer as the reader should write it."""
    return REFUSAL if turn.piece is None else f"{turn.answer} [{(order[turn.piece] if order else turn.piece) + 1}]"


def shuffle(sheet: Sheet, r: random.Random) -> Sheet:
    """Put the passages in another order."""
    order = list(range(len(sheet.pieces)))
    r.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    talks = [
        [Turn(t.question, t.answer, None if t.piece is None else place[t.piece], t.start) for t in talk]
        for talk in sheet.talks
    ]
    return Sheet([sheet.pieces[i] for i in order], talks)


def join(a: Sheet, b: Sheet) -> Sheet:
    """The passages and conversations of both, each the other's distractors."""
    by = len(a.pieces)
    moved = [
        [Turn(t.question, t.answer, None if t.piece is None else t.piece + by, t.start) for t in talk]
        for talk in b.talks
    ]
    return Sheet([*a.pieces, *b.pieces], [*a.talks, *moved])


def casual(question: str, r: random.Random) -> str:
    """Write the question as people do: lower case, without its mark, with a courtesy."""
    x = r.random()
    if x < 0.06:
        question = question[:1].lower() + question[1:]
    elif x < 0.09:
        question = question.lower()
    elif x < 0.14:
        question = (
            r.choice(
                ["Can you tell me: ", "Please tell me, ", "I want to know: ", "Hello, ", "Quick question: ", "Hi! "]
            )
            + question[:1].lower()
            + question[1:]
        )
    if r.random() < 0.12:
        question = (
            question.replace("What is ", "What's ")
            .replace("what is ", "what's ")
            .replace("Who is ", "Who's ")
            .replace("Where is ", "Where's ")
        )
    return question.rstrip("?") if r.random() < 0.05 else question
