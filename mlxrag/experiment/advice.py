"""What an advice is: a recommendation, the figures it rests on, what it could bring, and what would tell.

Rule: what a change could bring is bounded by the questions that fail that way; half of it is expected, and as much is
the deviation, so that a change that makes things worse is not excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxrag.experiment.evidence import Asked, Case
from mlxrag.experiment.statistics import Interval, differences, mean_interval

FEWEST = 20  # questions below which a rule about answers is silent
MATTERS = 0.02  # share of the questions below which a way of failing is not worth a change


@dataclass(frozen=True, slots=True)
class Gain:
    """What following an advice is expected to bring.

    Attributes:
        expected: of the measure that decides, or None where it is not a matter of quality.
        low, high: bounds of it; None where there are none.
        words: the same in words, and what is saved.
    """

    expected: float | None
    low: float | None
    high: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """What would tell whether an advice is right.

    Attributes:
        systems: (run, system) of what is held against what; of one alone, the change is the other.
        prior: expected difference, before it.
        deviation: of that difference, before it.
        spread: standard deviation of a question's difference, documents allowed for.
        change: `table.key` -> value, on top of the first system.
        adapter: whether an adapter must be trained first.
        goal: of the comparison: difference or noninferiority.
        questions: how many to ask; 0 is as many as the system was asked.
    """

    systems: tuple[tuple[str, str], ...]
    prior: float
    deviation: float
    spread: float
    change: Mapping[str, Any]
    adapter: bool = False
    goal: str = "difference"
    questions: int = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation.

    Attributes:
        rule: name of the rule that gave it.
        about: ref of the run or adapter.
        system: name of the system it is about, or an empty string.
        text: what to do.
        evidence: the figures it rests on.
        gain: what it is expected to bring.
        experiment: what would tell; None where that is known, or cannot be told by a comparison.
        source: where the rule comes from.
    """

    rule: str
    about: str
    system: str
    text: str
    evidence: str
    gain: Gain
    experiment: Experiment | None = None
    source: str = ""


def at_most(ceiling: float) -> Gain:
    """Return the gain where no more than `ceiling` can be had."""
    words = f"{100 * ceiling / 2:+.1f} points expected, {100 * ceiling:.1f} at the very most"
    return Gain(ceiling / 2, 0.0, ceiling, words)


def would_tell(case: Case, ceiling: float, change: Mapping[str, Any], *, adapter: bool = False) -> Experiment:
    """Return the experiment about a change that can mend at most `ceiling` of the questions.

    A question's difference is -1, 0 or 1; the questions that could be mended change, and a few others.
    """
    spread = max(0.25, ceiling) ** 0.5
    return Experiment(((case.ref, case.name),), ceiling / 2, ceiling / 2, spread, change, adapter)


def share(case: Case, of: Sequence[Asked], among: Sequence[Asked]) -> Interval | None:
    """Return which share of all questions `of` are, with its interval over documents; None with too few `among`."""
    if len(among) < FEWEST:
        return None
    chosen = {a.example_id for a in of}
    values = [float(a.example_id in chosen) for a in case.asked]
    return mean_interval(differences([0.0] * len(values), values, [a.home for a in case.asked]), resamples=999)


def matters(found: Interval | None) -> bool:
    """Whether a way of failing is frequent enough, and surely not nothing."""
    return found is not None and found.estimate >= MATTERS and found.low is not None and found.low > 0


def right(asked: Sequence[Asked]) -> float:
    """Return the share that is right; 0 of none."""
    return sum(a.right for a in asked) / len(asked) if asked else 0.0


def bounds(found: Interval) -> str:
    """Return an interval of a share for people."""
    if found.low is None or found.high is None:
        return "no interval"
    return f"{100 * found.low:.0f} to {100 * found.high:.0f}"


def size(count: float) -> str:
    """Return bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
