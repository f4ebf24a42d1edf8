"""What is known before a comparison: differences and seconds, from a small pilot or from runs that are there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxrag.data.dataset import Dataset, open_dataset, sample
from mlxrag.data.example import Example
from mlxrag.errors import BadInput, Mismatch
from mlxrag.evaluate.evaluate import examples_of, measures_of, score_rows
from mlxrag.evaluate.figures import home
from mlxrag.evaluate.run import Row, read_rows
from mlxrag.experiment.arms import answer_block, open_group, share
from mlxrag.experiment.compare import Scores, pairs
from mlxrag.experiment.cost import foreseen
from mlxrag.experiment.plan import JUDGED, PLAN, Plan, Variant, from_json, plan, read_variants
from mlxrag.experiment.report import Material, of_run, read_measures
from mlxrag.experiment.statistics import Differences, differences, standard_error
from mlxrag.settings import Experimenting
from mlxrag.workspace import Artefact, Workspace, resolve


def pilot(
    variants: Sequence[Variant], dataset: Dataset, split: str, settings: Experimenting, workspace: Workspace
) -> tuple[Differences, dict[str, float]]:
    """Ask every system some questions of the validation split.

    Args:
        variants: the systems.
        dataset: its `valid` split is asked, so that no question of the comparison is spent.
        split: the split that the comparison asks.
        settings: how many questions, and the measure.
        workspace: where models and indexes are.

    Returns:
        the differences of the pair that varies most, and seconds per question of each system (those that share a base
        are timed together).

    Raises:
        BadInput: there is no validation split.
    """
    if not dataset.counts.get("valid") or split in ("valid", "all"):
        raise BadInput(
            f"{dataset.ref} has no validation split beside the questions to ask; split it with `mlxrag data split`, or "
            "give runs to --pilot"
        )
    examples = sample(dataset.split("valid"), settings.pilot_questions, seed=settings.ab_seed)
    homes = {e.id: home(e) for e in examples}
    primary = settings.primary or variants[0].settings.evaluating.right_by
    if primary == JUDGED:
        raise BadInput(f"a pilot does not judge; give runs that have {JUDGED} to --pilot")
    measure = {primary: measures_of(variants[0].settings.evaluating)[primary]}
    scores: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    for group in share(variants):
        with ExitStack() as stack:
            arms = stack.enter_context(open_group(group, workspace))
            started = time.perf_counter()
            answers = answer_block(arms, examples, settings.ab_seed)
            spent = (time.perf_counter() - started) / max(len(examples), 1)
        for name, given in answers.items():
            rows = [Row(e.id, a) for e, a in zip(examples, given, strict=True)]
            scores[name] = {s.example_id: s.value for s in score_rows(rows, {e.id: e for e in examples}, measure)}
            seconds[name] = spent / len(answers)
    return widest(scores, homes, primary), seconds


def from_runs(refs: Sequence[str], primary: str, workspace: Workspace) -> Differences:
    """Return the differences of the primary measure in runs that are there: one comparison, or evaluations.

    Raises:
        BadInput: fewer than two systems; Mismatch: no question that both were asked.
    """
    scores: dict[str, Scores] = {}
    homes: dict[str, str] = {}
    for ref in refs:
        run = resolve(workspace, "runs", ref.removeprefix("runs/"))
        homes |= homes_of(run, workspace)
        for name, measures in systems_of(run).items():
            if primary not in measures:
                raise BadInput(f"{run.ref} has no scores of {primary}; it has {', '.join(sorted(measures))}")
            scores[name if name not in scores else f"{name} ({run.version})"] = measures[primary]
    if len(scores) < 2:
        raise BadInput("a pilot needs the scores of two systems: give one comparison or two evaluations")
    return widest(scores, homes, primary)


def systems_of(run: Artefact) -> dict[str, Mapping[str, Scores]]:
    """Return system -> measure -> example id -> score of a comparison or of an evaluation.

    Raises:
        BadInput: the run has no scores.
    """
    if run.manifest.get("what") == "ab":
        return {name: read_measures(run.path / name) for name in run.manifest["variants"]}
    found = read_measures(run.path)
    if not found:
        raise BadInput(
            f"{run.ref} has no scores; it is {run.manifest.get('what', 'something else')}, not an evaluation"
        )
    return {run.name: found}


def homes_of(run: Artefact, workspace: Workspace) -> dict[str, str]:
    """Return example id -> document of a run's questions."""
    if run.manifest.get("what") != "evaluation":
        dataset = open_dataset(workspace, run.manifest["dataset"]["ref"])
        return {e.id: home(e) for e in dataset.split(run.manifest["dataset"]["split"])}
    return {i: home(e) for i, e in examples_of(workspace, run).items()}


