"""A comparison -> a report: the verdict in one sentence, every figure behind it, and answers to look at.

The same report is made of a run that was planned and of runs that were evaluated one by one; what was not measured in
turn (time) is then left out, and said so.  `draw.py` makes the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxrag.data.example import Example
from mlxrag.data.journal import rows
from mlxrag.evaluate.evaluate import read_scores
from mlxrag.evaluate.figures import SLICES, figure, home
from mlxrag.evaluate.run import Row, read_rows
from mlxrag.evaluate.score import Score
from mlxrag.experiment.compare import FEW, Comparison, Scores, compare_all, decided, pairs
from mlxrag.experiment.cost import Ratio, Spent, ratio, spent
from mlxrag.experiment.plan import NEUTRAL, Plan
from mlxrag.experiment.statistics import benjamini_hochberg, differences, mean_interval, sign_flip
from mlxrag.settings import Evaluating, Experimenting
from mlxrag.workspace import write_json, write_text

SHOWN = 8  # examples of wins, of losses and of ties in a report
SLICED = 2  # questions below which a slice has no figure


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of.

    Attributes:
        title: of the report.
        scores: system -> measure -> example id -> score.
        primary: the measure that decides.
        settings: how it is decided.
        homes: example id -> document.
        order: the order in which examples were asked; empty where it was not random.
        examples: id -> example; empty where only scores are known.
        rows: system -> example id -> what it answered.
        timing: rows of questions asked one by one, in turn.
        facts: what is said of the systems: model, fingerprint, settings that differ.
        about: dataset, plan, departures, warnings, hypotheses.
        which: pairs to compare; every other with the first unless given.
    """

    title: str
    scores: Mapping[str, Mapping[str, Scores]]
    primary: str
    settings: Experimenting
    homes: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ()
    examples: Mapping[str, Example] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    timing: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    which: Sequence[tuple[str, str]] = ()


def build(given: Material) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    names = list(given.scores)
    which = list(given.which) or pairs(names)
    found = compare_all(
        given.scores, given.homes, given.settings, given.primary, which=which, order=given.order, neutral=NEUTRAL
    )
    costs = {c.variant: c for c in spent(given.timing)}
    ratios = {(a, b): ratio(given.timing, a, b, given.settings.ab_seed) for a, b in which}
    decides = [c for c in found if c.measure == given.primary]
    return {
        "title": given.title,
        "verdicts": [verdict(c, given.settings, costs, ratios.get((c.a, c.b))) for c in decides],
        "primary": given.primary,
        "systems": [_system(name, given, costs.get(name)) for name in names],
        "comparisons": [asdict(c) | {"decided": decided(c, given.settings)} for c in found],
        "time_ratios": [asdict(r) for r in ratios.values() if r is not None],
        "guardrails": [
            {"measure": c.measure, "a": c.a, "b": c.b, "held": c.alike.shown, "p": c.alike.p, "low": c.alike.low}
            for c in found
            if c.measure in given.settings.guardrails and c.alike is not None
        ],
        "pareto": pareto(given, costs),
        "slices": {f"{b} against {a}": slices(given, a, b) for a, b in which},
        "flips": {f"{b} against {a}": flips(given, a, b) for a, b in which},
        "settings": given.settings.model_dump(),
        "about": dict(given.about),
        "assumptions": assumptions(given, decides),
    }


