"""What every maker, augmenter, measure and cleaner promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mlxrag.data.augment import AUGMENTERS, Others, augment, fault
from mlxrag.data.clean import CLEANERS
from mlxrag.data.corpus import survey
from mlxrag.data.duplicates import Near
from mlxrag.data.gates import GATES, Context, evidence
from mlxrag.data.make import MAKERS
from mlxrag.data.quality import QUALITY
from mlxrag.evaluate.measure import MEASURES
from mlxrag.rag.document import Passage
from mlxrag.settings import Making
from tests.evaluate.kit import answer, ask, passage

SAMPLES = Path(__file__).resolve().parents[2] / "mlxrag" / "samples" / "documents"
TABLE = "The Wren 1 and the Wren 2.\nWeight; Wren 1: 11.4 kg; Wren 2: 13.8 kg\ndealer: Velo Quarter; town: Fennick; phone: 555-0172; since: 2011"


def samples() -> list[Passage]:
    """Sections of the bundled Markdown documents, and a table."""
    found = []
    for path in sorted(SAMPLES.rglob("*.md")):
        for i, section in enumerate(path.read_text(encoding="utf-8").split("\n## ")[1:]):
            found.append(passage(section.strip(), f"documents/{path.name}", i * 10_000))
    return [*found, passage(TABLE, "table.md")]


PASSAGES = samples()
CORPUS = survey(PASSAGES)


@pytest.mark.parametrize("name", MAKERS)
def test_makers_quote_what_stands_there(name: str) -> None:
    """Candidates name their maker, quote literally, answer from the quote, and are the same every time."""
    made = list(MAKERS[name](PASSAGES, CORPUS))
    context = Context(Making(), CORPUS, Near(0.9))
    for one in made:
        assert one.maker == f"rule:{name}" and one.question and one.passages and one.tags
        assert evidence(one, context).passed, (one.question, evidence(one, context).note)
    assert [c.key for c in made] == [c.key for c in MAKERS[name](PASSAGES, CORPUS)]
    assert MAKERS[name].__doc__ and list(MAKERS[name]([], survey([]))) == []


@pytest.mark.parametrize("name", GATES)
def test_gates_always_give_a_note(name: str) -> None:
    """Every gate says what it saw, whether it lets through or not, and has a sentence about itself."""
    for one in list(MAKERS["amount"](PASSAGES, CORPUS))[:20]:
        verdict = GATES[name](one, Context(Making(), CORPUS, Near(0.9)))
        assert verdict.note
    assert GATES[name].__doc__


@pytest.mark.parametrize("name", AUGMENTERS)
def test_augmenters_keep_the_label(name: str) -> None:
    """Results differ from the example, keep its answers or have none, hold the evidence, and follow from the seed."""
    examples = [
        ask(f"How much does the Ox {n} cost in the shop?", f"${n}0", gold=(passage(f"The Ox {n} costs ${n}0.", f"{n % 3}.md", n * 100), passage(f"Other {n}.", f"{n % 3}.md", n * 100 + 50)),
            evidence=(f"The Ox {n} costs ${n}0.",)) for n in range(8)
    ] + [ask(f"When did the Heron {w}?", y, gold=(passage(f"The Heron {w} in {y}.", "h.md", i * 100),), evidence=(f"The Heron {w} in {y}.",)) for i, (w, y) in enumerate((("start", "2001"), ("stop", "2009")))]  # fmt: skip
    made = list(augment(examples, [name], seed=3))
    kept = [a for a in made if not a.refused]
    assert kept, name
    by_id = {e.id: e for e in examples}
    for one in kept:
        before = by_id[one.of]
        assert one.example.id not in by_id or one.example.passages != before.passages
        assert one.example.answers in (before.answers, ()) and one.example.answerable is bool(one.example.answers)
        assert not fault(one.example, before) and "augmented" in one.example.tags
    assert [a.example.id for a in augment(examples, [name], seed=3)] == [a.example.id for a in made]
    assert list(AUGMENTERS[name](ask("?"), random.Random(0), Others())) == [] or AUGMENTERS[name].__doc__


@pytest.mark.parametrize("name", MEASURES)
def test_measures_name_themselves_and_explain_what_is_missing(name: str) -> None:
    """A score has the measure's name and a value, or a reason; shares stay in [0, 1]; the docstring defines it."""
    gold = passage("The pier opens at 9:30.")
    for given in (answer("9:30 [1]", gold, cites=(1,)), answer(""), answer("Not in the documents.", refused=True)):
        for asked in (ask("When?", "9:30", gold=(gold,)), ask("Who?"), ask("東京?", "東京")):
            score = MEASURES[name](given, asked)
            assert score.measure == name and score.example_id == asked.id
            assert (score.value is None and score.reason) or (
                score.value is not None and (name == "answer_words" or 0 <= score.value <= 1)
            )
    assert MEASURES[name].__doc__


@pytest.mark.parametrize("name", CLEANERS)
def test_cleaners_are_settled_after_one_pass(name: str) -> None:
    """Cleaning twice is cleaning once, and clean text is left as it is."""
    for text in (
        "plain text",
        "sch\u00c3\u00b6n\u200b und\u00a0gut ",
        "a\r\n\n\n\nb",
        "",
        "Cafe\u0301 \u201cquoted\u201d",
    ):
        once = CLEANERS[name](text)
        assert CLEANERS[name](once) == once
    assert CLEANERS[name]("plain text") == "plain text"


@pytest.mark.parametrize("name", QUALITY)
def test_quality_is_a_number_or_none(name: str) -> None:
    """Every quality of an example is a finite number or None, also for the barest example."""
    for one in (
        ask("?"),
        ask("When does it open?", "9:30", gold=(passage("It opens at 9:30."),), evidence=("It opens at 9:30.",)),
    ):
        value = QUALITY[name](one)
        assert value is None or value == value
    assert QUALITY[name].__doc__
