"""An artefact of the workspace -> an MLflow run: settings, figures, curves, lineage, answers; models by reference.

Rules: the workspace is the truth, so a run can be made again from it at any time; an artefact has one run, found by the
tag `mlxrag.ref`; a run counts as mirrored when its last tag is written.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import datetime
from pathlib import Path
from typing import Any

from mlxrag.data.journal import rows
from mlxrag.errors import MlxragError
from mlxrag.track import FINISHED
from mlxrag.tracking.answers import assess_run, forget, log_answers, log_traces
from mlxrag.tracking.charts import QUALITY
from mlxrag.tracking.registry import register, register_prompt
from mlxrag.tracking.store import Store, patiently
from mlxrag.workspace import KINDS, Artefact, artefacts, resolve

LOG = logging.getLogger(__name__)

Point = tuple[str, float, float, int]

LARGEST_PAGE = 4_000_000  # bytes of a report that is copied; larger ones stay in the workspace
REPORTS = ("report.html", "report.md")


def mirror_missing(store: Store, claimed: Set[tuple[str, str]] = frozenset()) -> Iterator[str]:
    """Mirror what has no run yet, oldest first, and yield its refs.

    Args:
        store: where to.
        claimed: experiment and name of jobs that are under way: what they make becomes their own run when they end.
    """
    known = store.mirrored()
    todo = [a for kind in KINDS for a in artefacts(store.workspace, kind) if a.ref not in known]
    for artefact in sorted(todo, key=lambda a: str(a.manifest.get("made", ""))):
        try:
            if (experiment_of(artefact), artefact.name) not in claimed:
                mirror(store, artefact)
                yield artefact.ref
        except (MlxragError, OSError, LookupError, ValueError) as error:  # one bad artefact leaves the others
            LOG.warning("%s cannot be mirrored: %s: %s", artefact.ref, type(error).__name__, error)


def adopt(store: Store, ref: str, run: str) -> None:
    """Make an artefact's figures part of the run that watched its making; one that was made for it meanwhile goes."""
    kind, _, rest = ref.partition("/")
    try:
        artefact = resolve(store.workspace, kind, rest)  # type: ignore[arg-type]
    except MlxragError:
        return  # removed meanwhile; the run keeps its curves
    other = store.run_of("mlxrag.ref", ref)
    if other is not None and other != run:
        forget(store, experiment_of(artefact), other)
    mirror(store, artefact, run)


def mirror(store: Store, artefact: Artefact, run: str | None = None) -> str:
    """Write an artefact as an MLflow run and return the run's id.

    A run that was begun for it and not finished (the process died) is gone on with.
    """
    facts = artefact.manifest
    made = _seconds(facts)
    what = experiment_of(artefact)
    tags = {
        "mlxrag.ref": artefact.ref, "mlxrag.kind": artefact.kind, "mlxrag.name": artefact.name,
        "mlxrag.version": artefact.version, "mlxrag.what": str(facts.get("what", artefact.kind)),
        "mlxrag.path": str(artefact.path),
        **{f"mlxrag.input.{i}": str(ref) for i, ref in enumerate(facts.get("inputs", ()))},
        **{f"mlxrag.machine.{k}": str(v) for k, v in facts.get("machine", {}).items()},
    }  # fmt: skip
    parent = next((found for ref in facts.get("inputs", ()) if (found := _parent(store, str(ref), what))), None)
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    begun = run is None
    run = (
        run
        or store.run_of("mlxrag.ref", artefact.ref)
        or store.begin(what, f"{artefact.name}@{artefact.version}", made, tags)
    )
    store.tags(run, tags)
    store.parameters(run, facts.get("settings", {}))
    _reports(store, run, artefact.path)
    _inputs(store, run, artefact)
    WRITERS.get(what, _other)(store, run, artefact, made)
    store.tags(run, {"mlxrag.mirrored": "yes"})
    if begun:
        store.end(run, FINISHED, made + float(facts.get("seconds", 0.0)))
    return run


def experiment_of(artefact: Artefact) -> str:
    """Return which experiment an artefact belongs to."""
    kinds = {"models": "model", "adapters": "train", "datasets": "data", "indexes": "ingest"}
    names = {"evaluation": "eval", "plan": "ab", "votes": "human"}
    what = str(artefact.manifest.get("what", ""))
    return names.get(what, what) if artefact.kind == "runs" and what else kinds.get(artefact.kind, "bench")


