"""What a comparison will do, frozen before the first answer: systems, questions, hypotheses, rules, cost.

A plan is an artefact; a run says where it departed from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlxrag import settings as s
from mlxrag.data.dataset import Dataset
from mlxrag.data.example import Example
from mlxrag.errors import BadInput, Damaged, nearest
from mlxrag.evaluate.evaluate import measures_of
from mlxrag.evaluate.figures import home
from mlxrag.evaluate.measure import MEASURES
from mlxrag.experiment.power import Power, chance, detectable, needed
from mlxrag.experiment.statistics import Differences
from mlxrag.model.adapter import find_adapter
from mlxrag.model.load import READER, locate
from mlxrag.rag.index import open_index
from mlxrag.settings import Experimenting, Settings
from mlxrag.workspace import Artefact, Workspace, create, resolve, write_json

PLAN = "plan.json"
JUDGED = "faithful_judge"  # what a model that judges measures
# Tables that make a system; a difference in the others does not reach an answer.
MAKES = ("chunking", "encoding", "retrieval", "model", "sampling", "answering", "caching")
# Settings that change speed or memory alone.
SPEED_ONLY = frozenset(
    {"encode_tokens", "prefill_step_size", "decode_concurrency", "cache_memory", "cache_disk", "lookup"}
)
NEUTRAL = frozenset({"answer_words"})


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the systems that are compared.

    Attributes:
        name: stem of its config file.
        settings: all of its settings.
        given: keys that its file sets, which the model's own advice does not override.
        pins: what the names in it stood for when it was planned: model, adapter, index.
    """

    name: str
    settings: Settings
    given: frozenset[str]
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A frozen comparison.

    Attributes:
        name: of the plan.
        variants: two or more; the first is the one the others are compared with.
        differs: key -> its value in each variant, where not all are alike.
        warnings: what makes the comparison hard to read.
        dataset: `datasets/name@version`.
        split: of the dataset.
        questions: example ids in the order in which they are asked; those of a document stand together.
        primary: the measure that decides.
        hypotheses: one sentence each.
        settings: how it is decided.
        power: what is needed to see the effect, and the chance with the questions there are.
        cost: time and memory, as far as they are known; what is not known says so.
    """

    name: str
    variants: tuple[Variant, ...]
    differs: Mapping[str, tuple[Any, ...]]
    warnings: tuple[str, ...]
    dataset: str
    split: str
    questions: tuple[str, ...]
    primary: str
    hypotheses: tuple[str, ...]
    settings: Experimenting
    power: Mapping[str, Any]
    cost: Mapping[str, Any]


def read_variants(paths: Sequence[Path], workspace: Workspace) -> list[Variant]:
    """Read one config file per system and pin what it names.

    Raises:
        BadInput: fewer than two, two of one name, or measures that differ between them.
        NotFound: a model, adapter or index that is not there.
    """
    if len(paths) < 2:
        raise BadInput("a comparison needs two config files or more")
    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two systems are called {name!r}; give their files different names")
    found = [Variant(path.stem, s.read(path), s.given(path, {})) for path in paths]
    for other in found[1:]:
        if other.settings.evaluating != found[0].settings.evaluating:
            raise BadInput(f"{other.name} and {found[0].name} have different [evaluating]; answers need one yardstick")
    return [Variant(v.name, v.settings, v.given, pins(v.settings, workspace)) for v in found]


def pins(settings: Settings, workspace: Workspace) -> dict[str, str]:
    """Return what the names in a system stand for now, so that a later run can tell whether they still do.

    Raises:
        NotFound: nothing answers to a name.
    """
    path, name, version = locate(settings.model.model or READER, workspace)
    found = {"model": f"models/{name}@{version}" if version else f"{path} {_mark(path)}"}
    if settings.model.adapter_path:
        folder = find_adapter(settings.model.adapter_path, workspace)
        found["adapter"] = f"{folder} {_mark(folder)}"
    with open_index(workspace, settings.retrieval.index) as index:
        content = hashlib.sha256("".join(sorted(d.sha256 + d.source for d in index.documents())).encode())
        found["index"] = f"{index.name} {content.hexdigest()[:12]} {index.fingerprint}"
    return found


def what_differs(variants: Sequence[Variant]) -> dict[str, tuple[Any, ...]]:
    """Return the settings that are not the same in all systems."""
    found: dict[str, tuple[Any, ...]] = {}
    for table in MAKES:
        dumps = [getattr(v.settings, table).model_dump() for v in variants]
        for key in dumps[0]:
            values = tuple(d[key] for d in dumps)
            if any(value != values[0] for value in values):
                found[key] = values
    return found


def warnings_of(variants: Sequence[Variant], differs: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Return what makes a comparison of these systems hard to read."""
    found = []
    matter = [key for key in differs if key not in SPEED_ONLY]
    if not matter:
        found.append("the systems do not differ in anything that changes an answer: this is an A/A test")
    for i, other in enumerate(variants[1:], 1):
        keys = [key for key in matter if differs[key][i] != differs[key][0]]
        if len(keys) > 1:
            found.append(
                f"{other.name} differs from {variants[0].name} in {len(keys)} things ({', '.join(keys)}): a difference "
                "of answers cannot be put down to one of them"
            )
    same_index = len({v.settings.retrieval.index for v in variants}) == 1
    idle = [k for k in matter if s.HOME[k] == "chunking"] if same_index else []
    if idle:
        found.append(
            f"{', '.join(idle)} differ but all ask the index {variants[0].settings.retrieval.index!r}, which is cut already"
        )
    if any(v.settings.sampling.temp > 0 for v in variants):
        found.append("answers are sampled (temp above 0): one seed per question, the same for all systems")
    return found


