"""Ready-made charts for MLflow's pages: a shared view per experiment, opened by the link that `track ui` prints.

MLflow keeps a shared view as the experiment tag `mlflow.sharedViewState.<key>` and opens it where a page's address says
`viewStateShareKey=<key>`; the value is the state of its chart page as JSON (read in MLflow 3.17's pages; a version that
does not know it shows the charts it makes by itself).
"""

from __future__ import annotations

import json
from typing import Any

KEY = "mlxrag"
TAG = f"mlflow.sharedViewState.{KEY}"

Chart = dict[str, Any]


def line(title: str, *metrics: str, axis: str = "step") -> Chart:
    """A chart of curves."""
    return {
        "type": "LINE", "displayName": title, "metricKey": metrics[0], "selectedMetricKeys": list(metrics), "xAxisKey": axis,
        "lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "yAxisKey": "metric",
        "yAxisExpressions": [], "ignoreOutliers": False, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": True,
        "selectedXAxisMetricKey": "",
    }  # fmt: skip


def bar(title: str, metric: str) -> Chart:
    """A bar for each run."""
    return {"type": "BAR", "displayName": title, "metricKey": metric}


def scatter(title: str, x: str, y: str) -> Chart:
    """A point for each run."""
    return {
        "type": "SCATTER", "displayName": title, "xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"},
        "runsCountToCompare": 100,
    }  # fmt: skip


QUALITY = ("correct", "f1", "exact", "refusal", "hit_at_1", "hit_at_5", "faithful_overlap")

CHARTS: dict[str, tuple[Chart, ...]] = {
    "train": (
        line("Loss", "train/loss", "valid/loss"),
        line("Validation answers", "valid/f1", "valid/exact_match"),
        line("Tokens per second", "train/tokens_per_second"),
        line("Learning rate", "train/learning_rate"),
        line("Most memory that MLX held", "train/peak_bytes"),
        line(
            "Memory of the process and left on the machine",
            "system/resident_megabytes",
            "system/available_megabytes",
            axis="time",
        ),
    ),
    "eval": (*(bar(m, m) for m in QUALITY), bar("Seconds for all answers", "answer_seconds")),
    "ab": (
        *(bar(f"Difference of {m}", f"difference/{m}") for m in QUALITY[:3]),
        scatter("Quality against seconds", "cost/seconds", "correct"),
        scatter("Quality against memory", "cost/peak", "correct"),
        line("Seconds per question", "cost/seconds per question"),
    ),
}


def view(experiment: str) -> str:
    """Return the value of the tag, or an empty string for an experiment that has no charts of its own."""
    charts = CHARTS.get(experiment, ())
    if not charts:
        return ""
    placed = [
        {**chart, "uuid": f"{KEY}-{i}", "metricSectionId": KEY, "isGenerated": False, "deleted": False}
        for i, chart in enumerate(charts)
    ]
    section = {
        "uuid": KEY,
        "name": "Ready-made",
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }
    return json.dumps(
        {
            "compareRunCharts": placed,
            "compareRunSections": [section],
            "autoRefreshEnabled": True,
            "isAccordionReordered": True,
        },
        separators=(",", ":"),
    )


def page(port: int, identity: str, experiment: str) -> str:
    """Return the address of an experiment's charts."""
    key = f"&viewStateShareKey={KEY}" if experiment in CHARTS else ""
    return f"http://127.0.0.1:{port}/#/experiments/{identity}/runs?compareRunsMode=CHART{key}"
