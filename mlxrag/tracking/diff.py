"""Two runs side by side: settings, prompts, data, scores and answers.  Knows nothing of MLflow."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxrag.errors import BadInput
from mlxrag.evaluate.run import read_rows
from mlxrag.experiment.report import read_measures
from mlxrag.workspace import Artefact, Workspace, resolve

ANSWERS = 200  # answers that differ which are shown
MISSING = "(none)"


@dataclass(frozen=True, slots=True)
class Difference:
    """What two runs do not have in common.

    Attributes:
        a, b: their refs.
        facts: name -> (of A, of B): model, fingerprint, inputs, when it was made, machine.
        settings: key -> (of A, of B), those that differ.
        prompt: lines of a difference of the instructions, marked `-` and `+`; empty where they are the same.
        data: what each was asked, and how many questions they share.
        scores: measure -> (mean of A, mean of B, difference over the questions both have a score of, how many).
        answers: questions that were answered in other words, largest change of the first shared measure first.
        same_answers: how many were answered in the same words.
        measure: the measure that `answers` go by.
    """

    a: str
    b: str
    facts: Mapping[str, tuple[Any, Any]]
    settings: Mapping[str, tuple[Any, Any]]
    prompt: tuple[str, ...]
    data: Mapping[str, Any]
    scores: Mapping[str, tuple[float | None, float | None, float | None, int]]
    answers: tuple[Mapping[str, Any], ...]
    same_answers: int
    measure: str


def diff(workspace: Workspace, one: str, other: str) -> Difference:
    """Return what differs between two runs, of whatever kind.

    Args:
        workspace: where they are.
        one: `name`, `name@version`, or `kind/name@version`; a run unless a kind is said.
        other: the same.

    Raises:
        NotFound: no such run.
        BadInput: it is the same run twice.
    """
    a, b = _find(workspace, one), _find(workspace, other)
    if a.ref == b.ref:
        raise BadInput(
            f"{one} and {other} are the same: {a.ref}; name two versions, such as {a.name}@v1 and {a.name}@v2"
        )
    left, right = _flat(a.manifest.get("settings", {})), _flat(b.manifest.get("settings", {}))
    prompts = [str(x.pop("answering.system_prompt", "")) for x in (left, right)]
    scores, measure = _scores(a, b)
    answers, same = _answers(a, b, measure)
    return Difference(
        a.ref, b.ref, _facts(a, b),
        {k: (left.get(k, MISSING), right.get(k, MISSING)) for k in sorted(left.keys() | right.keys()) if left.get(k, MISSING) != right.get(k, MISSING)},
        () if prompts[0] == prompts[1] else tuple(difflib.ndiff(prompts[0].splitlines(), prompts[1].splitlines())),
        _data(a, b), scores, answers, same, measure,
    )  # fmt: skip


def _find(workspace: Workspace, ref: str) -> Artefact:
    kind, _, rest = ref.partition("/")
    if rest and kind in ("models", "adapters", "datasets", "runs"):
        return resolve(workspace, kind, rest)  # type: ignore[arg-type,unused-ignore]
    return resolve(workspace, "runs", ref)


def _facts(a: Artefact, b: Artefact) -> dict[str, tuple[Any, Any]]:
    def of(run: Artefact) -> dict[str, Any]:
        facts, system = run.manifest, run.manifest.get("system") or {}
        return {
            "what": facts.get("what", run.kind), "model": system.get("model"), "fingerprint": system.get("fingerprint"),
            "inputs": ", ".join(map(str, facts.get("inputs", ()))), "made": facts.get("made"), "seconds": facts.get("seconds"),
            "questions": facts.get("examples"), "failed": facts.get("failed"), "answer seconds": facts.get("answer_seconds"),
            "mlxrag": facts.get("machine", {}).get("mlxrag"), "machine": facts.get("machine", {}).get("machine"),
        }  # fmt: skip

    left, right = of(a), of(b)
    return {k: (left[k], right[k]) for k in left if left[k] is not None or right[k] is not None}


def _data(a: Artefact, b: Artefact) -> dict[str, Any]:
    left, right = a.manifest.get("dataset") or {}, b.manifest.get("dataset") or {}
    asked = [{row.example_id for row in read_rows(run.path)} for run in (a, b)]
    return {
        "a": left.get("ref"), "b": right.get("ref"), "splits": (left.get("split"), right.get("split")),
        "only_a": len(asked[0] - asked[1]), "only_b": len(asked[1] - asked[0]), "both": len(asked[0] & asked[1]),
    }  # fmt: skip


def _scores(a: Artefact, b: Artefact) -> tuple[dict[str, tuple[float | None, float | None, float | None, int]], str]:
    left, right = read_measures(a.path), read_measures(b.path)
    found: dict[str, tuple[float | None, float | None, float | None, int]] = {}
    for measure in dict.fromkeys((*left, *right)):
        x, y = left.get(measure, {}), right.get(measure, {})
        both = [(u, v) for i, u in x.items() if u is not None and (v := y.get(i)) is not None]
        gap = sum(v - u for u, v in both) / len(both) if both else None
        found[measure] = (_mean(x), _mean(y), gap, len(both))
    first = str(a.manifest.get("settings", {}).get("evaluating", {}).get("right_by", ""))
    shared = [m for m in left if m in right]
    return found, first if first in shared else (shared[0] if shared else "")


def _answers(a: Artefact, b: Artefact, measure: str) -> tuple[tuple[dict[str, Any], ...], int]:
    xs, ys = read_measures(a.path).get(measure, {}), read_measures(b.path).get(measure, {})
    other = {row.example_id: row.answer for row in read_rows(b.path)}
    found: list[dict[str, Any]] = []
    same = 0
    for row in read_rows(a.path):
        if row.example_id not in other:
            continue
        x, y = xs.get(row.example_id), ys.get(row.example_id)
        said = other[row.example_id]
        if row.answer.text == said.text and x == y:
            same += 1
            continue
        found.append({
            "example_id": row.example_id, "question": row.answer.question, "a": row.answer.text or row.answer.failure,
            "b": said.text or said.failure, "score_a": x, "score_b": y,
            "passages_differ": [h.passage.id for h in row.answer.hits] != [h.passage.id for h in said.hits],
        })  # fmt: skip
    found.sort(key=lambda f: (-abs((f["score_b"] or 0.0) - (f["score_a"] or 0.0)), str(f["example_id"])))
    return tuple(found[:ANSWERS]), same


def _mean(scores: Mapping[str, float | None]) -> float | None:
    known = [v for v in scores.values() if v is not None]
    return sum(known) / len(known) if known else None


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
