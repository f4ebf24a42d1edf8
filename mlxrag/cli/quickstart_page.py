"""The report of a quickstart: one page that says what was done and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from mlxrag.evaluate.page import environment
from mlxrag.workspace import write_text

# Measures that say something to everyone; the others are in the comparison's own report.
SHOWN = ("correct", "exact", "f1", "refusal", "hit_at_1", "faithful_overlap", "answer_words")


def write_page(path: Path, answers: Mapping[str, Mapping[str, Any]], verdict: Mapping[str, str], few: int) -> Path:
    """Write the page from what the steps answered, by title, and return its path; `few` test questions are called so."""
    pages = environment()
    assert pages.loader is not None
    pages.loader = ChoiceLoader([PackageLoader("mlxrag.cli", "templates"), pages.loader])
    compared = answers["Compare"]["comparisons"]
    chosen = [c for c in compared if c["measure"] in SHOWN and c["difference"] is not None]
    text = pages.get_template("quickstart.html").render(
        ingested=answers["Read"], made=answers["Question"], measured=answers["Measure"], again=answers["Measure again"],
        trained=answers["Train"], compared=answers["Compare"], kept=answers.get("Keep"), advised=answers["Advise"],
        few=few, rows=chosen or compared, first=compared[0], verdict=verdict,
    )  # fmt: skip
    write_text(path, text)
    return path
