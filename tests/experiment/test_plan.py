"""What a comparison will do, worked out and frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxrag.data.dataset import open_dataset
from mlxrag.errors import BadInput, NotFound
from mlxrag.evaluate.figures import home
from mlxrag.experiment.known import prepare
from mlxrag.experiment.plan import blocks, from_json, keep, open_plan, order_questions, read_variants, to_json, turns
from mlxrag.settings import Experimenting
from mlxrag.workspace import Workspace
from tests.experiment.kit import config


def two(root: Path) -> list[Path]:
    return [config(root / "one.toml", root), config(root / "two.toml", root, num_passages=2)]


def test_a_plan_says_what_differs_and_comes_back_as_it_was(root: Path, ws: Workspace) -> None:
    """One key differs, the test split is asked, and the artefact holds everything."""
    made = prepare("p", two(root), open_dataset(ws, "birds"), "", Experimenting(effect=0.3), ws)
    assert dict(made.differs) == {"num_passages": (1, 2)} and not made.warnings
    assert made.split == "test" and len(made.questions) == 15 and made.primary == "chrf"
    assert made.hypotheses == ("two and one differ in chrf",)
    assert made.power["available"] == 15 and "no pilot" in made.power["assumed"]
    assert made.cost["fits"] and made.cost["bases"] == [["one", "two"]] and made.cost["peak"] > 0
    kept = keep(ws, made)
    again, artefact = open_plan(ws, "p")
    assert artefact.ref == kept.ref and to_json(again) == to_json(made) == to_json(from_json(to_json(made)))


def test_several_changes_at_once_are_warned_of(root: Path, ws: Workspace) -> None:
    """Two keys in one variant cannot be told apart; none at all is an A/A test."""
    configs = [config(root / "one.toml", root), config(root / "two.toml", root, num_passages=2, max_tokens=3)]
    made = prepare("p", configs, open_dataset(ws, "birds"), "test", Experimenting(), ws)
    assert "2 things (num_passages, max_tokens)" in made.warnings[0]
    same = [config(root / "one.toml", root), config(root / "same.toml", root)]
    assert "A/A test" in prepare("p", same, open_dataset(ws, "birds"), "test", Experimenting(), ws).warnings[0]


def test_a_pilot_asks_validation_questions_only(root: Path, ws: Workspace) -> None:
    """Its seconds make the cost, its differences the power, and no question of the test is spent."""
    made = prepare("p", two(root), open_dataset(ws, "birds"), "", Experimenting(pilot_questions=2), ws)
    assert made.power["pilot"] == 2 and made.power["assumed"] == ""
    assert made.cost["basis"] == "pilot" and made.cost["seconds"] > 0
    with pytest.raises(BadInput, match="no validation split"):
        prepare("p", two(root), open_dataset(ws, "birds"), "all", Experimenting(pilot_questions=2), ws)


def test_questions_are_in_random_order_by_document(ws: Workspace) -> None:
    """The seed decides the order, documents stand together, and a limit cuts the end off."""
    examples = list(open_dataset(ws, "birds").split("test"))
    homes = {e.id: home(e) for e in examples}
    order = order_questions(examples, 1)
    assert sorted(order) == sorted(homes) and order != order_questions(examples, 2)
    assert order == order_questions(reversed(examples), 1) and order_questions(examples, 1, 4) == order[:4]
    seen = [homes[i] for i in order]
    assert all(seen[i : i + 3] == [seen[i]] * 3 for i in range(0, 15, 3))


def test_blocks_end_with_documents() -> None:
    """A block ends where a document does, but for one that is much too long."""
    homes = {str(i): "long" if i < 9 else f"d{i // 2}" for i in range(16)}
    found = blocks([str(i) for i in range(16)], homes, 4)
    assert [i for block in found for i in block] == [str(i) for i in range(16)]
    assert [len(b) for b in found] == [8, 5, 3] or all(len(b) <= 9 for b in found)
    assert homes[found[-1][0]] != homes[found[-2][-1]]


def test_turns_are_balanced() -> None:
    """Of 30 blocks each of three groups comes first, second and third ten times."""
    found = list(turns(3, 30, 5))
    assert all(sorted(t) == [0, 1, 2] for t in found) and found == list(turns(3, 30, 5)) != list(turns(3, 30, 6))
    for place in range(3):
        assert [sum(t[place] == g for t in found) for g in range(3)] == [10, 10, 10]


def test_faults_of_a_plan_are_told(root: Path, ws: Workspace) -> None:
    """One system, two of a name, other yardsticks, unknown measures and missing indexes are refused in a sentence."""
    one, other = two(root)
    with pytest.raises(BadInput, match="two config files"):
        read_variants([one], ws)
    with pytest.raises(BadInput, match="two systems are called"):
        read_variants([one, one], ws)
    other.write_text(other.read_text().replace('"f1", ', ""))
    with pytest.raises(BadInput, match="one yardstick"):
        read_variants([one, other], ws)
    with pytest.raises(BadInput, match=r"no measure 'chf'; did you mean"):
        prepare("p", two(root), open_dataset(ws, "birds"), "", Experimenting(primary="chf"), ws)
    with pytest.raises(BadInput, match="add it there"):
        prepare("p", two(root), open_dataset(ws, "birds"), "", Experimenting(guardrails=("mrr",)), ws)
    one.write_text(one.read_text().replace("[retrieval]", '[retrieval]\nindex = "gone"'))
    with pytest.raises(NotFound, match="gone"):
        read_variants([one, other], ws)
