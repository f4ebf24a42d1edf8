"""The recipe makes sound data: what it says is there is there, and nothing of the bundled samples is in it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
from mlxrag.rag.answer import REFUSAL as PRODUCT_REFUSAL
from mlxrag.rag.answer import ask_text
from mlxrag.rag.document import Hit, Passage
from models.recipe import compose, pack, schema, sheet, swap, unseen
from models.recipe.sheet import Piece, Sheet, Turn

ROOT = Path(__file__).resolve().parents[2]


def sheets(count: int) -> list[Sheet]:
    """Sheets from all schemas."""
    sections, kinds = schema.load()
    r = random.Random(3)
    return [sheet.shuffle(compose.compose(sections, kinds, r, r.randint(1, 4), 10, 0.2), r) for _ in range(count)]


def test_tables_are_read_and_large() -> None:
    """Every table parses, with at least 150 schemas and several phrasings of statements and questions each."""
    sections, _ = schema.load()
    schemas = [s for section in sections for s in section.schemas]
    assert len(schemas) >= 150
    assert len({s.name for s in schemas}) == len(schemas)


def test_answers_stand_where_they_are_said_to() -> None:
    """The passage holds the answer at its start, for every copied answer."""
    for made in sheets(200):
        for turn in (t for talk in made.talks for t in talk):
            if turn.piece is not None and turn.start >= 0:
                assert made.pieces[turn.piece].text[turn.start :].startswith(turn.answer)


def test_unanswerable_questions_are_some() -> None:
    """Of a fifth that is asked for, a good part of the questions has no answer; where none is near, none is made."""
    turns = [talk[0] for made in sheets(200) for talk in made.talks]
    share = sum(t.piece is None for t in turns) / len(turns)
    assert 0.08 < share < 0.34


def test_layout_is_the_product_s() -> None:
    """Training prompts are letter by letter those that `ask` sends."""
    pieces = [Piece("Lamps", "Prices", "Tarvo: 45 euros"), Piece("People", "", "Petra leads.")]
    hits = [
        Hit(Passage(str(i), "d", "s", p.title, p.place, 0, len(p.text), p.text), 1.0, "t", i)
        for i, p in enumerate(pieces, 1)
    ]
    text, numbers, starts = sheet.layout(pieces)
    assert text + sheet.ask("Who?") == ask_text("Who?", hits)
    assert [text[n] for n in numbers] == ["1", "2"]
    assert text[starts[1] :].startswith("Petra leads.")
    assert sheet.REFUSAL == PRODUCT_REFUSAL


def test_packing_points_at_what_is_copied() -> None:
    """Each token of a copied answer points at the same token among the passages, and its citation at the last of them."""
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(ROOT / "models" / "reader" / "tokenizer.json"))
    one = Sheet([Piece("Lamps", "", "The Tarvo lamp costs 45 euros.")], [[Turn("How much?", "45 euros", 0, 21)]])
    coded = pack.tokens(coder, one, (pack.Shape(64, 64, 1),))
    assert coded is not None
    row, _ = coded
    copied = [(row.target[i], row.passages[p]) for i, p in enumerate(row.pointer) if p >= 0]
    assert len(copied) == 4
    assert all(a == b for a, b in copied[:3])
    assert copied[3][1] == copied[2][1]


def test_nothing_of_the_evaluation_is_trained_on() -> None:
    """A sheet with a sentence of the sample documents is dropped; questions about them are left out."""
    forbidden = unseen.forbidden()
    assert len(forbidden) > 500
    sentence = max(forbidden, key=len)
    assert unseen.clean(Sheet([Piece("T", "", f"Hello. {sentence}")], []), forbidden) is None
    for made in sheets(300):
        first = unseen.squeeze(made.talks[0][0].question)
        left = unseen.clean(made, frozenset({first}))
        if left is not None:
            assert first not in [unseen.squeeze(t.question) for talk in left.talks for t in talk]
            assert len(left.talks) < len(made.talks)


def test_other_names_keep_the_answers() -> None:
    """Names and numbers are replaced by the same others in passages, questions and answers; months and small words stay."""
    pools = swap.pools(["In May Kelrat met Tomsa. Tomsa owns 120 boats; boats are blue.", "Veliz sold 3 boats."])
    assert pools.names == ("Kelrat", "Tomsa", "Veliz")
    text = "In May Kelrat met Tomsa, who owns 120 boats."
    made = swap.renamed(
        Sheet(
            [Piece("Kelrat", "", text)],
            [
                [Turn("Who met Tomsa?", "Kelrat", 0, 7)],
                [Turn("How many boats?", "120 boats", 0, 34)],
                [Turn("Is it?", "elrat", 0, 8)],
            ],
        ),
        pools,
        random.Random(2),
    )
    new = made.pieces[0].text
    who, boats = (talk[0] for talk in made.talks)
    assert new.startswith(f"In May {made.pieces[0].title} met ")
    assert "Tomsa" not in new + who.question
    assert who.answer == made.pieces[0].title
    assert new[boats.start :] == f"{boats.answer}."
    assert "120" not in new


def test_other_words_only_where_question_and_passage_share_them() -> None:
    """A shared word becomes another in both; one that only the question has is left, since its meaning counts."""
    pools = swap.Pools((), ("anchor", "willow"))
    one = Sheet([Piece("T", "", "The kettle weighs 3 kg.")], [[Turn("Which weight has the kettle?", "3 kg", 0, 18)]])
    made = [swap.reworded(one, pools, random.Random(seed)) for seed in range(30)]
    assert {m.pieces[0].text for m in made} == {f"The {w} weighs 3 kg." for w in ("kettle", "anchor", "willow")}
    for m in made:
        turn = m.talks[0][0]
        assert turn.question == f"Which weight has the {m.pieces[0].text.split()[1]}?"
        assert m.pieces[0].text[turn.start :] == "3 kg."
