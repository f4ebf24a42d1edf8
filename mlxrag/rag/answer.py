"""The one layout of a prompt, and what an answer is: text, citations that were checked, what it cost.

What repeats stands first: instruction, passages, question, so that questions on the same passages
share the keys and values of all but their end.  Knows nothing of models; `system.py` runs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxrag.rag.document import Hit, Passage
from mlxrag.settings import Answering

REFUSAL = "Not in the documents."
# [1]  [1, 3]  [1][3]  [2-4]
CITED = re.compile(r"\[\s*(\d{1,3}(?:\s*[-,;]\s*\d{1,3})*)\s*\]")

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that the answer names.

    Attributes:
        n: its number in the prompt, from 1.
        hit: the passage.
    """

    n: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system said to a question.

    Attributes:
        question: as it was asked.
        text: the answer; empty when it failed.
        hits: the passages that the model was shown, in the order of their numbers.
        citations: those that the text names, each once, in the order of their numbers.
        refused: the text says that the documents do not hold the answer.
        cites_nothing: it is an answer, and names no passage.
        wrong_citations: numbers in the text that no passage has.
        dropped_passages: hits that did not fit into the model's context, from the bottom.
        dropped_turns: turns of the conversation that did not fit, from the oldest.
        searched: what was searched for, where that is not the question itself.
        prompt: the last message as it was sent, for the conversation to go on with.
        usage: tokens, seconds and bytes, by name.
        logprob: mean log-probability of the answer's tokens; None where there is none.
        model: name of the model, with version and adapter where it has them.
        failure: why there is no answer; empty when there is one.
    """

    question: str
    text: str
    hits: tuple[Hit, ...] = ()
    citations: tuple[Citation, ...] = ()
    refused: bool = False
    cites_nothing: bool = False
    wrong_citations: tuple[int, ...] = ()
    dropped_passages: int = 0
    dropped_turns: int = 0
    searched: str = ""
    prompt: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    logprob: float | None = None
    model: str = ""
    failure: str = ""

    @property
    def turn(self) -> Turn:
        """What the next question's `history` needs of this one."""
        return (self.prompt or self.question, self.text)

    def as_json(self) -> dict[str, Any]:
        """Return what `ask --json` prints."""
        return {
            "question": self.question,
            "answer": self.text,
            "citations": [
                {"n": c.n, "source": c.hit.passage.source, "place": c.hit.passage.place} for c in self.citations
            ],
            "hits": [
                {
                    "rank": n,
                    "score": hit.score,
                    "source": hit.passage.source,
                    "place": hit.passage.place,
                    "text": hit.passage.text,
                }
                for n, hit in enumerate(self.hits, 1)
            ],
            "model": self.model,
            "usage": dict(self.usage),
            "refused": self.refused,
            "cites_nothing": self.cites_nothing,
            "wrong_citations": list(self.wrong_citations),
            "dropped_passages": self.dropped_passages,
            **({"searched": self.searched} if self.searched else {}),
            **({"failure": self.failure} if self.failure else {}),
        }


def messages(
    question: str, hits: Sequence[Hit], answering: Answering, history: Sequence[Turn] = ()
) -> list[dict[str, str]]:
    """Return the conversation that the model is given.

    Args:
        question: the last question.
        hits: its passages, numbered from 1 in this order.
        answering: the instruction.
        history: earlier turns, (what the user said, what the model said) each, oldest first.

    Example:
        >>> messages("Who?", [], Answering(system_prompt="Be brief."))
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Question: Who?'}]
    """
    found = [{"role": "system", "content": answering.system_prompt}] if answering.system_prompt else []
    for said, answered in history:
        found += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    return [*found, {"role": "user", "content": ask_text(question, hits)}]


def ask_text(question: str, hits: Sequence[Hit]) -> str:
    """Return the user's message: numbered passages, then the question."""
    if not hits:
        return f"Question: {question}"
    shown = "\n\n".join(passage_text(n, hit.passage) for n, hit in enumerate(hits, 1))
    return f"Passages:\n\n{shown}\n\nQuestion: {question}"


def passage_text(n: int, passage: Passage) -> str:
    """Return one passage as the model sees it, under its number, title and place."""
    place = f" - {passage.place}" if passage.place else ""
    return f"[{n}] {passage.title}{place}\n{passage.text}"


def cited(text: str) -> tuple[int, ...]:
    """Return the numbers that a text cites, each once, in ascending order.

    Example:
        >>> cited("Two days [2], with pay [1, 4-5].")
        (1, 2, 4, 5)
    """
    found: set[int] = set()
    for match in CITED.finditer(text):
        for part in re.split(r"[,;]", match[1]):
            first, _, last = (number.strip() for number in part.partition("-"))
            low, high = int(first), int(last or first)
            found |= set(range(low, high + 1)) if low <= high <= low + 100 else {low, high}
    return tuple(sorted(found))


def is_refusal(text: str) -> bool:
    """Return whether a sentence of the text is the refusal, whatever its case and punctuation."""
    plain = CITED.sub("", text).casefold()
    refusal = REFUSAL.casefold().rstrip(".")
    return any(sentence.strip(" \t*_\"'`.") == refusal for sentence in re.split(r"[.!?\n]+", plain))


def make_answer(question: str, text: str, hits: Sequence[Hit], **facts: Any) -> Answer:
    """Return the answer that a text is: its citations checked against the hits, a refusal recognized.

    Args:
        question: as it was asked.
        text: what the model said.
        hits: what it was shown.
        facts: further fields of `Answer`.
    """
    text = text.strip()
    numbers = cited(text)
    citations = tuple(Citation(n, hits[n - 1]) for n in numbers if 1 <= n <= len(hits))
    refused = is_refusal(text)
    return Answer(
        question,
        text,
        tuple(hits),
        citations,
        refused,
        cites_nothing=not citations and not refused,
        wrong_citations=tuple(n for n in numbers if not 1 <= n <= len(hits)),
        **facts,
    )
