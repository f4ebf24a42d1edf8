"""A row with columns of the usual names -> an example, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlxrag.data.example import BadRow, Example, example
from mlxrag.rag.document import Passage, document_id, passage_id

Item = Example | BadRow

QUESTION = ("question", "user_input", "query", "input", "prompt")
ANSWERS = ("answers", "answer", "reference", "ground_truth", "ground_truths", "long_answer", "output", "response")
PASSAGES = ("passages", "passage", "contexts", "context", "reference_contexts")
TITLE = ("title", "document", "source")
TAGS = ("tags", "tag", "type", "kind")


def from_columns(row: Mapping[str, Any], place: str, source: str) -> Item:
    """Return the example in a row with columns of the usual names, or why there is none.

    Answers may be one text, a list, or SQuAD's `{"text": [...]}`; passages one text, a list of texts, or a list of
    `{"title", "text"}`.  Without an answer the row must say so: `answerable` false, `is_impossible` true, or an empty list.
    """
    names = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    question = _first(names, QUESTION)
    if not isinstance(question, str) or not question.strip():
        return BadRow(place, f"no question; looked for {', '.join(QUESTION)}")
    given = _first(names, ANSWERS)
    answers = _answers(given)
    if answers is None:
        return BadRow(place, f"the answer is no text and no list of texts, but {_shown(given)}")
    said = _said_answerable(names)
    if said is False:
        answers = ()
    if not answers and said is not False and not (isinstance(given, (list, tuple, Mapping)) and said is None):
        return BadRow(place, "no answer; a question that has none needs answerable = false")
    title = _first(names, TITLE)
    passages = passages_of(_first(names, PASSAGES), str(title) if title else "", source)
    if isinstance(passages, str):
        return BadRow(place, passages)
    tags = _first(names, TAGS)
    listed = tags if isinstance(tags, (list, tuple)) else str(tags or "").split("|")
    labels = tuple(t for t in map(str, listed) if t)
    return whole(example(question.strip(), answers, passages, place, answerable=bool(answers), tags=labels), place)


def whole(made: Example, place: str) -> Item:
    """Refuse text that is not Unicode: it could not be written again."""
    texts = (
        made.question,
        *made.answers,
        *(p.text for p in made.passages),
        *(t for turn in made.history for t in turn),
    )
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return BadRow(place, f"not UTF-8 near {text[max(0, error.start - 10) : error.start]!r}")
    return made


def _first(names: Mapping[str, Any], known: Sequence[str]) -> Any:
    """The value of the first column that is there and not empty; else of the first that is there."""
    there = [names[n] for n in known if n in names]
    return next((v for v in there if v not in (None, "", [])), there[0] if there else None)


def _answers(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = value.get("text", ())
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence) or not all(isinstance(v, (str, int, float)) for v in value):
        return None
    return tuple(dict.fromkeys(str(v).strip() for v in value if str(v).strip()))


def _said_answerable(names: Mapping[str, Any]) -> bool | None:
    for name, sense in (("answerable", True), ("is_answerable", True), ("is_impossible", False)):
        value = names.get(name)
        if value not in (None, ""):
            return (str(value).strip().lower() in {"true", "1", "yes"}) is sense
    return None


def passages_of(value: Any, title: str, source: str) -> tuple[Passage, ...] | str:
    """Read passages of any usual shape, or say why not."""
    if value is None or value == "":
        return ()
    if not isinstance(value, (str, Mapping, list, tuple)):
        return f"the passages are no text and no list, but {_shown(value)}"
    found = []
    for item in (value,) if isinstance(value, (str, Mapping)) else value:
        if isinstance(item, str):
            found.append(loose(item, title, source, ""))
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            own = str(item.get("title") or title)
            found.append(
                loose(item["text"], own, str(item.get("source") or f"{source}/{own}"), str(item.get("place") or ""))
            )
        else:
            return f"a passage is no text and no object with `text`, but {_shown(item)}"
    return tuple(p for p in found if p.text.strip())


def loose(text: str, title: str, source: str, place: str) -> Passage:
    """A passage whose document is not known: it is its own, and without a title its source is named by its text."""
    document = document_id(source, text)
    source = source if title else f"{source}/{document[:8]}"
    return Passage(passage_id(document, 0, len(text)), document, source, title, place, 0, len(text), text)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


def cell_of(name: str, value: Any) -> Any:
    """A CSV cell: a JSON list where it looks like one, else parted by `|` where several may stand."""
    plain = str(name).strip().lower()
    if not isinstance(value, str) or plain not in (*ANSWERS, *PASSAGES):
        return value
    if value.lstrip().startswith("["):
        try:
            listed = json.loads(value)
            if isinstance(listed, list):
                return listed
        except ValueError:
            pass  # a text that happens to start with a bracket
    return [part.strip() for part in value.split("|")] if plain in ANSWERS and "|" in value else value
