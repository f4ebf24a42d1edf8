"""Examples to the formats of others.  A new format is a function and a line in `EXPORTERS`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlxrag.data.example import Example, to_row
from mlxrag.data.store import SCHEMA, table_row
from mlxrag.errors import BadInput, nearest
from mlxrag.rag.answer import REFUSAL, messages
from mlxrag.rag.document import Hit
from mlxrag.settings import Answering

Writer = Callable[[Iterable[Example], Path], int]


def write_examples(examples: Iterable[Example], path: Path, form: str) -> int:
    """Write examples in a format of `EXPORTERS` and return how many; the file is whole or not there.

    Raises:
        BadInput: no such format, or the file cannot be written.
    """
    if form not in EXPORTERS:
        raise BadInput(f"no format {form!r}{nearest(form, EXPORTERS)}; there are {', '.join(EXPORTERS)}")
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = EXPORTERS[form](examples, temporary)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def _write_own(examples: Iterable[Example], path: Path) -> int:
    return _lines(map(to_row, examples), path)


def _write_ragas(examples: Iterable[Example], path: Path) -> int:
    """RAGAS's columns for a test set; an unanswerable example has the refusal as its reference."""
    return _lines(
        (
            {
                "user_input": e.question,
                "reference": e.answers[0] if e.answers else REFUSAL,
                "reference_contexts": [p.text for p in e.passages],
                "synthesizer_name": e.source,
            }
            for e in examples
        ),
        path,
    )


def _write_csv(examples: Iterable[Example], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answers", "answerable", "tags", "title", "passages"])
        for count, e in enumerate(examples, 1):  # noqa: B007
            lists = [json.dumps(v, ensure_ascii=False) for v in (list(e.answers), [p.text for p in e.passages])]
            title = e.passages[0].title if e.passages else ""
            writer.writerow([e.question, lists[0], str(e.answerable).lower(), "|".join(e.tags), title, lists[1]])
    return count


def _write_squad(examples: Iterable[Example], path: Path) -> int:
    """SQuAD 2.0, an article per example so that nothing is held; answers that are no span of the passage have start -1."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"version": "v2.0", "data": [')
        for count, e in enumerate(examples, 1):
            context = e.passages[0].text if e.passages else ""
            spans = [{"text": a, "answer_start": context.find(a)} for a in e.answers]
            qa = {"id": e.id, "question": e.question, "answers": spans, "is_impossible": not e.answerable}
            title = e.passages[0].title if e.passages else ""
            row = {"title": title, "paragraphs": [{"context": context, "qas": [qa]}]}
            file.write((",\n" if count > 1 else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]}\n")
    return count


def _write_chat(examples: Iterable[Example], path: Path) -> int:
    """Chat rows for `mlx_lm.lora`, laid out exactly as `mlxrag ask` lays out its prompt; the answer cites where it stands."""

    def row(e: Example) -> dict[str, Any]:
        hits = [Hit(p, 1.0 / (n + 1), "gold", n + 1) for n, p in enumerate(e.passages)]
        asked = messages(e.question, hits, Answering(), history=e.history)
        said = f"{e.answers[0]}{_citation(e)}" if e.answers else REFUSAL
        return {"messages": [*asked, {"role": "assistant", "content": said}]}

    return _lines(map(row, examples), path)


def _citation(e: Example) -> str:
    """Return ` [n]` for the passage that holds the evidence, else the answer, else the first; nothing without passages."""
    for quotes in (e.evidence, e.answers[:1]):
        for n, p in enumerate(e.passages, 1):
            if any(quote in p.text for quote in quotes):
                return f" [{n}]"
    return " [1]" if e.passages else ""


def _write_clapnq(examples: Iterable[Example], path: Path) -> int:
    """CLAPnq's JSON lines: `input`, `passages`, `output` with answer and selected sentences (none where nothing answers)."""
    return _lines(
        (
            {
                "id": e.id,
                "input": e.question,
                "passages": [{"title": p.title, "text": p.text, "sentences": []} for p in e.passages],
                "output": [{"answer": a, "selected_sentences": list(e.evidence)} for a in e.answers or ("",)],
            }
            for e in examples
        ),
        path,
    )


def _write_parquet(examples: Iterable[Example], path: Path) -> int:
    """Parquet with our columns, as Hugging Face `datasets` reads it."""
    count = 0
    rows = map(table_row, examples)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, 512)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
            count += len(batch)
    return count


EXPORTERS: dict[str, Writer] = {
    "mlxrag": _write_own,
    "squad": _write_squad,
    "clapnq": _write_clapnq,
    "csv": _write_csv,
    "ragas": _write_ragas,
    "chat": _write_chat,
    "parquet": _write_parquet,
}
