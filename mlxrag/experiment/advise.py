"""All runs of a workspace -> what to do, cost against quality, and which experiment tells most.

Rule: no advice without data.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from mlxrag import settings as s
from mlxrag.errors import NotFound, nearest
from mlxrag.experiment.advice import FEWEST, Advice, Experiment
from mlxrag.experiment.evidence import Case, Evidence
from mlxrag.experiment.plan import MAKES
from mlxrag.experiment.rules import RULES
from mlxrag.experiment.statistics import differences, mean_interval
from mlxrag.workspace import Workspace, resolve

GIVEN = "with the right passage given"


@dataclass(frozen=True, slots=True)
class Place:
    """A system between cost and quality.

    Attributes:
        system: its name.
        ref: newest run of it.
        model: what answered.
        questions: which questions; systems on others cannot be held against it.
        n: how many.
        quality, low, high: of the measure that says what is right; None where it is not known.
        seconds: per question, many at a time; alone: asked by itself; None where it was not measured.
        weights, peak: bytes; None where it was not measured.
        dominated: systems that are as good and take no more, and are better in something that both have measured.
    """

    system: str
    ref: str
    model: str
    questions: str
    n: int
    quality: float | None
    low: float | None
    high: float | None
    seconds: float | None
    alone: float | None
    weights: int | None
    peak: int | None
    dominated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Next:
    """An experiment, with what it is worth.

    Attributes:
        text: what it tries.
        rule: that suggests it.
        questions: how many it asks.
        bits: information it is expected to give on the difference.
        worth: what choosing by it is expected to gain, of the measure that decides.
        minutes: of asking; None where no run says how long a question takes.
        commands: to type, one after the other.
        files: config files that the commands name, and what is to stand in them.
    """

    text: str
    rule: str
    questions: int
    bits: float
    worth: float
    minutes: float | None
    commands: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Advised:
    """What the runs come to.

    Attributes:
        advices: largest expected gain first; those that are no matter of quality last.
        places: cost against quality, best first within the same questions.
        experiments: most informative first.
        runs: how many systems, comparisons, adapters and sweeps it rests on.
        notes: what was left out, and why.
    """

    advices: tuple[Advice, ...]
    places: tuple[Place, ...]
    experiments: tuple[Next, ...]
    runs: Mapping[str, int]
    notes: tuple[str, ...]


def advise(evidence: Evidence, folder: Path, workspace: Workspace, *, system: str = "", dataset: str = "") -> Advised:
    """Work out what follows from the runs.

    Advice on answers is about the best system on each set of questions, since that is the one to make better.

    Args:
        evidence: of the workspace.
        folder: where the config files of the experiments are to be written; named in commands.
        workspace: named in commands.
        system: advise on this one instead of the best.
        dataset: only on these questions: `name` or `name@version`.

    Raises:
        NotFound: there are no runs, or none of that system or dataset.
    """
    cases = [c for c in evidence.cases if not dataset or dataset in (c.dataset, c.dataset.split("@")[0])]
    contests = [c for c in evidence.contests if not dataset or dataset in c.questions]
    if dataset and not cases and not contests:
        asked = {c.dataset.split("@")[0] for c in evidence.cases}
        raise NotFound(f"no run in {workspace.root} asked {dataset!r}{nearest(dataset, asked)}")
    if not (cases or contests or evidence.trainings or evidence.sweeps):
        raise NotFound(
            f"there is nothing to advise from in {workspace.root}: no evaluation, comparison, adapter or sweep; begin with "
            "`mlxrag eval run` or `mlxrag quickstart`"
        )
    if system and not any(c.name == system for c in cases):
        raise NotFound(f"no run of {system!r} in {workspace.root}{nearest(system, {c.name for c in cases})}")
    chosen = [c for c in cases if c.name == system] if system else _best(cases)
    seen = replace(evidence, cases=tuple(chosen), contests=tuple(contests))
    found = [replace(a, source=rule.source) for rule in RULES for a in rule.find(seen)]
    found.sort(key=lambda a: -math.inf if a.gain.expected is None else a.gain.expected, reverse=True)
    few = [c for c in chosen if len(c.asked) < FEWEST]
    notes = [f"{c.name} was asked {len(c.asked)} questions; rules about answers need {FEWEST}." for c in few]
    notes += [f"Left out: {reason}" for reason in evidence.left]
    known = {(c.ref, c.name): c for c in evidence.cases}
    planned = [_weighed(a, a.experiment, known) for a in found if a.experiment is not None]
    planned.sort(key=lambda n: -n[0].bits)
    return Advised(
        tuple(found), tuple(places(cases)),
        tuple(_typed(str(i), n, e, known, folder, workspace) for i, (n, e) in enumerate(planned, 1)),
        {"systems": len(cases), "comparisons": len(contests), "adapters": len(evidence.trainings), "sweeps": len(evidence.sweeps)},
        tuple(notes),
    )  # fmt: skip


def information(prior: float, deviation: float, error: float) -> tuple[float, float]:
    """Return what an experiment is expected to tell: bits on the difference, and what choosing by it gains.

    The difference is taken as normal before, and measured with a normal error: `½ log2(1 + s²/e²)` bits; afterwards
    its expectation varies by `t = s²/√(s²+e²)`, and the better of both is chosen:
    `t φ(m/t) + m Φ(m/t) - max(0, m)`.

    Args:
        prior: m, expected difference before.
        deviation: s, of it.
        error: e, standard error of the measurement.

    Source: Lindley 1956, On a Measure of the Information Provided by an Experiment; Frazier, Powell & Dayanik 2008, A
        Knowledge-Gradient Policy, equation 3.

    Example:
        >>> bits, worth = information(0.0, 0.1, 0.1)
        >>> round(bits, 3), round(worth, 4)
        (0.5, 0.0282)
    """
    if deviation <= 0:
        return 0.0, 0.0
    bits = 0.5 * math.log2(1 + (deviation / error) ** 2)
    t = deviation**2 / math.hypot(deviation, error)
    normal = NormalDist()
    return bits, t * normal.pdf(prior / t) + prior * normal.cdf(prior / t) - max(0.0, prior)


def places(cases: Sequence[Case]) -> list[Place]:
    """Return where systems stand between cost and quality, and which are dominated.

    Source: Kung, Luccio & Preparata 1975, On Finding the Maxima of a Set of Vectors.
    """
    found = [_place(c) for c in cases]
    done = [
        replace(p, dominated=tuple(dict.fromkeys(q.system for q in found if _dominates(q, p))))
        for p in found
    ]  # fmt: skip
    return sorted(done, key=lambda p: (p.questions, -(p.quality or 0.0)))


def to_toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings of a system that are not the defaults, as a config file.

    Example:
        >>> print(to_toml({"retrieval": {"retriever": "dense", "num_passages": 5}}), end="")
        # A system: mlxrag ask --config, mlxrag eval run, mlxrag ab plan.
        <BLANKLINE>
        [retrieval]
        retriever = "dense"
    """
    lines = ["# A system: mlxrag ask --config, mlxrag eval run, mlxrag ab plan."]
    plain = s.Settings().model_dump()
    for table in (*MAKES, "evaluating"):
        own = {k: v for k, v in settings.get(table, {}).items() if v is not None and v != plain[table].get(k)}
        # Of a list, JSON is TOML; an empty tuple and an empty list say the same.
        kept = {k: v for k, v in own.items() if v or plain[table].get(k)}
        if kept:
            lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in kept.items())]
    return "\n".join([*lines, ""])


