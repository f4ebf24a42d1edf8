"""Every shipped config is loaded; every link of the README leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlxrag import settings
from mlxrag.model.choose import read_ladder

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_shipped_config_loads(path: Path) -> None:
    """Systems and jobs as settings, the ladder as a ladder."""
    if path.name == "tiers.toml":
        assert read_ladder(path)
    else:
        assert settings.given(path, {}) and settings.read(path)


def test_links_of_the_pages_lead_somewhere() -> None:
    """Relative links in README and docs name files that exist."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not missing, missing
