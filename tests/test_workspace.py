"""Artefacts are whole or not at all, versions are immutable, and processes do not tread on each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mlxrag.errors import BadInput, Damaged, Mismatch, NotFound
from mlxrag.workspace import (
    Workspace,
    artefacts,
    create,
    current,
    leftovers,
    lineage,
    names,
    open_workspace,
    remove,
    resolve,
    use,
    verify,
    write_json,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "ws")


def make(workspace: Workspace, name: str, text: str = "x", **more: object) -> str:
    with create(workspace, "runs", name, **more) as draft:  # type: ignore[arg-type]
        (draft.path / "a.txt").write_text(text)
        draft.note(scores={"f1": 0.5})
    assert draft.artefact is not None
    return draft.artefact.ref


def test_a_version_has_its_files_hashes_and_facts(workspace: Workspace) -> None:
    """The manifest says what is there and what it was made with."""
    ref = make(workspace, "r", settings={"temp": 0.1}, inputs=["datasets/d@abc"])
    found = resolve(workspace, "runs", "r")
    assert (ref, found.version) == ("runs/r@v1", "v1")
    assert found.manifest["files"]["a.txt"]["bytes"] == 1
    assert found.manifest["settings"] == {"temp": 0.1} and found.manifest["scores"] == {"f1": 0.5}
    verify(found)


def test_a_failed_block_leaves_nothing(workspace: Workspace) -> None:
    """An exception removes the draft; the name does not exist."""
    with pytest.raises(RuntimeError), create(workspace, "runs", "r") as draft:
        (draft.path / "a.txt").write_text("x")
        raise RuntimeError
    assert names(workspace, "runs") == [] and not list(workspace.root.glob("runs/r/.draft*"))


def test_a_killed_process_leaves_no_artefact_and_its_draft_is_found(workspace: Workspace) -> None:
    """SIGKILL in the middle of making: nothing resolves, and the clean-up sees the rest."""
    program = f"""
        import os, signal
        from mlxrag.workspace import create, open_workspace
        with create(open_workspace({str(workspace.root)!r}), "runs", "r") as draft:
            (draft.path / "a.txt").write_text("x" * 100)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(NotFound):
        resolve(workspace, "runs", "r")
    assert [size for _, size in leftovers(workspace)] == [100]


def test_use_moves_current_back_and_forth(workspace: Workspace) -> None:
    """A name alone is the newest version until `use` says otherwise; rolling back is the same command."""
    make(workspace, "r", "one")
    make(workspace, "r", "two")
    assert current(workspace, "runs", "r") == "v2"
    use(workspace, "runs", "r@v1")
    assert current(workspace, "runs", "r") == "v1"
    use(workspace, "runs", "r@v2")
    assert current(workspace, "runs", "r") == "v2"


def test_unknown_names_and_versions_say_the_nearest(workspace: Workspace) -> None:
    """A typo is met with the right word."""
    make(workspace, "evening")
    with pytest.raises(NotFound, match="did you mean 'evening'"):
        resolve(workspace, "runs", "evenin")
    with pytest.raises(NotFound, match="it has v1"):
        resolve(workspace, "runs", "evening@v7")
    with pytest.raises(BadInput, match="is no name"):
        resolve_or_make_bad(workspace)


def resolve_or_make_bad(workspace: Workspace) -> None:
    with create(workspace, "runs", "../escape"):
        pass


def test_the_same_content_hash_is_one_version(workspace: Workspace) -> None:
    """Making a version that is there keeps the first."""
    make(workspace, "d", "one", version="abc")
    make(workspace, "d", "two", version="abc")
    assert (resolve(workspace, "runs", "d@abc").path / "a.txt").read_text() == "one"


def test_what_others_were_made_from_is_not_removed_without_force(workspace: Workspace) -> None:
    """Lineage is followed both ways."""
    first = make(workspace, "base")
    second = make(workspace, "mid", inputs=[first])
    make(workspace, "top", inputs=[second, "datasets/gone@v1"])
    assert [a.ref for a in lineage(workspace, resolve(workspace, "runs", "top"))] == [second, first]
    with pytest.raises(Mismatch, match="runs/mid@v1"):
        remove(workspace, "runs", "base")
    remove(workspace, "runs", "base", force=True)
    assert names(workspace, "runs") == ["mid", "top"]


def test_damage_is_found(workspace: Workspace) -> None:
    """A changed byte or an unreadable manifest is named with what to do."""
    make(workspace, "r")
    found = resolve(workspace, "runs", "r")
    (found.path / "a.txt").write_text("y")
    with pytest.raises(Damaged, match=r"a\.txt"):
        verify(found)
    (found.path / "manifest.json").write_text("{")
    with pytest.raises(Damaged, match="make it again"):
        resolve(workspace, "runs", "r")


def _make_many(root: str) -> None:
    for _ in range(5):
        make(open_workspace(root), "r")


def test_two_processes_making_versions_of_one_name_get_different_numbers(workspace: Workspace) -> None:
    """Ten versions by two processes are v1 to v10."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_make_many, args=(str(workspace.root),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(a.version for a in artefacts(workspace, "runs", "r")) == sorted(f"v{i}" for i in range(1, 11))


def test_a_full_disk_is_one_sentence_and_keeps_nothing(workspace: Workspace) -> None:
    """ENOSPC while writing becomes BadInput."""
    with pytest.raises(BadInput, match="disk is full"), create(workspace, "runs", "r"):
        raise OSError(28, os.strerror(28))
    assert names(workspace, "runs") == []


def test_a_workspace_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """One sentence that says what to give instead."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--workspace"):
        open_workspace(tmp_path / "file")


def test_json_is_written_whole_and_without_nan(tmp_path: Path) -> None:
    """NaN is no JSON; a failed write leaves the old file."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1} and not list(tmp_path.glob(".a.json*"))
