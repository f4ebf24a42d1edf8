"""An MLflow database in the workspace, without a server: the few things that tracking does with it.

MLflow is imported when a store is opened, which takes about two seconds of processor time; the first opening of a
workspace makes the database, which takes some more.  SQLite is put into write-ahead mode, so that pages can be read
while a job writes; a write that finds the database locked is tried again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlxrag.track import home, quiet
from mlxrag.tracking.charts import TAG, view
from mlxrag.workspace import Workspace

Value = TypeVar("Value")

DATABASE = "mlflow.db"
LONGEST_PARAMETER = 500  # characters; longer ones are in settings.json and, if they are prompts, versions of a prompt
BATCH = 900  # metrics in one call, below MLflow's limit
RETRIES = 8

EXPERIMENTS = {
    "ingest": "Documents read into an index.",
    "data": "Question sets, made, imported and split.",
    "train": "Adapters in training.",
    "model": "Models converted and quantized.",
    "sweep": "One model at several bits.",
    "eval": "Systems asked a dataset's questions.",
    "ab": "Systems compared: plans and runs.",
    "bench": "Speed and memory.",
    "human": "Votes of people.",
}


class Store:
    """An open MLflow store.

    Attributes:
        client: MLflow's client.
        workspace: whose.
    """

    def __init__(self, workspace: Workspace) -> None:
        os.environ.update(quiet(os.environ))
        import mlflow
        from mlflow import MlflowClient

        self.workspace = workspace
        self.uri = address(workspace)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._experiments: dict[str, str] = {}
        patiently(lambda: self.client.search_experiments(max_results=1))
        write_ahead(workspace.root / DATABASE)

    def experiment(self, kind: str) -> str:
        """Return the id of a kind's experiment, made if it is not there."""
        if kind not in self._experiments:
            found = patiently(lambda: self.client.get_experiment_by_name(kind))
            if found is None:
                place = (home(self.workspace) / "artifacts" / kind).as_uri()
                tags = {
                    "mlflow.note.content": EXPERIMENTS.get(kind, kind),
                    "mlflow.experimentKind": "custom_model_development",
                }
                if shown := view(kind):
                    tags[TAG] = shown
                made = patiently(lambda: self.client.create_experiment(kind, artifact_location=place, tags=tags))
                self._experiments[kind] = str(made)
            else:
                self._experiments[kind] = str(found.experiment_id)
        return self._experiments[kind]

    def begin(self, kind: str, name: str, started: float, tags: Mapping[str, str]) -> str:
        """Make a run and return its id."""
        experiment = self.experiment(kind)
        run = patiently(
            lambda: self.client.create_run(experiment, start_time=int(started * 1000), run_name=name, tags=dict(tags))
        )
        return str(run.info.run_id)

    def end(self, run: str, status: str, ended: float) -> None:
        """Say how and when a run ended."""
        patiently(lambda: self.client.set_terminated(run, status, end_time=int(ended * 1000)))

    def parameters(self, run: str, settings: Mapping[str, Any]) -> None:
        """Record settings: one parameter for each, and all of them, whole, as settings.json.

        Those that MLflow would cut short are left to the file; parameters that are there already stay.
        """
        from mlflow.entities import Param

        known = patiently(lambda: self.client.get_run(run)).data.params
        flat = {k: str(v) for k, v in flatten(settings)}
        fresh = [Param(k, v) for k, v in flat.items() if len(v) <= LONGEST_PARAMETER and k not in known]
        for part in parts(fresh, 90):
            patiently(lambda part=part: self.client.log_batch(run, params=part))  # type: ignore[misc]
        if settings:
            text = json.dumps(dict(settings), indent=1, ensure_ascii=False, default=str)
            patiently(lambda: self.client.log_text(run, text, "settings.json"))

    def metrics(self, run: str, points: Sequence[tuple[str, float, float, int]]) -> None:
        """Record points: name, value, time in seconds since 1970, step.  Points that are there already are not doubled."""
        from mlflow.entities import Metric

        made = [Metric(metric_name(n), v, int(t * 1000), s) for n, v, t, s in points if abs(v) < 1e300]
        for part in parts(made, BATCH):
            patiently(lambda part=part: self.client.log_batch(run, metrics=part))  # type: ignore[misc]

    def steps(self, run: str, metric: str) -> set[int]:
        """Return the steps at which a run has points of a metric."""
        found = patiently(lambda: self.client.get_metric_history(run, metric_name(metric)))
        return {int(m.step) for m in found}

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        for part in parts([RunTag(k, v[:5000]) for k, v in tags.items()], 90):
            patiently(lambda part=part: self.client.log_batch(run, tags=part))  # type: ignore[misc]

    def mirrored(self) -> dict[str, str]:
        """Return ref -> run id of all that is mirrored."""
        found: dict[str, str] = {}
        ids = [e.experiment_id for e in patiently(lambda: self.client.search_experiments())]
        token = None
        while ids:
            page = patiently(
                lambda token=token: self.client.search_runs(  # type: ignore[misc]
                    ids, "tags.`mlxrag.mirrored` = 'yes'", max_results=1000, page_token=token
                )
            )
            found |= {r.data.tags["mlxrag.ref"]: r.info.run_id for r in page if "mlxrag.ref" in r.data.tags}
            token = page.token
            if not token:
                break
        return found

    def run_of(self, tag: str, value: str) -> str | None:
        """Return the id of the newest run with a tag, or None."""
        ids = [e.experiment_id for e in patiently(lambda: self.client.search_experiments())]
        found = (
            patiently(lambda: self.client.search_runs(ids, f"tags.`{tag}` = '{value}'", max_results=1)) if ids else []
        )
        return str(found[0].info.run_id) if found else None


def address(workspace: Workspace) -> str:
    """Return the URI of a workspace's MLflow database."""
    return f"sqlite:///{workspace.root / DATABASE}"


def patiently(call: Callable[[], Value]) -> Value:
    """Call, and call again a little later where another process holds the database (up to about 13 s)."""
    from mlflow.exceptions import MlflowException

    for attempt in range(RETRIES):
        try:
            return call()
        except MlflowException as error:
            if attempt == RETRIES - 1 or not any(
                w in str(error) for w in ("database is locked", "database table is locked")
            ):
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError


def write_ahead(database: Path) -> None:
    """Put a database into write-ahead mode, in which readers and a writer do not lock each other out."""
    if database.is_file():
        with sqlite3.connect(database, timeout=10) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: `@` and `%` are not allowed."""
    return "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name.replace("@", "_at_"))


def flatten(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings as `table.key` and value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield slices of at most `size`."""
    for i in range(0, len(items), size):
        yield items[i : i + size]
