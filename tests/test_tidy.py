"""What killed processes left goes by itself, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlxrag.tidy import DAY, STAMP, WEEK, tidy_daily
from mlxrag.workspace import Workspace, create, names, open_workspace


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def old(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds, time.time() - seconds))
    return path


def file(path: Path, age: float = 2 * DAY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return old(path, age)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = open_workspace(tmp_path / "ws")
    with create(found, "runs", "kept") as draft:
        (draft.path / ".hidden.12").write_text("x")
    return found


def test_what_is_left_goes_and_what_may_be_wanted_stays(workspace: Workspace, gone: int, tmp_path: Path) -> None:
    """Drafts, half written files and keys and values of the dead go after a day; all of the living stay."""
    root, here = workspace.root, os.getpid()
    draft = file(root / "runs" / "r" / f".draft-{gone}-1f" / "a.txt").parent
    old(draft, 2 * DAY)
    left = [draft, file(root / f".mlxrag.toml.{gone}"), file(root / "cache" / "kv" / f".k.{gone}.safetensors")]
    kept = [
        file(root / "runs" / "r" / f".draft-{here}-1f" / "a.txt"),
        file(root / f".mlxrag.toml.{here}"),
        file(root / f".new.{gone}", 60.0),
        file(root / "cache" / "vectors.sqlite", 90 * DAY),
        file(root / f"notes.{gone}", 90 * DAY),
        file(root / f".mine.{gone}" / "a.txt", 90 * DAY),
        file(root / "mine" / f".a.{gone}", 90 * DAY),
    ]
    old(root / f".mine.{gone}", 90 * DAY)
    assert sorted(tidy_daily(workspace, tmp_path / "hub")) == sorted(left)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    assert names(workspace, "runs") == ["kept"]


def test_half_downloads_go_after_a_week_unless_somebody_is_at_them(workspace: Workspace, tmp_path: Path) -> None:
    """Only ours, which end in .part; a lock keeps one."""
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    stale, busy, new, whole = (
        file(blobs / name, age)
        for name, age in (("1.part", 2 * WEEK), ("2.part", 2 * WEEK), ("3.part", DAY), ("4", 2 * WEEK))
    )
    with busy.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert tidy_daily(workspace, tmp_path / "hub") == [stale]
    assert busy.exists() and new.exists() and whole.exists()


def test_it_looks_once_a_day(workspace: Workspace, gone: int, tmp_path: Path) -> None:
    """A second look within a day finds nothing; a day later it does."""
    assert tidy_daily(workspace, tmp_path / "hub") == []
    left = file(workspace.root / "cache" / f".x.{gone}")
    assert tidy_daily(workspace, tmp_path / "hub") == []
    old(workspace.root / "cache" / STAMP, DAY + 1)
    assert tidy_daily(workspace, tmp_path / "hub") == [left]
