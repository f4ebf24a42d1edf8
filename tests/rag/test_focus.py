"""Hits are cut down to the sentences that are nearest to the question, and stay spans of their documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mlxrag.model.encode import load_encoder
from mlxrag.rag.document import Hit, Passage, passage_id
from mlxrag.rag.focus import focus, word_scores
from mlxrag.workspace import open_workspace
from tests.toy_encoder import write_encoder

TEXTS = (
    "The office opens at nine. Dogs may come along on Fridays. Ask Vera Holm for a key.",
    "Price list\n| Drill | $35 |\n| Saw | $80 |",
)


def hits(texts: tuple[str, ...] = TEXTS, shift: int = 7) -> list[Hit]:
    made = []
    for n, text in enumerate(texts, 1):
        passage = Passage(
            passage_id(f"d{n}", shift, shift + len(text)),
            f"d{n}",
            f"{n}.txt",
            f"Text {n}",
            "",
            shift,
            shift + len(text),
            text,
        )
        made.append(Hit(passage, 1.0 / n, "hybrid", n))
    return made


def test_the_sentence_with_the_question_s_words_is_kept() -> None:
    """Without an encoder the words decide, and the hit with the best sentence comes first."""
    [only] = focus(hits(), "What does the saw cost?", None, 1)
    assert only.passage.text == "| Saw | $80 |" and only.rank == 1


def test_chosen_sentences_of_a_passage_stay_one_span() -> None:
    """Two sentences of one passage come with what stands between them."""
    [only] = focus(hits(TEXTS[:1]), "When does the office open, and who is Vera?", None, 2)
    assert only.passage.text == TEXTS[0]


def test_few_sentences_are_left_as_they_are() -> None:
    """Where there are no more sentences than asked for, nothing is cut and the order stays."""
    assert focus(hits(), "Saw?", None, 6) == hits()


@given(
    st.lists(st.text(st.sampled_from("ab .\n!?"), min_size=1, max_size=60), min_size=1, max_size=4), st.integers(1, 5)
)
def test_spans_hold(texts: list[str], count: int) -> None:
    """Every kept passage is a span of the one it was cut from, under the id of that span."""
    given_hits = hits(tuple(texts))
    by_document = {h.passage.document_id: h.passage for h in given_hits}
    for hit in focus(given_hits, "a b?", None, count):
        p, whole = hit.passage, by_document[hit.passage.document_id]
        assert whole.text[p.start - whole.start : p.end - whole.start] == p.text
        assert p.id == passage_id(p.document_id, p.start, p.end)


def test_vectors_and_words_count(tmp_path: Path) -> None:
    """With an encoder a sentence that equals the question but for its mark is the nearest."""
    encoder = load_encoder(str(write_encoder(tmp_path / "encoder")), open_workspace(tmp_path / "ws"))
    [only] = focus(hits(), "Dogs may come along on Fridays?", encoder, 1)
    assert only.passage.text == "Dogs may come along on Fridays."
    again = focus(hits(), "Dogs may come along on Fridays?", encoder, 1)  # from the vectors that are kept
    assert again == [only]


def test_rare_words_weigh_more() -> None:
    """A term that one text holds counts more than one that all hold; a question without terms scores nothing."""
    common, rare = word_scores("key office", ["office key", "office hours"])
    assert 0 < rare < common == 1.0
    assert word_scores("?", ["office key"]) == [0.0]


def test_a_heading_is_not_a_sentence() -> None:
    """The heading that a passage's place names is not chosen, though it has the question's words."""
    passage = replace(hits(("Hotel rates\nUp to $90 a night.",))[0].passage, place="Travel > Hotel rates")
    [only] = focus([Hit(passage, 1.0, "hybrid", 1), hits()[1]], "What are the hotel rates?", None, 1)
    assert only.passage.text != "Hotel rates"
