"""Files -> Documents, each by the reader of its format, in processes that a hostile file may take down.

Every file ends as a Document or as a Refusal that says why.  What a format means is known in `formats/` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from mlxrag.errors import BadInput, MlxragError
from mlxrag.rag import workers
from mlxrag.rag.document import Block, Document, document_id
from mlxrag.rag.find import SourceFile, find_files
from mlxrag.rag.formats.book import read_epub
from mlxrag.rag.formats.kind import format_of
from mlxrag.rag.formats.mail import read_mail
from mlxrag.rag.formats.markdown import read_markdown
from mlxrag.rag.formats.notebook import read_notebook
from mlxrag.rag.formats.pdf import read_pdf
from mlxrag.rag.formats.piece import Parsed, Raw, assemble, one_line
from mlxrag.rag.formats.plain import read_plain
from mlxrag.rag.formats.records import read_json, read_jsonl
from mlxrag.rag.formats.restructured import read_rst
from mlxrag.rag.formats.rows import read_delimited
from mlxrag.rag.formats.sheets import read_xlsx
from mlxrag.rag.formats.slides import read_pptx
from mlxrag.rag.formats.source import read_source
from mlxrag.rag.formats.web import read_html
from mlxrag.rag.formats.word import read_docx

if TYPE_CHECKING:
    # Reading processes start in a tenth of a second without pydantic.
    from mlxrag.settings import Reading

__all__ = ["READERS", "Refusal", "SourceFile", "find_files", "read_file", "read_files"]

READERS: dict[str, Callable[[Raw], Parsed]] = {
    "markdown": read_markdown,
    "rst": read_rst,
    "text": read_plain,
    "html": read_html,
    "pdf": read_pdf,
    "docx": read_docx,
    "pptx": read_pptx,
    "xlsx": read_xlsx,
    "csv": read_delimited,
    "epub": read_epub,
    "eml": read_mail,
    "ipynb": read_notebook,
    "json": read_json,
    "jsonl": read_jsonl,
    "code": read_source,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that gave no document.

    Attributes:
        source: the file's source.
        outcome: `empty` where it holds no text, `refused` where it cannot be read.
        reason: why, and what would help.
    """

    source: str
    outcome: Literal["empty", "refused"]
    reason: str


def read_file(file: SourceFile, reading: Reading) -> Document:
    """Read one file in this process, without limits of time or memory.

    Returns:
        The document; its text is empty and `meta["note"]` says why, where the file holds no text.

    Raises:
        BadInput: the file cannot be read; the message is the reason, without the file's name.
    """
    return _read(file.path, file.source, reading.password, reading.max_file_size)


def read_files(files: Iterable[SourceFile], reading: Reading) -> Iterator[Document | Refusal]:
    """Read files in processes with limits, and yield a document or a refusal for each, in the order of `files`.

    At most four files per process are read ahead, so memory does not grow with their number.

    Raises:
        MlxragError: the processes cannot start.
    """
    drawn: list[SourceFile] = []

    def requests() -> Iterator[bytes]:
        for file in files:
            drawn.append(file)
            yield json.dumps(
                [os.fspath(file.path), file.source, file.fault, reading.password, reading.max_file_size]
            ).encode()

    results = workers.run(
        "from mlxrag.rag.read import serve; serve()",
        requests(),
        count=reading.read_workers,
        seconds=reading.read_seconds,
        memory=reading.read_memory,
    )
    for result in results:
        file = drawn.pop(0)
        yield (
            Refusal(file.source, "refused", result.reason)
            if isinstance(result, workers.Failure)
            else _unpacked(file.source, result)
        )


def serve() -> None:
    """Read the files that requests on standard input name; what a process started by `read_files` does."""
    workers.serve(_handle)


def _handle(request: bytes) -> bytes:
    path, source, fault, password, max_file_size = json.loads(request)
    try:
        if fault:
            raise BadInput(fault)
        answer = _packed(_read(Path(path), source, password, max_file_size))
    except MlxragError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": "needs more memory to parse than one file may take"}
    except RecursionError:
        answer = {"refused": "nested too deeply"}
    except Exception as error:  # one file of a long job: whatever its parser raises is that file's outcome
        answer = {"refused": f"damaged: {type(error).__name__}: {one_line(str(error))[:200]}"}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def _packed(document: Document) -> dict[str, Any]:
    """Return a document as JSON takes it; `dataclasses.asdict` would copy every block deeply."""
    blocks = [(block.start, block.end, block.kind, block.place) for block in document.blocks]
    whole = {field.name: getattr(document, field.name) for field in fields(document)}
    return whole | {"blocks": blocks, "meta": dict(document.meta)}


def _unpacked(source: str, result: bytes) -> Document | Refusal:
    answer = json.loads(result)
    if "refused" in answer:
        return Refusal(source, "refused", answer["refused"])
    if not answer["text"]:
        return Refusal(source, "empty", answer["meta"].get("note") or "holds no text")
    return Document(**{**answer, "blocks": tuple(Block(*block) for block in answer["blocks"])})


def _read(path: Path, source: str, password: str, max_file_size: int) -> Document:
    data = _bytes(path, max_file_size)
    name = PurePath(source).name
    kind = format_of(name, data)
    parsed = READERS[kind](Raw(name, data, password)) if data else Parsed("", (), note="0 bytes")
    text, blocks = assemble(parsed)
    meta = {"format": kind} | dict(parsed.meta) | ({"note": parsed.note} if parsed.note else {})
    title = one_line(parsed.title)[:200] or PurePath(name).stem
    return Document(document_id(source, text), source, title, text, hashlib.sha256(data).hexdigest(), blocks, meta)


def _bytes(path: Path, max_file_size: int) -> bytes:
    try:
        # Without O_NONBLOCK the open of a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"cannot be opened: {(error.strerror or str(error)).lower()}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise BadInput("not a regular file (a pipe, socket or device)")
        if facts.st_size > max_file_size << 20:
            raise BadInput(f"{facts.st_size / (1 << 20):.0f} MiB, more than --max-file-size {max_file_size}")
        return file.read()
