"""The rungs of a System's ladder: what it gives up when memory is short, cheapest first, and how it takes it back.

    drop idle caches -> unload idle encoders and adapters -> shorten the context -> quantize keys and values
    -> smaller batches -> the next smaller model -> no model while it is idle

The first two and the last two give back what is held.  The three between make the next answer smaller, so they are taken
only where one is pending that does not fit.  When a step is taken is `relief.py`'s matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlxrag.errors import MlxragError
from mlxrag.memory import ledger
from mlxrag.model.admit import STEP, groups_of, need
from mlxrag.model.alternatives import smaller
from mlxrag.model.attach import resident
from mlxrag.model.limits import apply_limits, shrink_cache
from mlxrag.model.load import bytes_to_load
from mlxrag.model.pace import USUAL_ROWS
from mlxrag.model.swap import exchange
from mlxrag.pressure import Ladder, Rung
from mlxrag.settings import Caching
from mlxrag.workspace import Workspace

if TYPE_CHECKING:
    from mlxrag.model.on_demand import OnDemand
    from mlxrag.rag.system import System

LEAST_CONTEXT = 256  # tokens; a shorter one holds no question with a passage
MODELS = 3  # how many smaller models are tried, one after the other


@dataclass(slots=True)
class Relief:
    """What a System has given up, and what it is asked for.

    Attributes:
        workspace: where smaller models are looked for.
        ladder: its steps.
        context: tokens that prompt and answer may have together; None is the model's own limit.
        bits: caching settings that quantize keys and values; empty while that is not given up.
        batch: caching settings that make batches smaller.
        lean: encoders go after each use.
        busy: an answer is under way, so the model stays.
        pending: an answer is asked for that can be made smaller; else only what is held counts.
        asked: tokens of the latest answer, and how many were made at once.
        unbind: takes the ladder off the ledger.
        told: moves that were reported.
        again: the last attempt followed neither a step nor a wait.
        next_look: when to look at the machine again, in seconds.
    """

    workspace: Workspace
    ladder: Ladder = field(default_factory=lambda: Ladder([]))
    context: int | None = None
    bits: dict[str, int] = field(default_factory=dict)
    batch: dict[str, int] = field(default_factory=dict)
    lean: bool = False
    busy: bool = False
    pending: bool = False
    asked: tuple[int, int] = (0, 0)
    unbind: Callable[[], None] = lambda: None
    told: int = 0
    again: bool = False
    next_look: float = 0.0


def watch(system: System, workspace: Workspace) -> Relief:
    """Build a System's ladder and let the ledger use it."""
    relief = Relief(workspace)
    models = [_next_model(system, relief) for _ in range(MODELS)]
    relief.ladder = Ladder(
        [_caches(system), _encoders(system, relief), _context(system, relief), _context(system, relief),
         _bits(system, relief), _batch(system, relief), *models, _idle_model(system, relief)]
    )  # fmt: skip
    relief.unbind = relief.ladder.bind(ledger(), time.monotonic)
    return relief


def context_of(system: System) -> int:
    """Return the tokens that prompt and answer may have together: the model's limit, less what was given up of it."""
    own, relief = system.model.context, system.relief
    return own if relief.context is None or relief.ladder.exact_only else min(own, relief.context)


def caching_of(system: System) -> Caching:
    """Return the caching settings, less what was given up of them."""
    relief = system.relief
    less = relief.batch | ({} if relief.ladder.exact_only else relief.bits)
    if relief.batch and "prefill_step_size" in less:
        less["prefill_step_size"] = min(less["prefill_step_size"], relief.batch["prefill_step_size"])
    return system.settings.caching.model_copy(update=less) if less else system.settings.caching


def rest(system: System) -> int:
    """Let go of everything that can be loaded again: model, encoders and caches; return the bytes that gives back."""
    before = ledger().held
    system.store.clear()
    for one in on_demand(system):
        one.unload()
    if system.model.network is not None:
        system.model.close()
    shrink_cache(ledger())
    return before - ledger().held


def _caches(system: System) -> Rung:
    def down() -> int:
        before = ledger().held
        system.store.clear()
        shrink_cache(ledger())
        freed = before - ledger().held
        if freed > 0:
            system.store.memory = 0
        return freed

    def up() -> bool:
        system.store.memory = system.settings.caching.cache_memory << 20
        apply_limits(ledger())
        return True

    return Rung("drop idle caches", down, up, lambda: "time: prompts are processed whole")