def order_questions(examples: Iterable[Example], seed: int, most: int = 0) -> list[str]:
    """Return the ids in random order, documents first and the questions of each together.

    So a comparison that stops early has whole documents, drawn at random.
    """
    by_home: dict[str, list[str]] = {}
    for example in examples:
        by_home.setdefault(home(example), []).append(example.id)
    rng = np.random.default_rng(seed)
    homes = sorted(by_home)
    found: list[str] = []
    for i in rng.permutation(len(homes)):
        ids = sorted(by_home[homes[i]])
        found += [ids[j] for j in rng.permutation(len(ids))]
    return found[: most or None]


def blocks(questions: Sequence[str], homes: Mapping[str, str], size: int) -> list[tuple[str, ...]]:
    """Cut the questions into blocks of about `size`, between documents where they are not larger than that."""
    found: list[list[str]] = [[]]
    for i, question in enumerate(questions):
        new_home = i > 0 and homes[question] != homes[questions[i - 1]]
        if found[-1] and (len(found[-1]) >= 2 * size or (len(found[-1]) >= size and new_home)):
            found.append([])
        found[-1].append(question)
    return [tuple(block) for block in found if block]


def turns(groups: int, count: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield for each block the order in which groups of systems have their turn, each place equally often."""
    rng = np.random.default_rng([seed, 1])
    given = 0
    while given < count:
        start = rng.permutation(groups)
        for shift in rng.permutation(groups):
            if given < count:
                yield tuple(int(g) for g in np.roll(start, int(shift)))
                given += 1


def hypotheses(variants: Sequence[Variant], primary: str, settings: Experimenting) -> list[str]:
    """Return what is to be tested, a sentence for each system and each guardrail."""
    first, points = variants[0].name, 100 * settings.margin
    goals = {
        "difference": "{b} and {a} differ in {m}",
        "noninferiority": f"{{b}} is worse than {{a}} in {{m}} by less than {points:g} points",
        "equivalence": f"{{b}} and {{a}} differ in {{m}} by less than {points:g} points",
    }
    found = []
    for other in variants[1:]:
        found.append(goals[settings.goal].format(a=first, b=other.name, m=primary))
        found += [
            goals["noninferiority"].format(a=first, b=other.name, m=g) for g in settings.guardrails if g != primary
        ]
    return found


def plan(
    name: str,
    variants: Sequence[Variant],
    dataset: Dataset,
    split: str,
    settings: Experimenting,
    *,
    pilot: Differences | None = None,
    cost: Mapping[str, Any] | None = None,
) -> Plan:
    """Work a comparison out.

    Args:
        name: of the plan.
        variants: the systems, the present one first.
        dataset: what is asked.
        split: of it.
        settings: how it is decided.
        pilot: differences of the primary measure from a pilot, for the power.
        cost: what is known of time and memory.

    Raises:
        BadInput: there is no such measure or no question.
    """
    primary = settings.primary or variants[0].settings.evaluating.right_by
    measured = measures_of(variants[0].settings.evaluating)
    for measure in (primary, *settings.guardrails):
        if measure == JUDGED:
            _needs_judge(variants[0].settings, settings, primary)
        elif measure not in MEASURES:
            raise BadInput(f"no measure {measure!r}{nearest(measure, (*MEASURES, JUDGED))}")
        elif measure not in measured:
            raise BadInput(f"{measure} is not among [evaluating] measures; add it there")
    questions = order_questions(dataset.split(split), settings.ab_seed, settings.max_questions)
    if not questions:
        raise BadInput(f"{dataset.ref} has no questions in {split}")
    differs = what_differs(variants)
    return Plan(
        name, tuple(variants), differs, tuple(warnings_of(variants, differs)), dataset.ref, split, tuple(questions), primary,
        tuple(hypotheses(variants, primary, settings)), settings,
        power_of(settings, len(questions), len(variants) - 1, pilot), dict(cost or {}),
    )  # fmt: skip


def _needs_judge(system: Settings, settings: Experimenting, primary: str) -> None:
    """Refuse what a judge cannot do: judge without a model, or at every look of a plan that may stop early."""
    if not system.evaluating.judge:
        raise BadInput(f"{JUDGED} needs a model that judges; name it as judge in [evaluating] of all config files")
    if primary == JUDGED and settings.stopping == "sequential":
        raise BadInput(f"{JUDGED} is judged after the last answer and cannot decide when to stop; use --stopping fixed")


def power_of(settings: Experimenting, questions: int, comparisons: int, pilot: Differences | None) -> dict[str, Any]:
    """Return what is needed to see the effect and what the questions there are can show.

    With several comparisons the first of Holm's steps is planned for: alpha over their number.
    """
    alpha = settings.alpha / (comparisons if settings.correction == "holm" else 1)
    found: Power = needed(settings.effect, pilot, alpha=alpha, power=settings.power, seed=settings.ab_seed)
    have = chance(settings.effect, questions, pilot, alpha=alpha, seed=settings.ab_seed)
    error = found.deviation * (found.design / questions) ** 0.5
    return asdict(found) | {
        "available": questions, "chance": have, "pilot": 0 if pilot is None else len(pilot.values),
        "detectable": detectable(error, alpha=alpha, power=settings.power),
    }  # fmt: skip


def keep(workspace: Workspace, made: Plan) -> Artefact:
    """Write a plan as an artefact."""
    inputs = [made.dataset, *sorted({p for v in made.variants for p in v.pins.values() if p.startswith("models/")})]
    with create(workspace, "runs", made.name, inputs=inputs, settings=made.settings.model_dump()) as draft:
        write_json(draft.path / PLAN, to_json(made))
        draft.note(
            what="plan", variants=[v.name for v in made.variants], dataset={"ref": made.dataset, "split": made.split},
            questions=len(made.questions), primary=made.primary,
        )  # fmt: skip
    assert draft.artefact is not None
    return draft.artefact


def to_json(made: Plan) -> dict[str, Any]:
    """Return a plan as plain JSON values."""
    return {
        "name": made.name,
        "variants": [
            {
                "name": v.name, "given": sorted(v.given), "pins": dict(v.pins),
                "settings": v.settings.model_dump(include={*MAKES, "evaluating", "memory"}),
            }
            for v in made.variants
        ],
        "differs": {key: list(values) for key, values in made.differs.items()},
        "warnings": list(made.warnings), "dataset": made.dataset, "split": made.split, "questions": list(made.questions),
        "primary": made.primary, "hypotheses": list(made.hypotheses), "settings": made.settings.model_dump(),
        "power": dict(made.power), "cost": dict(made.cost),
    }  # fmt: skip


def open_plan(workspace: Workspace, ref: str) -> tuple[Plan, Artefact]:
    """Read a plan back.

    Raises:
        NotFound: no such run; BadInput: it is no plan; Damaged: it cannot be read.
    """
    artefact = resolve(workspace, "runs", ref.removeprefix("runs/"))
    if artefact.manifest.get("what") != "plan":
        raise BadInput(f"{artefact.ref} is no plan; make one with `mlxrag ab plan`")
    try:
        row = json.loads((artefact.path / PLAN).read_text(encoding="utf-8"))
        return from_json(row), artefact
    except (OSError, ValueError, KeyError) as error:
        raise Damaged(f"{artefact.path / PLAN}: cannot be read; make the plan again") from error


def from_json(row: Mapping[str, Any]) -> Plan:
    """Return the plan that `to_json` wrote."""
    variants = tuple(
        Variant(v["name"], Settings.model_validate(v["settings"]), frozenset(v["given"]), v["pins"])
        for v in row["variants"]
    )
    return Plan(
        row["name"], variants, {k: tuple(v) for k, v in row["differs"].items()}, tuple(row["warnings"]), row["dataset"],
        row["split"], tuple(row["questions"]), row["primary"], tuple(row["hypotheses"]),
        Experimenting.model_validate(row["settings"]), row["power"], row["cost"],
    )  # fmt: skip


def _mark(folder: Path) -> str:
    """Return 12 hex digits over names, sizes and times of the files: cheap, and changes when they do."""
    facts = [
        (str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
