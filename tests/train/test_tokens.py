"""Training data becomes tokens of which exactly the assistant's are learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxrag.data.example import BadRow, Example, example, to_row
from mlxrag.errors import BadInput
from mlxrag.rag.answer import messages
from mlxrag.rag.document import Hit, Passage
from mlxrag.settings import Answering, Training
from mlxrag.train.tokens import Row, answer_text, conversation, encode_chat, read_records, rows
from tests.toys import Letters

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


def passage(number: int, text: str) -> Passage:
    return Passage(f"p{number}", f"d{number}", f"d{number}.md", f"Title {number}", "", 0, len(text), text)


def gold(question: str = "Where?", answer: str = "in Bern", text: str = "The office is in Bern.") -> Example:
    return example(question, (answer,) if answer else (), (passage(1, text),), "test")


def shown(letters: Letters, row: Row) -> str:
    """The row as text, with what is learnt between brackets."""
    out, inside = [], False
    for token, learn in zip(row.tokens.tolist(), row.learn.tolist(), strict=True):
        if learn != inside:
            out.append("{" if learn else "}")
            inside = learn
        out.append(letters.text(token))
    return "".join(out) + ("}" if inside else "")


def one(record: Any, letters: Letters | None = None, **training: Any) -> Row:
    (row,) = rows([record], letters or Letters(), Training(**training), Answering())
    assert isinstance(row, Row), row
    return row


def test_every_turn_of_the_assistant_is_learnt_and_nothing_else() -> None:
    """Token by token: contents and stop tokens of both turns, not a letter of the rest."""
    letters = Letters()
    assert shown(letters, one({"messages": CHAT}, letters)) == (
        "<s>system:Be kind.<e>user:Hi<e>assistant:{Hello!<e>}user:Bye<e>assistant:{See you<e>}"
    )


def test_prompt_and_completion_are_a_chat_of_two_turns() -> None:
    """The completion and its stop token are learnt."""
    letters = Letters()
    row = one({"prompt": "2+2", "completion": "4"}, letters)
    assert shown(letters, row) == "<s>user:2+2<e>assistant:{4<e>}"


def test_text_is_learnt_whole_but_for_its_first_token() -> None:
    """Plain text gets a stop token; a long one becomes several rows without losing a token."""
    letters = Letters()
    assert shown(letters, one({"text": "abc"}, letters)) == "<s>{abc<e>}"
    found = list(rows([{"text": "abcdefghijklmnopqrst"}], letters, Training(max_seq_length=8), Answering()))
    assert [len(r.tokens) for r in found if isinstance(r, Row)] == [8, 8, 6]
    assert "".join(letters.text(t) for r in found if isinstance(r, Row) for t in r.tokens.tolist()).startswith("<s>abc")


def test_without_mask_prompt_everything_is_learnt() -> None:
    """As mlx_lm does by default."""
    letters = Letters()
    row = one({"prompt": "a", "completion": "b"}, letters, mask_prompt=False)
    assert shown(letters, row) == "<s>{user:a<e>assistant:b<e>}"


def test_a_layout_that_rewrites_earlier_turns_gives_a_row_for_each_answer() -> None:
    """Every prompt is one the model would really get."""
    letters = Letters(forgets=True)
    found = [
        shown(letters, r) for r in rows([{"messages": CHAT}], letters, Training(), Answering()) if isinstance(r, Row)
    ]
    assert found == [
        "<s>system:Be kind.<e>user:Hi<e>assistant:{Hello!<e>}",
        "<s>system:Be kind.<e>user:Hi<e>assistant:...<e>user:Bye<e>assistant:{See you<e>}",
    ]


def test_what_is_too_long_loses_its_beginning_never_its_stop_token() -> None:
    """The row says how many tokens are gone; an answer that does not fit alone is refused with the number needed."""
    letters = Letters()
    row = one({"prompt": "x" * 50, "completion": "yes"}, letters, max_seq_length=20)
    assert (len(row.tokens), row.cut) == (20, 51) and shown(letters, row).endswith("{yes<e>}")
    (bad,) = rows([{"prompt": "x", "completion": "y" * 50}], letters, Training(max_seq_length=20), Answering())
    assert isinstance(bad, BadRow) and "raise --max-seq-length to" in bad.reason


def test_bad_records_are_told_with_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A broken line, an unknown shape, a chat without an answer, between two good ones."""
    path = tmp_path / "train.jsonl"
    lines = [{"text": "one"}, {"something": 1}, {"messages": CHAT[:2]}, {"messages": "no"}, {"text": "two"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n\n[1]\n")
    found = list(rows(read_records(path), Letters(), Training(), Answering()))
    assert [type(f).__name__ for f in found] == ["Row", "BadRow", "BadRow", "BadRow", "Row", "BadRow", "BadRow"]
    reasons = [f"{f.place.rpartition('/')[2]}: {f.reason}" for f in found if isinstance(f, BadRow)]
    assert reasons[0] == "train.jsonl:2: has none of messages, prompt and completion, text, question; only something"
    assert "says nothing" in reasons[1] and "must be a list" in reasons[2] and "not JSON" in reasons[3]


def test_an_example_is_trained_on_the_very_prompt_that_ask_gives() -> None:
    """System prompt, numbered passages and question come from the one place of the layout; the answer cites."""
    found = conversation(gold(), Answering())
    asked = messages("Where?", [Hit(gold().passages[0], 1.0, "x", 1)], Answering(), ())
    assert found[:-1] == list(asked) and found[-1] == {"role": "assistant", "content": "in Bern [1]"}
    letters = Letters()
    (row,) = rows([gold()], letters, Training(), Answering())
    assert isinstance(row, Row)
    prompt = letters.prompt(asked)
    assert row.tokens[: len(prompt)].tolist() == prompt and shown(letters, row).endswith("{in Bern [1]<e>}")
    (from_file,) = rows([to_row(gold())], letters, Training(), Answering())
    assert isinstance(from_file, Row) and from_file.tokens.tolist() == row.tokens.tolist()


def test_answers_cite_what_holds_them_and_an_unanswerable_example_is_refused_in_the_one_sentence() -> None:
    """The literal passage, else all of the example's own, never a distractor."""
    two = example("q", ("in Bern",), (passage(1, "Nothing."), passage(2, "It is in BERN.")), "t")
    assert answer_text(two, [passage(3, "in Bern"), *two.passages]) == "in Bern [3]"
    assert answer_text(example("q", ("x",), two.passages, "t"), two.passages) == "x [1][2]"
    assert answer_text(gold(answer=""), gold().passages) == "Not in the documents."


def test_distractors_are_the_same_for_all_questions_over_the_same_passages() -> None:
    """So that shared passages stay shared; the right one is not always first, and the seed changes the order."""
    pool = [example(f"q{i}", (f"a{i}",), (passage(i, f"text a{i}"),), "t") for i in range(30)]
    same = [example(f"other {i}", (f"a{i}",), (passage(i, f"text a{i}"),), "t") for i in range(30)]
    letters = Letters()
    training = Training(distractors=3, max_seq_length=4000)
    found = [r for r in rows([*pool, *same], letters, training, Answering()) if isinstance(r, Row)]
    texts = [shown(letters, r) for r in found]
    assert all(a.group == b.group != 0 for a, b in zip(found[:30], found[30:], strict=True))
    assert all(t.count("Title") == 4 for t in texts)
    assert len({t.rpartition("[")[2][0] for t in texts}) > 1
    cited = [t.rpartition("[")[2].partition("]")[0] for t in texts[:30]]
    assert all(f"[{n}] Title {i}" in t for i, (n, t) in enumerate(zip(cited, texts, strict=False)))


def test_a_conversation_without_an_assistant_is_refused() -> None:
    """There is nothing to learn in it."""
    with pytest.raises(BadInput, match="says nothing"):
        encode_chat(Letters(), CHAT[:2])
