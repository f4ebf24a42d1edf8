"""Questions from documents: the grammar, the gates, the yield, and a killed making that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxrag.data import make_model
from mlxrag.data.candidate import Candidate, from_row, literal, to_row
from mlxrag.data.corpus import survey
from mlxrag.data.duplicates import Near
from mlxrag.data.gates import GATES, Context, admit
from mlxrag.data.grammar import clauses
from mlxrag.data.lexicon import VERBS, participle, past, third
from mlxrag.data.make import MAKERS, finish, make, spool, tally
from mlxrag.data.make_model import parse
from mlxrag.data.wordings import wordings
from mlxrag.errors import BadInput
from mlxrag.rag.document import Passage
from mlxrag.rag.system import System, open_system
from mlxrag.settings import Making
from mlxrag.workspace import Workspace
from tests.evaluate import world as w
from tests.evaluate.kit import passage

ROOT = Path(__file__).resolve().parents[2]
RULES = Making(round_trip="retrieval", makers=("amount", "time", "reason", "person", "condition"), found_within=3)


def asked(maker: str, *texts: str) -> list[tuple[str, str]]:
    passages = [passage(t, f"d{i}.md") for i, t in enumerate(texts)]
    return [(c.question, c.answers[0] if c.answers else "") for c in MAKERS[maker](passages, survey(passages))]


@pytest.mark.parametrize(
    ("maker", "sentence", "question", "answer"),
    [
        ("amount", "The Heron costs $2,290 since 1 February 2025, after $2,190 before.", "How much does the Heron cost?", "$2,290"),
        ("amount", "Every employee has 28 days of paid leave a year.", "How many days of paid leave does every employee have a year?", "28 days"),
        ("amount", "Keys are issued by Dmitri Vale's team within three working days.", "How quickly are keys issued by Dmitri Vale's team?", "within three working days"),
        ("amount", "The lock is 110 cm long and weighs 1.6 kg.", "How long is the lock?", "110 cm long"),
        ("amount", "Employees lent the company $64,000 from savings.", "How much did employees lend the company from savings?", "$64,000"),
        ("amount", "In frost the range falls by about a third.", "By how much does the range fall in frost?", "about a third"),
        ("amount", "The position is sent every 20 seconds.", "How often is the position sent?", "every 20 seconds"),
        ("amount", "Wash the cover by hand at 30 degrees.", "At what temperature should you wash the cover by hand?", "30 degrees"),
        ("amount", "The lock Bollard hangs in the shed. It weighs 1.6 kg.", "How much does the lock Bollard weigh?", "1.6 kg"),
        ("thing", "Thru axles need the adapter TA-12.", "What do thru axles need?", "the adapter TA-12"),
        ("foremost", "The most important market is the Low Islands with 14 percent.", "What is the most important market?", "the Low Islands"),
        ("kinds", "There are four kinds of event: moved, full, idle and fault.", "Which kinds of event are there?", "moved, full, idle and fault"),
        ("time", "In 2021 the warehouse moved to Upper Saltby.", "When did the warehouse move to Upper Saltby?", "2021"),
        ("time", "The boat leaves at 8:30 from pier 4.", "At what time does the boat leave from pier 4?", "8:30"),
        ("time", "The canteen serves hot meals from 11:30 to 13:30.", "When does the canteen serve hot meals?", "from 11:30 to 13:30"),
        ("reason", "Sand yellow was discontinued because the dye faded.", "Why was sand yellow discontinued?", "because the dye faded"),
        ("person", "Questions go to Benedikt Orr, head of people.", "Who is the head of people?", "Benedikt Orr"),
        ("condition", "If you fall ill, tell your team lead before the shift.", "What should you do if you fall ill?", "tell your team lead before the shift"),
    ],
)  # fmt: skip
def test_a_sentence_becomes_a_question(maker: str, sentence: str, question: str, answer: str) -> None:
    """The question is English as it is asked, and the answer stands in the sentence."""
    assert (question, answer) in asked(maker, sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "It costs $20 a month.", "Nobody works more than ten hours.", "Trailers that were made to order cost $90 more.",
        "Do not wash the cover at 60 degrees.", "Whoever works longer takes a break of 30 minutes.", "From: Ann\nTo: Bob costs $5",
    ],
)  # fmt: skip
def test_a_sentence_that_is_not_sure_stays_silent(sentence: str) -> None:
    """Pronouns, negations, relative clauses, orders and headers of mails make no question about an amount."""
    assert asked("amount", sentence) == []


def test_verbs_are_inflected() -> None:
    """Regular and irregular forms, by example and for every verb of the list."""
    assert [third(v) for v in ("go", "carry", "wash", "pay")] == ["goes", "carries", "washes", "pays"]
    assert [past(v) for v in ("lend", "stop", "carry", "move")] == ["lent", "stopped", "carried", "moved"]
    assert participle("write") == "written"
    assert all(third(v) and past(v) and participle(v) for v in VERBS)
    assert [c.subject for c in clauses("The Ox 60 weighs 7.9 kg and carries 60 kg.")] == ["The Ox 60", "The Ox 60"]


def test_a_year_that_no_list_holds_makes_a_question_without_an_answer() -> None:
    """The name, the year or the place in an answerable question is swapped for one that nothing is said about."""
    rows = "\n".join(f"name: {n} {i}; price 2024: ${i}9" for i, n in enumerate(("Ox", "Wren", "Plover", "Heron") * 4))
    found = asked("unanswerable", f"The Ox and the Wren are sold.\n{rows}")
    assert found and all(not answer for _, answer in found)
    assert all("2024" not in q or q not in rows for q, _ in found)


def test_a_question_is_asked_in_other_words() -> None:
    """Turns of phrase whose sense is sure, and nothing for the rest."""
    assert "What is the weight of the Ox?" in list(wordings("How much does the Ox weigh?"))
    assert list(wordings("Why?")) == []


def test_the_same_fact_is_not_asked_for_twice() -> None:
    """Another wording of a kept question, with the same answer and evidence, is refused."""
    here = context()
    first = candidate("When does the pier in Calder Quay open?", "9:30")
    admit(first, here)
    other = candidate("At what hour may one enter the pier of Calder Quay?", "9:30")
    assert GATES["new"](other, here) == (False, "the same fact as an earlier question")


def test_cells_are_asked_for_by_what_they_hold() -> None:
    """A price is asked for by how much, a town by where; two rows are compared; the answer is in the row."""
    rows = "dealer: Spoke & Anchor; town: Calder Quay; phone: 555-0171\ndealer: Velo Quarter; town: Fennick; phone: 555-0172"
    found = dict(asked("table", rows))
    assert found["In which town is Spoke & Anchor?"] == "Calder Quay"
    assert found["What is the phone number of Velo Quarter?"] == "555-0172"
    sizes = "The Wren 1 is small. The Wren 2 is large.\nWeight; Wren 1: 11.4 kg; Wren 2: 13.8 kg"
    assert ("How much does the Wren 1 weigh?", "11.4 kg") in asked("table", sizes)
    compared = asked("comparison", sizes)
    assert compared and compared[0][1] == ("the Wren 2" if "heavier" in compared[0][0] else "the Wren 1")


def candidate(
    question: str,
    *answers: str,
    text: str = "The pier in Calder Quay opens at 9:30.",
    quote: str | None = None,
    tags: tuple[str, ...] = (),
) -> Candidate:
    evidence = (text if quote is None else quote,) if answers else ()
    return Candidate(question, answers, (passage(text),), evidence, "rule:test", tags)


def context(*passages: Passage, **making: object) -> Context:
    return Context(Making.model_validate(making), survey(list(passages)), Near(0.9))


@pytest.mark.parametrize(
    ("gate", "bad", "good"),
    [
        ("form", candidate("When does it open", "9:30"), candidate("When does the pier open?", "9:30")),
        ("language", candidate("Wann öffnet der Steg, und wer ist auf dem Boot?", "9:30", text="The pier is the place that opens at 9:30 in the morning."), candidate("When does the pier open?", "9:30")),
        ("specific", candidate("When does it open there?", "9:30"), candidate("When does the pier in Calder Quay open?", "9:30")),
        ("evidence", candidate("When does the pier open?", "9:30", quote="It opens at 9:30."), candidate("When does the pier open?", "9:30")),
        ("evidence", candidate("When does the pier open?", "10:30"), candidate("Who owns it?")),
        ("giveaway", candidate("Does the pier open at 9:30?", "9:30"), candidate("Which is it, the pier or the quay?", "the pier", tags=("comparison",))),
    ],
)  # fmt: skip
def test_gates_refuse_and_let_through(gate: str, bad: Candidate, good: Candidate) -> None:
    """Each gate refuses what it is for, with a note, and lets the rest through."""
    refused, passed = GATES[gate](bad, context()), GATES[gate](good, context())
    assert not refused.passed and refused.note and passed.passed and passed.note


def test_a_heading_that_is_copied_is_refused() -> None:
    """A question that only repeats its section's heading is found by word matching alone."""
    text = "What does delivery cost?\n\nDelivery costs $29."
    assert not GATES["giveaway"](candidate("What does delivery cost?", "$29", text=text), context()).passed


