"""A system answers: what fits goes in, what was reused is said, nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxrag.errors import BadInput, NotFound
from mlxrag.model.encode import load_encoder
from mlxrag.model.load import load
from mlxrag.rag.answer import Answer
from mlxrag.rag.document import Hit, Passage
from mlxrag.rag.fit import fit
from mlxrag.rag.follow_up import by_asking, by_rule, standalone
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.system import Asked, System, advised, ask, ask_many, open_system, stream_answer
from mlxrag.settings import Caching, Encoding, ModelSettings, Retrieval, Sampling, Settings
from mlxrag.workspace import Workspace, open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

QUESTIONS = ["How many days of leave?", "What does the ox cost?", "When does the shop open?"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Settings, Path]:
    """A workspace with an index of six small documents, a toy encoder and a toy model."""
    root = tmp_path_factory.mktemp("system")
    docs = root / "docs"
    docs.mkdir()
    facts = ["Leave is 28 days a year.", "The ox costs 1,290 euro.", "The shop opens at nine.", "Dogs ride free.",
             "Returns take two weeks.", "The works council meets on Monday."]  # fmt: skip
    for i, fact in enumerate(facts):
        (docs / f"{i}.txt").write_text(f"{fact} {'More of it is told here. ' * 3}")
    ws = open_workspace(root / "ws")
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [docs], Settings()))
    model = write_model(root / "model")
    settings = Settings(
        retrieval=Retrieval(num_passages=3),
        encoding=Encoding(encoder=str(root / "encoder")),
        model=ModelSettings(model=str(model)),
        sampling=Sampling(max_tokens=12),
    )
    return ws, settings, root


@pytest.fixture
def system(world: tuple[Workspace, Settings, Path]) -> Iterator[System]:
    ws, settings, _ = world
    with open_system(settings, ws) as system:
        yield system


def test_an_answer_comes_in_pieces_and_ends_whole(system: System) -> None:
    """The pieces joined are the text; tokens, seconds and hits are told."""
    parts = list(stream_answer(system, QUESTIONS[0]))
    answer = parts[-1]
    assert isinstance(answer, Answer)
    assert "".join(str(part) for part in parts[:-1]).strip() == answer.text
    assert len(answer.hits) == 3 and answer.usage["answer_tokens"] <= 12
    assert {"prompt_tokens", "reused_tokens", "seconds", "first_token_seconds", "cache"} <= set(answer.usage)
    assert answer.logprob is not None and answer.logprob < 0


def test_the_same_passages_are_processed_once(system: System) -> None:
    """The second question on them reuses instruction and passages."""
    first = ask(system, "leave leave leave")
    again = ask(system, "leave leave")
    if [h.passage.id for h in first.hits] == [h.passage.id for h in again.hits]:
        assert again.usage["reused_tokens"] > 0.6 * again.usage["prompt_tokens"]
    repeated = ask(system, "leave leave")
    assert repeated.usage["reused_tokens"] == repeated.usage["prompt_tokens"] - 1
    assert repeated.text == again.text


def test_many_questions_give_what_each_gives_alone_in_their_order(system: System) -> None:
    """Batched, with prefixes shared."""
    alone = [ask(system, question).text for question in QUESTIONS]
    answers = list(ask_many(system, QUESTIONS))
    assert [a.question for a in answers] == QUESTIONS and [a.text for a in answers] == alone


def test_a_question_that_fails_is_an_answer_with_its_reason(system: System) -> None:
    """The others are answered."""
    answers = list(ask_many(system, [QUESTIONS[0], "why " * 1500, QUESTIONS[1]]))
    assert [bool(a.failure) for a in answers] == [False, True, False]
    assert "shorten it" in answers[1].failure and answers[1].text == ""


def test_gold_passages_can_be_handed_in(world: tuple[Workspace, Settings, Path]) -> None:
    """No index is needed then."""
    ws, settings, _ = world
    passage = Passage("p", "d", "s", "Leave", "", 0, 9, "28 days.")
    with open_system(settings, ws, index=False) as system:
        answer = next(ask_many(system, [Asked("How many?", (Hit(passage, 1.0, "gold", 1),))]))
        assert answer.hits[0].passage is passage and not answer.failure
        with pytest.raises(BadInput, match="no index"):
            next(ask_many(system, ["How many?"]))


def test_passages_that_do_not_fit_are_dropped_whole_from_the_bottom_and_counted(system: System) -> None:
    """As many as fit stay."""
    text = "word " * 100
    hits = [Hit(Passage(str(n), "d", "s", "t", "", 0, 9, text), 1.0, "x", n) for n in range(1, 13)]
    fitted = fit(system, "q", hits)
    assert 0 < len(fitted.hits) < 12 and fitted.dropped_passages == 12 - len(fitted.hits)
    assert fitted.hits == tuple(hits[: len(fitted.hits)])
    room = system.model.context - system.settings.sampling.max_tokens
    assert len(fitted.ids) <= room
    with pytest.raises(BadInput, match="shorten it"):
        fit(system, "q", [Hit(Passage("1", "d", "s", "t", "", 0, 9, text * 20), 1.0, "x", 1)])


def test_the_oldest_turns_go_before_any_passage(system: System) -> None:
    """A long conversation is cut at its beginning."""
    hits = [Hit(Passage("1", "d", "s", "t", "", 0, 9, "word " * 20), 1.0, "x", 1)]
    history = [(f"turn {n} " + "word " * 60, "yes") for n in range(12)]
    fitted = fit(system, "q", hits, history)
    assert fitted.dropped_turns > 0 and fitted.dropped_passages == 0


def test_segments_end_where_the_passages_end(system: System) -> None:
    """Two questions on the same passages share the segment's tokens."""
    hits = [Hit(Passage("1", "d", "s", "t", "", 0, 9, "word"), 1.0, "x", 1)]
    a, b = fit(system, "Who is it?", hits), fit(system, "What now?", hits)
    (n,), (m,) = a.segments, b.segments
    shared = min(n, m)
    assert a.ids[:shared] == b.ids[:shared] and shared > 10


