"""The budget is never exceeded, and a refusal says what would help."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.errors import WontFit
from mlxrag.machine import GB
from mlxrag.memory import Hold, Ledger, held_by_processes


def test_a_refusal_names_needed_free_holders_and_help() -> None:
    """What a person needs to act."""
    ledger = Ledger(10 * GB)
    ledger.reserve("reader v1", "weights", 7 * GB)
    with pytest.raises(WontFit, match=r"needs 4\.00 GB and 3\.00 GB .* held by reader v1 7\.00 GB; try --q-bits 4"):
        ledger.reserve("qwen", "weights", 4 * GB, helps="try --q-bits 4")
    assert ledger.held == 7 * GB


@given(st.lists(st.tuples(st.sampled_from("+-~BL"), st.integers(0, 60)), max_size=40))
def test_whatever_is_asked_nothing_is_granted_beyond_the_target(actions: list[tuple[str, int]]) -> None:
    """Reserve, release, resize and a budget that others move, in any order.

    The budget in force is never below what is held, rises with the target only, and comes down with what is given back;
    a grant leaves no more held than the target of that moment; no safe point is passed above it.
    """
    target = 100
    ledger = Ledger(target, source=lambda held: target)
    holds: list[Hold] = []
    for action, size in actions:
        before, force = ledger.held, ledger.size
        try:
            if action == "+":
                holds.append(ledger.reserve("x", "cache", size))
            elif action == "-" and holds:
                holds.pop(size % len(holds)).release()
            elif action == "~" and holds:
                holds[size % len(holds)].resize(size)
            elif action == "B":
                target = size
            else:
                ledger.look(every=0)
                assert ledger.held <= target
        except WontFit:
            assert ledger.held == before
        assert ledger.held == sum(hold.size for hold in holds)
        assert ledger.held <= target or ledger.held <= before
        assert ledger.held <= ledger.size <= max(target, force)
    for hold in holds:
        hold.release()
    ledger.refresh()
    assert ledger.held == 0 and ledger.free() == ledger.size == target


def test_threads_that_ask_while_the_budget_moves_are_granted_nothing_beyond_it() -> None:
    """Four that reserve, resize, give back and look as fast as they can; a witness of every grant under the lock."""
    walk = random.Random(5)
    wrong: list[str] = []

    class Witness(Ledger):
        said = 100

        def ask(self, held: int) -> int:
            self.said = walk.randrange(0, 120)
            return self.said

        def _take(self, hold: Hold, size: int) -> int:
            more = size > hold.size
            missing = super()._take(hold, size)
            if (more and not missing and self.held > self.said) or self.held > self.size:
                wrong.append(f"{self.held} of {self.said}")
            return missing

    ledger = Witness(100)
    ledger.source = ledger.ask

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            try:
                with ledger.reserve("x", "cache", rng.randrange(40)) as hold:
                    hold.resize(rng.randrange(40))
                    ledger.look(every=0)
            except WontFit:
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and ledger.held == 0 and 0 < ledger.peak <= 120


def test_a_budget_that_is_fixed_follows_the_machine_no_more() -> None:
    """What a person gives counts until another is given."""
    ledger = Ledger(100, source=lambda held: 50)
    ledger.set_size(80)
    ledger.refresh()
    assert ledger.target == 80 and ledger.reserve("x", "cache", 80).size == 80


def test_while_more_is_held_than_the_target_no_safe_point_is_passed() -> None:
    """Not even one that is not due: whoever does not let go is told again; and the budget in force follows what is held."""
    size = 100
    ledger = Ledger(100, source=lambda held: size)
    first, second = ledger.reserve("a", "cache", 60), ledger.reserve("b", "cache", 30)
    ledger.look(every=0)
    size = 40
    for _ in range(2):
        with pytest.raises(WontFit, match="has shrunk"):
            ledger.look(every=0 if ledger.target == 100 else 60)
        assert ledger.size == ledger.held == 90 and ledger.target == 40
    with pytest.raises(WontFit):
        second.resize(31)
    first.release()
    ledger.look(every=60)
    assert ledger.size == 40 and ledger.held == 30


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


def test_two_processes_never_take_the_same_bytes(tmp_path: Path) -> None:
    """Four that reserve and release as fast as they can, each more than a third: the sum stays within the budget."""
    path = tmp_path / "budget.json"
    context = multiprocessing.get_context("fork")
    most = context.Value("q", 0)
    now = context.Value("q", 0)
    children = [context.Process(target=_grab, args=(str(path), most, now, seed)) for seed in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert 0 < most.value <= 100


def _grab(path: str, most: Any, now: Any, seed: int) -> None:
    ledger, rng = Ledger(100, Path(path)), random.Random(seed)
    for _ in range(150):
        size = rng.randrange(30, 60)
        try:
            hold = ledger.reserve("child", "cache", size)
        except WontFit:
            continue
        with now.get_lock():
            now.value += size
            most.value = max(most.value, now.value)
        with now.get_lock():
            now.value -= size
        hold.release()


def test_a_shrunken_budget_takes_effect_at_a_safe_point() -> None:
    """What is idle is given up first; work that holds more than the new budget has to let go, and is told by how much."""
    size = [100]
    ledger = Ledger(100, source=lambda held: size[0])
    cache = ledger.reserve("cache", "cache", 30)
    work = ledger.reserve("answer", "cache", 60)

    def drop(_: int) -> int:
        freed = cache.size
        cache.release()
        return freed

    ledger.relief.append(("drop caches", drop))
    size[0] = 70
    ledger.look(every=0)
    assert ledger.held == 60 and ledger.size == ledger.target == 70
    size[0] = 50
    with pytest.raises(WontFit, match="has shrunk to 0 MB; held by answer") as refused:
        ledger.look(every=0)
    assert refused.value.missing == 10
    work.release()
    ledger.look(every=0)


def test_a_request_waits_for_the_budget_to_grow() -> None:
    """Not only for others to give back."""
    sizes = iter([10, 10, 100])
    ledger = Ledger(10, source=lambda held: next(sizes, 100))
    assert ledger.reserve("answer", "cache", 50, wait=5).size == 50


def test_a_hold_that_grows_waits_for_the_budget_to_grow_where_it_can() -> None:
    """A budget that follows the machine is waited for; one that is fixed and held by nobody else is refused at once."""
    sizes, ledger = iter([40, 40, 40]), Ledger(100)
    encoder, index = ledger.reserve("encoder", "encoder", 90), ledger.reserve("index", "index", 0)
    ledger.source = lambda held: next(sizes, 100)
    index.resize(5, wait=60)
    assert (encoder.size, index.size) == (90, 5)
    ledger.set_size(100)
    started = time.monotonic()
    with pytest.raises(WontFit, match="index needs"):
        index.resize(50, wait=600)
    assert time.monotonic() - started < 60


def test_what_each_process_holds_is_told_by_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `mlxrag memory`, which looks from another process; what was released is gone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ledger = Ledger(100, tmp_path / ".mlxrag" / "budget.json")
    hold = ledger.reserve("reader v1", "weights", 40)
    ledger.reserve("answer", "cache", 5)
    assert held_by_processes() == {os.getpid(): [("reader v1", "weights", 40), ("answer", "cache", 5)]}
    hold.release()
    assert held_by_processes() == {os.getpid(): [("answer", "cache", 5)]} and ledger.peak == 45
