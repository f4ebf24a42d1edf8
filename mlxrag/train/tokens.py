"""Training data -> rows of tokens, with which of them are to be learnt.

Four kinds of records: examples (ours), `{"messages": [...]}`, `{"prompt": ..., "completion": ...}` and
`{"text": ...}`.  Rule: the tokens before an answer are exactly those `ask` would give the model at that point, so what
is trained is what is served.  Rule: an answer keeps its stop token; what is too long loses its beginning, and says so.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlxrag.data.example import BadRow, Example, from_row
from mlxrag.errors import BadInput
from mlxrag.rag.answer import REFUSAL, messages
from mlxrag.rag.document import Hit, Passage
from mlxrag.settings import Answering, Training


class Encodes(Protocol):
    """What is needed of a tokenizer."""

    eos_ids: frozenset[int]

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]: ...

    def encode_prompt(self, text: str) -> list[int]: ...

    def prompt(self, messages: Sequence[Mapping[str, Any]], **render_args: Any) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one training row.

    Attributes:
        tokens: ids `(n,)` int32.
        learn: `(n,)` bool, which tokens the model is to predict.
        group: equal for rows over the same passages; 0 for rows without.
        cut: tokens that were left out at the beginning to make it fit.
    """

    tokens: np.ndarray
    learn: np.ndarray
    group: int = 0
    cut: int = 0


Record = Example | Mapping[str, Any]


def read_records(path: Path) -> Sequence[Record]:
    """Open a .jsonl file of records, streamed from disk and found by position.

    Raises:
        BadInput: no such file, or nothing in it.
    """
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file; training data is a dataset, a .jsonl file or a directory with train.jsonl"
        )
    lines = Lines(path)
    if not len(lines):
        raise BadInput(f"{path}: holds no records")
    return lines


