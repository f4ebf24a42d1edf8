"""Passages: exact spans, full coverage, and never beyond the limit."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlxrag.rag.chunk import CHUNKERS, chunk
from mlxrag.rag.document import Block, Document, document_id
from mlxrag.rag.formats.piece import Parsed, Piece, assemble
from mlxrag.rag.ruler import measure, untruncated
from mlxrag.settings import Chunking


@dataclass(frozen=True)
class Toy:
    """What chunking needs of an encoder."""

    tokenizer: Tokenizer
    max_tokens: int = 64


def words() -> Tokenizer:
    """A tokenizer like BERT's: words and marks, and one token for every word it does not know."""
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "the": 1, ".": 2}, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def bytes_() -> Tokenizer:
    """A byte-level tokenizer, whose tokens of one character share a span."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the trailer carries sixty kilograms on a level road " * 4], trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """A tokenizer like SentencePiece's: it puts a mark before each text, so that cutting a text costs tokens."""
    alphabet = {character: number for number, character in enumerate("▁abcdefghijklmnopqrstuvwxyz.,", 1)}
    tokenizer = Tokenizer(models.BPE(vocab={"<unk>": 0, **alphabet}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


ENCODERS = {"words": Toy(words()), "bytes": Toy(bytes_()), "metaspace": Toy(metaspace())}

text = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=st.sampled_from("ab .\n\t;:。？漢字ไทยعر"), max_size=300),
    st.lists(
        st.sampled_from(["the", "trailer.", "Dr. Vale", "60 kg;", "\n", "\n\n", "x" * 150, "。漢字かな"]), max_size=60
    ).map(" ".join),
)
pieces = st.lists(
    st.builds(
        Piece,
        st.sampled_from(["heading", "paragraph", "list", "code", "row", "cell"]),
        text,
        st.integers(0, 3),
        st.sampled_from(["", "page 1", "page 2", "row 7", "line 3", "cell 2"]),
    ),
    max_size=8,
)


def document_of(found: list[Piece], title: str = "Title") -> Document:
    """Return the document that a reader's pieces make."""
    joined, blocks = assemble(Parsed(title, found))
    return Document(document_id("a/b.md", joined), "a/b.md", title, joined, "", blocks)


@pytest.mark.parametrize("chunker", CHUNKERS)
@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=25, deadline=None)
@given(found=pieces, limit=st.integers(16, 60), overlap=st.integers(0, 40))
def test_laws(name: str, chunker: str, found: list[Piece], limit: int, overlap: int) -> None:
    """Spans are exact and in order, all text is covered, and no passage is beyond the limit, for any document."""
    encoder, document = ENCODERS[name], document_of(found)
    passages = chunk(document, Chunking(chunker=chunker, chunk_tokens=limit, chunk_overlap=overlap), encoder)
    covered = bytearray(len(document.text))
    before = (-1, -1)
    for passage in passages:
        assert document.text[passage.start : passage.end] == passage.text
        assert passage.text == passage.text.strip() != ""
        tokens = untruncated(encoder.tokenizer).encode(passage.text, add_special_tokens=False).ids
        assert len(tokens) <= limit or len(passage.text) == 1
        assert (passage.start, passage.end) > before
        before = (passage.start, passage.end)
        covered[passage.start : passage.end] = b"\1" * len(passage.text)
    missing = [
        character
        for character, seen in zip(document.text, covered, strict=True)
        if not seen and not character.isspace()
    ]
    assert not missing
    assert len({passage.id for passage in passages}) == len(passages)


@settings(max_examples=30, deadline=None)
@given(body=text, cuts=st.lists(st.integers(0, 300), max_size=6))
def test_text_between_blocks_is_covered(body: str, cuts: list[int]) -> None:
    """Text that no block holds is in a passage all the same."""
    spans = sorted({min(cut, len(body)) for cut in cuts})
    blocks = tuple(Block(a, b, "paragraph", "") for a, b in zip(spans[::2], spans[1::2], strict=False))
    passages = chunk(Document("1", "a", "t", body, "", blocks), Chunking(chunk_tokens=16), ENCODERS["words"])
    covered = {at for passage in passages for at in range(passage.start, passage.end)}
    assert all(at in covered or character.isspace() for at, character in enumerate(body))


def test_ruler_counts_what_the_tokenizer_counts() -> None:
    """The tokens between two word ends are those of the span encoded by itself."""
    body = "The trailer carries 60 kg. " * 3000
    ruler = measure(body, untruncated(words()), 16)
    for start, end in ((0, 26), (27, 53), (0, len(body)), (54_000, 60_000)):
        span = body[start:end].rsplit(" ", 1)[0]
        counted = ruler.cost(start, start + len(span))
        assert counted == len(untruncated(words()).encode(span, add_special_tokens=False).ids)


