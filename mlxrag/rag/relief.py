"""When a System steps down: answers that begin anew with less, and batches that wait.

Strategy: steps (`rungs.py`) are taken where memory is asked for (a reservation that does not fit) and at safe points (the
budget has shrunk, or the machine feels pressure).  An answer under way that is too large itself lets go of what it has and
begins anew after the next step; the model is exchanged between attempts only, unloaded before the other is loaded.  Many
questions together are a measurement, so they are answered with exact steps only: what would change their answers is not
done; they wait, and fail with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlxrag.errors import MlxragError, WontFit
from mlxrag.machine import parse_seconds
from mlxrag.memory import ledger
from mlxrag.model.admit import need
from mlxrag.model.alternatives import smaller, stand_ins
from mlxrag.model.limits import apply_limits
from mlxrag.model.load import Model, bytes_to_load, load
from mlxrag.model.swap import exchange
from mlxrag.pressure import Move, read
from mlxrag.rag.answer import Answer
from mlxrag.rag.rungs import caching_of, context_of, on_demand
from mlxrag.settings import ModelSettings
from mlxrag.workspace import Workspace

if TYPE_CHECKING:
    from mlxrag.model.encode import Encoder
    from mlxrag.rag.system import Asked, System

ATTEMPTS = 12  # at one answer; each but the first follows a step or a wait
EVERY = 1.0  # seconds between looks at what the machine feels


def load_what_fits(
    ref: str, workspace: Workspace, settings: ModelSettings, encoder: Encoder | None, *, degrade: bool
) -> tuple[Model, list[Move]]:
    """Load a model, without the encoder beside it where both do not fit; return it and the steps that it took.

    Args:
        ref: as for `load`.
        workspace: where names are looked up.
        settings: how to load it.
        encoder: comes back when it is used.
        degrade: take a smaller model where this one does not fit at all.

    Raises:
        WontFit: it does not; says which would.
    """
    adapter = settings.adapter_path or None
    try:
        return load(ref, workspace, adapter=adapter, settings=settings), []
    except WontFit as error:
        refusal = error
    if encoder is not None and encoder.hidden.unload():
        with suppress(WontFit):
            return load(ref, workspace, adapter=adapter, settings=settings), []
    fitting = [other for other in stand_ins(ref, workspace) if other.nbytes <= ledger().free()]
    for other in fitting if degrade else []:
        with suppress(MlxragError):  # another adapter's base, a file that is gone
            cost = f"quality: {other.ref} instead of {ref}, {other.cost}"
            model = load(other.ref, workspace, adapter=adapter, settings=settings)
            return model, [Move("down", "the next smaller model", 0, cost, time.monotonic())]
    hint = (
        f"; what would fit: --model {fitting[0].ref} ({_mb(fitting[0].nbytes)}; {fitting[0].cost})" if fitting else ""
    )
    raise WontFit(f"{refusal}{hint}", refusal.missing) from refusal


def persist(system: System, attempt: Callable[[], Iterator[str | Answer]]) -> Iterator[str | Answer]:
    """Make an answer, beginning anew after a step down where memory becomes short.

    Raises:
        WontFit: no step is left; says what would fit.
    """
    for count in range(1, ATTEMPTS + 1):
        given = False
        try:
            settle(system)
            for part in attempt():
                given = given or bool(part)
                yield part
            return
        except WontFit as error:
            system.relief.busy = False
            error.__traceback__ = None  # its frames hold the arrays of the attempt
            if count == ATTEMPTS or not give_way(system, error):
                raise refused(system, error) from error
        finally:
            system.relief.busy = False
        if given:
            steps = ", ".join(system.relief.ladder.given_up) or "waited"
            yield f"\n[Memory became short ({steps}); the answer begins anew.]\n"


def persist_many(
    system: System, questions: Sequence[Asked], attempt: Callable[[Sequence[Asked]], Iterator[Answer]]
) -> Iterator[Answer]:
    """Answer many questions, as `persist` does, with exact steps only; what cannot be answered fails with its reason."""
    relief, left, count = system.relief, list(questions), 0
    exact = relief.ladder.exact_only
    relief.ladder.exact_only = True
    try:
        while left:
            try:
                settle(system)
                for answer in attempt(tuple(left)):
                    left.pop(0)
                    count = 0
                    yield answer
            except WontFit as error:
                relief.busy = False
                error.__traceback__ = None
                count += 1
                if count < ATTEMPTS and give_way(system, error):
                    continue
                reason = str(refused(system, error))
                yield from (Answer(asked.question, "", failure=reason) for asked in left)
                return
    finally:
        relief.busy = False
        relief.ladder.exact_only = exact


def settle(system: System) -> None:
    """A safe point between answers: take up the budget and what the machine feels, and have the model in memory.

    Raises:
        WontFit: there is no room for the model now, or less than what is held.
    """
    relief, book = system.relief, ledger()
    book.look(every=0)
    now = time.monotonic()
    if now >= relief.next_look:
        relief.next_look = now + EVERY
        relief.pending = True
        relief.ladder.observe(read().level, now)
        relief.pending = False
        if not relief.ladder.depth:
            apply_limits(book)
    awake(system)


def awake(system: System) -> None:
    """Have the model in memory.

    Raises:
        WontFit: there is no room for it now.
    """
    if system.model.network is None:
        model, settings = system.model, system.settings.model
        called = model.ref, model.name, model.version
        exchange(model, model.path, system.relief.workspace, adapter=settings.adapter_path or None, settings=settings)
        model.ref, model.name, model.version = called
        if model.hold is not None:
            model.hold.who = system.model_name


def give_way(system: System, error: WontFit) -> bool:
    """Step down for what did not fit, or wait until it does; return whether it is worth another attempt."""
    relief, book = system.relief, ledger()
    before = relief.ladder.depth  # what comes back by itself, such as the idle model, is no step ahead
    wanted = book.free() + error.missing  # whatever asked has let go by now
    now = time.monotonic()
    relief.ladder.relieve(-book.free(), now)  # what is held already must go first; a smaller answer does not help that
    missing = _next_need(system) - book.free()
    if missing <= 0 and relief.ladder.depth == before and not relief.again:  # there is room by now
        relief.again = True
        return True
    relief.again = False
    relief.pending = True
    relief.ladder.relieve(missing if relief.ladder.depth > before else max(missing, error.missing), now)
    relief.pending = False
    if relief.ladder.depth > before:
        return True
    return book.wait_for(lambda: max(_next_need(system), wanted), parse_seconds(system.settings.memory.memory_wait))


def refused(system: System, error: WontFit) -> WontFit:
    """Return the refusal with a plan: the first things that would fit."""
    relief, book = system.relief, ledger()
    plans = []
    free = book.free() + (system.model.hold.size if system.model.hold is not None else 0)
    for other in smaller(system.model, relief.workspace):
        if other.nbytes < free:
            plans.append(f"--model {other.ref} ({_mb(other.nbytes)}; {other.cost})")
            break
    short = _next_need(system) - book.free()
    if short > 0:
        plans.append(f"--memory-budget {_mb(book.target + short)}")
    plans.append("closing what else holds memory (mlxrag memory shows it)")
    return WontFit(f"{error}; what would fit: {', or '.join(plans)}", error.missing)


@contextmanager
def idle(system: System) -> Iterator[None]:
    """While passages are looked up: the model may go, where there is no room for it beside the encoder.

    Afterwards it is back, and the encoder is not, where that was the step taken.

    Raises:
        WontFit: there is no room for it afterwards.
    """
    system.relief.busy = False
    yield
    if system.relief.lean:
        for one in on_demand(system):
            one.unload()
    awake(system)
    system.relief.busy = True


def told(system: System) -> dict[str, Any]:
    """Return, for `Answer.usage`, the steps since the last answer and what is given up now; empty where there is nothing."""
    ladder = system.relief.ladder
    steps = [asdict(move) for move in ladder.moves[system.relief.told :]]
    system.relief.told = len(ladder.moves)
    return {"memory": {"steps": steps, "given_up": list(ladder.given_up)}} if steps or ladder.depth else {}


def _next_need(system: System) -> int:
    """Return the bytes that the next attempt takes besides what is held: the answer, and the model if it rests."""
    if system.model.network is None:
        return bytes_to_load(system.model.path, system.settings.model.load_dtype)
    tokens = min(system.relief.asked[0], context_of(system))
    return need(system.model, tokens, caching_of(system)) if tokens else 0


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)}MB"