def verdict(c: Comparison, settings: Experimenting, costs: Mapping[str, Spent], times: Ratio | None) -> str:
    """Return in one sentence what a comparison comes to, and what it costs."""
    if c.difference is None:
        return f"{c.b} and {c.a} cannot be compared on {c.measure}: no question has a score of both."
    low, high, p = (c.low, c.high, c.corrected) if c.looked is None else (c.looked.low, c.looked.high, c.looked.p)
    bounds = (
        f"{round(100 * c.confidence)} % interval {amount(low, c)} to {amount(high, c)}"
        if low is not None
        else "no interval"
    )
    evidence = f"{bounds}, {p_text(p)}"
    if c.alike is not None and c.looked is None:
        wide = round(100 * (1 - 2 * settings.alpha))
        bounds = f"{wide} % interval {amount(c.alike.low, c)} to {amount(c.alike.high, c)}"
    what = decided(c, settings)
    margin = f"{100 * settings.margin:g} points"
    if what in ("better", "worse", "different"):
        word = {"better": "better", "worse": "worse", "different": "apart"}[what]
        size = amount(abs(c.difference), c, unit=True)
        text = f"{c.b} answers {size} {word} than {c.a} on {c.measure}, {evidence}"
    elif what == "alike":
        text = f"{c.b} and {c.a} are alike on {c.measure} within {margin}: {signed(c)}, {bounds}{_alike_p(c)}"
    elif what == "not worse":
        text = f"{c.b} is not worse than {c.a} on {c.measure} by more than {margin}: {signed(c)}, {bounds}{_alike_p(c)}"
    else:
        unseen = (
            f"; {c.n} questions show differences from {amount(c.detectable, c, unit=True)} on" if c.detectable else ""
        )
        text = f"{c.b} and {c.a} are not distinguishable on {c.measure}: {signed(c)}, {evidence}{unseen}"
    return f"{text}; {_cost_words(c, costs, times)}."


def p_text(p: float | None) -> str:
    """Return a p-value for people."""
    return "no p-value" if p is None else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def amount(value: float | None, c: Comparison, *, unit: bool = False) -> str:
    """Return a difference in points of a hundred, or as it is where the measure is no share."""
    if value is None:
        return "unknown"
    share = all(m is None or 0 <= m <= 1 for m in (c.mean_a, c.mean_b)) and c.measure not in NEUTRAL
    if not share:
        return f"{value:.3g}"
    number = f"{100 * value:.1f}"
    return f"{number} point{'' if number == '1.0' else 's'}" if unit else number


def signed(c: Comparison) -> str:
    """Return the difference with its sign and unit."""
    assert c.difference is not None
    return ("+" if c.difference >= 0 else "") + amount(c.difference, c, unit=True)


def pareto(given: Material, costs: Mapping[str, Spent]) -> list[dict[str, Any]]:
    """Return quality against cost of each system, and whether another is better in all: quality, time and memory."""
    points: list[dict[str, Any]] = []
    for name in given.scores:
        f = _figure(given, name, given.primary)
        cost = costs.get(name)
        if f["mean"] is not None and cost is not None:
            points.append({"system": name, "quality": f["mean"], "low": f["low"], "high": f["high"],
                           "seconds": cost.seconds, "peak": cost.peak})  # fmt: skip
    for p in points:
        p["dominated_by"] = [
            q["system"]
            for q in points
            if q["quality"] >= p["quality"] and q["seconds"] <= p["seconds"] and q["peak"] <= p["peak"]
            and (q["quality"], -q["seconds"], -q["peak"]) != (p["quality"], -p["seconds"], -p["peak"])
        ]  # fmt: skip
    return points


def slices(given: Material, a: str, b: str) -> list[dict[str, Any]]:
    """Return the difference of the primary measure by kind of question; p-values corrected over all of them (BH)."""
    xs, ys = given.scores[a][given.primary], given.scores[b][given.primary]
    found: list[dict[str, Any]] = []
    for name, values_of in SLICES.items():
        members: dict[str, list[str]] = {}
        for i, example in given.examples.items():
            if xs.get(i) is not None and ys.get(i) is not None:
                for value in values_of(example):
                    members.setdefault(value, []).append(i)
        if len(members) < 2:
            continue
        for value, ids in sorted(members.items(), key=lambda m: (-len(m[1]), m[0])):
            if len(ids) < SLICED:
                continue
            x, y = [xs[i] or 0.0 for i in ids], [ys[i] or 0.0 for i in ids]
            d = differences(x, y, [given.homes.get(i, i) for i in ids])
            bounds = mean_interval(d, confidence=1 - given.settings.alpha, resamples=999, seed=given.settings.ab_seed)
            test = sign_flip(d, resamples=999, seed=given.settings.ab_seed)
            found.append({
                "slice": name, "value": value, "n": len(ids), "documents": len(d.sums), "difference": d.mean,
                "low": bounds.low, "high": bounds.high, "p": test.p,
                "mean_a": sum(x) / len(x), "mean_b": sum(y) / len(y),
            })  # fmt: skip
    for row, p in zip(found, benjamini_hochberg([row["p"] for row in found]), strict=True):
        row["corrected"] = p
    return found


