"""The small workspace is built once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlxrag.workspace import Workspace, open_workspace
from tests.experiment import kit


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds")
    kit.build(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of the workspace's surroundings, the test's own."""
    shutil.copytree(built, tmp_path / "birds")
    return tmp_path / "birds"


@pytest.fixture
def ws(root: Path) -> Workspace:
    return open_workspace(root / "ws")