def test_another_passage_that_says_otherwise_makes_a_clash() -> None:
    """The same words with another number elsewhere make the question ambiguous."""
    here, there = passage("The lift costs $5.", "a.md"), passage("The lift costs $7 now.", "b.md")
    one = Candidate("How much does the lift cost?", ("$5",), (here,), ("The lift costs $5.",), "rule:amount", ())
    assert not GATES["clash"](one, context(here, there)).passed and GATES["clash"](one, context(here)).passed


def test_a_model_writes_lines_or_json_or_nothing() -> None:
    """Three labelled lines and a JSON object are read; what lacks a part is no candidate; quotes take the passage's line breaks."""
    here = passage("The pier\nopens at 9:30.")
    lines = parse(
        '1. Question: "When?"\n**Answer:** 9:30.\nEvidence: The pier opens at 9:30.', (here,), "model:fact", ("fact",)
    )
    assert lines is not None and lines.answers == ("9:30",) and lines.evidence == ("The pier\nopens at 9:30.",)
    assert parse('{"question": "When?", "answer": "9:30", "evidence": "x"}', (here,), "m", ()) is not None
    assert parse("Question: When?", (here,), "m", ()) is None and parse("{broken", (here,), "m", ()) is None
    assert literal("not there", here) == "not there"


def test_a_model_is_asked_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind has a maker; a comparison needs two passages; a twin without an answer has another name in its question."""
    said = "Question: How much does the Ox 60 weigh?\nAnswer: 7.9 kg\nEvidence: The Ox 60 weighs 7.9 kg."
    monkeypatch.setattr(make_model, "_prompt", lambda model, passages, kind: [])
    monkeypatch.setattr(make_model, "_complete", lambda model, prompts, seed: [said] * len(prompts))
    here = passage("trailer: Ox 60; weight: 7.9 kg; price: $5\ntrailer: Plover S; price: $6; colour: red")
    corpus = survey([here, replace(here, id="other")])
    made = {name: list(maker(corpus.passages, corpus)) for name, maker in make_model.by_model(None)}  # type: ignore[arg-type]
    assert {n for n, c in made.items() if c} >= {"model:fact", "model:number", "model:why", "model:comparison"}
    assert len(made["model:comparison"][0].passages) == 2
    twin = made["model:unanswerable"][0]
    assert twin.question == "How much does Plover S weigh?" and not twin.answers


def test_candidates_come_back_as_they_were() -> None:
    """A row of the journal holds everything of a candidate."""
    one = candidate("When does the pier open?", "9:30", tags=("time",))
    assert from_row(to_row(one)) == one and from_row(to_row(one)).key == one.key


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("make")


@pytest.fixture(scope="module")
def ws(root: Path) -> Workspace:
    return w.make_world(root)


@pytest.fixture
def system(root: Path, ws: Workspace) -> Iterator[System]:
    with open_system(w.settings(root), ws) as opened:
        yield opened


def test_what_is_made_is_kept_with_its_gates(system: System, ws: Workspace, tmp_path: Path) -> None:
    """Kept examples carry every gate's note, refused ones stand aside with theirs, and the yield adds up."""
    made = list(make(system, tmp_path / "spool", RULES))
    counts = tally(made)
    assert counts.kept >= 4 and counts.proposed == counts.kept + sum(counts.refused.values())
    dataset, same = finish(ws, "made", system, tmp_path / "spool", RULES, {"train": 0.5, "test": 0.5})
    assert same == counts and len(dataset) == counts.kept and set(dataset.counts) == {"train", "test"}
    for one in dataset.split():
        assert set(GATES) <= set(one.gates) and one.gates["retrieval"].startswith("rank")
        assert all(any(q in p.text for p in one.passages) for q in one.evidence)
    assert dataset.artefact.manifest["yield"]["kept"] == counts.kept
    assert len(list(dataset.refused())) == counts.proposed - counts.kept
    assert not (tmp_path / "spool").exists()


