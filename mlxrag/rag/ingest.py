"""Files -> index: read what is new, replace what has changed, remove what is gone, skip the rest.

One file is one transaction, so the work can be killed at any moment and goes on from there.
Texts are encoded together across files, a few hundred passages at a time; memory holds those and
the documents they are from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mlxrag.model.encode import Encoder, encode
from mlxrag.rag.chunk import chunk
from mlxrag.rag.document import Document, Passage, passage_id
from mlxrag.rag.index import Index
from mlxrag.rag.local import context
from mlxrag.rag.read import Refusal, SourceFile, find_files, read_files
from mlxrag.rag.tables import FileRecord
from mlxrag.rag.vector_cache import VectorCache
from mlxrag.rag.words import language_of
from mlxrag.settings import Settings
from mlxrag.workspace import sha256_file

TOGETHER = 256
"""Passages that are encoded together, sorted by length; at 160 tokens each some ten seconds of one core."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        source: the name of the ingested folder and the path below it.
        outcome: what was done.
        reason: why it was refused or is empty.
        passages: how many it has now.
    """

    source: str
    outcome: Literal["indexed", "unchanged", "removed", "empty", "refused"]
    reason: str = ""
    passages: int = 0


@dataclass(frozen=True)
class _Pending:
    record: FileRecord
    document: Document
    passages: list[Passage]
    keys: list[bytes]


def ingest(
    index: Index, encoder: Encoder, paths: Iterable[Path], settings: Settings, cache: VectorCache | None = None
) -> Iterator[Outcome]:
    """Bring an index up to the files below some paths, and yield what became of each.

    A file whose size and time of change, or else whose bytes, are as they were is not read again,
    unless the settings of reading or chunking have changed.  Files that were ingested from below one of these
    paths and are not there any more are removed; others are left alone.

    Args:
        index: opened with this encoder.
        encoder: makes the vectors.
        paths: files and folders.
        settings: of reading, chunking and encoding.
        cache: vectors of texts that other indexes encoded.

    Raises:
        BadInput: a path does not exist, or there is no file below the paths.
        MlxragError: the disk is full; what was finished is kept.
    """
    paths = list(paths)
    mark = _mark(settings)
    seen: set[str] = set()
    changed: list[SourceFile] = []
    records: dict[str, FileRecord] = {}
    for file in find_files(paths, settings.reading):
        seen.add(file.source)
        known = index.store.file(file.source)
        record = _look(file, known, mark)
        if known is None or known.state == "refused" or (known.settings, known.sha256) != (mark, record.sha256):
            changed.append(file)
            records[file.source] = record
            continue
        if record != known:
            index.store.touch(record)
        yield (
            Outcome(file.source, "empty", known.reason) if known.state == "empty" else Outcome(file.source, "unchanged")
        )
    # What is gone goes last: a renamed file finds the vectors of its old name still there.
    read = ((records[item.source], item) for item in read_files(changed, settings.reading))
    yield from _add(index, encoder, read, settings, cache=cache)
    gone = [r.source for r in index.store.files() if r.source not in seen and _was_below(r, paths)]
    index.store.forget(gone)
    yield from (Outcome(source, "removed") for source in gone)
    index.store.tidy()
    index.catch_up()


def add_documents(
    index: Index, encoder: Encoder, documents: Iterable[Document], settings: Settings, whole: bool = False
) -> Iterator[Outcome]:
    """Put documents that are no files into an index, such as the contexts of a dataset, and yield what became of each.

    A document with the source of another takes its place.

    Args:
        index: opened with this encoder.
        encoder: makes the vectors.
        documents: in any number.
        settings: of chunking and encoding.
        whole: keep each document as one passage, however long.
    """
    mark = _mark(settings)
    found = ((FileRecord(d.source, "", 0, 0, d.sha256, mark, "indexed"), d) for d in documents)
    yield from _add(index, encoder, found, settings, whole)
    index.catch_up()


def _add(
    index: Index,
    encoder: Encoder,
    found: Iterable[tuple[FileRecord, Document | Refusal]],
    settings: Settings,
    whole: bool = False,
    cache: VectorCache | None = None,
) -> Iterator[Outcome]:
    pending: list[_Pending] = []
    for record, item in found:
        if isinstance(item, Refusal):
            index.store.put(replace(record, state=item.outcome, reason=item.reason), None)
            yield Outcome(item.source, item.outcome, item.reason)
            continue
        document = replace(item, meta={"language": language_of(item.text) or "en", **item.meta})
        passages = [one_passage(document)] if whole else chunk(document, settings.chunking, encoder)
        if not passages:
            index.store.put(replace(record, state="empty", reason="no text in it"), None)
            yield Outcome(item.source, "empty", "no text in it")
            continue
        keys = [key_of(context(passage)) for passage in passages]
        pending.append(_Pending(replace(record, state="indexed"), document, passages, keys))
        if sum(len(p.passages) for p in pending) >= TOGETHER:
            yield from _finish(index, encoder, pending, settings, cache)
            pending = []
    yield from _finish(index, encoder, pending, settings, cache)


def _finish(
    index: Index, encoder: Encoder, pending: Sequence[_Pending], settings: Settings, cache: VectorCache | None
) -> Iterator[Outcome]:
    """Encode what has no vector yet, then write each document in a transaction of its own."""
    texts = {key: context(p) for one in pending for key, p in zip(one.keys, one.passages, strict=True)}
    vectors = index.store.cached(list(texts))
    if cache is not None:
        vectors |= cache.get(encoder.fingerprint, [key for key in texts if key not in vectors])
    missing = [key for key in texts if key not in vectors]
    for start in range(0, len(missing), TOGETHER):
        part = missing[start : start + TOGETHER]
        made = encode(encoder, [texts[key] for key in part], "passage", settings.encoding.encode_tokens)
        if len(missing) > TOGETHER:
            index.store.keep(part, made)  # a file so long that losing it to an interruption would hurt
        fresh = dict(zip(part, made.astype(np.float16), strict=True))
        if cache is not None:
            cache.put(encoder.fingerprint, fresh)
        vectors |= fresh
    for one in pending:
        index.store.put(one.record, one.document, one.passages, one.keys, np.stack([vectors[key] for key in one.keys]))
        yield Outcome(one.record.source, "indexed", "", len(one.passages))


def one_passage(document: Document) -> Passage:
    """Return the passage that is all of a document."""
    end = len(document.text)
    return Passage(
        passage_id(document.id, 0, end), document.id, document.source, document.title, "", 0, end, document.text
    )


def key_of(text: str) -> bytes:
    """Return 16 bytes that stand for a text that is encoded."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _look(file: SourceFile, known: FileRecord | None, mark: str) -> FileRecord:
    """Return the file's record as it is now; its bytes are hashed only where size or time have changed."""
    path = os.path.abspath(file.path)  # noqa: PTH100 - a link is known by where it lies, not by where it leads
    state, reason = (known.state, known.reason) if known is not None else ("indexed", "")
    try:
        stat = file.path.stat()
        if file.fault:
            raise OSError(file.fault)
        same = known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        sha256 = known.sha256 if known is not None and same else sha256_file(file.path)
    except OSError:
        # Never equal to what was known, so that the reader is asked, and says why it cannot be read.
        return FileRecord(file.source, path, -1, -1, "", mark, state, reason)
    return FileRecord(file.source, path, stat.st_size, stat.st_mtime_ns, sha256, mark, state, reason)


def _was_below(record: FileRecord, paths: Sequence[Path]) -> bool:
    """Return whether a file that was not seen this time should have been.

    True if it lay below one of the paths; or if it has a source below one of them (a folder that
    was moved) and is not any more where it lay.
    """
    if not record.path:
        return False  # a document that never was a file
    path = Path(record.path)
    roots = [Path(os.path.abspath(root)) for root in paths]  # noqa: PTH100
    if any(path == root or root in path.parents for root in roots):
        return True
    return any(record.source.split("/")[0] == root.name for root in roots) and not path.exists()


def _mark(settings: Settings) -> str:
    """Return a hash of the settings that decide the passages of a file."""
    ignored = {"read_workers", "read_seconds", "read_memory", "include", "exclude", "password"}
    facts = settings.reading.model_dump_json(exclude=ignored) + settings.chunking.model_dump_json()
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
