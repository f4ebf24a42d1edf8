"""Answers of a run as a table, and the first of them as traces with spans and assessments."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxrag.data.journal import rows
from mlxrag.errors import MlxragError
from mlxrag.evaluate.evaluate import read_scores
from mlxrag.evaluate.run import from_row
from mlxrag.evaluate.score import Score
from mlxrag.rag.answer import Answer, messages
from mlxrag.settings import Answering
from mlxrag.tracking.store import Store, patiently

LOG = logging.getLogger(__name__)

SHOWN = 4  # formula measures of a trace, besides those of judges and people; all are in the table
FIRST = ("correct", "f1", "exact", "refusal", "hit_at_1", "hit_at_5", "faithful_overlap", "chrf")


def log_answers(store: Store, run: str, folder: Path) -> int:
    """Write answers.json, a table of question, answer, passages, scores and cost; returns its rows."""
    scores: dict[str, dict[str, float | None]] = {}
    for s in read_scores(folder):
        scores.setdefault(s.example_id, {})[s.measure] = s.value
    measures = list(dict.fromkeys(m for found in scores.values() for m in found))
    table: dict[str, list[Any]] = {}
    count = 0
    for count, row in enumerate(rows(folder / "answers.jsonl"), 1):  # noqa: B007
        own = scores.get(row["example_id"], {})
        cells = {
            "example_id": row["example_id"], "question": row["question"], "answer": row["text"],
            "passages": "\n".join(f"[{i}] {h['source']} {h['place']}" for i, h in enumerate(row["hits"], 1)),
            "failure": row["failure"], **{m: own.get(m) for m in measures},
            **{k: row["usage"].get(k) for k in ("seconds", "prompt_tokens", "answer_tokens")},
        }  # fmt: skip
        for key, value in cells.items():
            table.setdefault(key, []).append(value)
    if count:
        patiently(lambda: store.client.log_table(run, table, "answers.json"))
    return count


def log_traces(
    store: Store, run: str, experiment: str, folder: Path, settings: Mapping[str, Any], made: float, prompt: str
) -> int:
    """Make traces of the first answers: spans for retrieval, prompt and generation, scores as assessments.

    An answer records how long its parts took and not when they began, so the traces of a run stand one after the other
    from its beginning, and say so.

    Args:
        store: where to.
        run: that the traces belong to.
        experiment: kind of the experiment.
        folder: of answers.jsonl and scores.jsonl.
        settings: of the system, for the prompt.
        made: when the run began, in seconds since 1970.
        prompt: `name/version` of the instruction.

    Returns:
        how many there are now for this run.
    """
    from mlxrag.track import read_tracking

    most = read_tracking(store.workspace).track_traces
    if not most or not (folder / "answers.jsonl").is_file():
        return 0
    identity = store.experiment(experiment)
    there = set(_traces(store, identity, run))
    wanted: dict[str, list[Score]] = {}
    for s in read_scores(folder):
        wanted.setdefault(s.example_id, []).append(s)
    answering = _answering(settings)
    at, asked = made, set[str]()
    for number, row in enumerate(rows(folder / "answers.jsonl")):
        if number >= most:
            break
        read = from_row(row)
        seconds = _trace(store, identity, run, read.example_id, read.answer, answering, at, prompt,
                         wanted.get(read.example_id, []), read.example_id in there)  # fmt: skip
        asked.add(read.example_id)
        at += seconds
    stored = len(_traces(store, identity, run)) if asked - there else len(there)
    if stored < len(asked):
        # MLflow gives a span that does nothing where it fails; what is not stored must be said.
        LOG.warning("%s: %d of %d traces were stored", folder, stored, len(asked))
    return stored


def _trace(
    store: Store, experiment: str, run: str, example_id: str, answer: Answer, answering: Answering, at: float,
    prompt: str, scores: list[Score], known: bool,
) -> float:  # fmt: skip
    """Write one trace and return how many seconds it covers."""
    import mlflow
    from mlflow.entities import SpanType
    from mlflow.tracing.provider import detach_span_from_context, set_span_in_context

    retrieval = float(answer.usage.get("retrieval_seconds") or 0.0)
    generation = float(answer.usage.get("seconds") or 0.0)
    whole = retrieval + generation + 0.001
    if known:
        return whole

    def ns(seconds: float) -> int:
        return int((at + seconds) * 1e9)

    root = mlflow.start_span_no_context(
        "ask", SpanType.CHAIN, inputs={"question": answer.question}, experiment_id=experiment, start_time_ns=ns(0.0),
        tags={"mlxrag.example": example_id, "mlxrag.model": answer.model, "mlxrag.prompt": prompt},
        metadata={"mlflow.sourceRun": run, "mlxrag.times": "durations are measured; beginnings are laid end to end"},
    )  # fmt: skip
    found = mlflow.start_span_no_context(
        "retrieve", SpanType.RETRIEVER, root, {"question": answer.question}, start_time_ns=ns(0.0)
    )
    documents = [
        {"page_content": h.passage.text, "id": h.passage.id, "metadata": {"doc_uri": h.passage.source, "place": h.passage.place, "score": float(h.score)}}
        for h in answer.hits
    ]  # fmt: skip
    found.end(outputs=documents, end_time_ns=ns(retrieval))
    laid = mlflow.start_span_no_context("prompt", SpanType.PARSER, root, start_time_ns=ns(retrieval))
    chat = messages(answer.question, answer.hits, answering)
    laid.end(outputs=chat, end_time_ns=ns(retrieval + 0.001))
    usage = {k: int(answer.usage.get(k) or 0) for k in ("prompt_tokens", "answer_tokens")}
    said = mlflow.start_span_no_context(
        "generate", SpanType.LLM, root, {"messages": chat}, start_time_ns=ns(retrieval + 0.001),
        attributes={
            "mlflow.chat.tokenUsage": {
                "input_tokens": usage["prompt_tokens"], "output_tokens": usage["answer_tokens"], "total_tokens": sum(usage.values()),
            },
            "model": answer.model, "reused_tokens": answer.usage.get("reused_tokens"), "logprob": answer.logprob,
        },
    )  # fmt: skip
    # While its root is the active span, assessments are written with the trace, at once.
    token = set_span_in_context(root)
    assess(root.trace_id, scores)
    detach_span_from_context(token)
    status = "ERROR" if answer.failure else "OK"
    said.end(outputs=answer.text or answer.failure, status=status, end_time_ns=ns(whole))
    root.end(
        outputs={"answer": answer.text, "citations": [c.n for c in answer.citations], "refused": answer.refused},
        status=status, end_time_ns=ns(whole),
    )  # fmt: skip
    return whole


def assess(trace: str, scores: list[Score]) -> int:
    """Attach scores to a trace: the first formulas, and all of judges and people; returns how many."""
    import mlflow
    from mlflow.entities import AssessmentError, AssessmentSource, AssessmentSourceType

    formulas = [s for s in scores if source_of(s) == "CODE"]
    order = sorted(formulas, key=lambda s: FIRST.index(s.measure) if s.measure in FIRST else len(FIRST))
    chosen = order[:SHOWN] + [s for s in scores if source_of(s) != "CODE"]
    for s in chosen:
        source = AssessmentSource(getattr(AssessmentSourceType, source_of(s)), s.by)
        error = None if s.value is not None else AssessmentError("NO_VALUE", s.reason or "no value")
        patiently(
            lambda s=s, source=source, error=error: mlflow.log_feedback(  # type: ignore[misc]
                trace_id=trace, name=s.measure, value=s.value, source=source, error=error, rationale=s.reason or None
            )
        )
    return len(chosen)


def source_of(score: Score) -> str:
    """Return who scored, in MLflow's words: CODE, LLM_JUDGE or HUMAN."""
    if score.measure == "preferred" or score.measure.startswith("human_"):
        return "HUMAN"
    return "CODE" if score.by == "formula" else "LLM_JUDGE"


