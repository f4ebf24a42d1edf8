"""The verdict in a sentence, and the three forms of a report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mlxrag.data.example import example
from mlxrag.evaluate.run import Row
from mlxrag.experiment.draw import scatter, ticks, to_html, to_markdown
from mlxrag.experiment.report import Material, build
from mlxrag.rag.answer import Answer
from mlxrag.rag.document import Passage
from mlxrag.settings import Experimenting


def timing(seconds: dict[str, float], n: int = 12) -> list[dict[str, Any]]:
    return [
        {"variant": v, "example_id": f"q{i}", "seconds": s * (1 + 0.02 * (i % 3)), "first_token_seconds": s / 2,
         "answer_tokens": 10, "weights": 10**9, "peak": int(1e9 + 9e8 * (v == "B"))}
        for i in range(n) for v, s in seconds.items()
    ]  # fmt: skip


def material(wins: int, losses: int, n: int, **more: Any) -> Material:
    a = {f"q{i}": float(not i < wins) for i in range(n)}
    b = {f"q{i}": float(not wins <= i < wins + losses) for i in range(n)}
    passages = [Passage(f"p{i}", f"d{i % 30}", f"docs/{i % 30}.md", "t", "", 0, 4, "text") for i in range(n)]
    examples = {
        f"q{i}": example(f"Question <b>{i}</b>?", ("gold",), (passages[i],), "t", tags=("even" if i % 2 else "odd",))
        for i in range(n)
    }
    homes = {f"q{i}": f"d{i % 30}" for i in range(n)}
    rows = {
        s: {i: Row(i, Answer(e.question, f"{s} says <script>alert({i})</script>")) for i, e in examples.items()}
        for s in ("A", "B")
    }
    given = {"settings": Experimenting(permutations=499), "timing": timing({"A": 0.5, "B": 0.8}), **more}
    return Material(
        "A and B",
        {"A": {"correct": a}, "B": {"correct": b}},
        "correct",
        homes=homes,
        examples=examples,
        rows=rows,
        **given,
    )


def test_the_verdict_says_size_interval_p_and_cost() -> None:
    """Better: by how many points, how sure, at what price."""
    found = build(material(24, 8, 300))["verdicts"][0]
    pattern = (
        r"B answers 5\.3 points better than A on correct, 95 % interval [\d.]+ to [\d.]+, p = 0\.0\d+; "
        r"it takes 1\.6 times as long and 0\.9 GB more memory\."
    )
    assert re.fullmatch(pattern, found), found


def test_all_three_outcomes_are_honestly_said() -> None:
    """Worse, not distinguishable, and alike each have their words."""
    assert "points worse than A" in build(material(4, 40, 300))["verdicts"][0]
    level = build(material(5, 4, 300))["verdicts"][0]
    assert "not distinguishable on correct: +0.3 points" in level and "show differences from" in level
    alike = Experimenting(permutations=499, goal="equivalence", margin=0.02)
    said = build(material(5, 4, 1500, settings=alike))["verdicts"][0]
    assert said.startswith("B and A are alike on correct within 2 points: +0.1 points, 90 % interval")
    notworse = alike.model_copy(update={"goal": "noninferiority"})
    assert (
        "B is not worse than A on correct by more than 2 points"
        in build(material(5, 4, 1500, settings=notworse))["verdicts"][0]
    )


def test_cost_that_was_not_measured_is_not_made_up() -> None:
    """Without timings the verdict and the page say so, and there is no chart."""
    found = build(material(20, 5, 100, timing=[]))
    assert found["verdicts"][0].endswith("its cost was not measured.")
    assert found["pareto"] == [] and "were not measured in turn" in to_html(found)
    assert any("not measured in turn" in a for a in found["assumptions"])


def test_times_that_may_be_equal_are_not_called_a_factor() -> None:
    """An interval that holds 1 is said as a range."""
    rows = timing({"A": 0.5, "B": 0.5})
    for i, row in enumerate(rows):
        row["seconds"] *= 1 + 0.3 * ((i * 7) % 5) / 5
    assert "which may be no difference" in build(material(20, 5, 100, timing=rows))["verdicts"][0]


def test_slices_and_flips_show_where_the_difference_is() -> None:
    """Every slice of two values has figures; wins and losses carry both answers."""
    found = build(material(24, 8, 120))
    slices = found["slices"]["B against A"]
    assert {s["value"] for s in slices if s["slice"] == "tag"} == {"even", "odd"}
    assert all(s["corrected"] >= s["p"] for s in slices)
    flips = found["flips"]["B against A"]
    assert flips["counts"] == {"wins": 24, "losses": 8, "ties": 88}
    assert flips["examples"]["wins"][0]["score_b"] == 1.0 and len(flips["examples"]["losses"]) == 8


def test_the_front_leaves_out_what_is_beaten_in_everything() -> None:
    """A slower, larger and worse system is dominated and says by whom."""
    found = build(material(0, 30, 100))["pareto"]
    assert {p["system"]: p["dominated_by"] for p in found} == {"A": [], "B": ["A"]}


class Loads(HTMLParser):
    """Collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.found.append(tag)
        self.found += [f"{k}={v}" for k, v in attrs if k in ("src", "href") or k.startswith("on")]


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    """Answers with markup are shown as text; there is no script, link or image in the page."""
    page = to_html(build(material(24, 8, 120)))
    reader = Loads()
    reader.feed(page)
    assert reader.found == [] and "&lt;script&gt;" in page and "tone-good" in page


def test_markdown_holds_verdict_figures_cost_and_examples() -> None:
    """The same report for a terminal or a pull request."""
    text = to_markdown(build(material(24, 8, 120)))
    for part in (
        "**B answers",
        "| correct | B against A |",
        "## Cost",
        "## By kind of question",
        ": wins (24)",
        "## What this rests on",
    ):
        assert part in text


def test_a_report_is_plain_json() -> None:
    """No NaN, no tuples that change, nothing that JSON has not."""
    found = build(material(24, 8, 120))
    assert json.loads(json.dumps(found, allow_nan=False))["title"] == "A and B"


def test_ticks_are_round_and_span_the_range() -> None:
    """Axes of one, equal and tiny values have ticks too."""
    assert ticks(0.0, 0.9) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0.0, 0.0), (0.5, 0.5), (0.0, 1e-6), (0.13, 123.0)):
        found = ticks(low, high)
        assert len(found) >= 2 and found[0] <= low and found[-1] >= high - 1e-9
    assert scatter([]) is None


def test_several_systems_are_corrected_and_drawn() -> None:
    """Three systems: two verdicts, a point each, the pair named in every row."""
    given = material(24, 8, 120, timing=timing({"A": 0.5, "B": 0.8, "C": 0.3}))
    scores = {**given.scores, "C": given.scores["A"]}
    found = build(
        Material(
            given.title, scores, "correct", given.settings, given.homes, examples=given.examples, timing=given.timing
        )
    )
    assert len(found["verdicts"]) == 2 and len(found["pareto"]) == 3
    assert "C against A" in to_html(found) and found["comparisons"][0]["family"] == "Holm over 2"


@pytest.mark.parametrize("missing", ["examples", "rows", "homes"])
def test_scores_alone_are_enough(missing: str) -> None:
    """Without examples, answers or documents the report leaves out what it cannot know."""
    from dataclasses import replace

    found = build(replace(material(10, 2, 60), **{missing: {}}))
    assert found["verdicts"] and to_html(found) and to_markdown(found)
