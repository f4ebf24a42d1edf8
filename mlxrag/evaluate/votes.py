"""What people vote on and what they said: blind items in a seeded order, votes in SQLite, saved one by one.

Rules: a vote is on disk before the next item is shown; nothing is overwritten, undoing adds a row; who sees which
side first, and in which order, follows from the seed and the rater's name alone, so a reload changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrag.data.example import Example
from mlxrag.errors import Mismatch
from mlxrag.rag.answer import Answer

CHOICES = ("left", "right", "tie", "bad")
SCALES: dict[str, str] = {
    "right": "Is the answer right? 1: wrong. 3: partly right, or vague. 5: right and exact.",
    "supported": "Do the cited passages say so? 1: no. 3: in part. 5: every statement is backed.",
    "useful": "Would it help the person who asked? 1: no. 3: after a look at the passages. 5: as it is.",
}


@dataclass(frozen=True, slots=True)
class Item:
    """What is voted on: one question, and one or two answers.

    Attributes:
        id: of the example.
        example: the question with its gold.
        answers: run name -> answer, one or two.
    """

    id: str
    example: Example
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote.

    Attributes:
        item: id of the example.
        rater: who voted.
        choice: the run that was better, `tie` or `bad`; empty for a vote on scales.
        scales: scale -> 1 to 5; empty for a choice.
        left: the run that stood on the left.
        note: what the rater wrote.
        milliseconds: from showing to voting.
        at: seconds since 1970.
    """

    item: str
    rater: str
    choice: str
    scales: Mapping[str, int]
    left: str
    note: str
    milliseconds: int
    at: float


@dataclass(frozen=True, slots=True)
class Session:
    """A round of voting.

    Attributes:
        items: what is voted on.
        runs: names of the one or two runs.
        scales: scale -> rubric, for one run.
        path: the SQLite file.
        seed: of the orders and sides.
    """

    items: Mapping[str, Item]
    runs: tuple[str, ...]
    scales: Mapping[str, str]
    path: Path
    seed: int


def pair_up(
    examples: Mapping[str, Example], rows: Sequence[tuple[str, Mapping[str, Answer]]], least: int = 1
) -> dict[str, Item]:
    """Return the items that every run has an answer to.

    Args:
        examples: id -> example.
        rows: (run name, example id -> answer) for one or two runs.
        least: fewest items that make a session.

    Raises:
        Mismatch: the runs share fewer questions.
    """
    shared = [i for i in examples if all(i in answers and not answers[i].failure for _, answers in rows)]
    if len(shared) < least:
        raise Mismatch("the runs share no question that both answered; evaluate both on the same version of a dataset")
    return {i: Item(i, examples[i], {name: answers[i] for name, answers in rows}) for i in shared}


def order(session: Session, rater: str) -> list[str]:
    """Return the items in the order this rater sees them."""
    return sorted(session.items, key=lambda i: _drawn(session.seed, rater, i))


def sides(session: Session, rater: str, item: str) -> tuple[str, ...]:
    """Return the runs as this rater sees them, left first: in every block of two items each run is left once."""
    if len(session.runs) < 2:
        return session.runs
    ordered = order(session, rater)
    place = ordered.index(item)
    block = ordered[place - place % 2]
    first = _drawn(session.seed, rater, f"side {block}")[0] % 2
    return session.runs if (first + place) % 2 == 0 else session.runs[::-1]


def current(session: Session, rater: str) -> str | None:
    """Return the item to show: the first without a vote; those that were skipped come last. None when all are done."""
    with _open(session.path) as db:
        done = {row[0] for row in db.execute("SELECT item FROM live WHERE rater = ? AND kind = 'vote'", (rater,))}
        skipped = {row[0] for row in db.execute("SELECT item FROM live WHERE rater = ? AND kind = 'skip'", (rater,))}
    left = [i for i in order(session, rater) if i not in done]
    return next((i for i in left if i not in skipped), left[0] if left else None)


def progress(session: Session, rater: str) -> int:
    """Return how many items this rater has voted on."""
    with _open(session.path) as db:
        return int(db.execute("SELECT count(*) FROM live WHERE rater = ? AND kind = 'vote'", (rater,)).fetchone()[0])


def raters(session: Session) -> dict[str, int]:
    """Return who has voted, with how many votes."""
    with _open(session.path) as db:
        found = db.execute("SELECT rater, count(*) FROM live WHERE kind = 'vote' GROUP BY rater ORDER BY rater")
        return {str(rater): int(count) for rater, count in found}


def vote(
    session: Session, rater: str, item: str, choice: str, scales: Mapping[str, int], note: str, milliseconds: int
) -> None:
    """Save a vote; `choice` is a side, `tie` or `bad`.  A second vote on an item replaces the first."""
    shown = sides(session, rater, item)
    chosen = {"left": shown[0], "right": shown[-1]}.get(choice, choice)
    row = {"choice": chosen, "scales": dict(scales), "left": shown[0], "note": note, "milliseconds": milliseconds}
    _add(session, rater, item, "vote", row)


def skip(session: Session, rater: str, item: str) -> None:
    """Put an item at the end of this rater's order."""
    _add(session, rater, item, "skip", {})


def undo(session: Session, rater: str) -> str | None:
    """Take back this rater's last vote or skip, and return its item; None if there is none."""
    with _open(session.path) as db:
        found = db.execute("SELECT id, item FROM live WHERE rater = ? ORDER BY id DESC LIMIT 1", (rater,)).fetchone()
        if found is None:
            return None
        db.execute(
            "INSERT INTO said(rater, item, kind, row, at) VALUES(?, ?, 'undo', ?, ?)",
            (rater, found[1], str(found[0]), time.time()),
        )
        return str(found[1])


def votes(path: Path) -> Iterator[Vote]:
    """Yield the votes that stand, in the order they were given."""
    if not path.is_file():
        return
    with _open(path) as db:
        for item, rater, text, at in db.execute(
            "SELECT item, rater, row, at FROM live WHERE kind = 'vote' ORDER BY id"
        ).fetchall():
            row = json.loads(text)
            yield Vote(item, rater, row["choice"], row["scales"], row["left"], row["note"], row["milliseconds"], at)


def _add(session: Session, rater: str, item: str, kind: str, row: Mapping[str, Any]) -> None:
    with _open(session.path) as db:
        db.execute(
            "INSERT INTO said(rater, item, kind, row, at) VALUES(?, ?, ?, ?, ?)",
            (rater, item, kind, json.dumps(row), time.time()),
        )


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one transaction; `synchronous = FULL` puts it on the disk before the answer is sent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        with db:
            db.executescript(_TABLES)
            yield db


def _drawn(seed: int, rater: str, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{rater}\0{text}".encode()).digest()


# `live` is what stands: not undone, and the last of a rater on an item (a vote after a skip counts, and the reverse).
_TABLES = """
CREATE TABLE IF NOT EXISTS said(id INTEGER PRIMARY KEY, rater TEXT, item TEXT, kind TEXT, row TEXT, at REAL);
CREATE VIEW IF NOT EXISTS live AS SELECT * FROM said a WHERE kind IN ('vote', 'skip')
  AND NOT EXISTS (SELECT 1 FROM said u WHERE u.kind = 'undo' AND u.row = CAST(a.id AS TEXT))
  AND NOT EXISTS (SELECT 1 FROM said b WHERE b.rater = a.rater AND b.item = a.item AND b.id > a.id AND b.kind IN ('vote', 'skip')
    AND NOT EXISTS (SELECT 1 FROM said v WHERE v.kind = 'undo' AND v.row = CAST(b.id AS TEXT)));
"""
