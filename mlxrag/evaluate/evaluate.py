"""System x dataset -> a run: answers, scores and report, as an artefact."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxrag.data.dataset import Dataset, open_dataset
from mlxrag.data.example import Example
from mlxrag.data.journal import Journal, rows
from mlxrag.errors import BadInput, Damaged, nearest
from mlxrag.evaluate import context, judge, page, report
from mlxrag.evaluate.measure import MEASURES, measure_all, similarity
from mlxrag.evaluate.run import ANSWERS, Row, answer_all, read_rows, spool
from mlxrag.evaluate.score import Measure, Score, from_row, to_row
from mlxrag.evaluate.support import faithful_encoder
from mlxrag.model.load import load
from mlxrag.rag.system import System
from mlxrag.settings import Evaluating
from mlxrag.workspace import Artefact, Workspace, create, write_json, write_text

SCORES = "scores.jsonl"
CONTEXT = "context.jsonl"


def evaluate(
    system: System,
    dataset: Dataset,
    examples: Mapping[str, Example],
    workspace: Workspace,
    name: str,
    *,
    selection: Mapping[str, Any],
    gold: bool = False,
    finished: Callable[[Artefact, report.Report], None] | None = None,
) -> Iterator[Row]:
    """Ask every question, yield its row, then write the run `runs/<name>`.

    The run is written when the last row has been taken; killed before, the same call goes on where it was.

    Args:
        system: what answers.
        dataset: where the examples are from.
        examples: id -> example, in the order to ask.
        workspace: where the run is kept.
        name: of the run.
        selection: how the examples were chosen, such as split, number and seed; recorded, and part of what "the same" is.
        gold: hand the gold passages over instead of retrieving.
        finished: called with the run and its report.

    Raises:
        BadInput: a measure that does not exist.
    """
    settings = system.settings.evaluating
    chosen = measures_of(settings)
    if settings.encoder_measures and system.encoder is not None:
        chosen |= encoder_measures(system.encoder)
    if settings.judge:
        chosen["faithful_judge"] = judge_measure(settings.judge, workspace)
    key = {"system": system.fingerprint, "dataset": dataset.ref, "gold": gold, **selection}
    folder = spool(workspace, name, key)
    started = time.perf_counter()
    yield from answer_all(system, examples.values(), folder, gold=gold)
    seconds = time.perf_counter() - started
    settings_used = {table: value.model_dump() for table, value in system.settings if table in SYSTEM_TABLES}
    about = {
        "model": system.model_name,
        "fingerprint": system.fingerprint,
        "index": system.index.name if system.index is not None and not gold else None,
        "settings": settings_used,
    }
    inputs = [dataset.ref, *_inputs(system)]
    with create(workspace, "runs", name, inputs=inputs, settings=settings_used) as draft:
        shutil.copy(folder / ANSWERS, draft.path / ANSWERS)
        with Journal(draft.path / SCORES, keep=1 << 30) as journal:
            for score in score_rows(read_rows(folder), examples, chosen):
                journal.add(to_row(score))
            if settings.attribution:
                for score in attributions(system, folder, draft.path, examples):
                    journal.add(to_row(score))
        data = {"ref": dataset.ref, "examples": len(examples), "gold_passages": gold, **selection}
        made = write_reports(draft.path, examples, settings, name, about, data)
        draft.note(
            what="evaluation", system=about, dataset=data, examples=len(examples), failed=len(made.failed),
            answer_seconds=round(seconds, 2), figures=_headline(made),
        )  # fmt: skip
    assert draft.artefact is not None
    shutil.rmtree(folder)
    if finished is not None:
        finished(draft.artefact, made)


SYSTEM_TABLES = ("retrieval", "model", "sampling", "answering", "caching", "encoding", "evaluating")


def measures_of(settings: Evaluating) -> dict[str, Measure]:
    """Return the measures that the settings name, all of the formulas if none; what is right is always measured.

    Raises:
        BadInput: there is no such measure.
    """
    names = settings.measures or tuple(MEASURES)
    for name in (*names, settings.right_by):
        if name not in MEASURES:
            raise BadInput(f"no measure {name!r}{nearest(name, MEASURES)}; there are {', '.join(MEASURES)}")
    return {name: MEASURES[name] for name in dict.fromkeys((settings.right_by, *names))}


def encoder_measures(encoder: Any) -> dict[str, Measure]:
    """Return the measures that an encoder computes."""
    from mlxrag.model.encode import encode

    def vectors(texts: list[str]) -> Any:
        return encode(encoder, texts)

    return {
        "similarity": similarity(vectors, encoder.name),
        "faithful_encoder": faithful_encoder(vectors, encoder.name),
    }


def judge_measure(ref: str, workspace: Workspace) -> Measure:
    """Return faithfulness by a model; it is loaded when it is first asked."""
    loaded: list[Any] = []

    def faithful_judge(answer: Any, example: Example) -> Score:
        if not loaded:
            loaded.append(load(ref, workspace))
        return judge.faithful_judge(loaded[0], answer, example)

    return faithful_judge


def attributions(system: System, folder: Path, out: Path, examples: Mapping[str, Example]) -> Iterator[Score]:
    """Yield the measures of `context.py` for every answer, and keep what each passage was worth in context.jsonl.

    Done rows are kept in `folder`, so that a run that is killed goes on.
    """
    done = {row["example_id"]: row["attribution"] for row in rows(folder / CONTEXT)}
    with Journal(folder / CONTEXT) as journal:
        for row in read_rows(folder):
            example = examples.get(row.example_id)
            if example is None:
                continue
            if row.example_id in done:
                kept = done[row.example_id]
                found = None if kept is None else context.Attribution(**{k: _tupled(v) for k, v in kept.items()})
            else:
                asked = not row.answer.failure and not row.answer.refused
                found = context.attribute(system.model, row.answer, system.settings.answering) if asked else None
                journal.add(context.to_row(row.example_id, found))
            yield from context.scores_of(found, row, example, system.model_name)
    shutil.copy(folder / CONTEXT, out / CONTEXT)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def score_rows(
    rows: Iterable[Row], examples: Mapping[str, Example], measures: Mapping[str, Measure]
) -> Iterator[Score]:
    """Yield a score for every row and measure; an answer that failed has rows with its reason."""
    for row in rows:
        example = examples.get(row.example_id)
        if example is None:
            continue
        if row.answer.failure:
            yield from measure_all(None, example, measures, row.answer.failure)
        else:
            yield from (measure(row.answer, example) for measure in measures.values())


def write_reports(
    folder: Path,
    examples: Mapping[str, Example],
    settings: Evaluating,
    title: str,
    system: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> report.Report:
    """Write report.json, report.md and report.html beside the answers and scores of a run, and return the report."""
    made = report.build(
        read_rows(folder), examples, read_scores(folder), settings, title=title, system=system, dataset=dataset
    )
    write_json(folder / "report.json", report.to_json(made))
    write_text(folder / "report.md", report.to_markdown(made))
    write_text(folder / "report.html", page.to_html(made))
    return made


def read_scores(folder: Path) -> Iterator[Score]:
    """Yield the scores of a run."""
    for row in rows(folder / SCORES):
        yield from_row(row)


def add_scores(folder: Path, scores: Iterable[Score]) -> int:
    """Append scores (of a judge, of people) to an unfinished run's folder and return how many."""
    count = 0
    with Journal(folder / SCORES) as journal:
        for count, score in enumerate(scores, 1):  # noqa: B007
            journal.add(to_row(score))
    return count


