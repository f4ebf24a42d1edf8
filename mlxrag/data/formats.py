"""Examples from the formats of others.

A reader takes a path and yields an `Example` per row, or a `BadRow` with place and reason; it never stops at a bad row.
A new format is a function and a line in `IMPORTERS`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxrag.data.columns import QUESTION, Item, cell_of, from_columns, loose, passages_of, whole
from mlxrag.data.example import BadRow, example, from_row
from mlxrag.data.text_rows import json_rows, open_text
from mlxrag.errors import BadInput, nearest
from mlxrag.rag.answer import REFUSAL
from mlxrag.rag.document import Passage, document_id, passage_id

SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


def read_examples(path: str | Path, form: str | None = None) -> Iterator[tuple[str, Item]]:
    """Yield (split, example or bad row) from a file, a directory or a hub id.

    Args:
        path: a file; a directory with `train`, `valid` or `test` files, or one saved by Hugging Face `datasets`;
            or a hub id, when no such path exists and `form` is `hf`.
        form: a key of `IMPORTERS`; worked out from the name and the first row unless given.

    Yields:
        The split is `all` for a file that does not name one.

    Raises:
        BadInput: no such path, no such format, or nothing in the directory.
    """
    if form is not None and form not in IMPORTERS:
        raise BadInput(f"no format {form!r}{nearest(form, IMPORTERS)}; there are {', '.join(IMPORTERS)}")
    place = Path(path)
    if form == "hf" or (place.is_dir() and _saved_by_hf(place)):
        yield from _read_hf(str(path))
        return
    if not place.exists():
        raise BadInput(f"{path}: no such file or directory; a hub id needs --format hf")
    files = sorted(p for p in place.iterdir() if p.suffix in SUFFIXES) if place.is_dir() else [place]
    if not files:
        raise BadInput(f"{path}: holds no {', '.join(sorted(SUFFIXES))} files")
    for file in files:
        split = SPLITS.get(file.name.split(".")[0], "all")
        for item in IMPORTERS[form or guess_format(file)](file):
            yield split, item


def guess_format(path: Path) -> str:
    """Return the key of `IMPORTERS` that a file's suffix and first row point to.

    Raises:
        BadInput: none does.
    """
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return "csv"
    if suffix in {".parquet", ".arrow"}:
        return "hf"
    with open_text(path) as file:
        head = file.read(1 << 16).lstrip("\ufeff \r\n\t")
    if suffix == ".json" and head.startswith("{") and ('"paragraphs"' in head or '"qas"' in head):
        return "squad"
    try:
        row = json.loads(head.split("\n", 1)[0])
    except ValueError:
        row = {}
    if not isinstance(row, dict):
        row = {}
    if "messages" in row or "conversations" in row:
        return "chat"
    if {"answers", "passages", "answerable", "id"} <= set(row):
        return "mlxrag"
    if "user_input" in row or "reference_contexts" in head[:5000]:
        return "ragas"
    if "input" in row and "output" in row and "passages" in row:
        return "clapnq"
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return "jsonl"
    raise BadInput(f"{path}: what format is this? Say --format, one of {', '.join(IMPORTERS)}")


def _read_squad(path: Path) -> Iterator[Item]:
    """SQuAD 1.1 and 2.0; a document is an article, its paragraphs joined by an empty line."""
    try:
        with open_text(path) as file:
            articles = json.load(file)["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: is not a SQuAD file: {error}") from error
    for a, article in enumerate(articles if isinstance(articles, list) else ()):
        paragraphs = _objects(article.get("paragraphs")) if isinstance(article, Mapping) else []
        if not paragraphs:
            yield BadRow(f"{path.name}#{a}", "an article without paragraphs")
            continue
        title = str(article.get("title", a))
        source = f"{path.name.split('.')[0]}/{title}"
        contexts = [str(p.get("context", "")) for p in paragraphs]
        document, start = document_id(source, "\n\n".join(contexts)), 0
        for number, (paragraph, context) in enumerate(zip(paragraphs, contexts, strict=True)):
            key = passage_id(document, start, start + len(context))
            text = Passage(
                key, document, source, title, f"paragraph {number + 1}", start, start + len(context), context
            )
            start += len(context) + 2
            for qa in _objects(paragraph.get("qas")):
                yield _squad_row(qa, text, f"{path.name}#{qa.get('id', f'{a}.{number}')}")


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """What of a list is an object; nothing where there is no list."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _squad_row(qa: Mapping[str, Any], passage: Passage, place: str) -> Item:
    question = qa.get("question")
    if not isinstance(question, str) or not question.strip():
        return BadRow(place, "no question")
    impossible = bool(qa.get("is_impossible", False))
    spans = [] if impossible else _objects(qa.get("answers"))
    for span in spans:
        text, at = span.get("text"), span.get("answer_start", -1)
        if not isinstance(text, str) or not isinstance(at, int):
            return BadRow(place, "an answer needs a `text`, and a number as its `answer_start`")
        if at >= 0 and passage.text[at : at + len(text)] != text:
            return BadRow(place, f"the context does not read {text!r} at {at}")
    answers = tuple(dict.fromkeys(s["text"] for s in spans))
    if not answers and not impossible and "is_impossible" not in qa:
        return BadRow(place, "no answer")
    quotes = tuple(a for a in answers if a in passage.text)
    return whole(example(question.strip(), answers, (passage,), place, evidence=quotes), place)