def test_sections_keep_their_headings() -> None:
    """A passage begins with its heading and ends before the next one."""
    found = [
        Piece("heading", "Handbook", 1),
        Piece("heading", "Leave", 2),
        Piece("paragraph", "Everyone has thirty days of leave in the year. " * 2),
        Piece("heading", "Pay", 2),
        Piece("paragraph", "Wages are paid on the last working day of the month. " * 2),
    ]
    passages = chunk(document_of(found, "Handbook"), Chunking(chunk_tokens=60), ENCODERS["words"])
    assert [passage.text.split("\n")[0] for passage in passages] == ["Handbook", "Pay"]
    assert [passage.place for passage in passages] == ["Leave", "Pay"]


def test_rows_stay_whole() -> None:
    """Passages of a table hold whole rows and say which, without overlap."""
    found = [
        Piece("row", f"article: OX-{n:03}; name: Ox {n} cargo trailer; price: ${n}", spot=f"row {n}")
        for n in range(2, 12)
    ]
    document = document_of([Piece("heading", "Prices", 1), *found], "list")
    passages = chunk(document, Chunking(chunk_tokens=50, chunk_overlap=20), ENCODERS["words"])
    lines = [line for passage in passages for line in passage.text.split("\n") if line.startswith("article")]
    assert lines == [piece.text for piece in found]
    assert passages[0].place == "Prices, rows 2-3"
    assert all(passage.place.startswith("Prices, row") for passage in passages)


def test_code_is_cut_at_blank_lines() -> None:
    """Code that fits is one passage; code that does not is cut between its parts."""
    small = "def load(path):\n    return open(path).read()"
    large = "\n\n".join(f"def step_{n}(value):\n    return value + {n}" for n in range(6))
    assert [
        p.text for p in chunk(document_of([Piece("code", small)]), Chunking(chunk_tokens=40), ENCODERS["words"])
    ] == [small]
    parts = chunk(document_of([Piece("code", large)]), Chunking(chunk_tokens=40), ENCODERS["words"])
    assert len(parts) > 1
    assert all(part.text.startswith("def step_") for part in parts)


def test_prose_overlaps_by_whole_sentences() -> None:
    """Neighbouring passages of one section share their last and first sentences, within the overlap."""
    body = " ".join(f"Sentence number {n} says something about trailers and roads." for n in range(20))
    passages = chunk(
        document_of([Piece("paragraph", body)]), Chunking(chunk_tokens=40, chunk_overlap=12), ENCODERS["words"]
    )
    assert len(passages) > 3
    for above, below in pairwise(passages):
        shared = body[below.start : above.end]
        assert shared.startswith("Sentence number") and shared.endswith("roads.")
        assert below.text.startswith("Sentence number")


def test_tiny_sections_share_a_passage() -> None:
    """Sections of a few words do not become passages of their own."""
    found = [piece for n in range(6) for piece in (Piece("heading", f"Item {n}", 1), Piece("paragraph", "Yes."))]
    passages = chunk(document_of(found, ""), Chunking(chunk_tokens=160), ENCODERS["words"])
    assert len(passages) < 6


def test_word_of_a_million_letters_is_cut() -> None:
    """A text without blanks is cut by characters, though the encoder reads it as one token."""
    encoder = Toy(words(), 512)
    passages = chunk(document_of([Piece("paragraph", "x" * 100_000)]), Chunking(chunk_tokens=160), encoder)
    assert max(len(passage.text) for passage in passages) <= 160 * 16
    assert "".join(passage.text for passage in passages) == "x" * 100_000


def test_limit_is_the_encoders_if_smaller() -> None:
    """No passage is longer than what the encoder takes whole."""
    tokenizer = words()
    passages = chunk(
        document_of([Piece("paragraph", "the road " * 300)]), Chunking(chunk_tokens=500), Toy(tokenizer, 20)
    )
    assert max(len(untruncated(tokenizer).encode(passage.text).ids) for passage in passages) <= 20


def test_empty_document_has_no_passages() -> None:
    """A document without text has no passages, and neither has one of blanks."""
    for body in ("", " \n\t \n"):
        for chunker in CHUNKERS:
            assert chunk(Document("1", "a", "t", body, ""), Chunking(chunker=chunker), ENCODERS["words"]) == []


def test_places_join() -> None:
    """A passage over pages or lines says the first and the last."""
    found = [Piece("paragraph", "Short text.", spot="page 3"), Piece("paragraph", "More text.", spot="page 4")]
    assert chunk(document_of(found), Chunking(), ENCODERS["words"])[0].place == "pages 3-4"
    lines = [Piece("paragraph", "one\ntwo\nthree", spot="line 5"), Piece("paragraph", "four", spot="line 9")]
    assert chunk(document_of(lines), Chunking(), ENCODERS["words"])[0].place == "lines 5-9"
