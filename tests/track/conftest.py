"""MLflow's tables are made once and copied for each test; tracking is on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlxrag.workspace import Workspace, open_workspace


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlxrag.tracking.store import DATABASE, Store

    root = tmp_path_factory.mktemp("mlflow")
    Store(Workspace(root))
    return root / DATABASE


@pytest.fixture
def ws(tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with an empty MLflow database, in which no background process is started."""
    from mlxrag import track

    monkeypatch.delenv("MLXRAG_TRACK")
    monkeypatch.setattr(track, "nudge", lambda workspace: False)
    ws = open_workspace(tmp_path / "ws")
    shutil.copy(tables, ws.root / tables.name)
    return ws