def _read_clapnq(path: Path) -> Iterator[Item]:
    """CLAPnq: `input`, `passages` with `title` and `text`, `output` with `answer` and `selected_sentences`."""
    for place, row in json_rows(path):
        if isinstance(row, BadRow):
            yield row
            continue
        question, outputs = row.get("input"), _objects(row.get("output"))
        answers = tuple(dict.fromkeys(str(o["answer"]).strip() for o in outputs if str(o.get("answer") or "").strip()))
        passages = passages_of(row.get("passages"), "", path.name.split(".")[0])
        if not isinstance(question, str) or not question.strip():
            yield BadRow(place, "no question in `input`")
            continue
        if not outputs:
            yield BadRow(place, "no answer in `output`; a question that has none needs an empty `answer` there")
            continue
        if isinstance(passages, str):
            yield BadRow(place, passages)
            continue
        said = [o["selected_sentences"] for o in outputs if isinstance(o.get("selected_sentences"), list)]
        quotes = tuple(dict.fromkeys(s for some in said for s in map(str, some) if any(s in p.text for p in passages)))
        yield whole(example(question.strip(), answers, passages, place, evidence=quotes), place)


def _read_csv(path: Path) -> Iterator[Item]:
    """CSV or TSV with a header; several answers, passages or tags are parted by `|` or are a JSON list."""
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            if not reader.fieldnames or not {str(n).strip().lower() for n in reader.fieldnames} & set(QUESTION):
                raise BadInput(f"{path}:1: no column for the question; it may be called {', '.join(QUESTION)}")
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                place = f"{path.name}:{reader.line_num}"
                if None in row:
                    yield BadRow(place, f"{len(row[None])} more fields than the header has columns")
                else:
                    yield from_columns({k: cell_of(k, v) for k, v in row.items()}, place, path.name.split(".")[0])
        except csv.Error as error:
            yield BadRow(f"{path.name}:{reader.line_num + 1}", f"not CSV from here on: {error}")


def _read_jsonl(path: Path) -> Iterator[Item]:
    """JSON lines, or one JSON list, with columns of the usual names; RAGAS's too."""
    for place, row in json_rows(path):
        yield row if isinstance(row, BadRow) else from_columns(row, place, path.name.split(".")[0])


