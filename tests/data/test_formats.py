from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxrag.data.example import BadRow, Example, from_row, to_row
from mlxrag.data.export import EXPORTERS, write_examples
from mlxrag.data.formats import IMPORTERS, guess_format, parse_prompt, read_examples
from mlxrag.data.store import write_split
from mlxrag.errors import BadInput
from mlxrag.rag.answer import messages
from mlxrag.rag.document import Hit
from mlxrag.settings import Answering
from tests.evaluate.kit import ask, passage


def read(path: Path, form: str | None = None) -> tuple[list[Example], list[BadRow]]:
    items = [item for _, item in read_examples(path, form)]
    return [i for i in items if isinstance(i, Example)], [i for i in items if isinstance(i, BadRow)]


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


SQUAD = {
    "data": [{"title": "Piers", "paragraphs": [{"context": "The pier is in Calder Quay.", "qas": [
        {"id": "a", "question": "Where?", "answers": [{"text": "Calder Quay", "answer_start": 15}] * 2},
        {"id": "b", "question": "Where?", "answers": [{"text": "Quay", "answer_start": 3}]},
        {"id": "c", "question": "Who?", "answers": [], "is_impossible": True},
        {"id": "d", "question": " ", "answers": []},
    ]}]}]
}  # fmt: skip


def test_squad_keeps_spans_and_names_bad_rows(tmp_path: Path) -> None:
    """Answers at the wrong place and empty questions are refused by id; impossible questions are unanswerable."""
    path = write_lines(tmp_path / "dev.json", SQUAD)
    assert guess_format(path) == "squad"
    good, bad = read(path)
    assert [e.answers for e in good] == [("Calder Quay",), ()] and not good[1].answerable
    assert good[0].passages[0].text == "The pier is in Calder Quay." and good[0].evidence == ("Calder Quay",)
    assert [b.place for b in bad] == ["dev.json#b", "dev.json#d"]


def test_squad_paragraphs_are_spans_of_one_document(tmp_path: Path) -> None:
    """Two paragraphs of an article share its document and do not overlap."""
    rows = [
        {"context": c, "qas": [{"id": c, "question": f"{c}?", "answers": [{"text": c, "answer_start": 0}]}]}
        for c in ("one", "two")
    ]
    good, _ = read(write_lines(tmp_path / "dev.json", {"data": [{"title": "T", "paragraphs": rows}]}))
    a, b = good[0].passages[0], good[1].passages[0]
    assert a.document_id == b.document_id and a.end < b.start and b.end - b.start == 3


def test_csv_takes_usual_names_lists_and_several_answers(tmp_path: Path) -> None:
    """Columns may be called otherwise; `|` and JSON lists part answers; the rest of a bad file is kept."""
    path = tmp_path / "q.csv"
    path.write_text(
        "Query,Ground_Truth,contexts,type,answerable\n"
        'Where?,"here|there","[""p1"", ""p2""]",place,\n'
        ",x,,,\nWho?,,,,\nWhat?,,,,false\n"
    )
    good, bad = read(path)
    assert good[0].answers == ("here", "there") and [p.text for p in good[0].passages] == ["p1", "p2"]
    assert good[0].tags == ("place",) and not good[1].answerable
    assert [(b.place, b.reason[:9]) for b in bad] == [("q.csv:3", "no questi"), ("q.csv:4", "no answer")]


def test_a_csv_that_breaks_keeps_what_came_before(tmp_path: Path) -> None:
    """An unclosed quote ends the file with one bad row; a row with too many fields is one."""
    path = tmp_path / "q.csv"
    path.write_text('question,answer\nWho?,Ann\nWho?,Ann,Bob\n"open,x')
    good, bad = read(path)
    assert len(good) == 1 and [b.place for b in bad] == ["q.csv:3", "q.csv:4"]


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    """Bytes of another encoding are refused and not replaced."""
    path = tmp_path / "q.csv"
    path.write_bytes("question,answer\nWo?,Köln\n".encode("latin-1") + b"Who?,Ann\n")
    good, bad = read(path)
    assert [e.answers for e in good] == [("Ann",)] and bad[0].reason.startswith("not UTF-8")


