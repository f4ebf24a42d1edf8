"""Documents -> questions -> splits -> more questions -> answers -> report, killed again and again: the end is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxrag.data.augment import augment
from mlxrag.data.dataset import Dataset, freeze, open_dataset, split_by_document
from mlxrag.data.journal import Journal
from mlxrag.data.make import finish, make, spool
from mlxrag.evaluate.evaluate import evaluate, read_scores
from mlxrag.evaluate.run import read_rows
from mlxrag.rag.system import open_system
from mlxrag.settings import Making
from mlxrag.workspace import Artefact, Workspace, artefacts, resolve, verify
from tests.evaluate import world as w

ROOT = Path(__file__).resolve().parents[2]
MAKING = Making(round_trip="retrieval", makers=("amount", "time", "reason"), found_within=3)
SHARES = {"train": 0.5, "test": 0.5}


def chain(root: Path, name: str) -> Artefact:
    """Go through everything once, as the commands do."""
    ws = Workspace(root / "ws")
    done: list[Artefact] = []
    with open_system(w.settings(root), ws) as system:
        folder = spool(ws, f"{name}-made", system, MAKING)
        list(make(system, folder, MAKING))
        made, _ = finish(ws, f"{name}-made", system, folder, MAKING, None)
        parts = freeze(ws, f"{name}-parts", split_by_document(made, SHARES), inputs=[made.ref])
        more = freeze(ws, f"{name}-more", augmented(parts), inputs=[parts.ref])
        examples = {e.id: e for e in more.split()}
        asked = evaluate(
            system, more, examples, ws, f"{name}-run", selection={"split": "all"}, finished=lambda a, r: done.append(a)
        )
        list(asked)
    return done[0]


def augmented(parts: Dataset) -> Iterator[tuple[str, Any]]:
    yield from parts.splits()
    yield from (("train", a.example) for a in augment(parts.split("train"), ("case", "forms")) if not a.refused)


@contextmanager
def counting(last: int) -> Iterator[list[int]]:
    """Count what is put on the disk (rows of journals, fsyncs, renames), and die by SIGKILL at the one numbered `last`."""
    count = [0]

    def counted(real: Any) -> Any:
        def wrapper(*given: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        return wrapper

    patch = pytest.MonkeyPatch()
    for owner, method in ((os, "fsync"), (os, "replace"), (os, "rename"), (Journal, "add")):
        patch.setattr(owner, method, counted(getattr(owner, method)))
    yield count
    patch.undo()


def content(ws: Workspace, name: str) -> Any:
    """What the chain came to: versions of the datasets, texts of the answers, scores."""
    versions = [open_dataset(ws, f"{name}-{part}").version for part in ("made", "parts", "more")]
    run = resolve(ws, "runs", f"{name}-run")
    scores = {(s.example_id, s.measure): s.value for s in read_scores(run.path)}
    return versions, {row.example_id: row.answer.text for row in read_rows(run.path)}, scores


def test_a_chain_that_is_killed_again_and_again_comes_to_the_same_end(tmp_path: Path) -> None:
    """SIGKILL at points all through it, before a rename and between rows: the same command goes on, nothing is lost or doubled."""
    ws = w.make_world(tmp_path)
    with counting(0) as count:
        chain(tmp_path, "alone")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from tests.evaluate.test_chain import chain, counting\n"
        "with counting(int(sys.argv[3])):\n    chain(Path(sys.argv[2]), 'killed')\n"
    )
    points = [max(1, round(count[0] * share)) for share in (0.03, 0.2, 0.45, 0.7, 0.95)]
    for last in (*points, 0):
        command = [sys.executable, "-c", code, str(ROOT), str(tmp_path), str(last)]
        ended = subprocess.run(command, cwd=ROOT, check=False).returncode
        assert ended in ({0} if last == 0 else {0, -signal.SIGKILL})
    assert content(ws, "killed") == content(ws, "alone")
    for artefact in (*artefacts(ws, "datasets"), *artefacts(ws, "runs")):
        verify(artefact)
    assert not list(ws.root.rglob(".make-*")) and not list(ws.root.rglob(".run-*"))
