"""A follow-up question -> a question that stands alone, to search with.

"And the second year?" finds nothing by itself.  A model that follows instructions rewrites it; for a
small reader that only answers from passages, and for models without a chat template, a rule does: a
question that leans on what was said before is searched for together with the question before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxrag.model.generate import Request, complete
from mlxrag.model.load import READER, Model
from mlxrag.rag.answer import Turn
from mlxrag.settings import Sampling

# What makes a question lean on the one before: how it begins, or a word that points back.
BEGINS = re.compile(r"^\s*(and|or|but|so|then|what about|how about|what else|why|also|in that case)\b", re.IGNORECASE)
POINTS = re.compile(
    r"\b(it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|there|then|one|ones|same|other|another)\b",
    re.IGNORECASE,
)
INSTRUCTION = (
    "Rewrite the last question so that it can be understood without the conversation: put names in place of words "
    "that point back. Reply with the question only."
)


def standalone(question: str, history: Sequence[Turn], model: Model) -> str:
    """Return a question that says by itself what `question` means after the conversation.

    Args:
        question: the follow-up.
        history: earlier turns, oldest first.
        model: what may rewrite it; its advice `follow_up` (`"rule"` or `"model"`) decides, else a model with a
            chat template that is not the bundled reader rewrites.
    """
    if not history:
        return question
    by_model = model.tokenizer.chat_template is not None and model.name != READER
    how = model.advice.get("follow_up", "model" if by_model else "rule")
    return by_asking(question, history, model) if how == "model" else by_rule(question, history)


def by_rule(question: str, history: Sequence[Turn]) -> str:
    """Put the question before it in front of a question that leans on it.

    Example:
        >>> by_rule("And on Sundays?", [("When does the shop open?", "At nine [1].")])
        'When does the shop open? And on Sundays?'
        >>> by_rule("Who wrote the manual?", [("When does the shop open?", "At nine [1].")])
        'Who wrote the manual?'
    """
    if len(question.split()) > 3 and not BEGINS.search(question) and not POINTS.search(question):
        return question
    earlier = plain_question(history[-1][0])
    if len(history) > 1 and len(earlier.split()) <= 3:
        earlier = f"{plain_question(history[-2][0])} {earlier}"
    return f"{earlier} {question}"


def by_asking(question: str, history: Sequence[Turn], model: Model) -> str:
    """Let the model rewrite the question; what it says is not used where it is empty or no single line."""
    turns = [f"User: {plain_question(said)}\nAssistant: {answered}" for said, answered in history[-3:]]
    text = "\n".join([*turns, f"Last question: {question}"])
    prompt = model.tokenizer.prompt(
        [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}], enable_thinking=False
    )
    if len(prompt) + 64 > model.context:
        return by_rule(question, history)
    done = complete(model, Request("", tuple(prompt), 64), Sampling())
    lines = [line.strip().strip('"') for line in done.text.strip().splitlines() if line.strip()]
    # A rewrite that ran into the limit or rambles is worse than the rule.
    if done.finish_reason != "stop" or len(lines) != 1 or not lines[0]:
        return by_rule(question, history)
    return lines[0]


def plain_question(said: str) -> str:
    """Return the question in a message that may hold passages before it."""
    return said.rsplit("Question: ", 1)[-1].strip()