def _best(cases: Sequence[Case]) -> list[Case]:
    """Return the best system of each set of questions; of those that were handed the right passage, none."""
    found: dict[str, Case] = {}
    for case in cases:
        if GIVEN in case.questions or case.quality is None:
            continue
        other = found.get(case.questions)
        if other is None or (case.quality, case.made) > (other.quality, other.made):
            found[case.questions] = case
    return list(found.values())


def _place(case: Case) -> Place:
    known = [a for a in case.asked if a.score is not None]
    low, high = None, None
    if known:
        d = differences([0.0] * len(known), [a.score or 0.0 for a in known], [a.home for a in known])
        bounds = mean_interval(d, resamples=999)
        low, high = bounds.low, bounds.high
    return Place(
        case.name, case.ref, case.model, case.questions, len(known), case.quality, low, high, case.seconds, case.alone,
        case.weights, case.peak,
    )  # fmt: skip


def _dominates(q: Place, p: Place) -> bool:
    """Whether Q is as good as P and takes no more, and is better in something; only what both have measured counts."""
    if q is p or q.questions != p.questions or q.quality is None or p.quality is None:
        return False
    costs = [(x, y) for x, y in ((q.alone, p.alone), (q.peak, p.peak)) if x is not None and y is not None]
    return bool(costs) and q.quality >= p.quality and all(x <= y for x, y in costs) and (
        q.quality > p.quality or any(x < y for x, y in costs)
    )  # fmt: skip


