"""The ladder of a System, step by step under injected budgets: what is freed, what is kept, that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxrag import memory
from mlxrag.errors import WontFit
from mlxrag.memory import Ledger
from mlxrag.model.encode import load_encoder
from mlxrag.model.network import assemble
from mlxrag.model.recipe import parse
from mlxrag.model.source import find_source
from mlxrag.model.write import write_model as write_version
from mlxrag.pressure import Level, Reading
from mlxrag.rag import relief, rungs
from mlxrag.rag.index import open_index
from mlxrag.rag.ingest import ingest
from mlxrag.rag.system import System, ask, ask_many, open_system, stream_answer
from mlxrag.settings import Caching, Encoding, ModelSettings, Retrieval, Sampling, Settings
from mlxrag.settings import Memory as MemorySettings
from mlxrag.workspace import Workspace, create, open_workspace
from tests.toy_encoder import write_encoder
from tests.toy_model import write_model

ROOM = 1_000_000_000
QUESTION = "How many days of leave?"


@dataclass
class World:
    """A workspace, settings, and a budget that a test turns."""

    ws: Workspace
    settings: Settings
    ledger: Ledger
    budget: int = ROOM


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Settings]:
    """An index of four documents, a toy model of 6 MB, and a version of it in 4 bits."""
    root = tmp_path_factory.mktemp("relief")
    (root / "docs").mkdir()
    for i, fact in enumerate(["Leave is 28 days a year.", "The ox costs 1,290 euro.", "The shop opens at nine."]):
        (root / "docs" / f"{i}.txt").write_text(f"{fact} {'More of it is told here. ' * 3}")
    ws = open_workspace(root / "ws")
    before = list(memory._current)
    memory.use(Ledger(ROOM))
    encoder = load_encoder(str(write_encoder(root / "encoder")), ws)
    with open_index(ws, "documents", encoder, create=True) as index:
        list(ingest(index, encoder, [root / "docs"], Settings()))
    encoder.hidden.unload()
    model = write_model(root / "model", hidden_size=256, intermediate_size=512)
    source = find_source(str(model), ws)
    with create(ws, "models", "small", inputs=[source.ref], settings={}) as draft:
        write_version(assemble(model), model, draft.path, recipe=parse("4-g32"))
        figures = {"kl_mean": 0.02, "top1": 0.97}
        draft.note(sweep={"recipe": "4-g32", "quality": figures, "answers": None})
    memory._current[:] = before
    settings = Settings(
        retrieval=Retrieval(num_passages=3),
        encoding=Encoding(encoder=str(root / "encoder")),
        model=ModelSettings(model=str(model)),
        sampling=Sampling(max_tokens=8),
        caching=Caching(lookup=False),
        memory=MemorySettings(memory_wait="0"),
    )
    return ws, settings


@pytest.fixture
def world(place: tuple[Workspace, Settings], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A ledger whose budget is `world.budget`, looked at as often as asked, on a machine that is calm."""
    found = World(*place, Ledger(ROOM))
    found.ledger.source = lambda held: found.budget
    monkeypatch.setattr(memory, "EVERY", 0.0)
    monkeypatch.setattr(Ledger.look, "__defaults__", (0.0,))
    monkeypatch.setattr(relief, "read", lambda: Reading(Level.CALM, ROOM, 0, 0))
    before = list(memory._current)
    memory.use(found.ledger)
    yield found
    memory._current[:] = before


def taken(system: System) -> list[str]:
    return [move.rung for move in system.relief.ladder.moves if move.direction == "down"]


def test_each_step_of_the_ladder_in_its_order_and_all_the_way_back(world: World) -> None:
    """Caches, encoders, context, bits, batches, model, idle model; with what each freed and costs; then up again."""
    with open_system(world.settings, world.ws, degrade=True) as system:
        first = ask(system, QUESTION)
        system.relief.pending = True
        ladder, names = system.relief.ladder, []
        while move := ladder.observe(Level.TIGHT, 0.0):
            names.append(move.rung)
            assert move.freed > 0 and move.cost.startswith(("time: ", "quality: "))
            if move.rung == "the next smaller model":
                assert "KL 0.02 nats per token, 97.0% same choices by sweep" in move.cost
        assert names == [
            "drop idle caches", "unload idle encoders and adapters", "shorten the context", "smaller batches",
            "the next smaller model", "unload the idle model",
        ]  # fmt: skip
        assert system.model.network is None and world.ledger.held < 100  # the rows of the index
        system.relief.pending = False
        assert ask(system, QUESTION).model == "small@v1"
        for t in range(400):
            ladder.observe(Level.CALM, 1e9 + t)
        assert ladder.depth == 0 and rungs.caching_of(system) == system.settings.caching
        again = ask(system, QUESTION)
        assert (again.text, again.model) == (first.text, first.model)
    assert world.ledger.held == 0


