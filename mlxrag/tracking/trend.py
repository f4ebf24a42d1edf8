"""A measure over the versions of a system, with the points at which it changed.

Strategy: a series is one system asked one dataset, so every version answered the same questions.  For each place between
two versions the mean after is held against the mean before, per question; the largest of these (over its standard
error, by documents) is the candidate.  If nothing had changed, the versions of a document could stand in any order:
shuffling them, document by document, gives the law of the largest statistic, so looking at all places costs nothing
extra.  A place that is found cuts the series, and both parts are looked through, each with its share of alpha by
length.  Knows nothing of MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mlxrag.data.dataset import open_dataset
from mlxrag.errors import MlxragError, NotFound, nearest
from mlxrag.evaluate.figures import home
from mlxrag.experiment.report import read_measures
from mlxrag.experiment.statistics import TINY, Floats, differences, mean_interval
from mlxrag.workspace import Artefact, Workspace, artefacts

SHUFFLES = 999


@dataclass(frozen=True, slots=True)
class Change:
    """A place where a measure changed.

    Attributes:
        at: position of the first version after it.
        difference: mean after less mean before, within the part that was looked at.
        p: p-value over all places of that part, above 0.
    """

    at: int
    difference: float
    p: float


@dataclass(frozen=True, slots=True)
class Trend:
    """A measure of one system on one dataset, version by version.

    Attributes:
        system: name of the runs.
        dataset: ref of what was asked.
        measure: which.
        versions: in the order they were made.
        made: when, in the words of the manifests.
        means: of each version, over the questions that all have a score of.
        lows, highs: bounds; None where there are none.
        n: questions that all versions have a score of.
        documents: how many documents they are from.
        changes: places where it changed, in order.
    """

    system: str
    dataset: str
    measure: str
    versions: tuple[str, ...]
    made: tuple[str, ...]
    means: tuple[float, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]
    n: int
    documents: int
    changes: tuple[Change, ...]


def trends(workspace: Workspace, measure: str, *, system: str = "", alpha: float = 0.05, seed: int = 0) -> list[Trend]:
    """Return the trend of a measure for every system and dataset that has evaluations.

    Args:
        workspace: where the runs are.
        measure: which.
        system: only this one.
        alpha: largest p-value of a change.
        seed: of shuffles and intervals.

    Raises:
        NotFound: no evaluation has such a measure; says the nearest.
    """
    series: dict[tuple[str, str], list[Artefact]] = {}
    known: set[str] = set()
    for run in artefacts(workspace, "runs"):
        if run.manifest.get("what") == "evaluation" and system in ("", run.name):
            known |= set(run.manifest.get("figures", {}))
            if measure in run.manifest.get("figures", {}):
                fact = run.manifest["dataset"]
                asked = f"{fact['ref']} {fact.get('split', 'all')}{' gold' if fact.get('gold_passages') else ''}"
                series.setdefault((run.name, asked), []).append(run)
    if not series:
        if not known:
            raise NotFound(
                f"no evaluation{f' of {system!r}' if system else ''} in {workspace.root}; make one with `mlxrag eval run`"
            )
        raise NotFound(f"no evaluation has the measure {measure!r}{nearest(measure, known)}")
    return [_trend(workspace, name, asked, runs, measure, alpha, seed) for (name, asked), runs in series.items()]


def trends_of(workspace: Workspace, measure: str, refs: Sequence[str]) -> list[Trend]:
    """Return the trends of the systems that some runs are of; none of runs that are no evaluations."""
    names = dict.fromkeys(ref.removeprefix("runs/").partition("@")[0] for ref in refs if ref.startswith("runs/"))
    found: list[Trend] = []
    for name in names:
        with suppress(NotFound):
            found += trends(workspace, measure, system=name)
    return found


def changes(scores: Floats, clusters: Sequence[str], alpha: float = 0.05, seed: int = 0) -> list[Change]:
    """Return the places where a series of versions changed.

    Args:
        scores: `(versions, questions)`.
        clusters: document of each question `(questions,)`.
        alpha: largest p-value of a change.
        seed: of the shuffles.

    Source: binary segmentation (Scott & Knott 1974) with the permutation law of the largest statistic (Westfall &
        Young 1993).
    """
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(c, len(places)) for c in clusters], np.int64)
    sums = np.zeros((scores.shape[0], len(places)))
    np.add.at(sums.T, rows, scores.T)
    return sorted(_split(sums, 0, scores.shape[1], alpha, np.random.default_rng(seed)), key=lambda c: c.at)


def _split(sums: Floats, start: int, questions: int, alpha: float, rng: np.random.Generator) -> list[Change]:
    """Look through one part of a series; `sums` are documents' sums of scores `(versions, documents)`."""
    versions, documents = sums.shape
    if versions < 2 or documents < 2:
        return []
    seen = _largest(sums)
    if seen[1] < TINY:
        return []
    count = 0
    for _ in range(SHUFFLES):
        order = rng.random((versions, documents)).argsort(0)
        count += _largest(np.take_along_axis(sums, order, 0))[1] >= seen[1] * (1 - 1e-9)
    p = (count + 1) / (SHUFFLES + 1)
    if p > alpha:
        return []
    at = seen[0]
    difference = float((sums[at:].mean(0) - sums[:at].mean(0)).sum() / questions)
    before, after = sums[:at], sums[at:]
    return [
        Change(start + at, difference, p),
        *_split(before, start, questions, alpha * at / versions, rng),
        *_split(after, start + at, questions, alpha * (versions - at) / versions, rng),
    ]


def _largest(sums: Floats) -> tuple[int, float]:
    """Return the place of the largest change and its statistic: |sum| over the root of the sum of squares."""
    total, before = sums.sum(0), np.cumsum(sums, 0)[:-1]
    counts = np.arange(1, len(sums))[:, None]
    contrast = (total - before) / (len(sums) - counts) - before / counts
    spread = np.sqrt((contrast**2).sum(1))
    statistic = np.abs(contrast.sum(1)) / np.maximum(spread, TINY)
    at = int(statistic.argmax())
    return at + 1, float(statistic[at])


def _trend(
    workspace: Workspace, name: str, asked: str, runs: list[Artefact], measure: str, alpha: float, seed: int
) -> Trend:
    scores = [read_measures(run.path).get(measure, {}) for run in runs]
    common = [i for i in scores[0] if all(s.get(i) is not None for s in scores)]
    homes = _homes(workspace, asked.split()[0])
    clusters = [homes.get(i, i) for i in common]
    table = np.array([[s[i] for i in common] for s in scores], np.float64)
    bounds = [
        mean_interval(differences(np.zeros(len(common)), row, clusters), confidence=1 - alpha, resamples=999, seed=seed)
        for row in table
        if len(common)
    ]
    return Trend(
        name, asked, measure, tuple(r.version for r in runs), tuple(str(r.manifest.get("made", "")) for r in runs),
        tuple(b.estimate for b in bounds), tuple(b.low for b in bounds), tuple(b.high for b in bounds),
        len(common), len(set(clusters)), tuple(changes(table, clusters, alpha, seed)) if len(common) else (),
    )  # fmt: skip


def _homes(workspace: Workspace, ref: str) -> dict[str, str]:
    try:
        return {e.id: home(e) for e in open_dataset(workspace, ref).split("all")}
    except MlxragError:
        return {}  # the dataset was removed: every question stands for itself
