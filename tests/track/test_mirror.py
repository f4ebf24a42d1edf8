"""Artefacts become MLflow runs, once, with everything that a reader of MLflow expects."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxrag.settings import Tracking
from mlxrag.track import counted, live
from mlxrag.tracking.mirror import mirror, mirror_missing
from mlxrag.tracking.store import DATABASE, Store, metric_name
from mlxrag.tracking.worker import mirror_all, work
from mlxrag.workspace import Workspace, create, remove, use
from tests.track import kit


def run_of(store: Store, ref: str) -> Any:
    identity = store.run_of("mlxrag.ref", ref)
    assert identity is not None
    return store.client.get_run(identity)


def test_an_evaluation_has_figures_settings_data_prompt_answers_and_report(ws: Workspace) -> None:
    """One run with metrics, parameters, a dataset input with our digest, a prompt version, a table and the page."""
    made = kit.evaluation(ws)
    store = Store(ws)
    assert list(mirror_missing(store)) == [made.manifest["inputs"][0], made.ref]
    run = run_of(store, made.ref)
    assert run.info.status == "FINISHED" and run.info.run_name == "system@v1"
    assert run.data.metrics["correct"] == 0.75 and run.data.metrics["interval/correct low"] == pytest.approx(0.65)
    assert run.data.params["retrieval.num_passages"] == "1" and run.data.tags["mlxrag.mirrored"] == "yes"
    dataset = run.inputs.dataset_inputs[0].dataset
    assert f"datasets/{dataset.name}@{dataset.digest}" == made.manifest["inputs"][0]
    assert run.data.tags["mlxrag.prompt"] == "system_prompt/1"
    assert store.client.get_prompt_version("system_prompt", "1").template == kit.PROMPT
    names = {a.path for a in store.client.list_artifacts(run.info.run_id)}
    assert names == {"answers.json", "report.html", "settings.json"}
    table = store.client.load_table(run.info.experiment_id, "answers.json", run_ids=[run.info.run_id])
    assert list(table["answer"]) == ["mice [1]"] * 3 + ["hay"] and list(table["correct"]) == [1.0, 1.0, 1.0, 0.0]


def test_answers_become_traces_with_spans_and_assessments(ws: Workspace) -> None:
    """Retrieval, prompt and generation are spans; formula, judge and a failed judgement are told apart."""
    made = kit.evaluation(ws)
    store = Store(ws)
    mirror(store, made)
    run = run_of(store, made.ref)
    traces = store.client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    assert len(traces) == 4
    first = next(t for t in traces if t.info.tags["mlxrag.example"] == kit.examples()[0].id)
    spans = {s.name: s for s in first.data.spans}
    assert set(spans) == {"ask", "retrieve", "prompt", "generate"}
    assert (spans["retrieve"].end_time_ns - spans["retrieve"].start_time_ns) / 1e9 == pytest.approx(0.1, abs=1e-3)
    assert spans["retrieve"].outputs[0]["metadata"]["doc_uri"] == "docs/0.md"
    assert spans["prompt"].outputs[0] == {"role": "system", "content": kit.PROMPT}
    assert spans["generate"].attributes["mlflow.chat.tokenUsage"]["output_tokens"] == 3
    found = {a.name: a for a in first.info.assessments}
    assert found["correct"].source.source_type == "CODE" and found["correct"].value == 1.0
    assert (
        found["faithful_judge"].source.source_type == "LLM_JUDGE"
        and found["faithful_judge"].error.error_message == "no verdict"
    )
    mirror(store, made)
    assert len(store.client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)) == 4


def test_votes_of_people_are_assessments_on_the_traces_they_are_about(ws: Workspace) -> None:
    """A vote appears beside the formulas on the answer's trace, once however often it is mirrored."""
    made = kit.evaluation(ws)
    voted = kit.votes(ws, made)
    store = Store(ws)
    list(mirror_missing(store))
    mirror(store, voted)
    run = run_of(store, made.ref)
    trace = store.client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)[0]
    human = [a for a in trace.info.assessments if a.source.source_type == "HUMAN"]
    assert [(a.name, a.source.source_id, a.value) for a in human] == [("preferred", "ada", 1.0)]


def test_the_same_prompt_is_one_version_and_another_a_second(ws: Workspace) -> None:
    """Versions follow the text of the instruction."""
    refs = [kit.evaluation(ws, "a").ref, kit.evaluation(ws, "b").ref, kit.evaluation(ws, "c", prompt="Be brief.").ref]
    store = Store(ws)
    list(mirror_missing(store))
    assert [run_of(store, r).data.tags["mlxrag.prompt"] for r in refs] == [
        "system_prompt/1",
        "system_prompt/1",
        "system_prompt/2",
    ]


def test_training_has_curves_and_its_adapter_is_registered_by_reference(ws: Workspace) -> None:
    """Steps become curves; the version points at the workspace, and the alias follows `use`."""
    one, two = kit.trained(ws), kit.trained(ws)
    use(ws, "adapters", "adapter@v1")
    store = Store(ws)
    list(mirror_missing(store))
    run = run_of(store, one.ref)
    history = store.client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0), (3, 0.0)]
    assert run.data.metrics["valid/f1"] == 0.5 and run.data.metrics["final/best/valid_loss"] == 2.5
    version = store.client.get_model_version_by_alias("adapter.adapter", "current")
    assert version.source == one.path.as_uri() and version.tags["mlxrag.version"] == "v1"
    assert {v.tags["mlxrag.version"] for v in store.client.search_model_versions("name='adapter.adapter'")} == {
        "v1",
        "v2",
    }
    assert run_of(store, two.ref).info.run_name == "adapter@v2"


