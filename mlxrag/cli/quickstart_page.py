"""The report of a quickstart: one page that says what was done and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from mlxrag.evaluate.page import environment
from mlxrag.workspace import write_text


def write_page(
    path: Path, ingested: Mapping[str, Any], made: Mapping[str, Any], measured: Mapping[str, Any],
    trained: Mapping[str, Any], compared: Mapping[str, Any], verdict: Mapping[str, str],
) -> Path:  # fmt: skip
    """Write the page from what the steps answered, and return its path."""
    pages = environment()
    assert pages.loader is not None
    pages.loader = ChoiceLoader([PackageLoader("mlxrag.cli", "templates"), pages.loader])
    text = pages.get_template("quickstart.html").render(
        ingested=ingested, made=made, measured=measured, trained=trained, compared=compared, verdict=verdict
    )
    write_text(path, text)
    return path