def test_without_hits_the_system_refuses_without_asking_the_model(world: tuple[Workspace, Settings, Path]) -> None:
    """A condition that no passage meets."""
    ws, settings, _ = world
    none = settings.model_copy(update={"retrieval": Retrieval(where=("source=nowhere*",))})
    with open_system(none, ws) as system:
        assert ask(system, "How many?").refused
        assert next(ask_many(system, ["How many?"])).refused


def test_a_models_advice_is_followed_unless_the_user_said_otherwise(tmp_path: Path) -> None:
    """num_passages and sampling defaults from mlxrag.json."""
    path = write_model(tmp_path / "m", advice={"num_passages": 2, "max_tokens": 7, "context": 99, "unknown": 1})
    with load(path) as model:
        assert advised(Settings(), model).retrieval.num_passages == 2
        assert advised(Settings(), model).sampling.max_tokens == 7
        kept = advised(Settings(retrieval=Retrieval(num_passages=9)), model, {"num_passages"})
        assert kept.retrieval.num_passages == 9 and kept.sampling.max_tokens == 7


def test_equal_systems_have_equal_fingerprints_and_any_change_another(world: tuple[Workspace, Settings, Path]) -> None:
    """Prompt, sampling, retrieval, model; what does not change an answer does not count."""
    ws, settings, root = world
    changes: list[dict[str, Any]] = [
        {},
        {"retrieval": Retrieval(num_passages=2)},
        {"sampling": Sampling(max_tokens=13)},
        {"model": ModelSettings(model=str(write_model(root / "other", seed=3)))},
        {"caching": Caching(cache_memory=7)},
    ]
    prints = []
    for change in changes:
        with open_system(settings.model_copy(update=change), ws) as system:
            prints.append(system.fingerprint)
    assert prints[0] == prints[4] and len(set(prints)) == 4


def test_an_index_that_is_not_there_is_said(world: tuple[Workspace, Settings, Path]) -> None:
    """With what to do."""
    ws, settings, _ = world
    with pytest.raises(NotFound, match="mlxrag ingest"):
        open_system(settings.model_copy(update={"retrieval": Retrieval(index="none")}), ws)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("And on Sundays?", "When does the shop open? And on Sundays?"),
        ("How much is it?", "When does the shop open? How much is it?"),
        ("Why?", "When does the shop open? Why?"),
        ("Who wrote the safety manual?", "Who wrote the safety manual?"),
    ],
)
def test_a_follow_up_that_leans_on_the_question_before_is_searched_for_with_it(question: str, found: str) -> None:
    """The rule, for models that cannot rewrite; passages in the earlier message do not count."""
    history = [("Passages:\n\n[1] Shop\nNine.\n\nQuestion: When does the shop open?", "At nine [1].")]
    assert by_rule(question, history) == found


def test_two_short_turns_go_back_to_the_first() -> None:
    """A chain of follow-ups keeps its subject."""
    history = [("Question: What does the ox trailer cost?", "x"), ("Question: And the heron?", "y")]
    assert by_rule("And blue?", history).startswith("What does the ox trailer cost? And the heron? And blue?")


def test_who_rewrites_depends_on_the_model(tmp_path: Path) -> None:
    """Advice decides; a rewrite that rambles is not used."""
    history = [("When does the shop open?", "At nine.")]
    with load(write_model(tmp_path / "m", advice={"follow_up": "rule"})) as model:
        assert standalone("And on Sundays?", history, model) == by_rule("And on Sundays?", history)
        assert standalone("First?", [], model) == "First?"
    with load(write_model(tmp_path / "n")) as model:
        # Random weights never end with one clean line.
        assert by_asking("And on Sundays?", history, model) == by_rule("And on Sundays?", history)


def test_a_conversation_goes_on_from_what_was_sent(system: System) -> None:
    """The next prompt begins with the last one, so its keys and values are reused."""
    first = ask(system, QUESTIONS[0])
    second = ask(system, "And how much?", [first.turn])
    assert second.searched == f"{QUESTIONS[0]} And how much?"
    assert second.usage["reused_tokens"] >= first.usage["prompt_tokens"] - 1
