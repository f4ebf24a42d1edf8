"""System x dataset -> a run: answers, scores and report, as an artefact."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxrag import memory
from mlxrag.data.dataset import Dataset, open_dataset
from mlxrag.data.example import Example
from mlxrag.data.journal import Journal, rows
from mlxrag.errors import BadInput, Damaged, nearest
from mlxrag.evaluate import context, judging, page, report
from mlxrag.evaluate.judge import Verdict, agreement
from mlxrag.evaluate.measure import MEASURES, measure_all, similarity
from mlxrag.evaluate.run import ANSWERS, Row, answer_all, read_rows, spool
from mlxrag.evaluate.score import Measure, Score, from_row, to_row
from mlxrag.evaluate.support import faithful_encoder
from mlxrag.model.load import Model, load
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
            notes: list[str] = []
            if settings.judge:
                for score in judgements(settings.judge, workspace, folder, draft.path, examples, notes):
                    journal.add(to_row(score))
        data = {"ref": dataset.ref, "examples": len(examples), "gold_passages": gold, **selection}
        made = write_reports(draft.path, examples, settings, name, about, data, notes)
        draft.note(
            what="evaluation", system=about, dataset=data, examples=len(examples), failed=len(made.failed),
            answer_seconds=round(seconds, 2), figures=_headline(made), remarks=notes, memory=memory.figures(),
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


def judgements(
    ref: str, workspace: Workspace, folder: Path, out: Path, examples: Mapping[str, Example], notes: list[str]
) -> Iterator[Score]:
    """Yield faithfulness by a model for every answer, and add what speaks against the judge to `notes`.

    Done rows are kept in `folder`, so that a run that is killed goes on.
    """
    with load(ref, workspace) as model:
        verdicts: list[Verdict] = []
        for score, found in judging.judged(model, read_rows(folder), examples, folder):
            verdicts += found
            yield score
        notes += judging.remarks(judging.position(verdicts), None, model.name)
    shutil.copy(folder / judging.JUDGED, out / judging.JUDGED)


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
    notes: Sequence[str] = (),
) -> report.Report:
    """Write report.json, report.md and report.html beside the answers and scores of a run, and return the report."""
    made = report.build(
        read_rows(folder),
        examples,
        read_scores(folder),
        settings,
        title=title,
        system=system,
        dataset=dataset,
        notes=notes,
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


def rescore(
    workspace: Workspace,
    run: Artefact,
    added: Iterable[Score] = (),
    notes: Sequence[str] = (),
    verdicts: Path | None = None,
) -> Artefact:
    """Compute the formulas again from a run's answers, as a new version; what judges and people said is kept.

    Args:
        workspace: where.
        run: the run.
        added: more scores; they take the place of those of the same measure and judge or person.
        notes: for the top of the report; those of the run unless given.
        verdicts: folder of a judge's verdicts, to be kept with the answers.
    """
    examples = examples_of(workspace, run)
    settings = Evaluating.model_validate(run.manifest["settings"].get("evaluating", {}))
    chosen = measures_of(settings)
    new = list(added)
    notes = [*notes] or list(run.manifest.get("remarks", ()))
    replaced = {(s.measure, s.by) for s in new}
    with create(
        workspace, "runs", run.name, inputs=[run.ref, *run.manifest["inputs"]], settings=run.manifest["settings"]
    ) as draft:
        for part in (ANSWERS, CONTEXT, judging.JUDGED):
            source = verdicts if verdicts is not None and part == judging.JUDGED else run.path
            if (source / part).is_file():
                shutil.copy(source / part, draft.path / part)
        with Journal(draft.path / SCORES, keep=1 << 30) as journal:
            for score in score_rows(read_rows(run.path), examples, chosen):
                journal.add(to_row(score))
            for score in (*(s for s in read_scores(run.path) if (s.measure, s.by) not in replaced), *new):
                if score.measure not in chosen:
                    journal.add(to_row(score))
        kept = {
            k: run.manifest[k]
            for k in ("what", "system", "dataset", "examples", "failed", "answer_seconds")
            if k in run.manifest
        }
        made = write_reports(
            draft.path, examples, settings, run.name, run.manifest["system"], run.manifest["dataset"], notes
        )
        draft.note(**kept, figures=_headline(made), remarks=notes)
    assert draft.artefact is not None
    return draft.artefact


def judge_run(workspace: Workspace, run: Artefact, model: Model) -> tuple[Artefact, dict[str, Any]]:
    """Have a model judge the answers of a run, and return the new version with what was found out about the judge."""
    folder = judging.spool(workspace, [run], model.name)
    pairs = list(judging.judged(model, read_rows(run.path), examples_of(workspace, run), folder))
    place = judging.position([v for _, found in pairs for v in found])
    people = judging.votes_on(workspace, [run], "human_supported")
    told = {s.example_id: s.value for s, _ in pairs if s.value is not None}
    held = agreement(told, people) if people else None
    # The verdicts themselves go with the version that holds their scores.
    made = rescore(workspace, run, [s for s, _ in pairs], judging.remarks(place, held, model.name), verdicts=folder)
    shutil.rmtree(folder)
    return made, {"judge": model.name, "position": asdict(place), "people": None if held is None else asdict(held)}


def judge_pair(workspace: Workspace, runs: Sequence[Artefact], model: Model) -> tuple[Artefact, dict[str, Any]]:
    """Have a model choose between the answers of two runs, and write what it chose as a run, `<first run>-judged`."""
    folder = judging.spool(workspace, runs, model.name)
    examples = examples_of(workspace, runs[0])
    settings = Evaluating.model_validate(runs[0].manifest["settings"].get("evaluating", {}))
    answers = [{row.example_id: row.answer for row in read_rows(r.path)} for r in runs]
    found = list(judging.compare(model, runs, answers, examples, folder))
    right = [
        {s.example_id: s.value >= settings.right_from for s in read_scores(r.path) if s.measure == settings.right_by and s.value is not None}
        for r in runs
    ]  # fmt: skip
    people = judging.votes_on(workspace, runs, "preferred")
    summary = judging.to_json(judging.preference(model, runs, found, examples, right, people, settings))
    with create(
        workspace, "runs", f"{runs[0].name}-judged", inputs=[r.ref for r in runs], settings={"judge": model.name}
    ) as draft:
        with Journal(draft.path / SCORES, keep=1 << 30) as journal:
            for score, _ in found:
                journal.add(to_row(score))
        write_json(draft.path / "report.json", summary)
        draft.note(what="judged", runs=summary["runs"], dataset=dict(runs[0].manifest.get("dataset", {})))
    assert draft.artefact is not None
    shutil.rmtree(folder)
    return draft.artefact, summary


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
