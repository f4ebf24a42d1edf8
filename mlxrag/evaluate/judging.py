"""A judge over a run, or over two runs side by side: scores like any other, resumable, and what speaks against the judge.

Three things are said of every judge: how far its verdicts follow the place of an option and not its sense, how far it
agrees with people where people voted, and whether it is kinder to answers of its own model.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxrag.data.example import Example
from mlxrag.data.journal import Journal, rows
from mlxrag.errors import Mismatch
from mlxrag.evaluate.figures import Figure, figure, home
from mlxrag.evaluate.judge import Agreement, Verdict, agreement, preferred, score_of, verdicts_of
from mlxrag.evaluate.run import Row
from mlxrag.evaluate.score import Score, from_row
from mlxrag.model.load import Model
from mlxrag.rag.answer import Answer
from mlxrag.settings import Evaluating
from mlxrag.workspace import Artefact, Workspace, artefacts

JUDGED = "judged.jsonl"


@dataclass(frozen=True, slots=True)
class Position:
    """How far verdicts follow the place of an option.

    Attributes:
        n: verdicts.
        first: mean probability of the option named first; 0.5 without a bias.
        swing: mean distance of the two orders.
        turned: share of the verdicts that change sides with the order.
    """

    n: int
    first: float | None
    swing: float | None
    turned: float | None


@dataclass(frozen=True, slots=True)
class Preference:
    """A judge on two runs side by side.

    Attributes:
        judge: its name.
        runs: the two runs, as name@version.
        preferred: mean probability that the first run's answer is better, with an interval over documents.
        position: how far it follows the order.
        people: against people's votes on the same two runs; None where nobody voted.
        own: the run that the judge's own model answered; empty if neither or both did.
        self_preference: mean probability that its own answer is better, on questions where both are equally right; above
            0.5 it is kinder to itself.  None where `own` is empty.
    """

    judge: str
    runs: tuple[str, str]
    preferred: Figure
    position: Position
    people: Agreement | None
    own: str
    self_preference: Figure | None


def judged(
    model: Model, answers: Iterable[Row], examples: Mapping[str, Example], folder: Path
) -> Iterator[tuple[Score, list[Verdict]]]:
    """Yield for every answer whether its passages support it, with the verdicts; those that `folder` holds are not asked again.

    Args:
        model: the judge.
        answers: of a run.
        examples: id -> example; others are passed over.
        folder: where `judged.jsonl` grows.
    """
    path = folder / JUDGED
    done = {row["example_id"]: row for row in rows(path) if row["judge"] == _name(model)}
    with Journal(path) as journal:
        for row in answers:
            example = examples.get(row.example_id)
            if example is None:
                continue
            kept = done.get(row.example_id)
            if kept is None:
                found, why = ([], row.answer.failure) if row.answer.failure else verdicts_of(model, row.answer)
                kept = {
                    "example_id": example.id,
                    "judge": _name(model),
                    "verdicts": [asdict(v) for v in found],
                    "why": why,
                }
                journal.add(kept)
            verdicts = [Verdict(**v) for v in kept["verdicts"]]
            yield score_of(example.id, verdicts, kept["why"], _name(model)), verdicts


def compare(
    model: Model,
    runs: Sequence[Artefact],
    answers: Sequence[Mapping[str, Answer]],
    examples: Mapping[str, Example],
    folder: Path,
) -> Iterator[tuple[Score, Verdict | None]]:
    """Yield for every question that both runs answered how likely the judge holds the first answer to be better.

    Raises:
        Mismatch: the runs share no question.
    """
    shared = [i for i in examples if all(i in one and not one[i].failure for one in answers)]
    if not shared:
        raise Mismatch(f"{runs[0].ref} and {runs[1].ref} share no question that both answered")
    path = folder / JUDGED
    done = {row["example_id"]: row["verdict"] for row in rows(path)}
    with Journal(path) as journal:
        for i in shared:
            a, b = (one[i].text for one in answers)
            if a.strip() == b.strip():
                yield Score(i, "preferred", 0.5, _name(model), "the same answer"), None
                continue
            if i not in done:
                verdict = preferred(model, examples[i].question, a, b)
                journal.add({"example_id": i, "verdict": asdict(verdict)})
            else:
                verdict = Verdict(**done[i])
            if verdict.valid:
                yield Score(i, "preferred", verdict.p, _name(model), f"swing {verdict.swing:.2f}"), verdict
            else:
                yield Score(i, "preferred", None, _name(model), "the judge gave no verdict"), None


def preference(
    model: Model, runs: Sequence[Artefact], found: Sequence[tuple[Score, Verdict | None]], examples: Mapping[str, Example],
    right: Sequence[Mapping[str, bool]], people: Mapping[str, float], settings: Evaluating,
) -> Preference:  # fmt: skip
    """Summarize what `compare` yielded.

    Args:
        model, runs, found, examples: as given to and by `compare`.
        right: for each run, example id -> whether its answer is right.
        people: example id -> people's preference for the first run, in [0, 1]; empty where nobody voted.
        settings: of intervals.
    """
    homes = {i: home(e) for i, e in examples.items()}
    scores = [score for score, _ in found]
    told = {s.example_id: s.value for s in scores if s.value is not None}
    mine = [str(r.manifest.get("system", {}).get("model", "")).split("+")[0].split("@")[0] == model.name for r in runs]
    own = "" if mine[0] == mine[1] else f"{runs[mine.index(True)].name}@{runs[mine.index(True)].version}"
    kinder = None
    if own:
        even = [i for i in told if i in right[0] and right[0].get(i) == right[1].get(i)]
        values = [Score(i, "self_preference", told[i] if mine[0] else 1 - told[i]) for i in even]
        kinder = figure("self_preference", values, homes, settings)
    return Preference(
        model.name, (f"{runs[0].name}@{runs[0].version}", f"{runs[1].name}@{runs[1].version}"),
        figure("preferred", scores, homes, settings), position([v for _, v in found if v is not None]),
        agreement(told, people) if people else None, own, kinder,
    )  # fmt: skip


def position(verdicts: Sequence[Verdict]) -> Position:
    """Summarize how far verdicts follow the order of the options; those that are none are left out."""
    valid = [v for v in verdicts if v.valid]
    n = len(valid)
    if not n:
        return Position(0, None, None, None)
    turned = sum(v.swing / 2 > abs(v.p - 0.5) for v in valid)
    return Position(n, sum(v.first for v in valid) / n, sum(v.swing for v in valid) / n, turned / n)


def votes_on(workspace: Workspace, runs: Sequence[Artefact], measure: str) -> dict[str, float]:
    """Return what people said in every finished round on exactly these runs: example id -> mean of a measure; empty if none did."""
    found: dict[str, list[float]] = defaultdict(list)
    wanted = [f"{r.name}@{r.version}" for r in runs]
    for round_ in artefacts(workspace, "runs"):
        if round_.manifest.get("what") == "votes" and list(round_.manifest.get("runs", ())) == wanted:
            for row in rows(round_.path / "scores.jsonl"):
                score = from_row(row)
                if score.measure == measure and score.value is not None:
                    found[score.example_id].append(score.value)
    return {i: sum(values) / len(values) for i, values in found.items()}


def spool(workspace: Workspace, runs: Sequence[Artefact], judge: str) -> Path:
    """Return the folder where an unfinished judging keeps its verdicts; the same runs and judge find it again."""
    key = hashlib.sha256("\0".join([*(r.ref for r in runs), judge]).encode()).hexdigest()[:16]
    return workspace.root / "runs" / runs[0].name / f".judge-{key}"


def remarks(found: Position, people: Agreement | None, judge: str) -> list[str]:
    """Return what a reader of a judge's figures should know, as sentences."""
    said = []
    if found.n:
        said.append(
            f"Judge {judge}: {found.n} verdicts; the option named first has {found.first:.2f} on average (0.50 without a bias), "
            f"{100 * (found.turned or 0):.0f} % of the verdicts change sides with the order."
        )
    else:
        said.append(f"Judge {judge} gave no verdict: it puts hardly any probability on the words it was asked for.")
    if people is None:
        said.append(f"Nobody has voted on these answers, so nothing says how far {judge} agrees with people.")
    else:
        said.append(
            f"Judge {judge} and people on {people.n} answers: kappa {_num(people.kappa)}, AUROC {_num(people.auroc)}, "
            f"judge minus people {_num(people.bias)}."
        )
    return said


def to_json(found: Preference) -> dict[str, Any]:
    """Return a preference as plain JSON values."""
    return asdict(found)


def _name(model: Model) -> str:
    return f"judge {model.name}"


def _num(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
