"""Which passages questions were answered from: a log of their ids, so that popular sets can be made ready.

The questions themselves are not written down.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlxrag.rag.document import Hit

FILE = "asked.jsonl"
LARGEST = 4_000_000  # bytes, from which on the older half is dropped


def note(folder: Path, index: str, hits: Sequence[Hit]) -> None:
    """Add the passages that a question is answered from, in their order.

    A log that cannot be written is no reason to leave a question without an answer.

    Args:
        folder: where the log is.
        index: name of the index they come from.
        hits: the passages.
    """
    path = folder / FILE
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"index": index, "passages": [hit.passage.id for hit in hits]}) + "\n")
            size = log.tell()
        if size > LARGEST:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[len(lines) // 2 :]), encoding="utf-8")


def popular(folder: Path, index: str) -> list[tuple[tuple[str, ...], int]]:
    """Return the sets of passages that questions on an index were answered from, and how often, the most popular first.

    A line that is cut short is passed over; of equally popular sets the latest comes first.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    latest: dict[tuple[str, ...], int] = {}
    with suppress(FileNotFoundError), (folder / FILE).open(encoding="utf-8") as log:
        for number, line in enumerate(log):
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if row["index"] == index:
                    ids = tuple(str(one) for one in row["passages"])
                    counts[ids] += 1
                    latest[ids] = number
    return sorted(counts.items(), key=lambda item: (-item[1], -latest[item[0]]))
