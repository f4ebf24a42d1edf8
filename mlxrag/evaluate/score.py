"""The atom of evaluation: one measure of one answer to one example.

A formula, a judge model and a person produce the same record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mlxrag.data.example import Example
from mlxrag.rag.document import Hit


@dataclass(frozen=True, slots=True)
class Score:
    """One measure of one answer.

    Attributes:
        example_id: the example that was asked.
        measure: name of the measure.
        value: the figure, or None where it is not defined or could not be had.
        by: who says so: `formula`, a model's name and version, or a person's name.
        reason: why there is no value, or what a judge or person remarked.
    """

    example_id: str
    measure: str
    value: float | None
    by: str = "formula"
    reason: str = ""


class Cited(Protocol):
    """A citation: the number in the answer, and the hit it stands for."""

    @property
    def n(self) -> int:
        """Number in the answer, 1 for the first passage of the prompt."""

    @property
    def hit(self) -> Hit:
        """What it points to."""


class Answered(Protocol):
    """What a measure may look at; `rag.answer.Answer` is one."""

    @property
    def question(self) -> str:
        """What was asked."""

    @property
    def text(self) -> str:
        """The answer as given, citations in it."""

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The passages that were in the prompt, best first."""

    @property
    def citations(self) -> Iterable[Cited]:
        """The citations in the answer that point to a hit."""

    @property
    def refused(self) -> bool:
        """Whether it says that the documents do not hold the answer."""

    @property
    def logprob(self) -> float | None:
        """Sum of the log-probabilities of the answer's tokens, in nats; None if not known."""

    @property
    def usage(self) -> Mapping[str, Any]:
        """Tokens, seconds and bytes it took."""


Measure = Callable[[Answered, Example], Score]


def to_row(score: Score) -> dict[str, Any]:
    """Return a score as plain JSON values."""
    return asdict(score)


def from_row(row: Mapping[str, Any]) -> Score:
    """Return the score that `to_row` wrote."""
    return Score(row["example_id"], row["measure"], row["value"], row.get("by", "formula"), row.get("reason", ""))