def _weighed(
    advice: Advice, experiment: Experiment, known: Mapping[tuple[str, str], Case]
) -> tuple[Next, Experiment]:  # fmt: skip
    """Return what an experiment is worth, without its commands."""
    systems = [known[x] for x in experiment.systems if x in known]
    asked = len(systems[0].asked) if systems else FEWEST
    # More questions of a comparison that was made count for themselves: the others are in the prior already.
    count = max(1, experiment.questions - asked) if experiment.questions else asked
    bits, worth = information(experiment.prior, experiment.deviation, experiment.spread / count**0.5)
    seconds = [x for c in systems if (x := c.seconds or c.alone) is not None]
    minutes = 2 * count * sum(seconds) / len(seconds) / 60 if seconds else None
    return Next(advice.text, advice.rule, count, bits, worth, minutes, (), {}), experiment


def _typed(
    number: str, worth: Next, experiment: Experiment, known: Mapping[tuple[str, str], Case], folder: Path,
    workspace: Workspace,
) -> Next:  # fmt: skip
    """Return an experiment with the commands that make it, and the config files that they name."""
    systems = [known[x] for x in experiment.systems if x in known]
    if not systems:
        return worth
    where = f"--workspace {shlex.quote(str(workspace.root))}"
    data, _, split = systems[0].questions.removeprefix("datasets/").partition(" ")
    name = data.split("@")[0]
    settings: list[Mapping[str, Mapping[str, Any]]] = [c.settings for c in systems]
    commands = []
    if experiment.adapter:
        model = settings[0].get("model", {}).get("model") or "reader"
        if split not in ("valid", "test"):  # what was measured on would be learnt
            commands.append(f"mlxrag data split {data} --name {name}-split {where}")
            data, split = f"{name}-split", "test"
        commands.append(f"mlxrag adapter train --model {shlex.quote(model)} --data {data} --name {name} {where}")
        settings.append(_changed(settings[0], {"model.adapter_path": name}))
    elif len(settings) == 1:
        settings.append(_changed(settings[0], experiment.change))
    else:
        most = _most(data, workspace)
        if most is not None and worth.questions > most:
            return replace(worth, text=f"{worth.text}; the documents gave {most} good ones, so it takes more documents")
        index, data, split = settings[0].get("retrieval", {}).get("index", "documents"), f"{name}-more", "all"
        commands.append(
            f"mlxrag data make --name {data} --index {index} --num-questions {worth.questions} --make-seed 1 --shares none {where}"
        )
    files = {f"next-{number}-{letter}.toml": to_toml(own) for letter, own in zip("ab", settings, strict=True)}
    configs = " ".join(shlex.quote(str(folder / file)) for file in files)
    goal = "" if experiment.goal == "difference" else f" --goal {experiment.goal}"
    commands.append(f"mlxrag ab plan {configs} --data {data} --split {split} --name next-{number}{goal} {where}")
    commands.append(f"mlxrag ab run next-{number} {where}")
    return replace(worth, commands=tuple(commands), files=files)


def _most(data: str, workspace: Workspace) -> int | None:
    """Return how many good questions the documents of a dataset gave, or None where it was not made from documents."""
    try:
        found = resolve(workspace, "datasets", data).manifest.get("yield", {}).get("kept")
    except NotFound:
        return None
    return None if found is None else int(found)


def _changed(
    settings: Mapping[str, Mapping[str, Any]], change: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:  # fmt: skip
    found: dict[str, Mapping[str, Any]] = dict(settings)
    for key, value in change.items():
        table, _, name = key.partition(".")
        found[table] = {**found.get(table, {}), name: value}
    return found
