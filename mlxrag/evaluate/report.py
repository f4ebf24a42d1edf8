"""Rows and scores -> a report: figures, slices, where it fails, what it cost; as JSON, Markdown and one HTML file.

Rules: no mean without n, missing and an interval; slices say how many they hold; the page works offline.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlxrag.data.browse import marked
from mlxrag.data.example import Example
from mlxrag.evaluate.calibration import Calibration, calibration, confidence
from mlxrag.evaluate.figures import SLICES, UNBOUNDED, Figure, figure, home
from mlxrag.evaluate.found import rank_of_gold
from mlxrag.evaluate.run import Row
from mlxrag.evaluate.score import Score
from mlxrag.settings import Evaluating

WORST = 30
SLICED = 40
"""Values of a slice that are shown, the most frequent first; all of them are in the JSON."""


@dataclass(frozen=True, slots=True)
class Report:
    """A system on a dataset.

    Attributes:
        title: what it is of.
        system: name, fingerprint and settings.
        dataset: ref, split and how many examples.
        examples: questions asked.
        failed: questions without an answer, with their reasons.
        right: (measure, value) from which an answer is right.
        figures: every measure over all examples.
        slices: slice -> value -> figures of the headline measures.
        quadrants: found or not x right or wrong, with counts; see `quadrant`.
        calibration: confidence against correctness.
        distributions: measure -> counts in ten bins from 0 to 1.
        cost: totals and quantiles of tokens and seconds.
        worst: wrong answers, the most confident first.
        notes: what a reader should know before trusting a figure.
    """

    title: str
    system: Mapping[str, Any]
    dataset: Mapping[str, Any]
    examples: int
    failed: tuple[Mapping[str, str], ...]
    right: tuple[str, float]
    figures: tuple[Figure, ...]
    slices: Mapping[str, Mapping[str, tuple[Figure, ...]]]
    quadrants: Mapping[str, int]
    calibration: Calibration
    distributions: Mapping[str, tuple[int, ...]]
    cost: Mapping[str, Any]
    worst: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def build(
    rows: Iterable[Row],
    examples: Mapping[str, Example],
    scores: Iterable[Score],
    settings: Evaluating,
    *,
    title: str,
    system: Mapping[str, Any],
    dataset: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Report:
    """Make the report of a run.

    Args:
        rows: every row; an example without one is counted as missing.
        examples: id -> example, all that should have been asked.
        scores: of the rows; several measures each.
        settings: what is right, and how intervals are made.
        title, system, dataset: what stands at the top.
        notes: added to what the report itself remarks.
    """
    by_measure: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_measure[score.measure].append(score)
    for name, found in by_measure.items():
        there = {s.example_id for s in found}
        by_measure[name] += [Score(i, name, None, reason="not asked yet") for i in examples if i not in there]
    homes = {i: home(e) for i, e in examples.items()}
    kept = {row.example_id: row for row in rows if row.example_id in examples}
    right = {
        s.example_id: s.value >= settings.right_from
        for s in by_measure.get(settings.right_by, ())
        if s.value is not None
    }
    figures = tuple(figure(name, found, homes, settings) for name, found in by_measure.items())
    quadrants = Counter(quadrant(examples[i], row, right.get(i)) for i, row in kept.items())
    return Report(
        title, dict(system), dict(dataset), len(examples), _failed(examples, kept), (settings.right_by, settings.right_from),
        figures, _slices(examples, by_measure, homes, settings), dict(quadrants), _calibrated(kept, right),
        {name: _histogram(found) for name, found in by_measure.items() if name not in UNBOUNDED},
        _cost(kept.values()), _worst(examples, kept, right, by_measure), (*notes, *_remarks(figures, examples, kept, settings)),
    )  # fmt: skip


def quadrant(example: Example, row: Row, right: bool | None) -> str:
    """Return which of the ways to succeed or fail an answer went.

    `found, right`; `found, wrong` (a reading failure); `not found, right` (knew or guessed it); `not found, wrong` (a
    retrieval failure); `unanswerable, refused`; `unanswerable, answered`; `no gold passage`; `failed`.
    """
    if row.answer.failure or right is None:
        return "failed"
    if not example.answerable:
        return f"unanswerable, {'refused' if row.answer.refused else 'answered'}"
    if not example.passages:
        return "no gold passage"
    found = rank_of_gold(row.answer.hits, example) is not None
    return f"{'found' if found else 'not found'}, {'right' if right else 'wrong'}"


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    return asdict(report)


def to_markdown(report: Report) -> str:
    """Return the report as Markdown: figures, quadrants, slices, cost, and the first of the wrong answers."""
    lines = [
        f"# {report.title}",
        "",
        f"{report.examples} questions of {report.dataset.get('ref')} ({report.dataset.get('split')}).",
    ]
    lines += [f"> {note}" for note in report.notes]
    lines += ["", "| measure | mean | interval | n | missing | documents | by |", "|---|---:|---|---:|---:|---:|---|"]
    for f in report.figures:
        lines.append(
            f"| {f.measure} | {_num(f.mean)} | {_bounds(f)} | {f.n} | {f.missing} | {f.documents} | {_cell(f.by)} |"
        )
    lines += ["", "## Where it fails", "", "| | answers |", "|---|---:|"]
    lines += [f"| {name} | {count} |" for name, count in sorted(report.quadrants.items())]
    c = report.calibration
    lines += [
        "",
        f"Calibration: ECE {_num(c.ece)}, Brier {_num(c.brier)}, AUROC {_num(c.auroc)}, n {c.n}, missing {c.missing}.",
    ]
    for name, values in report.slices.items():
        heads = [f.measure for f in next(iter(values.values()), ())]
        lines += ["", f"## By {name}", "", f"| {name} | n | {' | '.join(heads)} |", f"|---|---:|{'---|' * len(heads)}"]
        for value, found in list(values.items())[:SLICED]:
            cells = [f"{_num(f.mean)} {_bounds(f)}" + (f", {f.missing} missing" if f.missing else "") for f in found]
            lines.append(f"| {_cell(value)} | {found[0].n + found[0].missing} | {' | '.join(cells)} |")
    lines += ["", "## Cost", "", "| | |", "|---|---:|"]
    lines += [
        f"| {name.replace('_', ' ')} | {_num(value) if isinstance(value, float) else value} |"
        for name, value in report.cost.items()
    ]
    if report.worst:
        lines += [
            "",
            "## Wrong answers, the most confident first",
            "",
            "| question | answer | should be | |",
            "|---|---|---|---|",
        ]
        for w in report.worst:
            gold = " / ".join(w["answers"]) or "(not in the documents)"
            lines.append(f"| {_cell(w['question'])} | {_cell(w['text'])} | {_cell(gold)} | {w['quadrant']} |")
    if report.failed:
        lines += ["", "## No answer", "", "| question | reason |", "|---|---|"]
        lines += [f"| {_cell(f['question'])} | {_cell(f['reason'])} |" for f in report.failed]
    return "\n".join(lines) + "\n"


def _slices(
    examples: Mapping[str, Example], scores: Mapping[str, list[Score]], homes: Mapping[str, str], settings: Evaluating
) -> dict[str, dict[str, tuple[Figure, ...]]]:
    names = [n for n in dict.fromkeys((settings.right_by, *HEADLINE)) if n in scores]
    by_id = {n: {s.example_id: s for s in scores[n]} for n in names}
    # An interval of a slice needs no more samples than the eye can tell.
    light = settings.model_copy(update={"resamples": min(settings.resamples, 999)})
    found: dict[str, dict[str, tuple[Figure, ...]]] = {}
    for slice_name, values_of in SLICES.items():
        members: dict[str, list[str]] = defaultdict(list)
        for i, example in examples.items():
            for value in values_of(example):
                members[value].append(i)
        if len(members) < 2:
            continue
        ordered = sorted(members.items(), key=lambda m: (-len(m[1]), m[0]))
        found[slice_name] = {
            value: tuple(figure(n, [by_id[n][i] for i in ids if i in by_id[n]], homes, light) for n in names)
            for value, ids in ordered
        }
    return found


HEADLINE = ("f1", "hit_at_5", "refusal", "faithful_overlap")


def _failed(examples: Mapping[str, Example], kept: Mapping[str, Row]) -> tuple[dict[str, str], ...]:
    return tuple(
        {"example_id": i, "question": e.question, "reason": kept[i].answer.failure if i in kept else "not asked yet"}
        for i, e in examples.items()
        if i not in kept or kept[i].answer.failure
    )


def _calibrated(kept: Mapping[str, Row], right: Mapping[str, bool]) -> Calibration:
    pairs = [(confidence(kept[i].answer.logprob), r) for i, r in right.items() if i in kept]
    known = [(p, float(r)) for p, r in pairs if p is not None]
    return calibration([p for p, _ in known], [r for _, r in known], missing=len(pairs) - len(known))


def _histogram(scores: Sequence[Score]) -> tuple[int, ...]:
    values = [s.value for s in scores if s.value is not None]
    return tuple(int(c) for c in np.histogram(values, bins=10, range=(0.0, 1.0))[0])


def _cost(rows: Iterable[Row]) -> dict[str, Any]:
    """Totals, and medians and 90 % quantiles per answer; `None` for what the system does not say."""
    usages = [row.answer.usage for row in rows]
    found: dict[str, Any] = {"answers": len(usages)}
    for key in ("prompt_tokens", "reused_tokens", "answer_tokens", "seconds", "retrieval_seconds"):
        values = [float(u[key]) for u in usages if isinstance(u.get(key), (int, float))]
        if values:
            middle, high = np.quantile(values, (0.5, 0.9))
            found |= {f"{key}_total": float(sum(values)), f"{key}_median": float(middle), f"{key}_90%": float(high)}
    return found


def _worst(
    examples: Mapping[str, Example],
    kept: Mapping[str, Row],
    right: Mapping[str, bool],
    scores: Mapping[str, list[Score]],
) -> tuple[dict[str, Any], ...]:
    wrong = [i for i, r in right.items() if not r and i in kept]
    wrong.sort(key=lambda i: (-(confidence(kept[i].answer.logprob) or 0.0), i))
    values = {
        n: {s.example_id: s.value for s in scores.get(n, ())} for n in ("f1", "faithful_overlap", "citation_precision")
    }
    found = []
    for i in wrong[:WORST]:
        example, answer = examples[i], kept[i].answer
        quotes = example.evidence or example.answers
        found.append(
            {
                "example_id": i, "question": example.question, "answers": list(example.answers), "text": answer.text,
                "quadrant": quadrant(example, kept[i], False), "confidence": confidence(answer.logprob),
                "tags": list(example.tags), "rank_of_gold": rank_of_gold(answer.hits, example),
                "scores": {n: v.get(i) for n, v in values.items()}, "cited": [c.n for c in answer.citations],
                "hits": [
                    {"source": h.passage.source, "place": h.passage.place, "score": float(h.score),
                     "pieces": list(marked(h.passage.text, quotes))} for h in answer.hits
                ],
                "gold": [
                    {"source": p.source, "place": p.place, "pieces": list(marked(p.text, quotes))} for p in example.passages
                ],
            }
        )  # fmt: skip
    return tuple(found)


def _remarks(
    figures: Sequence[Figure], examples: Mapping[str, Example], kept: Mapping[str, Row], settings: Evaluating
) -> list[str]:
    found = []
    failed = sum(1 for i in examples if i not in kept or kept[i].answer.failure)
    if failed:
        found.append(f"{failed} of {len(examples)} questions have no answer; no mean counts them.")
    chosen = next((f for f in figures if f.measure == settings.right_by), None)
    if chosen is None:
        found.append(f"{settings.right_by} was not measured, so nothing says which answers are right.")
    elif chosen.documents < 10:
        found.append(f"Only {chosen.documents} documents: intervals over so few are rough.")
    if examples and all(e.answerable for e in examples.values()):
        found.append("No question is unanswerable: what a system does then is not measured.")
    made = sum(e.gates.get("retrieval", "").startswith("rank") for e in examples.values())
    if made:
        found.append(
            f"{made} questions were kept because retrieval found their passage when they were made: "
            "retrieval figures on them flatter the retriever that made them."
        )
    return found


def _num(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _bounds(f: Figure) -> str:
    return "(no interval)" if f.low is None or f.high is None else f"[{f.low:.3f}, {f.high:.3f}]"


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