def widest(scores: Mapping[str, Scores], homes: Mapping[str, str], primary: str) -> Differences:
    """Return the differences of the pair (with the first) whose mean is the least certain: the one to plan for.

    Raises:
        Mismatch: no question has a score of both.
    """
    found: list[Differences] = []
    for a, b in pairs(list(scores)):
        both = [(i, x, y) for i, x in scores[a].items() if x is not None and (y := scores[b].get(i)) is not None]
        if both:
            found.append(
                differences([x for _, x, _ in both], [y for _, _, y in both], [homes.get(i, i) for i, _, _ in both])
            )
    if not found:
        raise Mismatch(f"the pilot has no question with a score of {primary} on both sides; give runs of one dataset")
    return max(found, key=lambda d: standard_error(d) if np.isfinite(standard_error(d)) else -1.0)


def prepare(
    name: str,
    configs: Sequence[Path],
    dataset: Dataset,
    split: str,
    settings: Experimenting,
    workspace: Workspace,
    pilot_runs: Sequence[str] = (),
) -> Plan:
    """Work a comparison out from its config files, with a pilot where one is asked for.

    Args:
        name: of the plan.
        configs: one file per system.
        dataset: what is asked.
        split: of it; `test` if there is one, else all, unless given.
        settings: how it is decided; `pilot_questions` asks validation questions now.
        workspace: where models, indexes and runs are.
        pilot_runs: runs whose scores tell how much systems like these vary.
    """
    split = split or ("test" if dataset.counts.get("test") else "all")
    variants = read_variants(configs, workspace)
    primary = settings.primary or variants[0].settings.evaluating.right_by
    known, seconds = None, None
    if pilot_runs:
        known = from_runs(pilot_runs, primary, workspace)
    elif settings.pilot_questions:
        known, seconds = pilot(variants, dataset, split, settings, workspace)
    made = plan(name, variants, dataset, split, settings, pilot=known)
    cost = foreseen(variants, share(variants), len(made.questions), workspace, seconds)
    return replace(made, cost=cost)


def of_comparison(run: Artefact, changes: Mapping[str, Any], workspace: Workspace) -> Material:
    """Return what a report on a comparison is made of, decided otherwise than it was planned where `changes` say so."""
    made = from_json(json.loads((run.path / PLAN).read_text(encoding="utf-8")))
    about = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    words = [f"{key} is {value}, planned was {getattr(made.settings, key)}" for key, value in changes.items()]
    made = replace(
        made, settings=made.settings.model_copy(update=changes), primary=changes.get("primary") or made.primary,
        warnings=(*made.warnings, *words),
    )  # fmt: skip
    return of_run(run.path, made, about, _examples([run], workspace), run.name)


def of_runs(refs: Sequence[str], settings: Experimenting, workspace: Workspace) -> Material:
    """Return what a report on runs that were made one by one is made of: evaluations, and systems of comparisons.

    Raises:
        BadInput: fewer than two systems.
    """
    scores: dict[str, Mapping[str, Scores]] = {}
    rows: dict[str, dict[str, Row]] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    runs = [resolve(workspace, "runs", ref.removeprefix("runs/")) for ref in refs]
    homes = {i: h for run in runs for i, h in homes_of(run, workspace).items()}
    for run in runs:
        for name, measures in systems_of(run).items():
            key = name if name not in scores else f"{run.name}@{run.version}"
            scores[key] = measures
            folder = run.path / name if run.manifest.get("what") == "ab" else run.path
            rows[key] = {row.example_id: row for row in read_rows(folder)}
            system = run.manifest.get("system", {})
            facts[key] = {"model": system.get("model"), "fingerprint": system.get("fingerprint"), "run": run.ref}
    if len(scores) < 2:
        raise BadInput("give two runs or more to compare, such as two evaluations of one dataset")
    settings_of = [run.manifest.get("settings", {}).get("evaluating", {}) for run in runs]
    primary = settings.primary or settings_of[0].get("right_by", "correct")
    examples = _examples(runs, workspace)
    asked = len(next(iter(scores.values())).get(primary, {}))
    return Material(
        " and ".join(scores) if len(scores) == 2 else ", ".join(scores), scores, primary, settings, homes=homes,
        examples=examples, rows=rows, facts=facts,
        about={
            "dataset": ", ".join(sorted({str(run.manifest["dataset"]["ref"]) for run in runs})),
            "split": ", ".join(sorted({str(run.manifest["dataset"].get("split", "all")) for run in runs})),
            "planned": asked, "asked": asked, "warnings": ["these runs were not planned as a comparison, nor made in turn"],
        },
    )  # fmt: skip


def _examples(runs: Sequence[Artefact], workspace: Workspace) -> dict[str, Example]:
    first = runs[0]
    if first.manifest.get("what") == "evaluation":
        return examples_of(workspace, first)
    dataset = open_dataset(workspace, first.manifest["dataset"]["ref"])
    return {e.id: e for e in dataset.split(first.manifest["dataset"]["split"])}
