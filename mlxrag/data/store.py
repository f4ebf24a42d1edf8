"""Examples on disk: Arrow files, compressed in small batches and mapped into memory.

A file holds one split.  Reading takes one batch at a time, so memory does not grow with the number of
examples; a row is found by its position at the cost of one batch (256 rows, about a millisecond).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from mlxrag.data.example import Example, from_row, to_row
from mlxrag.errors import Damaged

BATCH = 256
TEXTS = pa.list_(pa.string())
PASSAGE = pa.struct(
    [(name, pa.string()) for name in ("id", "document_id", "source", "title", "place")]
    + [("start", pa.int64()), ("end", pa.int64()), ("text", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("question", pa.string()), ("answers", TEXTS), ("passages", pa.list_(PASSAGE)),
        ("answerable", pa.bool_()), ("source", pa.string()), ("tags", TEXTS), ("history", pa.list_(TEXTS)),
        ("evidence", TEXTS), ("gates", pa.list_(TEXTS)),
    ]
)  # fmt: skip


def table_row(example: Example) -> dict[str, Any]:
    """Return an example as Arrow takes it."""
    return {**to_row(example), "gates": [list(pair) for pair in example.gates.items()]}


def write_split(path: Path, examples: Iterable[Example]) -> int:
    """Write examples to an Arrow file and return how many; holds one batch in memory."""
    count = 0
    with SplitWriter(path) as writer:
        for count, example in enumerate(examples, 1):  # noqa: B007
            writer.add(to_row(example))
    return count


class SplitWriter:
    """An Arrow file being written; a context manager."""

    def __init__(self, path: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=3))
        self._writer = pa.ipc.new_file(str(path), SCHEMA, options=options)
        self._batch: list[dict[str, Any]] = []
        self.count = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append an example as `to_row` returns it."""
        self._batch.append({**row, "gates": [list(pair) for pair in row["gates"].items()]})
        self.count += 1
        if len(self._batch) == BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer without which the file cannot be opened."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, schema=SCHEMA))
            self._batch = []

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Split:
    """Examples of one or several files, in order: a sequence that reads from disk as it goes.

    Args:
        paths: Arrow files that `SplitWriter` wrote.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._readers = [_open(path) for path in paths]
        # A writer fills every batch but the last, so positions need no reading.
        self._sizes = [_length(reader) for reader in self._readers]
        self._batch = lru_cache(maxsize=4)(self._read)

    def __len__(self) -> int:
        return sum(self._sizes)

    def __iter__(self) -> Iterator[Example]:
        for number, reader in enumerate(self._readers):
            for batch in range(reader.num_record_batches):
                yield from map(_example, self._read(number, batch).to_pylist())

    def __getitem__(self, position: int) -> Example:
        """Return the example at a position; IndexError beyond the end."""
        if position < 0:
            position += len(self)
        if position < 0:
            raise IndexError(position)
        for number, size in enumerate(self._sizes):
            if position < size:
                return _example(self._batch(number, position // BATCH).slice(position % BATCH, 1).to_pylist()[0])
            position -= size
        raise IndexError(position)

    def column(self, name: str) -> Iterator[Any]:
        """Yield one column without reading the others."""
        options = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index(name)])
        for path in self.paths:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source, options=options)
                for batch in range(reader.num_record_batches):
                    yield from reader.get_batch(batch).column(0).to_pylist()

    def _read(self, number: int, batch: int) -> Any:
        return self._readers[number].get_batch(batch)


class ById(Mapping[str, Example]):
    """The examples of a split by their ids, in its order, read from disk when they are asked for.

    Sixteen bytes an example are held.  One after the other takes some 50 microseconds each, at random a millisecond.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        keys = np.fromiter((int(i, 16) for i in split.column("id")), np.uint64, len(split))
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[str]:
        return self._split.column("id")

    def __getitem__(self, key: str) -> Example:
        try:
            number = np.uint64(int(key, 16))
        except (ValueError, OverflowError) as error:
            raise KeyError(key) from error
        at = int(np.searchsorted(self._keys, number))
        if at == len(self._keys) or self._keys[at] != number:
            raise KeyError(key)
        return self._split[int(self._order[at])]


class Seen:
    """A set of 64-bit keys in 8 bytes each, for jobs whose memory should hardly grow.

    New keys gather in a Python set, which is merged into a sorted array when it has 65,536.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._fresh: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._fresh)

    def __contains__(self, key: str) -> bool:
        number = int(key, 16)
        at = int(np.searchsorted(self._sorted, np.uint64(number)))
        return number in self._fresh or (at < len(self._sorted) and int(self._sorted[at]) == number)

    def add(self, key: str) -> bool:
        """Add a key of 16 hex digits and return whether it is new."""
        if key in self:
            return False
        self._fresh.add(int(key, 16))
        if len(self._fresh) >= 1 << 16:
            fresh = np.fromiter(self._fresh, np.uint64, len(self._fresh))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._fresh = set()
        return True


def batched(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Yield lists of `size` examples, the last one shorter."""
    rest = iter(examples)
    while batch := list(islice(rest, size)):
        yield batch


def _open(path: Path) -> Any:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise Damaged(f"{path}: is no Arrow file of examples ({error}); make the dataset again") from error


def _length(reader: Any) -> int:
    batches = reader.num_record_batches
    return (batches - 1) * BATCH + reader.get_batch(batches - 1).num_rows if batches else 0


def _example(row: dict[str, Any]) -> Example:
    return from_row({**row, "gates": dict(row["gates"] or ())})
