"""What the runs of a workspace say, gathered once: systems on their questions, comparisons, trainings, sweeps.

Rules: the newest run of a system on the same questions counts; what a run does not say is None, never a guess.
Knows nothing of what follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxrag.data.dataset import open_dataset
from mlxrag.data.example import Example
from mlxrag.data.journal import rows
from mlxrag.errors import MlxragError
from mlxrag.evaluate.evaluate import examples_of
from mlxrag.evaluate.figures import home
from mlxrag.evaluate.found import rank_of_gold
from mlxrag.evaluate.run import Row, read_rows
from mlxrag.experiment.report import read_measures
from mlxrag.settings import Evaluating
from mlxrag.workspace import Artefact, Workspace, artefacts


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and how it went.

    Attributes:
        example_id: the example.
        home: the document it is counted to.
        answerable: whether the documents hold the answer.
        right: whether the answer was right; a failed one was not.
        score: value of the measure that says so; None where there is none.
        rank: place of the first gold passage in the prompt, 1 for the first; None where it was not there.
        known: whether a gold passage is known at all.
        refused: whether the answer was that the documents do not say.
        failure: why there is no answer.
    """

    example_id: str
    home: str
    answerable: bool
    right: bool
    score: float | None
    rank: int | None
    known: bool
    refused: bool
    failure: str


@dataclass(frozen=True, slots=True)
class Case:
    """A system that was asked the questions of a dataset.

    Attributes:
        name: of the evaluation, or of the variant in a comparison.
        ref: the run.
        fingerprint: of the system: equal fingerprints answer alike.
        model: name of the model, with version and adapter where it has them.
        settings: table -> key -> value.
        questions: `dataset@version split`: systems with the same can be held against each other.
        measure: what says that an answer is right.
        asked: the questions.
        seconds: per question, many at a time; None where it was not measured.
        alone: seconds per question asked by itself, in turn with others; None where it was not measured.
        weights, peak: bytes of the weights and the most that was held; None where it was not measured.
        made: when.
    """

    name: str
    ref: str
    fingerprint: str
    model: str
    settings: Mapping[str, Mapping[str, Any]]
    questions: str
    measure: str
    asked: tuple[Asked, ...]
    seconds: float | None
    alone: float | None
    weights: int | None
    peak: int | None
    made: str

    @property
    def quality(self) -> float | None:
        """Mean of the measure that says what is right; None where no question has a value."""
        known = [a.score for a in self.asked if a.score is not None]
        return sum(known) / len(known) if known else None

    @property
    def dataset(self) -> str:
        """`name@version` of the questions."""
        return self.questions.split(" ")[0].removeprefix("datasets/")


