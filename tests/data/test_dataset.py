from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxrag.data import journal
from mlxrag.data.audit import audit
from mlxrag.data.dataset import freeze, open_dataset, sample, split_by_document, stale
from mlxrag.data.diff import difference
from mlxrag.data.duplicates import Near, groups, pairs, signatures
from mlxrag.data.example import BadRow, Example
from mlxrag.data.store import BATCH, ById, Seen
from mlxrag.errors import BadInput, Damaged, NotFound
from mlxrag.workspace import Workspace, verify
from tests.evaluate.kit import ask, passage

WORDS = "red blue old new dog cat runs jumps over under hill valley quick slow bright dark stone water".split()


def text(seed: int, n: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(n))


def some(documents: int = 12, each: int = 4) -> list[Example]:
    return [
        ask(f"What about {d} {i}?", f"a{d}.{i}", gold=(passage(text(d), f"d{d}.md"),), tags=(f"t{i % 2}",))
        for d in range(documents)
        for i in range(each)
    ]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def keep(ws: Workspace, examples: list[Example], name: str = "set", split: str = "all"):  # type: ignore[no-untyped-def]
    return freeze(ws, name, [(split, e) for e in examples])


def test_the_version_is_the_content_whatever_its_order(ws: Workspace) -> None:
    """The same examples in another order are the same version; one more, or another split, is another."""
    examples = some(3)
    first = keep(ws, examples)
    assert keep(ws, examples[::-1]).version == first.version
    assert keep(ws, examples[:-1]).version != first.version
    assert keep(ws, examples, split="test").version != first.version
    verify(first.artefact)
    assert list(open_dataset(ws, f"set@{first.version[:6]}").split()) == examples


def test_bad_rows_and_repeated_examples_are_kept_aside(ws: Workspace) -> None:
    """What is refused stands in the version with place and reason; nothing at all is an error that names the first."""
    examples = some(1)
    made = freeze(ws, "set", [("all", examples[0]), ("all", BadRow("f:1", "odd")), ("all", examples[0])])
    assert len(made) == 1 and [b.reason[:8] for b in made.refused()] == ["odd", "the same"]
    with pytest.raises(BadInput, match="f:1: odd"):
        freeze(ws, "none", [("all", BadRow("f:1", "odd"))])
    with pytest.raises(NotFound, match="mlxrag data split"):
        made.split("test")


def test_positions_slices_and_columns_agree(ws: Workspace) -> None:
    """A split is a sequence over several batches and files; columns come in the same order."""
    examples = [ask(f"Number {i}?", str(i)) for i in range(BATCH * 2 + 7)]
    made = freeze(ws, "set", [("train" if i < BATCH + 3 else "test", e) for i, e in enumerate(examples)])
    rows = made.split()
    assert len(rows) == len(examples) and list(rows) == examples
    assert [rows[i] for i in (0, BATCH, BATCH + 3, -1)] == [examples[i] for i in (0, BATCH, BATCH + 3, -1)]
    assert list(rows.column("id")) == [e.id for e in examples]
    with pytest.raises(IndexError):
        rows[len(examples)]


def test_examples_are_found_by_their_ids_in_the_order_of_the_split(ws: Workspace) -> None:
    """And an id that is not there is missing, whatever it looks like."""
    rows = keep(ws, some(40, 8)).split()
    found = ById(rows)
    assert len(found) == len(rows) > BATCH
    assert list(found) == [e.id for e in rows] and list(found.values()) == list(rows)
    assert all(found[e.id] == e for e in rows) and "0" * 16 not in found and found.get("no such") is None


def test_a_broken_file_is_said_to_be_damaged(ws: Workspace) -> None:
    """A file that is no Arrow file is named."""
    made = keep(ws, some(1))
    (made.artefact.path / "all.arrow").write_bytes(b"ARROW1")
    with pytest.raises(Damaged, match=r"all\.arrow"):
        made.split()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 6), min_size=3, max_size=12), st.integers(0, 5), st.data())
