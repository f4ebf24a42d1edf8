"""Validation on a task: answer questions with the network as it is, and score the answers.

Exact match and F1 of words are SQuAD's; citations are taken off first.
Source: Rajpurkar et al., arXiv:1606.05250, and its `evaluate-v1.1.py` for the normalization.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mlxrag.data.example import Example, from_row
from mlxrag.errors import BadInput
from mlxrag.model.batch import complete_batch
from mlxrag.model.generate import Request
from mlxrag.model.load import Model
from mlxrag.rag.answer import REFUSAL
from mlxrag.settings import Answering, Sampling
from mlxrag.train.tokens import Record, conversation


def answer_measures(
    model: Model, records: Sequence[Record], answering: Answering, many: int, max_tokens: int = 48
) -> Callable[[], Mapping[str, float]]:
    """Return a function that answers up to `many` validation questions greedily and gives the mean scores.

    Args:
        model: its network is used as it is when the function is called.
        records: examples, chats or completions, taken evenly over their order.
        answering: the instruction.
        many: most questions.
        max_tokens: longest answer.

    Returns:
        a function that gives `exact_match` and `f1`, from 0 to 1.

    Raises:
        BadInput: no record has a question and an answer.
    """
    step = max(1, len(records) // many)
    asked: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    for record in (records[i] for i in range(0, len(records), step)):
        found = _question(record, answering)
        if found is not None and len(asked) < many:
            messages, right = found
            prompt = tuple(model.tokenizer.prompt(messages))
            if len(prompt) + max_tokens <= model.context:
                asked.append((prompt, right))
    if not asked:
        raise BadInput(
            "--val-questions: the validation data holds no question with an answer that fits the model's context"
        )
    requests = [Request(str(i), prompt, max_tokens) for i, (prompt, _) in enumerate(asked)]

    def measures() -> Mapping[str, float]:
        exact = f1 = 0.0
        for done in complete_batch(model, requests, Sampling(temp=0.0, max_tokens=max_tokens)):
            said, right = plain(done.text), asked[int(done.id)][1]
            exact += max(float(said == plain(r)) for r in right)
            f1 += max(word_f1(said, plain(r)) for r in right)
        return {"exact_match": exact / len(asked), "f1": f1 / len(asked)}

    return measures


def plain(text: str) -> str:
    """Return a text without citations, case, punctuation, articles and extra spaces.

    Example:
        >>> plain("The  Office, in Bern. [1][2]")
        'office in bern'
    """
    text = re.sub(r"\[[\d,;\s-]+\]", " ", text).casefold()
    text = "".join(c for c in text if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(said: str, right: str) -> float:
    """Return the harmonic mean of precision and recall of words, 0 to 1."""
    a, b = said.split(), right.split()
    same = sum((Counter(a) & Counter(b)).values())
    if not a or not b:
        return float(a == b)
    return 2 * same / (len(a) + len(b))


def _question(record: Record, answering: Answering) -> tuple[list[dict[str, str]], tuple[str, ...]] | None:
    """The prompt and the right answers of a record, or None where it has no question."""
    if isinstance(record, Mapping):
        if "question" in record and "passages" in record:
            record = from_row(record)
        elif "prompt" in record and "completion" in record:
            return [{"role": "user", "content": str(record["prompt"])}], (str(record["completion"]),)
        elif isinstance(record.get("messages"), list) and record["messages"][-1].get("role") == "assistant":
            return list(record["messages"][:-1]), (str(record["messages"][-1]["content"]),)
    if not isinstance(record, Example):
        return None
    right = record.answers if record.answerable and record.answers else (REFUSAL,)
    return conversation(record, answering)[:-1], right