def _evaluation(store: Store, run: str, artefact: Artefact, made: float) -> None:
    facts = artefact.manifest
    points = list(_figures(facts.get("figures", {}), made))
    points += [
        (k, float(facts[k]), made, 0)
        for k in ("examples", "failed", "answer_seconds")
        if isinstance(facts.get(k), int | float)
    ]
    store.metrics(run, points)
    settings = facts.get("settings", {})
    prompt = register_prompt(store, run, settings)
    log_answers(store, run, artefact.path)
    log_traces(store, run, "eval", artefact.path, settings, made, prompt)


def _comparison(store: Store, run: str, artefact: Artefact, made: float) -> None:
    """The run of a comparison, and below it one for each system with its figures, answers and traces."""
    facts = artefact.manifest
    if facts.get("what") == "plan":
        plan = json.loads((artefact.path / "plan.json").read_text(encoding="utf-8"))
        note = [f"- {h}" for h in plan["hypotheses"]] + [f"- Careful: {w}" for w in plan["warnings"]]
        store.tags(run, {"mlflow.note.content": "\n".join(note)})
        store.metrics(
            run, [(f"power/{k}", float(v), made, 0) for k, v in plan["power"].items() if isinstance(v, int | float)]
        )
        return
    report = json.loads((artefact.path / "report.json").read_text(encoding="utf-8"))
    store.tags(run, {"mlflow.note.content": "\n\n".join(f"**{v}**" for v in report["verdicts"])})
    several = len(report["verdicts"]) > 1
    points: list[Point] = []
    for c in report["comparisons"]:
        before = f"{c['b']} - {c['a']}/" if several else "difference/"
        # Bounds of every measure would bury the page: they are in the report, here are those of the one that decides.
        keys = (("difference", ""), ("low", " low"), ("high", " high"), ("corrected", " p"))
        for key, suffix in keys if c["measure"] == report["primary"] else keys[:1]:
            if c[key] is not None:
                points.append((f"{before}{c['measure']}{suffix}", float(c[key]), made, 0))
    points += [(f"time ratio/{r['b']} - {r['a']}", r["ratio"], made, 0) for r in report["time_ratios"]]
    store.metrics(run, points)
    plan = json.loads((artefact.path / "plan.json").read_text(encoding="utf-8"))
    settings = {v["name"]: v["settings"] for v in plan["variants"]}
    for system in report["systems"]:
        _system(store, run, artefact, system, settings.get(system["name"], {}), made)


def _system(
    store: Store, parent: str, artefact: Artefact, system: Mapping[str, Any], settings: Mapping[str, Any], made: float
) -> None:
    name = system["name"]
    mark = f"{artefact.ref}/{name}"
    tags = {
        "mlflow.parentRunId": parent,
        "mlxrag.part": mark,
        "mlxrag.name": name,
        "mlxrag.model": str(system.get("model")),
    }
    child = store.run_of("mlxrag.part", mark) or store.begin(
        "ab", f"{artefact.name}@{artefact.version} {name}", made, tags
    )
    store.tags(child, tags)  # a run that is there already may have had another parent
    store.parameters(child, settings)
    points = list(_figures(system["figures"], made))
    points += [
        (f"cost/{k}", float(v), made, 0) for k, v in (system["cost"] or {}).items() if isinstance(v, int | float)
    ]
    timed = (t for t in rows(artefact.path / "timing.jsonl") if t["variant"] == name and t["seconds"] is not None)
    points += [("cost/seconds per question", t["seconds"], made, i) for i, t in enumerate(timed)]
    store.metrics(child, points)
    prompt = register_prompt(store, child, settings)
    log_answers(store, child, artefact.path / name)
    log_traces(store, child, "ab", artefact.path / name, settings, made, prompt)
    store.end(child, FINISHED, made)


def _training(store: Store, run: str, artefact: Artefact, made: float) -> None:
    points = list(curves(rows(artefact.path / "steps.jsonl"), made))
    # Steps that were seen live have their own times; only what a process before this one did is added.
    seen = {name: store.steps(run, name) for name in {p[0] for p in points}}
    store.metrics(run, [p for p in points if p[3] not in seen[p[0]]])
    store.metrics(run, list(_numbers(artefact.manifest.get("scores", {}), made, "final/")))
    register(store, run, artefact)


def curves(steps: Iterator[Mapping[str, Any]], made: float) -> Iterator[Point]:
    """Yield the points of a training log, named as live ones are.

    Example:
        >>> list(curves(iter([{"iteration": 5, "train_loss": 2.0, "valid_loss": None}]), 0.0))
        [('train/loss', 2.0, 0.0, 5)]
    """
    names = {
        "train_loss": "train/loss", "valid_loss": "valid/loss", "tokens_per_second": "train/tokens_per_second",
        "peak_bytes": "train/peak_bytes", "learning_rate": "train/learning_rate",
    }  # fmt: skip
    for step in steps:
        at = int(step.get("iteration", 0))
        for key, name in names.items():
            if isinstance(step.get(key), int | float):
                yield name, float(step[key]), made, at
        for measure, value in (step.get("measures") or {}).items():
            if isinstance(value, int | float):
                yield f"valid/{measure}", float(value), made, at