def flips(given: Material, a: str, b: str) -> dict[str, Any]:
    """Return questions that B wins, loses and ties, with both answers: the largest differences first."""
    xs, ys = given.scores[a][given.primary], given.scores[b][given.primary]
    gaps = {i: y - x for i in xs if (x := xs[i]) is not None and (y := ys.get(i)) is not None}
    kinds = {
        "wins": sorted((i for i, g in gaps.items() if g > 0), key=lambda i: (-gaps[i], i)),
        "losses": sorted((i for i, g in gaps.items() if g < 0), key=lambda i: (gaps[i], i)),
        "ties": sorted(
            (i for i, g in gaps.items() if g == 0 and _said(given, a, i) != _said(given, b, i)),
            key=lambda i: (xs[i] or 0.0, i),
        ),
    }
    counts = {"wins": len(kinds["wins"]), "losses": len(kinds["losses"]), "ties": sum(g == 0 for g in gaps.values())}
    return {
        "counts": counts,
        "examples": {kind: [_flip(given, a, b, i) for i in ids[:SHOWN]] for kind, ids in kinds.items()},
    }


def assumptions(given: Material, decides: Sequence[Comparison]) -> list[str]:
    """Return what the figures rest on, and where that is thin."""
    found = [
        "Questions of one document are taken together; documents are taken as independent draws of those to come.",
        f"p-values are of the sign-flip permutation test over documents, two-sided; alpha {given.settings.alpha:g}.",
    ]
    families = {c.family for c in decides if c.family}
    found += [
        f"Primary p-values: {', '.join(sorted(families))}. All other measures explore; theirs are Benjamini-Hochberg."
    ]
    for c in decides:
        if c.documents and c.documents < FEW:
            found.append(f"Only {c.documents} documents: the interval of {c.b} against {c.a} is rough.")
        if c.missing_a or c.missing_b:
            worst = (
                f"; the difference would be {100 * c.worst_low:.1f} to {100 * c.worst_high:.1f} points whatever they are"
                if c.worst_low is not None and c.worst_high is not None
                else ""
            )
            found.append(f"Without a score: {c.missing_a} of {c.a}, {c.missing_b} of {c.b}; they are left out{worst}.")
        if c.looked is not None:
            found.append(
                f"One could stop after every block: interval and p of {c.b} against {c.a} are always-valid (betting), "
                f"at alpha {c.looked.alpha:.3g}; the mean of a run that stopped early leans away from 0."
            )
        if c.design_effect > 1.5:
            found.append(
                f"Questions of a document are alike: {c.n} of them are worth about {c.n / c.design_effect:.0f} independent ones."
            )
    if not given.timing:
        found.append("Time and memory were not measured in turn, so nothing is said of them.")
    elif len(given.timing) < 10 * len(given.scores):
        found.append("Times are of fewer than 10 questions.")
    return found


def write_reports(
    folder: Path, plan: Plan, about: Mapping[str, Any], examples: Mapping[str, Example], title: str
) -> dict[str, Any]:
    """Write report.json, report.md and report.html of a run whose answers and scores lie in `folder`."""
    return write(folder, build(of_run(folder, plan, about, examples, title)))


