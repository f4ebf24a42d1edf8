"""Votes of people -> scores, agreement and preference strengths: the same records as any other scores."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mlxrag.evaluate.figures import home
from mlxrag.evaluate.score import Score
from mlxrag.evaluate.votes import Item, Vote
from mlxrag.experiment.strength import Strength, strengths
from mlxrag.experiment.strength import Vote as Judgement


@dataclass(frozen=True, slots=True)
class Pair:
    """Two raters on the items that both voted on.

    Attributes:
        raters: their names.
        n: items.
        agreed: share of items with the same vote.
        kappa: Cohen's kappa; None when it is not defined.
    """

    raters: tuple[str, str]
    n: int
    agreed: float
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a round of voting came to.

    Attributes:
        items: how many could be voted on.
        votes: rater -> votes.
        choices: run, `tie` or `bad` -> votes.
        left: share of the votes for a side that went to the left one; 0.5 without position bias.
        alpha: Krippendorff's alpha over all raters, by what was voted on (`choice`, or a scale); None if not defined.
        pairs: every two raters.
        strengths: of the runs, with intervals over documents; empty without a comparison.
        scales: scale -> (votes, mean); empty for a comparison.
        seconds: median time of a vote.
    """

    items: int
    votes: Mapping[str, int]
    choices: Mapping[str, int]
    left: float | None
    alpha: Mapping[str, float | None]
    pairs: tuple[Pair, ...]
    strengths: tuple[Strength, ...]
    scales: Mapping[str, tuple[int, float]]
    seconds: float | None


def scores_of(found: Iterable[Vote], runs: Sequence[str]) -> Iterator[Score]:
    """Yield votes as scores of the first run.

    A choice is `preferred`: 1.0 if the first run was better, 0.5 for a tie, 0.0 if the second was; None for both bad.
    A scale is `human_<scale>`: 0.0 for 1, 1.0 for 5.
    """
    for v in found:
        remark = f"{v.choice or 'scales'}" + (f": {v.note}" if v.note else "")
        if v.choice:
            value = {runs[0]: 1.0, "tie": 0.5, "bad": None}.get(v.choice, 0.0)
            yield Score(
                v.item,
                "preferred",
                value,
                v.rater,
                remark if value is not None else f"both bad{': ' + v.note if v.note else ''}",
            )
        for scale, points in v.scales.items():
            yield Score(v.item, f"human_{scale}", (points - 1) / 4, v.rater, v.note)


def summarize(found: Sequence[Vote], items: Mapping[str, Item], runs: Sequence[str]) -> Summary:
    """Summarize the votes that stand."""
    sided = [v for v in found if v.choice in runs and len(runs) > 1]
    judged = [v for v in found if v.choice and v.choice != "bad"]
    alpha: dict[str, float | None] = {}
    if any(v.choice for v in found):
        alpha["choice"] = krippendorff_alpha(_table(found, lambda v: v.choice or None), "nominal")
    scale_names = sorted({s for v in found for s in v.scales})
    for scale in scale_names:
        alpha[scale] = krippendorff_alpha(_table(found, lambda v, s=scale: v.scales.get(s)), "ordinal")
    strong: tuple[Strength, ...] = ()
    if judged and len(runs) > 1:
        outcome = {runs[0]: 1.0, "tie": 0.5}
        strong = tuple(
            strengths(
                [
                    Judgement(runs[0], runs[1], outcome.get(v.choice, 0.0), home(items[v.item].example))
                    for v in judged
                    if v.item in items
                ],
                runs[0],
            )
        )
    times = sorted(v.milliseconds / 1000 for v in found if v.milliseconds > 0)
    return Summary(
        len(items), dict(Counter(v.rater for v in found)), dict(Counter(v.choice for v in found if v.choice)),
        sum(v.choice == v.left for v in sided) / len(sided) if sided else None, alpha, tuple(_pairs(found)), strong,
        {s: (sum(s in v.scales for v in found), float(np.mean([v.scales[s] for v in found if s in v.scales]))) for s in scale_names},
        times[len(times) // 2] if times else None,
    )  # fmt: skip


def krippendorff_alpha(table: Mapping[str, Mapping[str, Any]], level: str) -> float | None:
    """Return Krippendorff's alpha of rater -> item -> value; None with fewer than two raters on an item, or one value only.

    Source: Krippendorff 2004, by the library `krippendorff`.
    """
    import krippendorff

    ids = sorted({i for votes in table.values() for i in votes})
    values = sorted({v for votes in table.values() for v in votes.values()}, key=str)
    number = {v: float(v) if isinstance(v, (int, float)) else float(i) for i, v in enumerate(values)}
    data = [[number[votes[i]] if i in votes else np.nan for i in ids] for votes in table.values()]
    shared = sum(1 for i in ids if sum(i in votes for votes in table.values()) > 1)
    if len(data) < 2 or not shared or len(values) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement=level))


def cohen_kappa(a: Sequence[Any], b: Sequence[Any]) -> float | None:
    """Return Cohen's kappa of two raters' votes on the same items; None where chance alone would agree always.

    Source: Cohen 1960, A coefficient of agreement for nominal scales.
    """
    if not a:
        return None
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    first, second = Counter(a), Counter(b)
    expected = sum(first[v] * second[v] for v in first) / len(a) ** 2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def to_json(summary: Summary) -> dict[str, Any]:
    """Return a summary as plain JSON values."""
    return asdict(summary)


def _table(found: Iterable[Vote], value: Any) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = defaultdict(dict)
    for v in found:
        if (said := value(v)) is not None:
            table[v.rater][v.item] = said
    return table


def _pairs(found: Sequence[Vote]) -> Iterator[Pair]:
    table = _table(found, lambda v: v.choice or tuple(sorted(v.scales.items())))
    for a, b in combinations(sorted(table), 2):
        shared = sorted(table[a].keys() & table[b].keys())
        if shared:
            x, y = [table[a][i] for i in shared], [table[b][i] for i in shared]
            agreed = sum(p == q for p, q in zip(x, y, strict=True)) / len(shared)
            yield Pair((a, b), len(shared), agreed, cohen_kappa(x, y))
