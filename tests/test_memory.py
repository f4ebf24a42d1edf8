"""The budget is never exceeded, and a refusal says what would help."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag import memory, settings
from mlxrag.errors import BadInput, WontFit
from mlxrag.memory import GB, Hold, Ledger, Machine, budget

GIB = 1024**3
DEFAULTS = settings.Memory()


def test_an_m1_pro_with_16_gb_gives_at_most_85_percent_of_metals_working_set() -> None:
    """2/3 of 16 GiB is 11,453 MB; the budget stays below even when more is free."""
    m1 = Machine("Darwin", 16 * GIB, 15 * GIB, memory.metal_working_set(16 * GIB))
    assert m1.working_set is not None and round(m1.working_set / 1024**2) == 10923
    assert budget(m1, DEFAULTS) == m1.working_set * 85 // 100
    busy = Machine("Darwin", 16 * GIB, 4 * GIB, m1.working_set)
    assert budget(busy, DEFAULTS) == 4 * GIB - 1_500_000_000


def test_linux_gives_what_is_available_within_the_control_group() -> None:
    """The tighter of the two limits counts; nothing below zero."""
    assert budget(Machine("Linux", 24 * GIB, 20 * GIB), DEFAULTS) == 20 * GIB - 1_500_000_000
    assert budget(Machine("Linux", 24 * GIB, 20 * GIB, limit=2 * GIB), DEFAULTS) == 2 * GIB * 9 // 10
    assert budget(Machine("Linux", 2 * GIB, GIB), DEFAULTS) == 0


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6 * GB), ("1.5 GiB", GIB * 3 // 2), ("800mb", 800_000_000), ("12", 12)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """Powers of 1000 for GB, of 1024 for GiB."""
    assert memory.parse_size(text) == size


def test_a_size_that_is_none_is_refused() -> None:
    """One sentence with an example."""
    with pytest.raises(BadInput, match="write it like 6GB"):
        memory.parse_size("much")


def test_a_refusal_names_needed_free_holders_and_help() -> None:
    """What a person needs to act."""
    ledger = Ledger(10 * GB)
    ledger.reserve("reader v1", "weights", 7 * GB)
    with pytest.raises(WontFit, match=r"needs 4\.00 GB and 3\.00 GB .* held by reader v1 7\.00 GB; try --q-bits 4"):
        ledger.reserve("qwen", "weights", 4 * GB, helps="try --q-bits 4")
    assert ledger.held == 7 * GB


@given(st.lists(st.tuples(st.sampled_from("+-~B"), st.integers(0, 60)), max_size=40))
def test_whatever_is_asked_what_is_granted_stays_within_the_budget(actions: list[tuple[str, int]]) -> None:
    """Reserve, release, resize and a shrinking budget in any order: no grant takes the sum above the budget."""
    ledger = Ledger(100)
    holds: list[Hold] = []
    for action, size in actions:
        before = ledger.held
        try:
            if action == "+":
                holds.append(ledger.reserve("x", "cache", size))
            elif action == "-" and holds:
                holds.pop(size % len(holds)).release()
            elif action == "~" and holds:
                holds[size % len(holds)].resize(size)
            elif action == "B":
                ledger.set_size(40 + size)
        except WontFit:
            assert ledger.held == before
        assert ledger.held == sum(hold.size for hold in holds)
        assert ledger.held <= max(ledger.size, before)
    for hold in holds:
        hold.release()
    assert ledger.held == 0 and ledger.free() == ledger.size


def test_relief_is_asked_in_order_and_only_as_far_as_needed() -> None:
    """The first rung that frees enough spares the rest."""
    ledger = Ledger(100)
    cache, draft = ledger.reserve("cache", "cache", 40), ledger.reserve("draft", "weights", 40)
    asked: list[str] = []

    def drop(name: str, hold: Hold) -> int:
        asked.append(name)
        size = hold.size
        hold.release()
        return size

    ledger.relief += [("drop caches", lambda _: drop("cache", cache)), ("unload draft", lambda _: drop("draft", draft))]
    ledger.reserve("question", "cache", 50)
    assert asked == ["cache"]
    ledger.set_size(60)
    assert asked == ["cache", "cache", "draft"] and ledger.free() == 10


def test_a_request_that_waits_is_admitted_when_another_gives_back() -> None:
    """Admission control: it waits instead of failing."""
    ledger = Ledger(10)
    first = ledger.reserve("first", "cache", 8)
    timer = threading.Timer(0.1, first.release)
    timer.start()
    started = time.monotonic()
    with ledger.reserve("second", "cache", 8, wait=5):
        assert ledger.held == 8 and time.monotonic() - started < 4
    timer.join()
    with pytest.raises(WontFit):
        Ledger(1).reserve("never", "cache", 2, wait=0.01)


def _hold_forever(path: str, ready: object, size: int) -> None:
    Ledger(100, Path(path)).reserve("child", "weights", size)
    ready.set()  # type: ignore[attr-defined]
    time.sleep(60)


def test_processes_share_one_budget_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    """What a child holds is not granted here; once it is killed, it is."""
    path = tmp_path / "budget.json"
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_hold_forever, args=(str(path), ready, 70))
    child.start()
    assert ready.wait(10)
    ledger = Ledger(100, path)
    with pytest.raises(WontFit, match="by other mlxrag processes"):
        ledger.reserve("here", "weights", 40)
    assert child.pid is not None
    os.kill(child.pid, 9)
    child.join()
    assert ledger.reserve("here", "weights", 100).size == 100