class Lines(Sequence[Record]):
    """Lines of a JSONL file, read when asked for; memory is 8 bytes a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        starts, position = [], 0
        with path.open("rb") as handle:
            for line in handle:
                if line.strip():
                    starts.append(position)
                position += len(line)
        self._starts = np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, position: Any) -> Any:
        """Return the record of a line; a line that is no JSON object is `{"": reason}`."""
        with self.path.open("rb") as handle:
            handle.seek(int(self._starts[position]))
            return _record(handle.readline())

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as handle:
            yield from (_record(line) for line in handle if line.strip())


def rows(
    records: Sequence[Record], tokenizer: Encodes, training: Training, answering: Answering
) -> Iterator[Row | BadRow]:
    """Yield the rows of records, in order; a record may give several rows, or a reason why it gives none.

    Args:
        records: examples or the other kinds; those with distractors are looked up by position.
        tokenizer: of the base.
        training: `mask_prompt`, `max_seq_length`, `distractors`, `train_seed`.
        answering: the instruction that `ask` would give.
    """
    for number, record in enumerate(records):
        place = record.id if isinstance(record, Example) else f"{getattr(records, 'path', 'record')}:{number + 1}"
        try:
            yield from _of_record(record, number, records, tokenizer, training, answering)
        except BadInput as error:
            yield BadRow(place, str(error))


def conversation(
    example: Example, answering: Answering, others: Sequence[Passage] = (), seed: int = 0
) -> list[dict[str, str]]:
    """Return an example as messages: the prompt that `ask` would give and the answer to learn.

    Args:
        example: the question, its passages and answers.
        answering: the instruction.
        others: passages that do not answer, mixed among the right ones in an order that depends on the passages only.
        seed: changes that order.
    """
    shown = [*example.passages, *others]
    if others:
        random.Random(f"{seed} {_group(example)}").shuffle(shown)
    hits = [Hit(passage, 1.0, "example", rank) for rank, passage in enumerate(shown, 1)]
    asked = messages(example.question, hits, answering, example.history)
    return [*asked, {"role": "assistant", "content": answer_text(example, shown)}]


def answer_text(example: Example, shown: Sequence[Passage]) -> str:
    """Return what the model should say: the answer and the passages that hold it, or that none does.

    Cited are the example's passages that hold the answer literally; if none does, all of the example's passages.
    """
    if not example.answerable or not example.answers:
        return REFUSAL
    answer = example.answers[0]
    right = {passage.id for passage in example.passages}
    holding = [n for n, p in enumerate(shown, 1) if p.id in right and answer.casefold() in p.text.casefold()]
    cited = holding or [n for n, p in enumerate(shown, 1) if p.id in right]
    return f"{answer} {''.join(f'[{n}]' for n in cited[:3])}".rstrip()


def encode_chat(
    tokenizer: Encodes, messages: Sequence[Mapping[str, Any]], **template_args: Any
) -> list[tuple[list[int], list[bool]]]:
    """Return the tokens of a conversation and which of them the assistant said, its stop tokens included.

    One row where the model's layout of a conversation only grows from turn to turn; otherwise (layouts that drop the
    thinking of earlier turns) one row for each answer, so that every prompt is one the model would really get.

    Raises:
        BadInput: the assistant says nothing, or the layout refuses the conversation.
    """
    pieces: list[tuple[list[int], list[int]]] = []
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = list(tokenizer.prompt(messages[:i], **template_args)) if i else []
        whole = tokenizer.prompt(messages[: i + 1], add_generation_prompt=False, **template_args)
        if whole[: len(before)] == before:
            said = whole[len(before) :]
        else:
            said = tokenizer.encode(str(message.get("content") or ""))
        pieces.append((before, _stopped(said, tokenizer.eos_ids)))
    if not pieces:
        raise BadInput("the assistant says nothing in this conversation")
    ids: list[int] = []
    learn: list[bool] = []
    for before, said in pieces:
        if before[: len(ids)] != ids:
            return [([*b, *s], [False] * len(b) + [True] * len(s)) for b, s in pieces]
        learn += [False] * (len(before) - len(ids)) + [True] * len(said)
        ids = [*before, *said]
    return [(ids, learn)]


def _of_record(
    record: Record, number: int, records: Sequence[Record], tokenizer: Encodes, training: Training, answering: Answering
) -> Iterator[Row]:
    limit = training.max_seq_length
    if isinstance(record, Mapping) and "question" in record and "answers" in record:
        try:
            record = from_row(record)
        except (KeyError, TypeError) as error:
            raise BadInput(f"is not a whole example: {error}") from error
    if isinstance(record, Example):
        others = _distractors(record, number, records, training)
        while True:
            (ids, learn), *_ = encode_chat(tokenizer, conversation(record, answering, others, training.train_seed))
            if len(ids) <= limit or not others:
                break
            others = others[:-1]
        yield fitted(ids, learn, training, _group(record, others))
        return
    if "" in record:
        raise BadInput(record[""])
    if "messages" in record:
        chat, tools = record["messages"], record.get("tools")
    elif "prompt" in record and "completion" in record:
        chat = [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["completion"]},
        ]
        tools = record.get("tools")
    elif isinstance(record.get("text"), str):
        ids = _stopped([*tokenizer.encode_prompt(record["text"])], tokenizer.eos_ids)
        for start in range(0, len(ids) - 1, limit):
            piece = ids[start : start + limit]
            yield fitted(piece, [start > 0] + [True] * (len(piece) - 1), training)
        return
    else:
        raise BadInput(
            f"has none of messages, prompt and completion, text, question; only {', '.join(record) or 'nothing'}"
        )
    if not isinstance(chat, list) or not all(isinstance(m, dict) and "role" in m for m in chat):
        raise BadInput("messages must be a list of objects with role and content")
    for ids, learn in encode_chat(tokenizer, chat, **({"tools": tools} if tools else {})):
        yield fitted(ids, learn, training)


def fitted(ids: list[int], learn: list[bool], training: Training, group: int = 0) -> Row:
    """Return a row of at most `max_seq_length` tokens; what does not fit is left out at the beginning.

    Raises:
        BadInput: the last answer alone is longer than that.
    """
    if not training.mask_prompt:
        learn = [True] * len(ids)
    # The first token has nothing before it to be predicted from.
    learn = [False, *learn[1:]]
    cut = max(0, len(ids) - training.max_seq_length)
    if cut and learn[cut]:
        raise BadInput(
            f"its answer is longer than {training.max_seq_length} tokens; raise --max-seq-length to {len(ids)}"
        )
    if not any(learn[cut + 1 :]):
        raise BadInput("there is nothing to learn in it")
    return Row(np.array(ids[cut:], np.int32), np.array(learn[cut:], bool), group, cut)


def _stopped(ids: Sequence[int], stops: frozenset[int]) -> list[int]:
    """End ids with their first stop token, adding one where there is none."""
    for i, token in enumerate(ids):
        if token in stops:
            return list(ids[: i + 1])
    return [*ids, min(stops)] if stops else list(ids)


def _distractors(example: Example, number: int, records: Sequence[Record], training: Training) -> list[Passage]:
    """Passages of other examples, the same for every example over the same passages."""
    rng = random.Random(f"{training.train_seed} {_group(example)}")
    taken = {passage.text for passage in example.passages}
    found: list[Passage] = []
    for _ in range(training.distractors * 8):
        if len(found) == training.distractors:
            break
        other = records[rng.randrange(len(records))]
        if isinstance(other, Mapping):
            other = from_row(other) if "passages" in other else example
        for passage in other.passages[:1]:
            if passage.text not in taken:
                taken.add(passage.text)
                found.append(passage)
    return found


def _group(example: Example, others: Sequence[Passage] = ()) -> int:
    key = "\0".join(passage.id for passage in (*example.passages, *others))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") if key else 0


def _record(line: bytes) -> Record:
    try:
        value = json.loads(line)
    except ValueError as error:
        return {"": f"is not JSON: {error}"}
    return value if isinstance(value, dict) else {"": "is not a JSON object"}
