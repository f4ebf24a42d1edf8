"""Datasets: immutable splits of examples, named by the hash of their content.

`datasets/<name>/<version>/` holds `<split>.arrow` files and `refused.jsonl` (what could not be kept, with the reason).
Splits are `train`, `valid` and `test`, or one called `all`.  The version depends on the examples and their splits,
not on their order.  Memory: one batch of examples, and 24 bytes an example for identity; splitting adds some 200 bytes a
document.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxrag.data import journal
from mlxrag.data.duplicates import groups, pairs, signatures
from mlxrag.data.example import BadRow, Example, to_row
from mlxrag.data.scratch import Column
from mlxrag.data.store import Seen, Split, SplitWriter
from mlxrag.errors import BadInput, NotFound, nearest
from mlxrag.workspace import Artefact, Workspace, create, resolve

NAMES = ("train", "valid", "test", "all")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A version of a dataset.

    Attributes:
        artefact: where it lies, and its manifest.
        counts: examples in each split, in the order train, valid, test, all.
    """

    artefact: Artefact
    counts: Mapping[str, int]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.artefact.name

    @property
    def version(self) -> str:
        """Hash of its content."""
        return self.artefact.version

    @property
    def ref(self) -> str:
        """`datasets/name@version`."""
        return self.artefact.ref

    def split(self, name: str = "all") -> Split:
        """Open a split; `all` is every split in turn.

        Raises:
            NotFound: there is no such split.
        """
        if name != "all" and name not in self.counts:
            hint = "; make splits with `mlxrag data split`" if "all" in self.counts else nearest(name, self.counts)
            raise NotFound(f"{self.ref} has no split {name!r}, only {', '.join(self.counts)}{hint}")
        chosen = list(self.counts) if name == "all" else [name]
        return Split(*(self.artefact.path / f"{s}.arrow" for s in chosen))

    def refused(self) -> Iterator[BadRow]:
        """Yield what was not kept when this version was made."""
        for row in journal.rows(self.artefact.path / "refused.jsonl"):
            yield BadRow(row["place"], row["reason"])

    def splits(self) -> Iterator[tuple[str, Example]]:
        """Yield (split, example) for every example."""
        for name in self.counts:
            for example in Split(self.artefact.path / f"{name}.arrow"):
                yield name, example

    def __len__(self) -> int:
        return sum(self.counts.values())


def open_dataset(workspace: Workspace, ref: str) -> Dataset:
    """Open `name`, `name@version` or `datasets/name@version`.

    Raises:
        NotFound: no such dataset or version.
    """
    artefact = resolve(workspace, "datasets", ref.removeprefix("datasets/"))
    counts = artefact.manifest.get("counts", {})
    return Dataset(artefact, {name: counts[name] for name in NAMES if name in counts})