def assess_run(store: Store, experiment: str, run: str, folder: Path) -> int:
    """Attach the scores of people in `folder` to the traces of a run; those that are there already are not doubled."""
    traces = _traces(store, store.experiment(experiment), run)
    wanted: dict[str, list[Score]] = {}
    for s in read_scores(folder):
        if source_of(s) == "HUMAN" and s.example_id in traces:
            wanted.setdefault(s.example_id, []).append(s)
    count = 0
    for example_id, scores in wanted.items():
        trace = patiently(lambda i=example_id: store.client.get_trace(traces[i]))  # type: ignore[misc]
        there = {(a.name, a.source.source_id) for a in trace.info.assessments}
        count += assess(traces[example_id], [s for s in scores if (s.measure, s.by) not in there])
    return count


def forget(store: Store, experiment: str, run: str) -> None:
    """Delete a run with its traces."""
    identity = store.experiment(experiment)
    if traces := [*_traces(store, identity, run).values()]:
        patiently(lambda: store.client.delete_traces(identity, trace_ids=traces))
    patiently(lambda: store.client.delete_run(run))


def _traces(store: Store, experiment: str, run: str) -> dict[str, str]:
    """Return example id -> trace id of a run."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = patiently(
            lambda token=token: store.client.search_traces(  # type: ignore[misc]
                locations=[experiment], run_id=run, max_results=500, page_token=token, include_spans=False
            )
        )
        found |= {t.info.tags.get("mlxrag.example", ""): t.info.trace_id for t in page}
        token = page.token
        if not token:
            return found


def _answering(settings: Mapping[str, Any]) -> Answering:
    try:
        return Answering.model_validate(json.loads(json.dumps(settings.get("answering", {}))))
    except (MlxragError, ValueError):
        return Answering()
