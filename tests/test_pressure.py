"""The ladder goes down one rung at a time, up only after calm, and does not oscillate."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.errors import WontFit
from mlxrag.memory import Ledger
from mlxrag.pressure import Ladder, Level, Rung, judge, read


def ladder(sizes: list[int], calm_for: float = 30.0) -> tuple[Ladder, list[int]]:
    """A ladder whose rungs free these bytes, and the bytes that are held now."""
    held = list(sizes)

    def down(i: int) -> int:
        size, held[i] = held[i], 0
        return size

    def up(i: int) -> bool:
        held[i] = sizes[i]
        return True

    rungs = [Rung(f"rung {i}", lambda i=i: down(i), lambda i=i: up(i), lambda: "none") for i in range(len(sizes))]
    return Ladder(rungs, calm_for), held


def test_each_sign_of_pressure_takes_one_rung_in_order() -> None:
    """Cheapest first; a rung with nothing to give is passed over."""
    steps, held = ladder([5, 0, 7])
    assert [m.rung if (m := steps.observe(Level.TIGHT, t)) else None for t in range(3)] == ["rung 0", "rung 2", None]
    assert held == [0, 0, 0] and steps.depth == 2


def test_it_comes_back_up_in_reverse_after_calm_one_rung_at_a_time() -> None:
    """Each rung waits for its own stretch of calm."""
    steps, held = ladder([5, 7])
    steps.observe(Level.CRITICAL, 0)
    steps.observe(Level.CRITICAL, 1)
    moved = [(t, m.rung) for t in range(2, 100) if (m := steps.observe(Level.CALM, t))]
    assert moved == [(32, "rung 1"), (62, "rung 0")] and held == [5, 7]


@given(st.lists(st.sampled_from(list(Level)), min_size=1, max_size=300))
def test_a_noisy_signal_does_not_make_it_oscillate(levels: list[Level]) -> None:
    """Whatever the signal, one sample a second: two steps up are at least `calm_for` apart, and no step up follows
    a sign of pressure within `calm_for`."""
    steps, _ = ladder([1, 1, 1, 1], calm_for=20)
    last_pressure = -100
    ups = []
    for t, level in enumerate(levels):
        move = steps.observe(level, t)
        if level is not Level.CALM:
            last_pressure = t
        if move and move.direction == "up":
            ups.append(t)
            assert t - last_pressure >= 20
        assert 0 <= steps.depth <= 4
    assert all(b - a >= 20 for a, b in itertools.pairwise(ups))


def test_a_short_ledger_steps_down_before_it_refuses() -> None:
    """A reservation that does not fit is granted after the ladder freed enough, and no further."""
    book = Ledger(100)
    holds = [book.reserve(f"cache {i}", "cache", 30) for i in range(3)]

    def drop(i: int) -> int:
        size = holds[i].size
        holds[i].release()
        return size

    steps = Ladder([Rung(f"drop {i}", lambda i=i: drop(i), lambda: True, str) for i in range(3)])
    steps.bind(book, lambda: 0.0)
    book.reserve("question", "cache", 60)
    assert [m.rung for m in steps.moves] == ["drop 0", "drop 1"] and book.held == 90


def test_a_rung_is_taken_back_only_where_there_is_room_for_more_than_it_freed() -> None:
    """Else the next request would step down again at once."""
    book = Ledger(100)
    steps, held = ladder([40])
    unbind = steps.bind(book, lambda: 0.0)
    steps.observe(Level.TIGHT, 0)
    other = book.reserve("other", "cache", 50)
    assert steps.observe(Level.CALM, 40) is None and steps.observe(Level.CALM, 80) is None and steps.depth == 1
    other.resize(30)
    moved = [m.direction for t in range(100, 200) if (m := steps.observe(Level.CALM, t))]
    assert moved == ["up"] and held == [40]
    unbind()
    assert book.relief == []


def test_a_step_for_a_request_delays_the_way_up_like_pressure_does() -> None:
    """Calm is counted from the last step down, whoever asked for it."""
    steps, _ = ladder([5, 7])
    steps.observe(Level.CALM, 0)
    assert steps.relieve(1, 20) == 5
    moved = [t for t in range(21, 100) if steps.observe(Level.CALM, t)]
    assert moved == [51]


def test_a_measurement_takes_no_step_that_changes_answers() -> None:
    """Rungs that are not exact are passed over."""
    rungs = [
        Rung("shorten context", lambda: 5, lambda: True, str, exact=False),
        Rung("fewer", lambda: 3, lambda: True, str),
    ]
    steps = Ladder(rungs, exact_only=True)
    assert steps.relieve(100, 0) == 3 and steps.given_up == ("fewer",)


def test_what_a_step_asks_for_takes_no_other_step() -> None:
    """A rung that loads a smaller model asks the ledger, which asks the ladder: it gets no answer, not a circle."""
    book = Ledger(10)
    asked = []

    def down() -> int:
        asked.append(1)
        with pytest.raises(WontFit):
            book.reserve("smaller model", "weights", 50)
        return 0

    steps = Ladder([Rung("next model", down, lambda: True, str)])
    steps.bind(book, lambda: 0.0)
    assert steps.relieve(5, 0.0) == 0 and asked == [1]


def test_the_judgement_of_a_linux_machine() -> None:
    """Little memory is pressure, and much waiting is where memory is short."""
    assert judge(0.5, None) is Level.CALM and judge(0.1, 0.0) is Level.TIGHT and judge(0.2, 0.2) is Level.TIGHT
    assert judge(0.04, None) is Level.CRITICAL and judge(0.2, 0.5) is Level.CRITICAL and judge(0.8, 0.9) is Level.CALM


def test_reading_this_machine_gives_figures() -> None:
    """The counters exist here."""
    now = read()
    assert now.available > 0 and now.resident > 1_000_000 and now.level in Level