def freeze(
    workspace: Workspace,
    name: str,
    items: Iterable[tuple[str, Example | BadRow]],
    *,
    inputs: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Dataset:
    """Write a version of a dataset; one with the same examples in the same splits is the same version.

    Args:
        workspace: where.
        name: what to call it.
        items: (split, example), or (split, bad row), which is kept aside; an example that is there twice is kept once.
        inputs: refs of artefacts or other words it is made from.
        settings: recorded in the manifest.
        notes: more facts for the manifest.

    Raises:
        BadInput: there is no example at all; says the first reasons.
    """
    seen, documents, tags, asked = Seen(), Seen(), Counter[str](), Counter[str]()
    digests = bytearray()
    refused: list[BadRow] = []
    with create(workspace, "datasets", name, inputs=inputs, settings=settings) as draft:
        with ExitStack() as stack:
            writers: dict[str, SplitWriter] = {}
            aside = stack.enter_context(journal.Journal(draft.path / "refused.jsonl", keep=1 << 30))
            for split, item in items:
                if isinstance(item, Example) and not seen.add(item.id):
                    item = BadRow(item.source, f"the same as an earlier example ({item.id})")
                if isinstance(item, BadRow):
                    aside.add({"place": item.place, "reason": item.reason})
                    refused = [*refused, item] if len(refused) < 3 else refused
                    continue
                if split not in writers:
                    writers[split] = stack.enter_context(SplitWriter(draft.path / f"{split}.arrow"))
                row = to_row(item)
                writers[split].add(row)
                digests += _digest(split, row)
                for passage in item.passages:
                    documents.add(_key(passage.document_id))
                tags.update(item.tags)
                asked["answerable" if item.answerable else "unanswerable"] += 1
        if not writers:
            reasons = "; ".join(f"{bad.place}: {bad.reason}" for bad in refused) or "nothing was given"
            raise BadInput(f"no example for dataset {name!r}: {reasons}")
        draft.version = version_of(digests)
        draft.note(
            counts={split: writers[split].count for split in NAMES if split in writers},
            **asked, documents=len(documents), tags=dict(tags.most_common(200)), **(notes or {}),
        )  # fmt: skip
    assert draft.artefact is not None
    return open_dataset(workspace, f"{name}@{draft.artefact.version}")


def row_digest(split: str, example: Example) -> bytes:
    """Return 16 bytes that stand for an example's content and its split (canonical JSON, Unicode NFC)."""
    return _digest(split, to_row(example))


def _digest(split: str, row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{split}\0{unicodedata.normalize('NFC', text)}".encode()).digest()[:16]


def version_of(digests: bytes | bytearray) -> str:
    """Return 16 hex digits for a set of row digests, whatever their order."""
    rows = np.sort(np.frombuffer(bytes(digests), "S16"))
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]


def split_by_document(
    dataset: Dataset | Iterable[Example],
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    near: float = 0.8,
    keep: Dataset | None = None,
) -> Iterator[tuple[str, Example]]:
    """Yield every example with the split its document falls in.

    Documents are held together when an example uses both, when they share a source (two states of one file), or when
    two of their passages are near-duplicates.  The groups, in an order drawn from the seed and their names, go one by
    one to the split that lacks most; so each split is near its fraction, and none is empty while there are groups.

    Args:
        dataset: what to split, or examples that are none yet and can be read twice; its own splits are forgotten.
        fractions: share of the examples for each split, such as `{"train": 0.8, "valid": 0.1, "test": 0.1}`.
        seed: another one gives another order.
        near: least estimated Jaccard similarity at which passages count as the same.
        keep: an earlier version whose documents stay in the split they had there, so that nothing that was trained
            on becomes a test when documents are added.

    Raises:
        BadInput: the fractions do not sum to 1, or there are fewer groups of documents than splits.
    """
    if not fractions or any(f <= 0 for f in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise BadInput(f"the shares of the splits must be positive and sum to 1, not {dict(fractions)}")
    examples, what = (dataset.split(), dataset.ref) if isinstance(dataset, Dataset) else (dataset, "what was made")
    units, sizes = document_groups(examples, near)
    fixed: dict[str, str] = {}
    if keep is not None:
        for name, example in keep.splits():
            if name in fractions:
                fixed.update((units[u], name) for u in _units(example) if u in units)
    if len(sizes) < len(fractions):
        raise BadInput(
            f"{what} has {len(sizes)} groups of documents that share nothing, too few for {len(fractions)} splits; "
            "add documents, or split in fewer"
        )
    where = _assign(sizes, fractions, seed, fixed)
    for example in examples:
        yield where[units[_units(example)[0]]], example


def document_groups(examples: Iterable[Example], near: float) -> tuple[dict[str, str], dict[str, int]]:
    """Group the documents of examples that belong together.

    Returns:
        units: document source -> name of its group.
        sizes: name of a group -> examples in it.
    """
    number: dict[str, int] = {}
    counts: Counter[int] = Counter()
    links: set[tuple[int, int]] = set()
    seen, owner = Seen(), Column(np.int32)

    def passages(all_examples: Iterable[Example]) -> Iterator[str]:
        for example in all_examples:
            mine = [number.setdefault(u, len(number)) for u in _units(example)]
            counts[mine[0]] += 1
            links.update((mine[0], other) for other in mine[1:])
            for passage in example.passages:
                if seen.add(_key(passage.id)):
                    owner.add(number[passage.source or passage.document_id])
                    yield passage.text

    signed = signatures(passages(examples))
    home = owner.rows()
    links.update((int(home[i]), int(home[j])) for i, j, _ in pairs(signed, near) if home[i] != home[j])
    root = groups(len(number), links)
    names = list(number)
    # The smallest name of a group, not the first seen, so that the order of the rows does not matter.
    label: dict[int, str] = {}
    for name, i in number.items():
        label[int(root[i])] = min(name, label.get(int(root[i]), name))
    sizes: Counter[str] = Counter()
    for i, count in counts.items():
        sizes[label[int(root[i])]] += count
    return {name: label[int(root[i])] for i, name in enumerate(names)}, dict(sizes)


def sample(split: Split, n: int, *, by: str = "tags", seed: int = 0) -> list[Example]:
    """Draw `n` examples, each stratum in proportion; a larger `n` with the same seed holds the smaller.

    Args:
        split: where from.
        n: how many; all of them if there are fewer.
        by: a field that makes the strata: tags, answerable or source.
        seed: another one gives another sample.

    Returns:
        The examples in the order of the split.
    """
    strata = Counter(map(_stratum, split.column(by)))
    total = sum(strata.values())
    exact = {s: min(n, total) * c / total for s, c in strata.items()} if total else {}
    quota = {s: int(share) for s, share in exact.items()}
    for s in sorted(exact, key=lambda s: (quota[s] - exact[s], s))[: min(n, total) - sum(quota.values())]:
        quota[s] += 1
    # A key per example drawn from seed and id: the smallest of each stratum are the sample.
    heaps: dict[str, list[tuple[int, int]]] = {s: [] for s in strata}
    for position, (key, stratum) in enumerate(zip(split.column("id"), map(_stratum, split.column(by)), strict=True)):
        drawn = -int(hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()[:15], 16)
        heap = heaps[stratum]
        if len(heap) < quota[stratum]:
            heapq.heappush(heap, (drawn, position))
        elif heap and drawn > heap[0][0]:
            heapq.heapreplace(heap, (drawn, position))
    return [split[p] for p in sorted(position for heap in heaps.values() for _, position in heap)]


def stale(examples: Iterable[Example], documents: Mapping[str, str]) -> Iterator[tuple[Example, str]]:
    """Yield the examples whose documents are not as they were, with the reason.

    Args:
        examples: what to check.
        documents: source -> id of every document as it is now (an id is the hash of source and text).
    """
    for example in examples:
        for passage in example.passages:
            now = documents.get(passage.source)
            if now is None:
                yield example, f"{passage.source} is gone"
                break
            if now != passage.document_id:
                yield example, f"{passage.source} has changed"
                break


def _assign(
    sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int, fixed: Mapping[str, str]
) -> dict[str, str]:
    total = sum(sizes.values())
    have = dict.fromkeys(fractions, 0)
    where = dict(fixed)
    for group, split in fixed.items():
        have[split] += sizes[group]
    free = [g for g in sizes if g not in fixed]
    free.sort(key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest())
    for left, group in zip(range(len(free), 0, -1), free, strict=True):
        empty = [s for s in fractions if not have[s]]
        among = empty if empty and len(empty) >= left else fractions
        split = max(among, key=lambda s: fractions[s] * total - have[s])
        where[group] = split
        have[split] += sizes[group]
    return where


def _units(example: Example) -> list[str]:
    """The sources of an example's passages; an example without passages stands for itself."""
    return list(dict.fromkeys(p.source or p.document_id for p in example.passages)) or [f"example {example.id}"]


def _key(text: str) -> str:
    """An id of ours as it is, another one hashed to 16 hex digits."""
    if len(text) == 16 and set(text) <= set("0123456789abcdef"):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _stratum(value: Any) -> str:
    return (str(value[0]) if value else "") if isinstance(value, list) else str(value)