def _encoders(system: System, relief: Relief) -> Rung:
    def down() -> int:
        freed = sum(one.unload() for one in on_demand(system))
        relief.lean = relief.lean or freed > 0
        if system.model.network is not None and system.model.network.__dict__.get("_resident") is not None:
            placed = resident(system.model.network)
            freed += sum(placed.rest(name) for name in placed.names)
        return freed

    def up() -> bool:
        relief.lean = False
        return True

    return Rung("unload idle encoders and adapters", down, up, lambda: "time: they are loaded again for each use")


def _context(system: System, relief: Relief) -> Rung:
    before: list[int | None] = []

    def down() -> int:
        tokens, rows = relief.asked
        now = min(tokens, relief.context or tokens)
        shorter = max(LEAST_CONTEXT, now // 2)
        if not relief.pending or shorter >= now or system.model.network is None:
            return 0
        before.append(relief.context)
        relief.context = shorter
        caching = caching_of(system)
        return rows * max(need(system.model, now, caching) - need(system.model, shorter, caching), 1)

    def up() -> bool:
        relief.context = before.pop()
        return True

    return Rung(
        "shorten the context", down, up, lambda: f"quality: prompt and answer have {relief.context} tokens", False
    )


def _bits(system: System, relief: Relief) -> Rung:
    def down() -> int:
        tokens, rows = relief.asked
        caching, model = caching_of(system), system.model
        if not relief.pending or not tokens or caching.kv_bits is not None or model.network is None:
            return 0
        group = groups_of(model)
        if not group:
            return 0
        # In smaller steps, since the keys and values of a step are there as they are until it is done.
        step = min(caching.prefill_step_size, STEP)
        less = {"kv_bits": 8, "kv_group_size": group, "quantized_kv_start": 0, "prefill_step_size": step}
        quantized = caching.model_copy(update=less)
        saved = rows * (need(model, tokens, caching) - need(model, tokens, quantized))
        if saved > 0:
            relief.bits = less
        return max(saved, 0)

    def up() -> bool:
        relief.bits = {}
        return True

    return Rung(
        "quantize keys and values", down, up, lambda: "quality: 8 bits instead of the model's own, hardly seen", False
    )


def _batch(system: System, relief: Relief) -> Rung:
    def down() -> int:
        tokens, rows = relief.asked
        caching = caching_of(system)
        less = {
            "decode_concurrency": max(1, min(caching.decode_concurrency or USUAL_ROWS, rows) // 4),
            "prefill_step_size": max(128, min(caching.prefill_step_size, tokens) // 4),
        }
        changed = caching.model_copy(update=less)
        if not relief.pending or not tokens or system.model.network is None:
            return 0
        saved = rows * need(system.model, tokens, caching) - min(rows, changed.decode_concurrency) * need(
            system.model, tokens, changed
        )
        if saved <= 0:
            return 0
        relief.batch = less
        return saved

    def up() -> bool:
        relief.batch = {}
        return True

    return Rung("smaller batches", down, up, lambda: "time: fewer answers and prompt tokens at once")


def _next_model(system: System, relief: Relief) -> Rung:
    before: list[str] = []
    cost: list[str] = []

    def change(ref: str) -> bool:
        system.store.clear()
        settings = system.settings.model
        try:
            exchange(system.model, ref, relief.workspace, adapter=settings.adapter_path or None, settings=settings)
        except MlxragError:  # another adapter's base, a file that is gone: the model stays what it was
            return False
        return True

    def down() -> int:
        model = system.model
        if relief.busy:
            return 0
        ref = f"{model.name}@{model.version}" if model.version else str(model.path)
        now = model.nbytes if model.network is not None else bytes_to_load(model.path, system.settings.model.load_dtype)
        for other in smaller(model, relief.workspace):
            if change(other.ref):
                before.append(ref)
                cost[:] = [f"quality: {model.name} instead of {ref}, {other.cost}"]
                return max(now - system.model.nbytes, 0)
        return 0

    def up() -> bool:
        if relief.busy or not change(before[-1]):
            return False
        before.pop()
        return True

    return Rung("the next smaller model", down, up, lambda: cost[-1], False)


def _idle_model(system: System, relief: Relief) -> Rung:
    def down() -> int:
        if relief.busy or system.model.network is None:
            return 0
        return rest(system)

    return Rung(
        "unload the idle model",
        down,
        lambda: True,
        lambda: "time: it is loaded again for the next answer",
        lasting=False,
    )


def on_demand(system: System) -> Sequence[OnDemand[object]]:
    """Return the weights of encoder and cross-encoder, where there are such."""
    found: list[OnDemand[object]] = []
    if system.encoder is not None:
        found.append(system.encoder.hidden)  # type: ignore[arg-type]  # what it holds does not matter here
    if system.reranker is not None:
        found.append(system.reranker.network)  # type: ignore[arg-type]
    return found