def test_a_lost_database_is_rebuilt_from_the_workspace(ws: Workspace, tables: Path) -> None:
    """After deleting it, `track mirror` gives the same runs, figures and curves again, also of jobs without an artefact."""
    kit.evaluation(ws)
    kit.trained(ws)
    with live(ws, Tracking(track_seconds=0), "ingest", "documents") as job:
        assert list(counted(job, range(5), "files", every=0.0)) == [0, 1, 2, 3, 4]
    work(ws, idle=0.05, poll=0.02)
    assert list(mirror_all(Store(ws))) == []
    before = contents(ws)
    for path in ws.root.glob(f"{DATABASE}*"):
        path.unlink()
    shutil.copy(tables, ws.root / DATABASE)
    command = [sys.executable, "-m", "mlxrag", "track", "mirror", "--json", "--workspace", str(ws.root)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    answer = json.loads(done.stdout)
    assert len(answer["mirrored"]) == 4 and answer["mirrored"][0] == "ingest documents" and answer["runs"] == 3
    assert contents(ws) == before


def contents(ws: Workspace) -> list[Any]:
    """Every point, parameter, prompt, trace and alias in the database, without ids and times."""
    with sqlite3.connect(ws.root / DATABASE) as database:
        found = [
            database.execute(query).fetchall()
            for query in (
                "select r.name, r.status, m.key, m.step, m.value from metrics m join runs r using (run_uuid) order by 1, 2, 3, 4, 5",
                "select r.name, p.key, p.value from params p join runs r using (run_uuid) order by 1, 2",
                "select count(*) from trace_info",
                "select name, value from assessments order by 1, 2",
                "select name, alias, version from registered_model_aliases",
                "select name, digest from datasets",
            )
        ]
    database.close()
    return found


def test_a_comparison_has_a_run_per_system_below_it(ws: Workspace) -> None:
    """Plan above comparison above systems: MLflow nests them; the verdict is the run's note."""
    ref = kit.dataset(ws)
    with create(ws, "runs", "p", inputs=[ref]) as draft:
        body = {
            "hypotheses": ["B and A differ in correct"],
            "warnings": [],
            "power": {"chance": 0.8},
            "variants": [{"name": n, "settings": {"answering": {"system_prompt": "x"}}} for n in "AB"],
        }
        (draft.path / "plan.json").write_text(json.dumps(body))
        draft.note(what="plan")
    assert draft.artefact is not None
    plan = draft.artefact
    source = kit.evaluation(ws, "A")
    with create(ws, "runs", "p-run", inputs=[plan.ref, ref]) as draft:
        report = {
            "verdicts": ["B is better."], "primary": "correct", "time_ratios": [{"a": "A", "b": "B", "ratio": 1.5}],
            "comparisons": [{"a": "A", "b": "B", "measure": "correct", "difference": 0.1, "low": 0.0, "high": 0.2, "corrected": 0.04}],
            "systems": [{"name": n, "model": "toy", "figures": {"correct": {"mean": 0.5, "low": 0.4, "high": 0.6}}, "cost": {"seconds": 0.5}} for n in "AB"],
        }  # fmt: skip
        (draft.path / "report.json").write_text(json.dumps(report))
        (draft.path / "plan.json").write_text(json.dumps(body))
        for n in "AB":
            (draft.path / n).mkdir()
            for file in ("answers.jsonl", "scores.jsonl"):
                (draft.path / n / file).write_bytes((source.path / file).read_bytes())
        draft.note(what="ab", variants=["A", "B"])
    assert draft.artefact is not None
    store = Store(ws)
    list(mirror_missing(store))
    run = run_of(store, draft.artefact.ref)
    assert run.data.tags["mlflow.note.content"] == "**B is better.**" and run.data.metrics["difference/correct"] == 0.1
    assert run.data.tags["mlflow.parentRunId"] == run_of(store, plan.ref).info.run_id
    children = store.client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert {c.data.tags["mlxrag.name"]: c.data.metrics["correct"] for c in children} == {"A": 0.5, "B": 0.5}
    experiment = store.client.get_experiment_by_name("ab")
    assert "compareRunCharts" in experiment.tags["mlflow.sharedViewState.mlxrag"]


def test_a_bad_artefact_leaves_the_others(ws: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read is named in the log, and the rest is mirrored."""
    with create(ws, "runs", "bad") as draft:
        draft.note(what="ab", variants=["A"])
    good = kit.trained(ws)
    assert list(mirror_missing(Store(ws))) == [good.ref]
    assert "runs/bad@v1 cannot be mirrored" in caplog.text


def test_what_was_removed_from_the_workspace_stays_in_mlflow(ws: Workspace) -> None:
    """Mirroring again after a removal changes nothing and fails nothing."""
    made = kit.trained(ws)
    store = Store(ws)
    list(mirror_missing(store))
    remove(ws, "adapters", made.ref.removeprefix("adapters/"))
    assert list(mirror_all(store)) == [] and run_of(store, made.ref) is not None


def test_names_that_mlflow_does_not_take_are_changed() -> None:
    """`@` and `%` are not allowed in names of metrics."""
    assert metric_name("recall@5") == "recall_at_5" and metric_name("90%") == "90_"