def test_the_reading_gate_is_the_model_s(system: System, tmp_path: Path) -> None:
    """A model that cannot read lets nothing through, and `keep_hard` keeps it with a tag."""
    full = RULES.model_copy(update={"round_trip": "full", "makers": ("amount",)})
    assert tally(make(system, tmp_path / "a", full)).kept == 0
    hard = list(make(system, tmp_path / "b", full.model_copy(update={"keep_hard": True})))
    assert any(one.gates.get("reading", "").startswith("HARD") and not one.refused for one in hard)


def test_strange_makers_and_empty_yields_are_said(system: System, ws: Workspace, tmp_path: Path) -> None:
    """An unknown maker names the nearest; nothing kept names the gates."""
    with pytest.raises(BadInput, match="did you mean 'amount'"):
        list(make(system, tmp_path / "a", Making(makers=("amuont",))))
    nothing = Making(makers=("definition",), round_trip="none")
    list(make(system, tmp_path / "b", nothing))
    with pytest.raises(BadInput, match="no question was kept"):
        finish(ws, "none", system, tmp_path / "b", nothing, None)


def test_a_killed_making_goes_on_to_the_same_end(root: Path, ws: Workspace, system: System, tmp_path: Path) -> None:
    """SIGKILL in the middle of a window, twice: the result is that of a making that was left alone."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from tests.evaluate import world as w; from tests.data.test_make import RULES\n"
        "from mlxrag.data import make as room; from mlxrag.workspace import Workspace; from mlxrag.rag.system import open_system\n"
        "room.WINDOW = 2; root, ws, at = Path(sys.argv[2]), Workspace(Path(sys.argv[2], 'ws')), int(sys.argv[4])\n"
        "with open_system(w.settings(root), ws) as system:\n"
        "    for n, one in enumerate(room.make(system, Path(sys.argv[3]), RULES)):\n"
        "        if n == at: os.kill(os.getpid(), 9)\n"
    )
    folder = tmp_path / "spool"
    for at, want in ((1, -signal.SIGKILL), (4, -signal.SIGKILL), (1000, 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(root), str(folder), str(at)],
            cwd=ROOT,
            check=False,
            env={**os.environ},
        )
        assert done.returncode == want
    resumed, _ = finish(ws, "resumed", system, folder, RULES, None)
    whole = tmp_path / "whole"
    list(make(system, whole, RULES))
    alone, _ = finish(ws, "alone", system, whole, RULES, None)
    assert {(e.question, e.answers) for e in resumed.split()} == {(e.question, e.answers) for e in alone.split()}
    assert spool(ws, "x", system, RULES) != spool(ws, "x", system, RULES.model_copy(update={"make_seed": 1}))