def _model(store: Store, run: str, artefact: Artefact, made: float) -> None:
    _other(store, run, artefact, made)
    register(store, run, artefact)


def _other(store: Store, run: str, artefact: Artefact, made: float) -> None:
    """Every number among the facts of the manifest becomes a metric."""
    own = {k: v for k, v in artefact.manifest.items() if k not in _PLAIN}
    store.metrics(run, list(_numbers(own, made)))


def _votes(store: Store, run: str, artefact: Artefact, made: float) -> None:
    """Votes of people become assessments on the traces of the run that they are about."""
    _other(store, run, artefact, made)
    for ref in artefact.manifest.get("inputs", ())[:1]:
        about = store.run_of("mlxrag.ref", str(ref))
        if about is not None:
            store.tags(run, {"mlxrag.assessed": str(assess_run(store, "eval", about, artefact.path))})


WRITERS: dict[str, Callable[[Store, str, Artefact, float], None]] = {
    "eval": _evaluation,
    "ab": _comparison,
    "train": _training,
    "model": _model,
    "human": _votes,
}

_PLAIN = frozenset({"kind", "name", "version", "inputs", "settings", "files", "machine", "made", "seconds", "what"})


def _numbers(facts: Mapping[str, Any], made: float, before: str = "", most: int = 300) -> Iterator[Point]:
    for key, value in list(facts.items())[:most]:
        if isinstance(value, Mapping):
            yield from _numbers(value, made, f"{before}{key}/", most)
        elif isinstance(value, int | float) and value == value:
            yield f"{before}{key}"[:250], float(value), made, 0


def _figures(figures: Mapping[str, Mapping[str, Any]], made: float) -> Iterator[Point]:
    """Means by their measure's name; bounds and what is missing in sections of their own."""
    for measure, f in figures.items():
        if f.get("mean") is not None:
            yield measure, float(f["mean"]), made, 0
        for key in ("low", "high"):
            if measure in QUALITY and f.get(key) is not None:
                yield f"interval/{measure} {key}", float(f[key]), made, 0
        if f.get("missing"):
            yield f"missing/{measure}", float(f["missing"]), made, 0


def _reports(store: Store, run: str, folder: Path) -> None:
    for name in REPORTS:
        path = folder / name
        if path.is_file() and path.stat().st_size <= LARGEST_PAGE:
            patiently(lambda path=path: store.client.log_artifact(run, str(path)))  # type: ignore[misc]


def _inputs(store: Store, run: str, artefact: Artefact) -> None:
    """Datasets become MLflow inputs with our own digest, since MLflow's leaves out lists and what is beyond row 10,000."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    refs = [artefact.ref] if artefact.kind == "datasets" else [str(r) for r in artefact.manifest.get("inputs", ())]
    found: list[Any] = []
    for ref in dict.fromkeys(r for r in refs if re.fullmatch(r"datasets/[^@/]+@[^@/]+", r)):
        name, _, version = ref.removeprefix("datasets/").partition("@")
        try:
            data = resolve(store.workspace, "datasets", f"{name}@{version}")
        except MlxragError:
            continue
        profile = {"counts": data.manifest.get("counts"), "documents": data.manifest.get("documents")}
        schema = {
            "mlflow_colspec": [{"type": "string", "name": n, "required": True} for n in ("id", "question", "answers")]
        }
        dataset = Dataset(
            name, version[:36], "local", json.dumps({"uri": str(data.path)}), json.dumps(schema), json.dumps(profile)
        )
        context = {"train": "training", "datasets": "made"}.get(experiment_of(artefact), "evaluation")
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    if found:
        patiently(lambda: store.client.log_inputs(run, found))


def _parent(store: Store, ref: str, what: str) -> str | None:
    """Return the run of an input where it is of the same experiment, as MLflow nests runs only within one."""
    kind, _, rest = ref.partition("/")
    if kind not in KINDS or "@" not in rest:
        return None
    try:
        artefact = resolve(store.workspace, kind, rest)
    except MlxragError:
        return None
    return store.run_of("mlxrag.ref", ref) if experiment_of(artefact) == what else None


def _seconds(facts: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(facts["made"])).timestamp()
    except (KeyError, ValueError):
        return 0.0
