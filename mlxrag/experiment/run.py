"""A plan -> answers, scores and timings of all its systems, as one run; killed at any moment, it goes on.

Rules: systems answer the same block of questions before the next one begins, in random turns, so that drift hits all;
a block counts when all systems have answered it, and what an unfinished one left is asked again; looks are taken after
whole documents only; what departs from the plan is written down.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxrag import __version__, memory
from mlxrag.data.dataset import open_dataset
from mlxrag.data.example import Example
from mlxrag.data.journal import Journal, rows
from mlxrag.errors import Mismatch, MlxragError, WontFit
from mlxrag.evaluate.evaluate import SCORES, judgements, measures_of, score_rows
from mlxrag.evaluate.figures import home
from mlxrag.evaluate.run import ANSWERS, read_rows, row_of, spool
from mlxrag.evaluate.score import to_row
from mlxrag.experiment.arms import Arm, Group, answer_block, open_group, share, using
from mlxrag.experiment.compare import Comparison, Scores, compare, pairs
from mlxrag.experiment.cost import foreseen
from mlxrag.experiment.plan import PLAN, Plan, Variant, blocks, pins, to_json, turns
from mlxrag.model.attach import resident
from mlxrag.rag.system import ask
from mlxrag.settings import Experimenting
from mlxrag.workspace import Artefact, Workspace, create, machine, write_json, write_text

BLOCKS = "blocks.jsonl"
TIMING = "timing.jsonl"

Opener = Callable[[Sequence[Variant], Workspace], AbstractContextManager[Group]]


@dataclass(frozen=True, slots=True)
class Progress:
    """A block that is done.

    Attributes:
        done: questions answered by every system so far.
        of: questions of the plan.
        looks: always-valid comparisons so far, of a plan that may stop early.
        stop: whether all of them are decided.
    """

    done: int
    of: int
    looks: tuple[Comparison, ...] = ()
    stop: bool = False


def run(
    plan: Plan,
    source: Artefact | None,
    workspace: Workspace,
    name: str,
    *,
    departed: Sequence[str] = (),
    finished: Callable[[Artefact], None] | None = None,
    opener: Opener = open_group,
) -> Iterator[Progress]:
    """Carry a plan out, yielding after each block, then write the run `runs/<name>`.

    Args:
        plan: what to do.
        source: the artefact of the plan, or None where it was not kept.
        workspace: where the run is kept.
        name: of the run.
        departed: how `plan` is not the one in `source`, a clause each.
        finished: called with the run.
        opener: opens systems that share a base.

    Raises:
        WontFit: a system alone does not fit the memory budget.
        BadInput: a question of the plan is not in the dataset.
    """
    examples = _examples(plan, workspace)
    homes = {i: home(e) for i, e in examples.items()}
    key = {k: v for k, v in to_json(plan).items() if k not in ("cost", "power", "warnings", "hypotheses")}
    folder = spool(workspace, name, key)
    folder.mkdir(parents=True, exist_ok=True)
    groups = share(plan.variants)
    cost = foreseen(plan.variants, groups, len(plan.questions), workspace)
    if not cost["fits"]:
        raise WontFit(
            f"the comparison needs {cost['peak']} bytes and the budget is {cost['budget']}; a smaller decode_concurrency in the "
            "config files, fewer passages or a larger --memory-budget would help"
        )
    departures = [*departed, *_departed(plan, workspace)]
    cut = blocks(plan.questions, homes, plan.settings.block_questions)
    order = list(turns(len(groups), len(cut), plan.settings.ab_seed))
    stage = _Stage(groups, workspace, bool(cost["together"]), opener)
    with stage:
        done = _committed(folder, plan)
        stopped = False
        for number, block in enumerate(cut):
            if number >= done:
                _answer(stage, order[number], [examples[i] for i in block], folder, number, plan)
            elif number < done - 1:
                continue  # a look after the last block that counts says whether it had stopped there
            found = _look(plan, folder, examples, homes)
            stopped = bool(found) and all(_decided(c, plan.settings) for c in found)
            yield Progress(sum(len(b) for b in cut[: number + 1]), len(plan.questions), tuple(found), stopped)
            if stopped:
                break
        for _ in _time(stage, plan, examples, folder):
            pass
        facts = _facts(stage, folder)
    made = _write(plan, source, workspace, name, folder, examples, departures, facts)
    shutil.rmtree(folder)
    if finished is not None:
        finished(made)


class _Stage:
    """The groups that are open: all of them, or one at a time where memory does not take more."""

    def __init__(
        self, groups: Sequence[Sequence[Variant]], workspace: Workspace, together: bool, opener: Opener
    ) -> None:
        self.groups, self.workspace, self.together, self.opener = groups, workspace, together, opener
        self._open: dict[int, tuple[ExitStack, Group]] = {}
        self.loads = 0

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._open):
            self._close(number)

    def group(self, number: int) -> Group:
        """Open a group, and close the others where they do not fit beside it."""
        if number not in self._open:
            if not self.together:
                for other in list(self._open):
                    self._close(other)
            stack = ExitStack()
            self._open[number] = (stack, stack.enter_context(self.opener(self.groups[number], self.workspace)))
            self.loads += 1
        return self._open[number][1]

    def _close(self, number: int) -> None:
        stack, _ = self._open.pop(number)
        stack.close()
        mx.clear_cache()


def _answer(
    stage: _Stage, order: Sequence[int], examples: Sequence[Example], folder: Path, number: int, plan: Plan
) -> None:
    """Let every group answer a block, then keep all of its rows and commit."""
    kept: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    about: dict[str, dict[str, str]] = {}
    for turn in order:
        group = stage.group(turn)
        started = time.perf_counter()
        for variant, answers in answer_block(group, examples, plan.settings.ab_seed).items():
            kept[variant] = [row_of(e.id, a) for e, a in zip(examples, answers, strict=True)]
            about[variant] = {"fingerprint": group[variant].fingerprint, "model": group[variant].model}
        seconds["+".join(group)] = round(time.perf_counter() - started, 4)
    for variant, found in kept.items():
        with Journal(folder / variant / ANSWERS, keep=1 << 30) as journal:
            for row in found:
                journal.add(row)
    # The line that makes the block count comes last; rows of a block without one are dropped on resuming.
    with Journal(folder / BLOCKS, keep=1) as journal:
        journal.add({
            "block": number, "questions": [e.id for e in examples], "turn": ["+".join(v.name for v in stage.groups[t]) for t in order],
            "seconds": seconds, "systems": about, "machine": machine(),
        })  # fmt: skip


def _committed(folder: Path, plan: Plan) -> int:
    """Return how many blocks are done, and drop the rows of one that is not."""
    done = list(rows(folder / BLOCKS))
    counted = {i for block in done for i in block["questions"]}
    for variant in plan.variants:
        path = folder / variant.name / ANSWERS
        kept = [row for row in rows(path) if row["example_id"] in counted]
        if len(kept) != sum(1 for _ in rows(path)):
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return len(done)


def _look(plan: Plan, folder: Path, examples: Mapping[str, Example], homes: Mapping[str, str]) -> list[Comparison]:
    """Compare the systems on the documents that are done, where the plan may stop early."""
    if plan.settings.stopping != "sequential":
        return []
    whole, asked = Counter(homes.values()), Counter[str]()
    scores = {v.name: _scores(plan, folder / v.name, examples) for v in plan.variants}
    first = scores[plan.variants[0].name]
    for i in first:
        asked[homes[i]] += 1
    complete = [i for i in first if asked[homes[i]] == whole[homes[i]]]
    if not complete:
        return []
    light = plan.settings.model_copy(update={"permutations": 99})
    which = pairs([v.name for v in plan.variants])
    return [
        compare(
            a, b, plan.primary, {i: scores[a][i] for i in complete}, {i: scores[b][i] for i in complete}, homes, light,
            order=complete, looks=len(which),
        )
        for a, b in which
    ]  # fmt: skip


def _scores(plan: Plan, folder: Path, examples: Mapping[str, Example]) -> Scores:
    measure = measures_of(plan.variants[0].settings.evaluating)[plan.primary]
    return {s.example_id: s.value for s in score_rows(read_rows(folder), examples, {plan.primary: measure})}


def _decided(c: Comparison, settings: Experimenting) -> bool:
    """Whether more questions would not change what is said of a pair."""
    if c.looked is None:
        return False
    different, margin = c.looked.p <= c.looked.alpha, settings.margin
    alike = -margin < c.looked.low and (c.looked.high < margin or settings.goal == "noninferiority")
    if settings.goal == "difference":
        return different
    outside = c.looked.high < -margin or (settings.goal == "equivalence" and c.looked.low > margin)
    return alike or outside


def _time(stage: _Stage, plan: Plan, examples: Mapping[str, Example], folder: Path) -> Iterator[dict[str, Any]]:
    """Ask some questions one by one, the systems in turn, and keep what each took.

    Where the systems do not fit side by side, a handful of questions is one turn, to keep loading rare.
    """
    questions = plan.questions[: plan.settings.timing_questions]
    done = {(row["variant"], row["example_id"]) for row in rows(folder / TIMING)}
    size = 1 if stage.together or len(stage.groups) == 1 else 5
    parts = [questions[i : i + size] for i in range(0, len(questions), size)]
    names = [v.name for v in plan.variants]
    seats = {v.name: g for g, group in enumerate(stage.groups) for v in group}
    warm: set[str] = set()
    with Journal(folder / TIMING, keep=1) as journal:
        for part, order in zip(parts, turns(len(names), len(parts), plan.settings.ab_seed + 1), strict=True):
            # One group after the other within a part, so that a base is loaded once.
            for name in sorted((names[t] for t in order), key=lambda n: seats[n] if size > 1 else 0):
                todo = [i for i in part if (name, i) not in done]
                if not todo:
                    continue
                loads = stage.loads
                arm = stage.group(seats[name])[name]
                if stage.loads != loads:
                    warm.clear()
                with using(arm.system, arm.adapter):
                    if name not in warm:
                        _timed(arm, examples[plan.questions[-1]])
                        arm.system.store.clear()
                        warm.add(name)
                    for i in todo:
                        row = {"variant": name, "example_id": i, **_timed(arm, examples[i])}
                        journal.add(row)
                        yield row


def _timed(arm: Arm, example: Example) -> dict[str, Any]:
    """Ask one question and return what it took; one that fails has its reason and no seconds."""
    model = arm.system.model
    weights = model.nbytes
    if arm.adapter:
        weights += resident(model.network, model.name)[arm.adapter].nbytes
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    started = time.perf_counter()
    try:
        usage = ask(arm.system, example.question, example.history).usage
    except MlxragError as error:
        return {"seconds": None, "failure": str(error)}
    return {
        "seconds": round(time.perf_counter() - started, 6), "first_token_seconds": usage.get("first_token_seconds"),
        "answer_tokens": int(usage.get("answer_tokens", 0)), "prompt_tokens": int(usage.get("prompt_tokens", 0)),
        "weights": weights, "peak": weights + max(0, mx.get_peak_memory() - held),
    }  # fmt: skip


def _facts(stage: _Stage, folder: Path) -> dict[str, Any]:
    done = list(rows(folder / BLOCKS))
    systems: dict[str, set[tuple[str, str]]] = {}
    for block in done:
        for name, about in block["systems"].items():
            systems.setdefault(name, set()).add((about["model"], about["fingerprint"]))
    seconds: Counter[str] = Counter()
    for block in done:
        seconds.update(block["seconds"])
    machines = {json.dumps(block["machine"], sort_keys=True) for block in done}
    return {
        "systems": {n: [{"model": m, "fingerprint": f} for m, f in sorted(found)] for n, found in systems.items()},
        "seconds": {k: round(v, 3) for k, v in seconds.items()}, "machines": len(machines), "together": stage.together,
    }  # fmt: skip


def _departed(plan: Plan, workspace: Workspace) -> list[str]:
    """Return how things are not as they were when it was planned."""
    found = []
    for variant in plan.variants:
        now = pins(variant.settings, workspace)
        for what, was in variant.pins.items():
            if now.get(what) != was:
                found.append(
                    f"{variant.name}: the {what} is not the one that was planned ({was}), but {now.get(what, 'none')}"
                )
    return found


def _examples(plan: Plan, workspace: Workspace) -> dict[str, Example]:
    dataset = open_dataset(workspace, plan.dataset)
    wanted = set(plan.questions)
    found = {e.id: e for e in dataset.split(plan.split) if e.id in wanted}
    if len(found) != len(wanted):
        raise Mismatch(f"{len(wanted - found.keys())} questions of the plan are not in {dataset.ref}; plan it again")
    return {i: found[i] for i in plan.questions}


def _write(
    plan: Plan, source: Artefact | None, workspace: Workspace, name: str, folder: Path, examples: Mapping[str, Example],
    departures: list[str], facts: dict[str, Any],
) -> Artefact:  # fmt: skip
    from mlxrag.experiment.report import write_reports

    asked = [i for block in rows(folder / BLOCKS) for i in block["questions"]]
    if len(asked) < len(plan.questions) and plan.settings.stopping != "sequential":
        departures.append(f"only {len(asked)} of {len(plan.questions)} planned questions were asked")
    for variant, seen in facts["systems"].items():
        if len(seen) > 1:
            departures.append(f"{variant} changed while it ran: {', '.join(s['fingerprint'] for s in seen)}")
    if facts["machines"] > 1:
        departures.append("it ran on several machines or versions of mlxrag; times are not of one of them")
    inputs = [source.ref] if source is not None else []
    inputs += [plan.dataset, *sorted({p for v in plan.variants for p in v.pins.values() if p.startswith("models/")})]
    with create(workspace, "runs", name, inputs=inputs, settings=plan.settings.model_dump()) as draft:
        judged = plan.variants[0].settings.evaluating
        measures, remarks = measures_of(judged), list[str]()
        for variant in plan.variants:
            target = draft.path / variant.name
            target.mkdir()
            shutil.copy(folder / variant.name / ANSWERS, target / ANSWERS)
            with Journal(target / SCORES, keep=1 << 30) as journal:
                for score in score_rows(read_rows(target), examples, measures):
                    journal.add(to_row(score))
                if judged.judge:
                    for score in judgements(judged.judge, workspace, folder / variant.name, target, examples, remarks):
                        journal.add(to_row(score))
        for extra in (BLOCKS, TIMING):
            if (folder / extra).is_file():
                shutil.copy(folder / extra, draft.path / extra)
        write_json(draft.path / PLAN, to_json(plan))
        about = facts | {"departures": departures, "remarks": list(dict.fromkeys(remarks)), "mlxrag": __version__}
        write_json(draft.path / "run.json", about)
        report = write_reports(draft.path, plan, about, examples, name)
        draft.note(
            what="ab", variants=[v.name for v in plan.variants], dataset={"ref": plan.dataset, "split": plan.split},
            plan=source.ref if source is not None else None, examples=len(asked), departures=departures,
            verdicts=report["verdicts"], primary=plan.primary, memory=memory.figures(),
        )  # fmt: skip
    assert draft.artefact is not None
    return draft.artefact