def test_no_document_stands_in_two_splits(tmp_path: Path, sizes: list[int], seed: int, data: st.DataObject) -> None:
    """Splitting keeps every example once, no document and no near-duplicate passage in two splits, and none empty."""
    twin = data.draw(st.integers(0, len(sizes) - 1))
    examples = []
    for d, n in enumerate(sizes):
        body = text(twin) + " and a little more" if d == (twin + 1) % len(sizes) else text(d)
        examples += [ask(f"What {d} {i}?", "a", gold=(passage(body, f"d{d}.md"),)) for i in range(n)]
    made = freeze(Workspace(tmp_path), f"s{abs(hash((tuple(sizes), seed, twin)))}", [("all", e) for e in examples])
    if len(sizes) - 1 < 3:
        return
    split = list(split_by_document(made, {"train": 0.6, "valid": 0.2, "test": 0.2}, seed=seed))
    assert sorted(e.id for _, e in split) == sorted(e.id for e in examples)
    homes: dict[str, set[str]] = {}
    for name, e in split:
        homes.setdefault(e.passages[0].source, set()).add(name)
    assert all(len(h) == 1 for h in homes.values())
    assert homes[f"d{twin}.md"] == homes[f"d{(twin + 1) % len(sizes)}.md"]
    assert {name for name, _ in split} == {"train", "valid", "test"}


def test_documents_stay_in_their_split_when_others_come(ws: Workspace) -> None:
    """With `keep`, what was trained on never becomes a test."""
    shares = {"train": 0.5, "test": 0.5}
    before = freeze(ws, "before", split_by_document(keep(ws, some(8)), shares))
    after = {e.id: s for s, e in split_by_document(keep(ws, some(16), "more"), shares, keep=before, seed=3)}
    assert all(after[e.id] == s for s, e in before.splits())


def test_splitting_says_what_is_wrong(ws: Workspace) -> None:
    """Shares that do not sum to 1, and too few documents, are refused."""
    made = keep(ws, some(2))
    with pytest.raises(BadInput, match="sum to 1"):
        list(split_by_document(made, {"train": 0.5}))
    with pytest.raises(BadInput, match="too few for 3 splits"):
        list(split_by_document(made, {"train": 0.5, "valid": 0.25, "test": 0.25}))


def test_a_sample_is_in_proportion_and_nested(ws: Workspace) -> None:
    """Strata keep their shares; a larger sample holds the smaller; all of a small set is itself."""
    examples = [ask(f"Q{i}?", "a", tags=("rare" if i % 10 == 0 else "common",)) for i in range(200)]
    rows = keep(ws, examples).split()
    small, large = sample(rows, 20, seed=1), sample(rows, 60, seed=1)
    assert len(small) == 20 and sum(e.tags == ("rare",) for e in small) == 2
    assert {e.id for e in small} <= {e.id for e in large}
    assert sample(rows, 1000) == examples and sample(rows, 20, seed=2) != small


def test_near_duplicates_are_found_across_small_changes() -> None:
    """A text with a few words changed is paired with itself; other texts are not."""
    texts = [text(i) for i in range(20)]
    texts.append(texts[3].replace("red", "pink", 1).upper())
    found = {(i, j) for i, j, _ in pairs(signatures(texts), 0.8)}
    assert found == {(3, 20)}
    assert groups(4, [(2, 3), (0, 2)]).tolist() == [0, 1, 0, 0]
    near = Near(0.8)
    near.add(texts[3])
    assert near.find(texts[20]) == 0 and near.find(texts[4]) is None
    assert list(pairs(signatures([]), 0.8)) == []


def test_seen_counts_each_key_once() -> None:
    """Keys are remembered across the merges of the sorted part."""
    seen, rng = Seen(), random.Random(0)
    keys = [f"{rng.getrandbits(64):016x}" for _ in range(70_000)]
    assert all(seen.add(k) for k in keys) and not any(seen.add(k) for k in keys[::1000]) and len(seen) == 70_000