def test_ragas_and_clapnq_and_chat_are_recognized(tmp_path: Path) -> None:
    """The format follows from the columns of the first row."""
    ragas = write_lines(tmp_path / "r.jsonl", {"user_input": "Q?", "reference": "A", "reference_contexts": ["c"]})
    clapnq = write_lines(
        tmp_path / "c.jsonl",
        {
            "input": "Q?",
            "passages": [{"title": "T", "text": "It is A."}],
            "output": [{"answer": "A", "selected_sentences": ["It is A."]}],
        },
    )
    chat = write_lines(
        tmp_path / "m.jsonl", {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]}
    )
    assert [guess_format(p) for p in (ragas, clapnq, chat)] == ["ragas", "clapnq", "chat"]
    assert [read(p)[0][0].answers for p in (ragas, clapnq, chat)] == [("A",)] * 3
    assert read(clapnq)[0][0].evidence == ("It is A.",)


def test_chat_takes_passages_out_of_our_own_prompt(tmp_path: Path) -> None:
    """What `messages` lays out is parsed back, with earlier turns as history."""
    gold = passage("The pier\n\nis here.")
    prompt = messages("Where?", [Hit(gold, 1.0, "x", 1), Hit(passage("Other.", "b.md"), 0.5, "x", 2)], Answering())[-1][
        "content"
    ]
    question, found = parse_prompt(prompt)
    assert question == "Where?" and [p.text for p in found] == ["The pier\n\nis here.", "Other."]
    turns = [("user", "Who?"), ("assistant", "Ann"), ("user", prompt), ("assistant", "here [1]")]
    path = write_lines(
        tmp_path / "m.jsonl", {"messages": [{"role": r, "content": c} for r, c in turns]}, {"messages": []}
    )
    good, bad = read(path)
    assert good[0].history == (("Who?", "Ann"),) and good[0].question == "Where?" and len(bad) == 1


KEYS = {
    "squad": ("data", "title", "paragraphs", "context", "qas", "question", "answers", "text", "answer_start"),
    "clapnq": ("input", "passages", "title", "text", "output", "answer", "selected_sentences"),
    "jsonl": ("question", "answer", "context", "tags", "title", "answerable", "text"),
    "chat": ("messages", "role", "content", "user", "assistant"),
    "mlxrag": ("question", "answers", "passages", "answerable", "tags", "history", "evidence", "gates"),
}


