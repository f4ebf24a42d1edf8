"""The layout of a prompt, and what an answer says of itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxrag.data.formats import parse_prompt
from mlxrag.rag.answer import REFUSAL, ask_text, cited, is_refusal, make_answer, messages
from mlxrag.rag.document import Hit, Passage
from mlxrag.settings import Answering


def hit(n: int, text: str = "Text.", place: str = "Part") -> Hit:
    return Hit(Passage(f"p{n}", "d", f"docs/{n}.md", f"Title {n}", place, 0, len(text), text), 1 / n, "hybrid", n)


def test_the_layout_is_what_repeats_first() -> None:
    """Instruction, numbered passages with title and place, question; earlier turns between."""
    chat = messages("Who?", [hit(1, "One."), hit(2, "Two.", "")], Answering(system_prompt="Cite."), [("a", "b")])
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user"]
    assert chat[-1]["content"] == "Passages:\n\n[1] Title 1 - Part\nOne.\n\n[2] Title 2\nTwo.\n\nQuestion: Who?"
    assert messages("Who?", [], Answering(system_prompt=""))[0]["role"] == "user"


def test_a_prompt_can_be_taken_apart_again() -> None:
    """What `ask` lays out, importing a chat file reads back."""
    question, passages = parse_prompt(ask_text("Who?", [hit(1, "One.\n\nMore."), hit(2)]))
    assert question == "Who?" and [p.text for p in passages] == ["One.\n\nMore.", "Text."]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        ("28 days [1]", (1,)),
        ("a [2][1] b [2]", (1, 2)),
        ("a [1, 3-5; 7]", (1, 3, 4, 5, 7)),
        ("see [x] and [1.2] and (3)", ()),
        ("[9-2]", (2, 9)),
        ("[ 2 ]", (2,)),
    ],
)
def test_numbers_in_brackets_are_citations(text: str, numbers: tuple[int, ...]) -> None:
    """One by one, in lists and in ranges."""
    assert cited(text) == numbers


@given(text=st.text(max_size=80))
def test_any_text_can_be_read(text: str) -> None:
    """Whatever a model says, an answer comes of it."""
    answer = make_answer("q", text, [hit(1)])
    assert all(1 <= c.n <= 1 for c in answer.citations)
    json.dumps(answer.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (REFUSAL, True),
        ("not in the documents", True),
        ("**Not in the documents.** [1]", True),
        ("Not in the documents. They only speak of trailers [2].", True),
        ("The price is not in the documents that I sent you.", False),
        ("28 days [1]", False),
        ("", False),
    ],
)
def test_a_refusal_is_a_sentence_of_its_own(text: str, refused: bool) -> None:
    """In any case and punctuation, but not as a part of another sentence."""
    assert is_refusal(text) is refused


def test_citations_are_checked_against_the_hits() -> None:
    """Numbers that no passage has are named; an answer without any is marked; a refusal needs none."""
    good = make_answer("q", " 28 days [2] ", [hit(1), hit(2)])
    assert good.text == "28 days [2]" and [c.hit.passage.source for c in good.citations] == ["docs/2.md"]
    assert not good.cites_nothing and good.wrong_citations == ()
    bad = make_answer("q", "28 days [3]", [hit(1), hit(2)])
    assert bad.cites_nothing and bad.wrong_citations == (3,) and bad.citations == ()
    refused = make_answer("q", REFUSAL, [hit(1)])
    assert refused.refused and not refused.cites_nothing


def test_json_has_what_the_command_line_promises() -> None:
    """question, answer, citations, hits, model and usage."""
    value = make_answer("q", "x [1]", [hit(1)], model="reader", usage={"seconds": 1.0}).as_json()
    assert value["citations"] == [{"n": 1, "source": "docs/1.md", "place": "Part"}]
    assert value["hits"] == [{"rank": 1, "score": 1.0, "source": "docs/1.md", "place": "Part", "text": "Text."}]
    assert (value["question"], value["answer"], value["model"], value["usage"]) == (
        "q",
        "x [1]",
        "reader",
        {"seconds": 1.0},
    )
