"""One request at a time: where it stops, what it keeps true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxrag.errors import BadInput
from mlxrag.model.generate import Request, Stopper, complete, stream
from mlxrag.model.load import Model, load
from mlxrag.model.lookup import DraftModel, Lookup
from mlxrag.settings import Caching, Sampling
from tests.toy_model import write_model


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(write_model(tmp_path_factory.mktemp("toy") / request.param, request.param)) as model:
        yield model


def prompt(model: Model, text: str = "Every employee has leave. The ox trailer carries 80 kg. Who?") -> tuple[int, ...]:
    return tuple(model.tokenizer.prompt([{"role": "user", "content": text}]))


def tokens(model: Model, **more: object) -> list[int]:
    sampling = more.pop("sampling", Sampling(max_tokens=24))
    assert isinstance(sampling, Sampling)
    return [piece.token for piece in stream(model, prompt(model), sampling, **more)]  # type: ignore[arg-type]


def test_greedy_text_does_not_depend_on_the_steps_of_the_prompt(model: Model) -> None:
    """Prompts are processed in pieces of any size."""
    assert tokens(model) == tokens(model, caching=Caching(prefill_step_size=16))


def test_the_same_seed_gives_the_same_text_and_another_one_another(model: Model) -> None:
    """The random numbers belong to the request."""
    hot = Sampling(max_tokens=24, temp=2.0, seed=3)
    assert tokens(model, sampling=hot) == tokens(model, sampling=hot)
    assert tokens(model, sampling=hot) != tokens(model, sampling=hot.model_copy(update={"seed": 4}))


def test_one_token_is_enough(model: Model) -> None:
    """The shortest answer has one piece, which says why it ended."""
    pieces = list(stream(model, prompt(model), Sampling(max_tokens=1)))
    assert len(pieces) == 1 and pieces[0].finish_reason in ("length", "stop")


def test_a_stop_text_ends_the_answer_before_it(model: Model) -> None:
    """Also where it spans several tokens, and none of it is given out."""
    whole = complete(model, Request("", prompt(model), 24)).text
    word = whole[5:9]
    done = complete(model, Request("", prompt(model), 24, stop=(word,)))
    assert done.finish_reason == "stop" and done.text == whole[: whole.index(word)]


def test_an_end_token_is_not_part_of_the_answer(model: Model) -> None:
    """Neither in the text nor among the tokens."""
    free = complete(model, Request("", prompt(model), 24))
    before = model.tokenizer.eos_ids
    model.tokenizer.eos_ids = frozenset({free.tokens[4]})
    try:
        done = complete(model, Request("", prompt(model), 24))
    finally:
        model.tokenizer.eos_ids = before
    first = free.tokens.index(free.tokens[4])
    assert done.tokens == free.tokens[:first] and done.finish_reason == "stop"
    assert len(done.logprobs) == len(done.tokens) and all(score <= 0 for score in done.logprobs)


def test_an_empty_prompt_and_one_that_is_too_long_are_refused(model: Model) -> None:
    """Before anything is computed."""
    with pytest.raises(BadInput, match="empty"):
        next(stream(model, []))
    with pytest.raises(BadInput, match="context"):
        next(stream(model, [5] * 1024))


def test_a_window_lets_the_text_be_longer_than_the_context(tmp_path: Path) -> None:
    """`max_kv_size` keeps the last tokens only."""
    with load(write_model(tmp_path / "toy")) as model:
        assert len(list(stream(model, [5, 6, 7] * 400, Sampling(max_tokens=5), caching=Caching(max_kv_size=64)))) == 5


def test_quantized_keys_and_values_that_do_not_fit_are_refused_with_what_would(model: Model) -> None:
    """Heads of 16 numbers do not divide by 32, and windows cannot be quantized."""
    caching = Caching(kv_bits=8, kv_group_size=32, quantized_kv_start=4)
    with pytest.raises(BadInput, match="--kv-bits"):
        tokens(model, caching=caching)


def test_drafts_change_nothing_greedy_or_sampled(model: Model) -> None:
    """A lookup, and the model as its own draft."""
    for sampling in (Sampling(max_tokens=40), Sampling(max_tokens=40, temp=1.5, top_k=5, seed=1)):
        plain = tokens(model, sampling=sampling)
        eager = Lookup(right=1000.0)
        assert tokens(model, sampling=sampling, drafter=eager) == plain
        assert tokens(model, sampling=sampling, drafter=DraftModel(model.network, 3)) == plain


@given(
    parts=st.lists(st.text(alphabet="abc", max_size=4), max_size=12),
    stop=st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_the_stopper_gives_out_all_before_the_first_stop_text(parts: list[str], stop: list[str]) -> None:
    """However the text is cut into pieces."""
    whole = "".join(parts)
    stopper = Stopper(tuple(stop))
    given_out = "".join(stopper.add(part) for part in parts) + stopper.add("", last=True)
    at = min((whole.find(word) for word in stop if word in whole), default=len(whole))
    # A longer stop text may begin earlier and end later than a short one; what comes first in time wins.
    ends = [i for i in range(1, len(whole) + 1) for word in stop if whole[:i].endswith(word)]
    if stop and ends:
        cut = min(ends)
        at = min(whole[:cut].find(word) for word in stop if word in whole[:cut])
        step = next(i for i in range(len(parts)) if len("".join(parts[: i + 1])) >= cut)
        seen = "".join(parts[: step + 1])
        at = min(seen.find(word) for word in stop if word in seen)
    assert given_out == whole[:at]


def test_where_a_generation_is_broken_off_nothing_is_left_running(model: Model, tmp_path: Path) -> None:
    """Closing the iterator early is allowed at any piece."""
    for count in range(4):
        pieces = stream(model, prompt(model), Sampling(max_tokens=24), drafter=Lookup())
        for _ in range(count):
            next(pieces)
        pieces.close()  # type: ignore[attr-defined]