def test_keys_and_values_are_quantized_where_their_heads_allow_it(world: World, tmp_path: Path) -> None:
    """Heads of 32 numbers divide into a group; the answer's caching says so, and a measurement's does not."""
    wide = write_model(tmp_path / "wide", head_dim=32)
    settings = world.settings.model_copy(update={"model": ModelSettings(model=str(wide))})
    with open_system(settings, world.ws, degrade=True) as system:
        ask(system, QUESTION)
        system.relief.pending = True
        while move := system.relief.ladder.observe(Level.TIGHT, 0.0):
            if move.rung == "quantize keys and values":
                break
        system.relief.pending = False
        assert rungs.caching_of(system).kv_bits == 8 and ask(system, QUESTION).usage["memory"]["given_up"]
        system.relief.ladder.exact_only = True
        assert rungs.caching_of(system).kv_bits is None and rungs.context_of(system) == system.model.context


def test_an_answer_under_way_begins_anew_with_a_smaller_model(world: World) -> None:
    """The budget falls below the weights after the first piece: the answer is restarted, said so, and ends whole."""
    with open_system(world.settings, world.ws, degrade=True) as system:
        ask(system, QUESTION)
        parts = []
        for part in stream_answer(system, QUESTION):
            parts.append(part)
            world.budget = 5_000_000
        answer = parts[-1]
        assert answer.model == "small@v1" and not answer.failure  # type: ignore[union-attr]
        assert any("begins anew" in str(part) for part in parts[:-1])
        steps = [step["rung"] for step in answer.usage["memory"]["steps"]]  # type: ignore[union-attr]
        assert "the next smaller model" in steps
        assert world.ledger.held <= world.ledger.size == 5_000_000


def test_a_measurement_waits_and_fails_with_its_reason_rather_than_change(world: World) -> None:
    """Many questions take exact steps only: the model goes while there is no room, and comes back as it was."""
    with open_system(world.settings, world.ws, degrade=True) as system:
        before = [a.text for a in ask_many(system, [QUESTION, "What does the ox cost?"])]
        world.budget = 3_000_000
        short = list(ask_many(system, [QUESTION]))
        assert "needs" in short[0].failure and "what would fit" in short[0].failure
        assert world.ledger.held <= 3_000_000 and set(taken(system)) <= {
            "drop idle caches", "unload idle encoders and adapters", "smaller batches", "unload the idle model",
        }  # fmt: skip
        world.budget = ROOM
        assert [a.text for a in ask_many(system, [QUESTION, "What does the ox cost?"])] == before


def test_a_system_that_measures_takes_no_step_that_changes_answers(world: World) -> None:
    """Unless it was opened for a person."""
    with open_system(world.settings, world.ws) as system:
        world.budget = 5_000_000
        with pytest.raises(WontFit, match=r"what would fit: --model small@v1"):
            ask(system, QUESTION)
        assert "the next smaller model" not in taken(system)


def test_a_refusal_says_what_would_fit(world: World) -> None:
    """After the last step: the bytes that are missing, and what holds the rest."""
    with open_system(world.settings, world.ws, degrade=True) as system:
        world.budget = 200_000
        with pytest.raises(WontFit, match=r"what would fit: .*--memory-budget \d+MB"):
            ask(system, QUESTION)
        assert world.ledger.held <= 200_000
        world.budget = ROOM
        assert not ask(system, QUESTION).failure


def test_a_model_that_does_not_fit_at_the_start_is_a_smaller_one_for_a_person(world: World) -> None:
    """And is told so with the first answer; a measurement is refused, with the name of what would fit."""
    world.budget = 5_000_000
    world.ledger.refresh()
    with pytest.raises(WontFit, match=r"what would fit: --model small@v1"):
        open_system(world.settings, world.ws)
    with open_system(world.settings, world.ws, degrade=True) as system:
        answer = ask(system, QUESTION)
        assert answer.model == "small@v1"
        assert "small@v1 instead of" in answer.usage["memory"]["steps"][0]["cost"]


def test_model_and_encoder_take_turns_where_there_is_room_for_one(world: World) -> None:
    """The answers are those of a large budget."""
    with open_system(world.settings, world.ws) as system:
        first = ask(system, QUESTION)
        assert system.encoder is not None
        encoder, model = system.encoder.hidden.size, system.model.nbytes
        answer = world.ledger.peak - world.ledger.held
    world.budget = model + encoder // 2 + answer
    world.ledger.refresh()
    with open_system(world.settings, world.ws) as system:
        again = ask(system, QUESTION)
        assert (again.text, again.model) == (first.text, first.model)
        assert world.ledger.held <= world.budget


def test_rest_gives_everything_back_and_the_next_question_loads_it_again(world: World) -> None:
    """For a conversation that is idle."""
    with open_system(world.settings, world.ws) as system:
        first = ask(system, QUESTION)
        assert rungs.rest(system) > 5_000_000 and world.ledger.held < 100 and system.model.network is None
        again = ask(system, QUESTION)
        assert (again.text, again.model) == (first.text, first.model) and world.ledger.held > 5_000_000