@pytest.mark.parametrize("form", sorted(KEYS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_rows_of_any_shape_are_examples_or_bad_rows(form: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whatever JSON stands where something else is expected."""
    keys = st.sampled_from(KEYS[form])
    value = st.recursive(
        st.none() | st.booleans() | st.integers(-2, 5) | keys | st.just("It is A."),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=8,
    )
    rows = data.draw(st.lists(st.dictionaries(keys, value, min_size=1), min_size=1, max_size=3))
    path = write_lines(tmp_path / "any.jsonl", *rows) if form != "squad" else tmp_path / "any.json"
    if form == "squad":
        path.write_text(json.dumps({"data": rows}))
    good, bad = read(path, form)
    assert len(good) + len(bad) >= 1 or form == "squad"
    assert all(write_split(tmp_path / "any.arrow", [e]) for e in good)


@pytest.mark.parametrize("form", sorted(EXPORTERS))
def test_what_is_exported_can_be_imported(form: str, tmp_path: Path) -> None:
    """Every export is read back with its questions, answers and answerability."""
    gold = passage("The pier is in Calder Quay, and 'it' \"costs\" 5 | 6.", "a.md")
    examples = [
        ask("Where is it?", "Calder Quay", "5 | 6", gold=(gold,), tags=("place",)),
        ask("Wer, und wo?", gold=(gold,)),
    ]
    path = tmp_path / f"out{ {'squad': '.json', 'csv': '.csv', 'parquet': '.parquet'}.get(form, '.jsonl') }"
    assert write_examples(examples, path, form) == 2
    back = [i for _, i in read_examples(path, {"parquet": "hf"}.get(form, form))]
    assert all(isinstance(i, Example) for i in back), back
    assert [i.question for i in back if isinstance(i, Example)] == ["Where is it?", "Wer, und wo?"]
    first = back[0]
    assert (
        isinstance(first, Example) and first.answers[0].startswith("Calder Quay") and "pier" in first.passages[0].text
    )
    if form in {"mlxrag", "squad", "clapnq", "csv", "parquet"}:
        assert [i.answerable for i in back if isinstance(i, Example)] == [True, False]


def test_a_chat_answer_cites_the_passage_that_it_is_from(tmp_path: Path) -> None:
    """Among other passages the citation is the number of the one with the evidence, not the first."""
    gold, other = passage("The pier opens at 9:30.", "a.md"), passage("The quay is closed.", "b.md")
    one = ask("When?", "9:30", gold=(other, gold), evidence=("The pier opens at 9:30.",))
    bare = ask("When?", "at half past nine", gold=())
    assert write_examples([one, bare], tmp_path / "chat.jsonl", "chat") == 2
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert [r["messages"][-1]["content"] for r in rows] == ["9:30 [2]", "at half past nine"]


def test_own_rows_round_trip_exactly() -> None:
    """A row holds everything of an example."""
    made = ask(
        "Q?", "a", gold=(passage("text"),), tags=("t",), history=(("x", "y"),), evidence=("te",), gates={"form": "ok"}
    )
    assert from_row(json.loads(json.dumps(to_row(made)))) == made


def test_a_directory_of_splits_keeps_them(tmp_path: Path) -> None:
    """train, validation and test files become splits."""
    for name in ("train", "validation", "test"):
        write_lines(tmp_path / f"{name}.jsonl", {"question": f"{name}?", "answer": "a"})
    assert {split for split, _ in read_examples(tmp_path)} == {"train", "valid", "test"}


def test_compressed_files_and_json_lists_are_read(tmp_path: Path) -> None:
    """`.json.gz` with one list of rows works; rows that are no objects are named."""
    path = tmp_path / "q.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"question": "Q?", "answer": "A"}, 3]).encode()))
    good, bad = read(path)
    assert len(good) == 1 and bad[0].place == "q.json.gz[1]"


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    """No such path, no such format, a file of no known format: one sentence each."""
    with pytest.raises(BadInput, match="no such file"):
        list(read_examples(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="did you mean 'squad'"):
        list(read_examples(tmp_path, "squat"))
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(BadInput, match="Say --format"):
        list(read_examples(tmp_path / "x.txt"))
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="no column for the question"):
        list(read_examples(tmp_path / "y.csv"))


def test_a_hub_id_without_network_is_one_sentence(tmp_path: Path) -> None:
    """A dataset that cannot be fetched is named, not a traceback."""
    with pytest.raises(BadInput, match="neither a path nor a dataset"):
        list(read_examples("nobody/nothing", "hf"))


def test_real_sets_are_read_whole(shared_data: Path) -> None:
    """SQuAD, XQuAD and CLAPnq are taken in without a bad row."""
    for path, count in (
        ("squad/dev-v1.1.json.gz", 10570),
        ("xquad/xquad.zh.json.gz", 1190),
        ("clapnq/clapnq_dev_answerable.jsonl.gz", 300),
    ):
        good, bad = read(shared_data / path)
        assert len(good) == count and not bad


def test_every_importer_has_a_word_of_what_it_reads() -> None:
    """The registry's functions say what they read."""
    assert all(reader.__doc__ for reader in IMPORTERS.values())
    assert csv.QUOTE_MINIMAL == 0
