"""The bundled reader is what its directory says: opens with stock tools, stays small, lays prompts out as it was trained."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

import mlxrag.device  # noqa: F401
from mlxrag.model.load import Model, load
from mlxrag.model.tokenizer import Tokenizer
from mlxrag.rag.answer import REFUSAL, ask_text
from mlxrag.rag.document import Hit, Passage
from models.recipe import compose, schema, sheet

ROOT = Path(__file__).resolve().parents[2]
READER = ROOT / "models" / "reader"


def hit(n: int, title: str, place: str, text: str) -> Hit:
    """A hit that was found somewhere."""
    return Hit(Passage(str(n), title, title, title, place, 0, len(text), text), 1.0, "test", n)


HITS = [
    hit(1, "Lamps", "Prices", "The Tarvo lamp costs 45 euros. The Milo lamp costs 30 euros."),
    hit(2, "People", "", "Petra Lang leads Logistics. Jonas Bauer leads Design."),
]


def test_directory_is_small_and_whole() -> None:
    """Every file that a Hugging Face directory needs is there, in at most 16 MB."""
    names = {p.name for p in READER.iterdir()}
    needed = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "mlxrag.json",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert needed <= names
    assert sum(p.stat().st_size for p in READER.iterdir()) <= 16_000_000


def test_config_says_theta_where_both_read_it() -> None:
    """`rope_theta` stands at the top of config.json, and the shape of the table is the tokenizer's size."""
    config = json.loads((READER / "config.json").read_text(encoding="utf-8"))
    size = len(json.loads((READER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    assert config["rope_theta"] == 10000.0
    assert config["vocab_size"] == size


@pytest.mark.parametrize("text", ["Ärger mit 3,50 €?", "a  b\n\n c\t", "漢字 🙂 x=1_000", "don't E4071 [2]"])
def test_tokenizer_is_lossless(text: str) -> None:
    """Whatever is encoded comes back letter by letter, since answers are copied."""
    with load(READER) as model:
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text


def render(tokenizer: Tokenizer, turns: list[tuple[str, str]], last: str) -> str:
    """The prompt of a conversation."""
    messages = [{"role": "system", "content": "ignored"}]
    for said, answered in turns:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
    return tokenizer.render([*messages, {"role": "user", "content": last}])


def test_template_is_the_layout_it_was_trained_on() -> None:
    """Passages, question, and the mark after which it writes; no system message."""
    with load(READER) as model:
        text = render(model.tokenizer, [], ask_text("Who leads Design?", HITS))
    assert text == f"<|user|>{ask_text('Who leads Design?', HITS)}<|assistant|>"


def test_template_moves_the_newest_passages_to_the_front() -> None:
    """In a conversation the newest passages come first, then the last exchange, then the question."""
    with load(READER) as model:
        text = render(
            model.tokenizer,
            [(ask_text("Who leads Design?", HITS[:1]), "Jonas Bauer [1]")],
            ask_text("And Logistics?", HITS),
        )
    first = ask_text("Who leads Design?", HITS)
    assert text == f"<|user|>{first}<|assistant|> Jonas Bauer [1]<|end|><|user|>Question: And Logistics?<|assistant|>"


@pytest.fixture(scope="module")
def reader() -> Iterator[Model]:
    """The bundled reader in float32."""
    with load(READER) as model:
        model.network.set_dtype(mx.float32)
        yield model


def answer(model: Model, question: str, hits: list[Hit]) -> str:
    """What the reader writes, greedily."""
    ids = model.tokenizer.prompt([{"role": "user", "content": ask_text(question, hits)}])
    written: list[int] = []
    while len(written) < 24:
        best = int(mx.argmax(model.network(mx.array([ids + written]))[0, -1]).item())
        if best in model.tokenizer.eos_ids:
            break
        written.append(best)
    return model.tokenizer.decode(written).strip()


def test_answers_what_it_was_not_trained_on(reader: Model) -> None:
    """Of 30 questions on schemas that training left out, over two passages, a third is answered and cited exactly."""
    sections, kinds = schema.load()
    held = [replace(s, schemas=[c for c in s.schemas if schema.held_out(c)]) for s in sections]
    r, right, formed, asked = random.Random(5), 0, 0, 0
    while asked < 30:
        made = compose.compose([s for s in held if s.schemas], kinds, r, 2, 4, 0.0)
        hits = [hit(n, p.title, p.place, p.text) for n, p in enumerate(made.pieces, 1)]
        for talk in made.talks[:2]:
            written = answer(reader, talk[0].question, hits)
            formed += written == REFUSAL or written.endswith("]")
            right, asked = right + (written == sheet.reply(talk[0])), asked + 1
    assert right >= asked / 3
    assert formed >= asked * 0.8


def test_refuses_what_is_not_there(reader: Model) -> None:
    """It says the one sentence of refusal when the passages are about something else."""
    assert answer(reader, "When does the swimming pool open?", HITS) == REFUSAL
