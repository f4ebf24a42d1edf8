"""Drafts from the text: proposed where the text repeats, off where that does not pay."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxrag.model.generate import Request, complete
from mlxrag.model.load import load
from mlxrag.model.lookup import Lookup
from tests.toy_model import write_model


def feed(lookup: Lookup, tokens: list[int]) -> None:
    for token in tokens:
        lookup.add(token)


def test_what_followed_the_same_three_tokens_is_proposed() -> None:
    """The longest agreement wins, then the latest."""
    lookup = Lookup()
    lookup.begin([1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9])
    assert lookup.propose(5) == []
    feed(lookup, [2, 3, 4])
    assert lookup.propose(3) == [5, 6, 7]
    assert lookup.propose(0) == []
    lookup = Lookup()
    lookup.begin([7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3])
    assert lookup.propose(1) == [4]


def test_a_draft_never_reaches_beyond_the_text() -> None:
    """Near the end of what is known it is shorter."""
    lookup = Lookup()
    lookup.begin([1, 2, 3, 9, 1, 2, 3])
    assert lookup.propose(31) == [9, 1, 2, 3][: len(lookup.propose(31))] and len(lookup.propose(31)) <= 4


def test_it_switches_itself_off_when_drafts_fail_and_on_again_when_they_would_have_been_right() -> None:
    """Off, it watches drafts without making them."""
    lookup = Lookup()
    lookup.begin([*range(50), 900])
    for _ in range(30):
        lookup.checked(7, 0, 0.01)
    assert lookup.best_size() == 0
    feed(lookup, list(range(10, 13)))
    assert lookup.propose(31) == []
    for token in range(13, 49):
        feed(lookup, [token])
        lookup.propose(31)
    assert lookup.best_size() > 0


def test_the_cost_of_many_rows_is_learned() -> None:
    """Where a pass over 8 rows takes 7 times as long as one over a row, 8 rows are not asked for."""
    lookup = Lookup()
    assert lookup.best_size() > 0
    for rows in (4, 8, 16, 32):
        for _ in range(60):
            lookup.checked(0, 0, 0.010)
            lookup.checked(rows - 1, (rows - 1) // 2, 0.010 * rows)
    assert lookup.best_size() == 0
    assert lookup.price(8) == pytest.approx(8, rel=0.1)


def test_prices_between_measured_sizes_lie_on_straight_lines() -> None:
    """And grow beyond the last."""
    lookup = Lookup(cost={1: 1.0, 3: 2.0})
    assert lookup.price(2) == pytest.approx(1.5) and lookup.price(6) == pytest.approx(4.0)


def test_a_text_that_repeats_itself_is_drafted(tmp_path: Path) -> None:
    """Greedy toy networks fall into loops, which is a copy; the tokens are those without drafts."""
    with load(write_model(tmp_path / "toy")) as model:
        ids = tuple(model.tokenizer.encode("The ox trailer carries 80 kg. ") * 4)
        plain = complete(model, Request("", ids, 120))
        lookup = Lookup(right=50.0)
        assert complete(model, Request("", ids, 120), drafter=lookup).tokens == plain.tokens
        assert lookup.rounds > 0 and lookup.accepted <= lookup.drafted