def rescore(workspace: Workspace, run: Artefact) -> Artefact:
    """Compute the formulas again from a run's answers, as a new version; what judges and people said is kept."""
    examples = examples_of(workspace, run)
    settings = Evaluating.model_validate(run.manifest["settings"].get("evaluating", {}))
    chosen = measures_of(settings)
    with create(
        workspace, "runs", run.name, inputs=[run.ref, *run.manifest["inputs"]], settings=run.manifest["settings"]
    ) as draft:
        shutil.copy(run.path / ANSWERS, draft.path / ANSWERS)
        with Journal(draft.path / SCORES, keep=1 << 30) as journal:
            for score in score_rows(read_rows(run.path), examples, chosen):
                journal.add(to_row(score))
            for score in read_scores(run.path):
                if score.measure not in chosen:
                    journal.add(to_row(score))
        made = write_reports(draft.path, examples, settings, run.name, run.manifest["system"], run.manifest["dataset"])
        kept = {
            k: run.manifest[k]
            for k in ("what", "system", "dataset", "examples", "failed", "answer_seconds")
            if k in run.manifest
        }
        draft.note(**kept, figures=_headline(made))
    assert draft.artefact is not None
    return draft.artefact


def examples_of(workspace: Workspace, run: Artefact) -> dict[str, Example]:
    """Return the examples that a run was asked, in its order.

    Raises:
        Damaged: the run does not say what it was asked, or its dataset is not as it was.
    """
    fact = run.manifest.get("dataset")
    if not isinstance(fact, Mapping):
        raise Damaged(f"{run.ref} does not say which dataset it was asked; run the evaluation again")
    dataset = open_dataset(workspace, str(fact["ref"]))
    ids = [row.example_id for row in read_rows(run.path)]
    wanted = set(ids)
    found = {e.id: e for e in dataset.split(str(fact.get("split", "all"))) if e.id in wanted}
    if len(found) != len(wanted):
        raise Damaged(f"{run.ref}: {len(wanted - found.keys())} of its questions are not in {dataset.ref}")
    return {i: found[i] for i in ids}


def report_of(run: Artefact) -> dict[str, Any]:
    """Return a run's report as it was written.

    Raises:
        Damaged: it is not there or not JSON.
    """
    try:
        return dict(json.loads((run.path / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise Damaged(f"{run.ref} has no report that can be read; run the evaluation again") from error


def _headline(made: report.Report) -> dict[str, Any]:
    return {
        f.measure: {"mean": f.mean, "low": f.low, "high": f.high, "n": f.n, "missing": f.missing} for f in made.figures
    }


def _inputs(system: System) -> list[str]:
    found = []
    if system.model.version:
        found.append(f"models/{system.model.name}@{system.model.version}")
    if system.model.adapter:
        found.append(f"adapters/{system.model.adapter}")
    if system.index is not None:
        found.append(f"indexes/{system.index.name}")
    return found