def _read_own(path: Path) -> Iterator[Item]:
    """What `data export --to mlxrag` wrote."""
    for place, row in json_rows(path):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            read = from_row(row)
            yield whole(
                example(read.question, read.answers, read.passages, read.source, answerable=read.answerable,
                        tags=read.tags, history=read.history, evidence=read.evidence, gates=read.gates), place
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            yield BadRow(place, f"not a row of ours: {type(error).__name__} {error}")


def _read_chat(path: Path) -> Iterator[Item]:
    """Chat JSON lines for `mlx_lm.lora`: the last user and assistant turns are question and answer, earlier ones history."""
    for place, row in json_rows(path):
        if isinstance(row, BadRow):
            yield row
            continue
        turns = _objects(row.get("messages") or row.get("conversations"))
        said = [(str(t.get("role") or t.get("from")), str(t.get("content") or t.get("value") or "")) for t in turns]
        said = [({"human": "user", "gpt": "assistant"}.get(r, r), text) for r, text in said if r != "system"]
        roles = [r for r, _ in said]
        if not said or roles != ["user", "assistant"] * (len(said) // 2):
            yield BadRow(
                place,
                f"turns should alternate user, assistant and end with assistant; they are {', '.join(roles) or 'none'}",
            )
            continue
        pairs = tuple((said[i][1], said[i + 1][1]) for i in range(0, len(said), 2))
        (asked, answer), history = pairs[-1], pairs[:-1]
        question, passages = parse_prompt(asked)
        refused = answer.strip() == REFUSAL
        made = example(
            question,
            () if refused else (answer,),
            passages,
            place,
            history=tuple((parse_prompt(q)[0], a) for q, a in history),
        )
        yield whole(made, place)


def parse_prompt(text: str) -> tuple[str, tuple[Passage, ...]]:
    """Take the question and the passages out of a prompt laid out by `answer.messages`; a text without them is the question."""
    if not text.startswith("Passages:\n\n[1] ") or "\n\nQuestion: " not in text:
        return text.strip(), ()
    body, question = text.rsplit("\n\nQuestion: ", 1)
    passages, rest, number = [], body.removeprefix("Passages:\n\n"), 1
    while rest:
        block, found, after = rest.partition(f"\n\n[{number + 1}] ")
        head, _, content = block.partition("\n")
        title, _, place = head.removeprefix(f"[{number}] ").partition(" - ")
        passages.append(loose(content, title, title, place))
        rest, number = (f"[{number + 1}] {after}" if found else ""), number + 1
    return question.strip(), tuple(passages)


def _read_hf_file(path: Path) -> Iterator[Item]:
    """A parquet or arrow file, through Hugging Face `datasets`."""
    for _, item in _read_hf(str(path)):
        yield item


def _read_hf(path: str) -> Iterator[tuple[str, Item]]:
    """A saved `datasets` directory, a parquet or arrow file, or a hub id; streamed, nothing is held in memory."""
    import datasets

    place = Path(path)
    if place.is_file():
        splits: Mapping[str, Any] = {
            "all": datasets.load_dataset(
                "parquet" if place.suffix == ".parquet" else "arrow", data_files=path, split="train", streaming=True
            )
        }
    elif place.is_dir():
        loaded = datasets.load_from_disk(path)
        splits = loaded if isinstance(loaded, Mapping) else {"all": loaded}
    else:
        try:
            splits = datasets.load_dataset(path, streaming=True)
        except (OSError, ValueError, FileNotFoundError) as error:
            raise BadInput(
                f"{path}: neither a path nor a dataset that can be fetched now: {str(error).splitlines()[0]}"
            ) from error
    for name, rows in splits.items():
        for number, row in enumerate(rows):
            label = f"{place.name}/{name}#{number}"
            if {"answers", "passages", "answerable", "id", "source"} <= set(row) and isinstance(row["passages"], list):
                try:
                    yield SPLITS.get(name, "all"), from_row({**row, "gates": dict(row.get("gates") or ())})
                    continue
                except (KeyError, TypeError, ValueError):
                    pass  # another project's columns of the same names: read them as such
            yield SPLITS.get(name, "all"), from_columns(row, label, place.name.split(".")[0])


def _saved_by_hf(place: Path) -> bool:
    return (place / "dataset_dict.json").is_file() or (place / "dataset_info.json").is_file()


SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".gz", ".parquet", ".arrow"}
IMPORTERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "mlxrag": _read_own,
    "squad": _read_squad,
    "clapnq": _read_clapnq,
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "ragas": _read_jsonl,
    "chat": _read_chat,
    "hf": _read_hf_file,
}
