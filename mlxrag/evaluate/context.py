"""Which passages an answer really used, measured and not judged: its log-probability with each passage taken away.

The runtime is ours, so nothing has to be asked: log p(answer | all passages) - log p(answer | all but one) is what
that passage was worth, in nats.  Taking one away says nothing when another passage states the same; so each is also
tried alone, and its share is the mean of what it takes away and what it brings alone: the first and the last term of
its Shapley value.  Citations are taken out of the answer first, since the numbers change with the passages.

Cost for an answer over k passages: 2 k + 2 prompts, most of whose keys and values are reused; k + 2 without `alone`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlxrag.data.example import Example
from mlxrag.evaluate.found import gold_keys
from mlxrag.evaluate.run import Row
from mlxrag.evaluate.score import Score
from mlxrag.evaluate.support import CITATION
from mlxrag.model.load import Model
from mlxrag.model.variants import score_variants
from mlxrag.rag.answer import Answer, messages
from mlxrag.settings import Answering

USED_FROM = 0.5
"""Nats from which a passage counts as used, and below minus which as distracting: a factor of 1.6 in probability."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the passages of an answer were worth.

    Attributes:
        tokens: of the answer.
        full: log p of the answer with all passages, in nats.
        none: log p with no passage at all: what the model would say by itself.
        without: what each passage takes away when it goes, `full - log p without it`.
        alone: what each brings by itself, `log p with it only - none`; empty where that was not asked for.
        share: mean of the two, or `without`; what each passage was worth.
        used: numbers (from 1) of the passages worth at least `USED_FROM` nats, the most valuable first.
        distracting: numbers of those whose going makes the answer likelier by as much.
    """

    tokens: int
    full: float
    none: float
    without: tuple[float, ...]
    alone: tuple[float, ...]
    share: tuple[float, ...]
    used: tuple[int, ...]
    distracting: tuple[int, ...]


def attribute(model: Model, answer: Answer, answering: Answering, *, alone: bool = True) -> Attribution | None:
    """Measure what each passage was worth to an answer; None for an empty one, or one that does not fit the context.

    Args:
        model: that gave the answer.
        answer: with its hits.
        answering: the instruction it was asked with.
        alone: also try each passage by itself.
    """
    text = CITATION.sub("", answer.text).strip()
    ids = model.tokenizer.encode(text, add_special_tokens=False) if text else []
    hits = answer.hits
    if not ids or not hits:
        return None
    kept = [hits, *(hits[:i] + hits[i + 1 :] for i in range(len(hits))), ()]
    if alone:
        kept += [(hit,) for hit in hits]
    prompts = [model.tokenizer.prompt(messages(answer.question, part, answering)) for part in kept]
    if len(prompts[0]) + len(ids) > model.context:
        return None
    sums = [float(s.sum()) for s in score_variants(model, [(prompt, ids) for prompt in prompts])]
    n = len(hits)
    full, none = sums[0], sums[n + 1]
    without = tuple(full - s for s in sums[1 : n + 1])
    lone = tuple(s - none for s in sums[n + 2 :])
    share = tuple((a + b) / 2 for a, b in zip(without, lone, strict=True)) if alone else without
    order = sorted(range(n), key=lambda i: -share[i])
    return Attribution(
        len(ids), full, none, without, lone, share, tuple(i + 1 for i in order if share[i] >= USED_FROM),
        tuple(i + 1 for i in order if without[i] <= -USED_FROM),
    )  # fmt: skip


def scores_of(found: Attribution | None, row: Row, example: Example, by: str) -> Iterator[Score]:
    """Yield the measures of one attribution.

    `used_nats`: log p the passages add together, per answer.  `known_nats`: mean log p of an answer's token without any
    passage (near 0: the model knew it).  `used_gold`: 1.0 if the most valuable passage is a gold one; None if none was
    retrieved.  `used_cited`: share of the used passages that are cited.  `cited_used`: share of the cited that are used.
    `distracted`: share of the passages without which the answer is likelier.
    """
    names = ("used_nats", "known_nats", "used_gold", "used_cited", "cited_used", "distracted")
    if found is None or row.answer.failure or row.answer.refused:
        why = row.answer.failure or ("refused" if row.answer.refused else "nothing to attribute")
        yield from (Score(example.id, name, None, by, why) for name in names)
        return
    cited = {c.n for c in row.answer.citations}
    used = set(found.used)
    gold = {n for n, key in enumerate(gold_keys(row.answer.hits, example), 1) if key is not None}
    best = max(range(len(found.share)), key=found.share.__getitem__) + 1
    yield Score(example.id, "used_nats", found.full - found.none, by)
    yield Score(example.id, "known_nats", found.none / found.tokens, by)
    if gold and example.answerable:
        yield Score(example.id, "used_gold", float(best in gold), by)
    else:
        yield Score(example.id, "used_gold", None, by, "no gold passage was retrieved")
    yield _share(example, "used_cited", used & cited, used, by, "no passage was used")
    yield _share(example, "cited_used", used & cited, cited, by, "nothing is cited")
    yield Score(example.id, "distracted", len(found.distracting) / len(found.share), by)


def to_row(example_id: str, found: Attribution | None) -> Mapping[str, Any]:
    """Return an attribution as plain JSON values, with its example."""
    return {"example_id": example_id, "attribution": None if found is None else asdict(found)}


def _share(example: Example, name: str, part: set[int], whole: set[int], by: str, why: str) -> Score:
    return Score(example.id, name, len(part) / len(whole), by) if whole else Score(example.id, name, None, by, why)