def test_an_audit_finds_leaks_doubles_and_contradictions(ws: Workspace) -> None:
    """Each trouble that was put in is found, the grave ones first, and a clean set has none."""
    clean = keep(ws, some(4), "clean")
    assert not audit(clean).findings
    shared = passage(text(100), "shared.md")
    rows = [
        ("train", ask("Who is the head of people here?", "Ann", gold=(shared,))),
        ("test", ask("Who is the head of people here?", "Bob", gold=(shared,))),
        ("train", ask("What colour is it then?", "red", gold=(passage(text(1), "a.md"),))),
        ("train", ask("What colour is it then??", "red", gold=(passage(text(2), "b.md"),))),
        ("test", ask("Where is it?", "x", gold=(passage(text(1) + " again", "c.md"),), evidence=("not there",))),
        ("test", ask("Why?", "", "b")),
    ]  # fmt: skip
    found = audit(freeze(ws, "dirty", rows))
    kinds = {f.kind: f.grave for f in found.findings}
    assert kinds == {
        "document in two splits": True, "near-duplicate passages in two splits": True, "contradictory answers": True,
        "question asked twice": False, "evidence not in a passage": False, "empty answer": False, "question of one or two words": False,
    }  # fmt: skip
    assert [f.grave for f in found.findings] == sorted((f.grave for f in found.findings), reverse=True)
    assert found.quality["answer_found"].n == 5 and found.quality["gold_rank"].missing == 6


def test_an_audit_sees_what_an_adapter_was_trained_on(ws: Workspace) -> None:
    """Questions and documents of the training split are grave in a test split."""
    examples = some(3)
    trained = keep(ws, examples[:4], "trained", "train")
    found = audit(keep(ws, [examples[0], examples[5]], "asked", "test"), trained_on=[trained])
    assert [f.kind for f in found.findings if f.grave] == ["question was trained on"]


def test_a_difference_names_what_came_went_changed_and_moved(ws: Workspace) -> None:
    """Added, removed, changed answers and moved splits are told apart, and a shift of tags is significant."""
    examples = some(12)
    before = keep(ws, examples)
    other = [ask(e.question, "new answer", gold=e.passages) if i == 0 else e for i, e in enumerate(examples[:-1])]
    more = [ask(f"More {i}?", "a", tags=("new",)) for i in range(40)]
    after = freeze(ws, "set", [("test" if i == 1 else "all", e) for i, e in enumerate([*other, *more])])
    found = difference(before, after)
    assert (len(found.added), len(found.removed), len(found.changed), len(found.moved)) == (40, 1, 1, 1)
    assert found.same == len(examples) - 3
    assert next(s.p for s in found.shifts if s.what == "tags") < 0.001  # type: ignore[operator]
    same = difference(before, before)
    assert not same.added and all(s.p is None or s.p > 0.9 for s in same.shifts)


def test_changed_documents_make_examples_stale() -> None:
    """An example of a document with another id, or of one that is gone, is stale, with the reason."""
    examples = some(3, 1)
    now = {"d0.md": examples[0].passages[0].document_id, "d1.md": "other"}
    assert [why for _, why in stale(examples, now)] == ["d1.md has changed", "d2.md is gone"]


def test_a_journal_outlives_a_kill_in_the_middle_of_a_row(tmp_path: Path) -> None:
    """A torn last line is cut off when the journal is opened again; a fault before it is damage."""
    path = tmp_path / "j.jsonl"
    with journal.Journal(path) as file:
        file.add({"a": 1})
    with path.open("ab") as raw:
        raw.write(b'{"a": 2')
    assert list(journal.rows(path)) == [{"a": 1}]
    with journal.Journal(path) as file:
        file.add({"a": "\ud800 é"})
    assert [r["a"] for r in journal.rows(path)] == [1, "\ud800 é"]
    path.write_bytes(b"{}\nnonsense\n{}\n")
    with pytest.raises(Damaged, match=":2:"):
        list(journal.rows(path))
    with pytest.raises(ValueError, match="JSON compliant"), journal.Journal(path) as file:
        file.add({"a": float("nan")})


def test_a_killed_import_leaves_no_version(tmp_path: Path) -> None:
    """SIGKILL while a dataset is written leaves nothing that looks like one; the next call writes it."""
    code = (
        "import os, sys; from pathlib import Path; from mlxrag.workspace import Workspace;"
        "from mlxrag.data.dataset import freeze; from mlxrag.data.example import example\n"
        "def rows():\n"
        "    for i in range(5000):\n"
        "        if i == 3000: os.kill(os.getpid(), 9)\n"
        "        yield 'all', example(f'Q{i}?', ('a',), (), 'x')\n"
        "freeze(Workspace(Path(sys.argv[1])), 'set', rows())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(NotFound):
        open_dataset(Workspace(tmp_path), "set")
    assert len(keep(Workspace(tmp_path), some(2))) == 8
