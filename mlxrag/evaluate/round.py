"""A round of voting: opened from runs, served on this machine, finished into an artefact of scores."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mlxrag.data.journal import Journal
from mlxrag.errors import BadInput, Mismatch
from mlxrag.evaluate import votes
from mlxrag.evaluate.evaluate import SCORES, examples_of
from mlxrag.evaluate.human import scores_of, summarize, to_json
from mlxrag.evaluate.run import read_rows
from mlxrag.evaluate.score import to_row
from mlxrag.evaluate.votes import SCALES, Session, pair_up
from mlxrag.workspace import Artefact, Workspace, create, write_json


def open_round(
    workspace: Workspace,
    runs: Sequence[Artefact],
    scales: Mapping[str, str],
    *,
    seed: int = 0,
    limit: int | None = None,
) -> Session:
    """Open a round on one run, or on two against each other; the same runs and seed find the votes again.

    Raises:
        Mismatch: two runs of other datasets, or no question that both answered.
    """
    if len({str(r.manifest.get("dataset", {}).get("ref")) for r in runs}) > 1:
        raise Mismatch(
            f"{' and '.join(r.ref for r in runs)} were asked different datasets; evaluate both on the same version"
        )
    if len(runs) == 2 and runs[0].ref == runs[1].ref:
        raise Mismatch(f"{runs[0].ref} would be compared with itself")
    names = tuple(f"{r.name}@{r.version}" for r in runs)
    answers = [
        (name, {row.example_id: row.answer for row in read_rows(r.path)}) for name, r in zip(names, runs, strict=True)
    ]
    items = pair_up(examples_of(workspace, runs[0]), answers)
    if limit is not None:
        chosen = sorted(items, key=lambda i: hashlib.sha256(f"{seed}\0{i}".encode()).digest())[:limit]
        items = {i: items[i] for i in items if i in set(chosen)}
    key = hashlib.sha256("\0".join([*(r.ref for r in runs), str(seed), str(limit), *scales]).encode()).hexdigest()[:16]
    path = workspace.root / "runs" / runs[0].name / f".votes-{key}" / "votes.db"
    return Session(items, names, dict(scales) if len(runs) == 1 else {}, path, seed)


def serve(session: Session, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted.

    Args:
        session: the round.
        port: on the loopback interface; 0 takes a free one.
        ready: called with the address before the first request.

    Raises:
        BadInput: the port is taken.
    """
    import uvicorn

    from mlxrag.evaluate.vote_page import build

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise BadInput(f"port {port} is taken; give another --port, or 0 for a free one") from error
    ready(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    server = uvicorn.Server(uvicorn.Config(build(session), log_level="warning", lifespan="off"))
    server.run(sockets=[listener])


def finish_round(workspace: Workspace, session: Session, runs: Sequence[Artefact]) -> tuple[Artefact, dict[str, Any]]:
    """Write the votes that stand as a run, `<first run>-votes`: votes, scores and a summary; the round stays open.

    Raises:
        BadInput: nobody has voted.
    """
    found = list(votes.votes(session.path))
    if not found:
        raise BadInput("nobody has voted yet; open the page with the same command without --finish")
    summary = to_json(summarize(found, session.items, session.runs))
    settings = {"seed": session.seed, "scales": dict(session.scales)}
    with create(workspace, "runs", f"{runs[0].name}-votes", inputs=[r.ref for r in runs], settings=settings) as draft:
        with Journal(draft.path / "votes.jsonl", keep=1 << 30) as journal:
            for vote in found:
                journal.add(asdict(vote))
        with Journal(draft.path / SCORES, keep=1 << 30) as journal:
            for score in scores_of(found, session.runs):
                journal.add(to_row(score))
        write_json(draft.path / "report.json", summary)
        draft.note(
            what="votes",
            runs=list(session.runs),
            dataset=dict(runs[0].manifest.get("dataset", {})),
            votes=summary["votes"],
        )
    assert draft.artefact is not None
    return draft.artefact, summary


def read_scales(given: Iterable[str]) -> dict[str, str]:
    """Read `NAME=RUBRIC` scales; the usual three if there are none.

    Raises:
        BadInput: not of that form.
    """
    found = {}
    for text in given:
        name, sign, rubric = text.partition("=")
        if not sign or not name.strip().isidentifier():
            raise BadInput(f"--scale {text!r}: write NAME=RUBRIC, the name in letters")
        found[name.strip()] = rubric.strip()
    return found or dict(SCALES)