@dataclass(frozen=True, slots=True)
class Contest:
    """One pair of a comparison, on the measure that decides.

    Attributes:
        ref: the run.
        row: the comparison as its report holds it.
        settings: how it was decided.
        costs: system -> seconds, weights, peak, of questions asked one by one; empty where they were not timed.
        times: B's seconds over A's: ratio, low, high; None where they were not timed.
        questions: `dataset@version split`.
        fingerprints: of A and B.
    """

    ref: str
    row: Mapping[str, Any]
    settings: Mapping[str, Any]
    costs: Mapping[str, Mapping[str, Any]]
    times: Mapping[str, Any] | None
    questions: str
    fingerprints: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Training:
    """An adapter and how its training went.

    Attributes:
        ref: the adapter.
        dataset: ref of what it learnt from; empty where it says none.
        losses: (iteration, validation loss), in order; the first may be of the base.
        best: iteration whose weights were kept; None where it says none.
        rate: its learning rate; None where it says none.
    """

    ref: str
    dataset: str
    losses: tuple[tuple[int, float], ...]
    best: int | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the workspace knows.

    Attributes:
        cases: systems, the newest of each on the same questions.
        contests: comparisons, oldest first.
        trainings: newest version of each adapter.
        sweeps: (ref, report) of the newest sweep of each model.
        left: runs that could not be read, and why.
    """

    cases: tuple[Case, ...]
    contests: tuple[Contest, ...]
    trainings: tuple[Training, ...]
    sweeps: tuple[tuple[str, Mapping[str, Any]], ...]
    left: tuple[str, ...]


def gather(workspace: Workspace) -> Evidence:
    """Read every run and adapter of a workspace; one that cannot be read is named in `left` and costs nothing else."""
    found: dict[tuple[str, str], Case] = {}
    contests: list[Contest] = []
    sweeps: dict[str, tuple[str, Mapping[str, Any]]] = {}
    left: list[str] = []
    for run in sorted(artefacts(workspace, "runs"), key=lambda r: str(r.manifest.get("made", ""))):
        what = run.manifest.get("what")
        try:
            if what == "evaluation":
                _take(found, [_evaluation(run, workspace)])
            elif what == "ab":
                report = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
                variants = list(_variants(run, report, workspace))
                _take(found, variants)
                contests += _contests(run, report, {v.name: v for v in variants})
            elif what == "sweep":
                sweeps[run.name] = (run.ref, json.loads((run.path / "report.json").read_text(encoding="utf-8")))
        except (MlxragError, OSError, ValueError, LookupError, TypeError) as error:
            left.append(f"{run.ref}: {error}")
    newest = {a.name: a for a in artefacts(workspace, "adapters")}
    trainings = tuple(t for a in newest.values() if (t := _training(a)) is not None)
    return Evidence(tuple(found.values()), tuple(contests), trainings, tuple(sweeps.values()), tuple(left))


def _take(found: dict[tuple[str, str], Case], cases: Sequence[Case]) -> None:
    """Keep the newer of two runs of a system; what only the older one measured stays with it."""
    for case in cases:
        key = (case.fingerprint, case.questions)
        old = found.pop(key, case)
        kept = {k: getattr(old, k) for k in ("seconds", "alone", "weights", "peak") if getattr(case, k) is None}
        found[key] = replace(case, **kept)


def _evaluation(run: Artefact, workspace: Workspace) -> Case:
    facts = run.manifest
    data, system = facts["dataset"], facts["system"]
    examples = examples_of(workspace, run)
    given = " with the right passage given" if data.get("gold_passages") else ""
    count, seconds = facts.get("examples"), facts.get("answer_seconds")
    return Case(
        run.name, run.ref, str(system["fingerprint"]), str(system["model"]), facts["settings"],
        f"{data['ref']} {data.get('split', 'all')}{given}", *_asked(run, "", examples, facts["settings"]),
        seconds=float(seconds) / int(count) if count and seconds else None, alone=None, weights=None, peak=None,
        made=str(facts.get("made", "")),
    )  # fmt: skip


def _variants(run: Artefact, report: Mapping[str, Any], workspace: Workspace) -> Iterator[Case]:
    plan = json.loads((run.path / "plan.json").read_text(encoding="utf-8"))
    settings = {v["name"]: v["settings"] for v in plan["variants"]}
    data = run.manifest["dataset"]
    asked = set(plan["questions"])
    examples = {e.id: e for e in open_dataset(workspace, data["ref"]).split(data["split"]) if e.id in asked}
    for system in report["systems"]:
        name, cost = system["name"], system["cost"] or {}
        yield Case(
            name, run.ref, str(system.get("fingerprint", "")), str(system.get("model", "")), settings[name],
            f"{data['ref']} {data['split']}", *_asked(run, name, examples, settings[name]),
            seconds=None, alone=cost.get("seconds"), weights=cost.get("weights"), peak=cost.get("peak"),
            made=str(run.manifest.get("made", "")),
        )  # fmt: skip


def _asked(
    run: Artefact, part: str, examples: Mapping[str, Example], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[str, tuple[Asked, ...]]:
    """Return the measure that says what is right, and the questions."""
    judged = Evaluating.model_validate(dict(settings.get("evaluating", {})))
    scores = read_measures(run.path / part).get(judged.right_by, {})

    def of(row: Row) -> Asked:
        example, answer = examples[row.example_id], row.answer
        score = scores.get(row.example_id)
        return Asked(
            row.example_id, home(example), example.answerable, score is not None and score >= judged.right_from, score,
            rank_of_gold(answer.hits, example), bool(example.passages), answer.refused, answer.failure,
        )  # fmt: skip

    return judged.right_by, tuple(of(row) for row in read_rows(run.path / part) if row.example_id in examples)


def _contests(run: Artefact, report: Mapping[str, Any], variants: Mapping[str, Case]) -> Iterator[Contest]:
    data = run.manifest["dataset"]
    costs = {s["name"]: s["cost"] for s in report["systems"] if s["cost"]}
    for row in report["comparisons"]:
        if row["measure"] == report["primary"] and row["difference"] is not None:
            a, b = row["a"], row["b"]
            times = next((t for t in report["time_ratios"] if (t["a"], t["b"]) == (a, b)), None)
            yield Contest(
                run.ref, row, report["settings"], costs, times, f"{data['ref']} {data['split']}",
                (variants[a].fingerprint, variants[b].fingerprint),
            )  # fmt: skip


def _training(adapter: Artefact) -> Training | None:
    facts = adapter.manifest
    steps = rows(adapter.path / "steps.jsonl")
    losses = [(int(s["iteration"]), float(s["valid_loss"])) for s in steps if s.get("valid_loss") is not None]
    if len(losses) < 2:
        return None
    learnt = next((str(i) for i in facts.get("inputs", ()) if str(i).startswith("datasets/")), "")
    best = (facts.get("scores") or {}).get("best") or {}
    return Training(
        adapter.ref, learnt, tuple(losses), best.get("iteration"), facts.get("settings", {}).get("learning_rate")
    )
