"""Sheets -> token arrays of few fixed shapes.

A row is the passages of one sheet and, beside them, all conversations about them. Each conversation sees the passages
and itself, at the positions it would have alone: one pass over the passages pays for ten questions, and the result is
exactly that of ten single prompts.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .sheet import Sheet, Turn, ask, layout, reply
from .tokenizer import ASSISTANT, END, USER

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """Tokens of the passages, tokens of the conversations, rows in a batch."""

    passages: int
    talks: int
    rows: int


@dataclass(frozen=True)
class Row:
    """One sheet in tokens; the lists about conversations run in parallel."""

    passages: list[int]
    talks: list[int]
    owner: list[int]
    """Which conversation a token belongs to."""
    offset: list[int]
    """Its position within that conversation."""
    target: list[int]
    """The token that follows, or -1 at the end."""
    answer: list[bool]
    """Whether what follows is the reader's to write."""
    pointer: list[int]
    """Where among the passages' tokens that which follows is copied from, or -1."""


def _tokens_at(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    return [i for i, (a, b) in enumerate(spans) if a < end and b > start]


def tokens(tokenizer: Tokenizer, sheet: Sheet, shapes: Sequence[Shape]) -> tuple[Row, int] | None:
    """Tokenize `sheet` for the first of `shapes` that holds its passages, with as many conversations as fit.

    Returns:
        the row and the index of its shape; None where the passages are too long for all.
    """
    user, assistant, end = (tokenizer.token_to_id(t) for t in (USER, ASSISTANT, END))
    text, _, starts = layout(sheet.pieces)
    coded = tokenizer.encode(text)
    spans = [(0, 0), *coded.offsets]
    row = Row([user, *coded.ids], [], [], [], [], [], [])
    index = next((i for i, shape in enumerate(shapes) if len(row.passages) <= shape.passages), None)
    if index is None or not sheet.talks:
        return None

    def where(turn: Turn, ids: list[int]) -> list[int]:
        """Pointers for each token of an answer: what it is copied from, and for the number the end of that span."""
        if turn.piece is None:
            return [0] + [-1] * (len(ids) - 1)
        found = [-1] * len(ids)
        if turn.start >= 0:
            begin = starts[turn.piece] + turn.start
            source = _tokens_at(spans, begin, begin + len(turn.answer))
            if len(source) == len(ids) - 4:  # " [", the number, "]" and the end follow the copy
                found[: len(source)] = source
                found[-3] = source[-1]
        return found

    for n, talk in enumerate(sheet.talks):
        ids, answers, points = [], [], []  # type: ignore[var-annotated]
        for i, turn in enumerate(talk):
            question = tokenizer.encode(ask(turn.question, i == 0)).ids
            head = question if i == 0 else [user, *question]
            said = [*tokenizer.encode(" " + reply(turn)).ids, end]
            ids += [*head, assistant, *said]
            answers += [False] * (len(head) + 1) + [True] * len(said)
            points += [-1] * (len(head) + 1) + where(turn, said)
        if len(row.talks) + len(ids) > shapes[index].talks:
            continue
        row.talks.extend(ids)
        row.owner.extend([n] * len(ids))
        row.offset.extend(range(len(ids)))
        row.target.extend([*ids[1:], -1])
        row.answer.extend([*answers[1:], False])
        row.pointer.extend([*points[1:], -1])
    return row, index


@dataclass(frozen=True)
class Batch:
    """Arrays of one shape; `b` rows, `c` tokens of passages, `t` tokens of conversations."""

    passages: Ints
    """`(b, c)`"""
    length: Ints
    """`(b,)`, tokens of the passages that are not padding."""
    talks: Ints
    """`(b, t)`"""
    owner: Ints
    """`(b, t)`, -1 for padding."""
    offset: Ints
    """`(b, t)`"""
    chosen: Ints
    """`(n,)`, flat positions in the joined `(b, c + t)` whose next token is predicted."""
    target: Ints
    """`(n,)`"""
    weight: NDArray[np.float32]
    """`(n,)`; 0 for padding."""
    pointing: Ints
    """`(m,)`, flat positions in `(b, t)` whose next token is copied; padded by repeating."""
    pointer: Ints
    """`(m,)`, the position among the passages it is copied from; -1 for padding."""


def batch(rows: Sequence[Row], shape: Shape, r: random.Random, context_weight: float, context_share: float) -> Batch:
    """Pad `rows` to `shape` and choose which positions are learned from: all of the answers, a share of the rest."""
    b, c, t = len(rows), shape.passages, shape.talks
    n, m = int(b * (c + t) * 0.22), int(b * t * 0.36)
    passages, talks = np.zeros((b, c), np.int64), np.zeros((b, t), np.int64)
    owner, offset = np.full((b, t), -1, np.int64), np.zeros((b, t), np.int64)
    length = np.array([len(row.passages) for row in rows])
    answers, others, points = [], [], []
    for i, row in enumerate(rows):
        k = len(row.talks)
        passages[i, : len(row.passages)] = row.passages
        talks[i, :k], owner[i, :k], offset[i, :k] = row.talks, row.owner, row.offset
        base = i * (c + t)
        for j in range(k):
            if row.target[j] >= 0:
                (answers if row.answer[j] else others).append((base + c + j, row.target[j]))
            if row.pointer[j] >= 0:
                points.append((i * t + j, row.pointer[j]))
        others += [(base + j, row.passages[j + 1]) for j in range(len(row.passages) - 1) if r.random() < context_share]
    r.shuffle(answers)
    r.shuffle(others)
    answers = answers[:n]
    others = others[: n - len(answers)]
    picked = [*answers, *others] + [(0, 0)] * (n - len(answers) - len(others))
    weight = np.array(
        [1.0] * len(answers) + [context_weight] * len(others) + [0.0] * (n - len(answers) - len(others)), np.float32
    )
    r.shuffle(points)
    points = points[:m] + [(0, -1)] * (m - len(points[:m]))
    chosen, pointing = np.array(picked, np.int64), np.array(points, np.int64)
    return Batch(
        passages, length, talks, owner, offset, chosen[:, 0], chosen[:, 1], weight, pointing[:, 0], pointing[:, 1]
    )


def batches(
    sheets: Iterator[Sheet],
    tokenizer: Tokenizer,
    shapes: Sequence[Shape],
    r: random.Random,
    context_weight: float,
    context_share: float,
) -> Iterator[Batch]:
    """Sort sheets into the smallest of `shapes` that holds them; yield a batch whenever one is full."""
    waiting: list[list[Row]] = [[] for _ in shapes]
    for sheet in sheets:
        coded = tokens(tokenizer, sheet, shapes)
        if coded is None:
            continue
        row, i = coded
        waiting[i].append(row)
        if len(waiting[i]) == shapes[i].rows:
            yield batch(waiting[i], shapes[i], r, context_weight, context_share)
            waiting[i] = []