def write(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Write a report in its three forms."""
    from mlxrag.experiment.draw import to_html, to_markdown

    write_json(folder / "report.json", report)
    write_text(folder / "report.md", to_markdown(report))
    write_text(folder / "report.html", to_html(report))
    return report


def of_run(folder: Path, plan: Plan, about: Mapping[str, Any], examples: Mapping[str, Example], title: str) -> Material:
    """Return what a run of a plan left."""
    answered = {v.name: {row.example_id: row for row in read_rows(folder / v.name)} for v in plan.variants}
    asked = {i: examples[i] for i in plan.questions if i in next(iter(answered.values()))}
    sequential = plan.settings.stopping == "sequential"
    facts = {
        v.name: {
            **(about["systems"].get(v.name) or [{}])[0],
            "differs": {key: values[n] for key, values in plan.differs.items()},
        }
        for n, v in enumerate(plan.variants)
    }
    return Material(
        title, {v.name: read_measures(folder / v.name) for v in plan.variants}, plan.primary, plan.settings,
        homes={i: home(examples[i]) for i in plan.questions}, order=list(asked) if sequential else (), examples=asked,
        rows=answered, timing=list(rows(folder / "timing.jsonl")), facts=facts,
        about={
            "dataset": plan.dataset, "split": plan.split, "planned": len(plan.questions), "asked": len(asked),
            "hypotheses": list(plan.hypotheses), "warnings": [*plan.warnings, *about.get("remarks", ())], "differs": {k: list(v) for k, v in plan.differs.items()},
            "departures": list(about.get("departures", ())), "power": dict(plan.power), "seconds": about.get("seconds"),
        },
    )  # fmt: skip


def read_measures(folder: Path) -> dict[str, dict[str, float | None]]:
    """Return measure -> example id -> score of a run; the mean where several people or judges gave one."""
    given: dict[str, dict[str, list[float]]] = {}
    for score in read_scores(folder):
        values = given.setdefault(score.measure, {}).setdefault(score.example_id, [])
        if score.value is not None:
            values.append(score.value)
    return {m: {i: sum(v) / len(v) if v else None for i, v in found.items()} for m, found in given.items()}


def _system(name: str, given: Material, cost: Spent | None) -> dict[str, Any]:
    return {
        "name": name, **given.facts.get(name, {}), "figures": {m: _figure(given, name, m) for m in given.scores[name]},
        "cost": asdict(cost) if cost is not None else None,
        "failed": sum(bool(row.answer.failure) for row in given.rows.get(name, {}).values()),
    }  # fmt: skip


def _figure(given: Material, system: str, measure: str) -> dict[str, Any]:
    scores = [Score(i, measure, v) for i, v in given.scores[system][measure].items()]
    light = Evaluating(interval=1 - given.settings.alpha, resamples=999, eval_seed=given.settings.ab_seed)
    f = figure(measure, scores, given.homes, light)
    return {"mean": f.mean, "low": f.low, "high": f.high, "n": f.n, "missing": f.missing}


def _said(given: Material, system: str, example_id: str) -> str:
    row = given.rows.get(system, {}).get(example_id)
    return row.answer.text if row is not None else ""


def _flip(given: Material, a: str, b: str, i: str) -> dict[str, Any]:
    example = given.examples.get(i)
    return {
        "example_id": i, "question": example.question if example is not None else i,
        "answers": list(example.answers) if example is not None else [],
        "said_a": _said(given, a, i), "said_b": _said(given, b, i),
        "score_a": given.scores[a][given.primary][i], "score_b": given.scores[b][given.primary][i],
    }  # fmt: skip


def _cost_words(c: Comparison, costs: Mapping[str, Spent], times: Ratio | None) -> str:
    a, b = costs.get(c.a), costs.get(c.b)
    if a is None or b is None or times is None:
        return "its cost was not measured"
    time = f"takes {times.ratio:.2g} times as long"
    if times.low is None or times.high is None:
        time += " (too few questions timed for an interval)"
    elif times.low <= 1 <= times.high:
        time = f"takes {times.low:.2g} to {times.high:.2g} times as long, which may be no difference,"
    gap = b.peak - a.peak
    if abs(gap) < max(1e6, 0.01 * a.peak):
        return f"it {time} and as much memory"
    size = f"{abs(gap) / 1e9:.1f} GB" if abs(gap) >= 1e8 else f"{abs(gap) / 1e6:.0f} MB"
    return f"it {time} and {size} {'more' if gap > 0 else 'less'} memory"


def _alike_p(c: Comparison) -> str:
    """Return the p-value of the test within the margin; always-valid bounds speak for themselves."""
    return f", {p_text(c.alike.p)}" if c.alike is not None and c.looked is None else ""
