"""Every test runs in a temporary home, offline, with nothing of the user's environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Set before anything imports them; the CPU wheels stall on more threads than cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MKL_NUM_THREADS", "1")

import mlxrag.device  # noqa: F401  # loads MKL before any test imports mlx

# Tests do not measure time; CI draws the same cases each time, a person's run draws new ones.
hypothesis.settings.register_profile("house", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("house")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test its own home and take MLXRAG_* out of the environment."""
    for key in list(os.environ):
        if key.startswith("MLXRAG_"):
            monkeypatch.delenv(key)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLXRAG_TRACK", "false")  # no MLflow behind a test's back
    yield


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse sockets, but Unix ones, and loopback where the test is marked `loopback`."""
    loopback = request.node.get_closest_marker("loopback") is not None
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        local = isinstance(address, tuple) and str(address[0]) in {"127.0.0.1", "::1", "localhost"}
        if self.family != socket.AF_UNIX and not (loopback and local):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real material; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not here")
    return SHARED
