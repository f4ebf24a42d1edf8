"""`mlxrag ingest` and `mlxrag search`: results on stdout, one sentence on failure, exit codes."""

import json
import os

import pytest

from mlxrag.cli.search import snippet
from tests.toy_encoder import write_encoder


@pytest.fixture
def mlxrag(tmp_path, monkeypatch, command):
    """Run a command in a workspace of its own, with a toy encoder."""
    monkeypatch.setenv("MLXRAG_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("MLXRAG_ENCODER", str(write_encoder(tmp_path / "encoder")))
    return command


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "kernels.md").write_text("# Kernels\n\n## Writing\n\nA kernel is compiled once and then called often.\n")
    (folder / "birds.txt").write_text("The owl hunts at night. The kiwi cannot fly.\n")
    (folder / "blank.txt").write_text("\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return folder


def test_ingest_counts_and_gives_reasons(mlxrag, docs):
    """JSON on stdout counts the outcomes and names each file that was left out, with its reason."""
    code, out, _ = mlxrag("ingest", docs, "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["indexed"], value["unchanged"], value["removed"], value["documents"]) == (2, 0, 0, 2)
    assert value["kind"] == "indexes" and value["name"] == "documents" and value["passages"] >= 2
    assert [row["source"] for row in value["empty"]] == ["docs/blank.txt"]
    assert [row["source"] for row in value["refused"]] == ["docs/broken.pdf"]
    assert all(row["reason"] for row in value["refused"])
    again = json.loads(mlxrag("ingest", docs, "--json")[1])
    assert (again["indexed"], again["unchanged"]) == (0, 2) and again["refused"] == value["refused"]


def test_ingest_ends_with_a_table_for_people(mlxrag, docs):
    """Without --json the reasons stand in a table, and a sentence sums up."""
    code, out, _ = mlxrag("ingest", docs)
    assert code == 0
    assert "docs/broken.pdf" in out and "2 indexed" in out and "1 refused" in out


def test_strict_turns_a_refusal_into_failure(mlxrag, docs):
    """With --strict a refused file means exit 1, after the work is done."""
    assert mlxrag("ingest", docs, "--strict")[0] == 1
    assert mlxrag("search", "owl", "--json")[0] == 0


def test_search_shows_rank_score_source_place_and_marked_words(mlxrag, docs):
    """The passage is shown with where it stands, and the question's words between stars."""
    mlxrag("ingest", docs)
    code, out, _ = mlxrag("search", "compiling kernels", "--retriever", "lexical")
    assert code == 0
    first = out.splitlines()[0]
    assert first.startswith("1. docs/kernels.md") and "Writing" in first
    assert "*kernel*" in out and "*compiled*" in out


def test_search_answers_in_json(mlxrag, docs):
    """JSON holds the question and each hit's rank, score, source, place and text."""
    mlxrag("ingest", docs)
    value = json.loads(mlxrag("search", "owl", "--json", "--num-passages", "2")[1])
    assert value["question"] == "owl" and [hit["rank"] for hit in value["hits"]] == [1, 2]
    assert {"rank", "score", "source", "place", "text"} <= value["hits"][0].keys()
    only = json.loads(mlxrag("search", "owl", "--json", "--where", "source=*kernels*")[1])
    assert {hit["source"] for hit in only["hits"]} == {"docs/kernels.md"}


def test_search_uses_the_encoder_of_the_index(mlxrag, docs, monkeypatch):
    """A question is encoded by what the index was made with, whatever the default is; another one asked for is refused."""
    mlxrag("ingest", docs)
    monkeypatch.delenv("MLXRAG_ENCODER")
    assert mlxrag("search", "owl", "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ingest", "{tmp}/nowhere"), "nowhere"),
        (("ingest", "{tmp}/void"), "void"),
        (("search", "x"), "mlxrag ingest"),
        (("search", "  "), "empty"),
        (("search", "x", "--index", "../x"), "no name"),
        (("ingest", "{tmp}/docs", "--encoder", "{tmp}/void"), "config.json"),
        (("ingest", "{tmp}/docs", "--chunk-tokens", "100000"), "8192"),
    ],
)
def test_failures_are_one_sentence(mlxrag, docs, tmp_path, words, says):
    """Each failure says in one line what is wrong, and nothing is printed on stdout."""
    (tmp_path / "void").mkdir()
    code, out, err = mlxrag(*(word.format(tmp=tmp_path) for word in words))
    assert code in (1, 2) and out == ""
    assert says in err and "Traceback" not in err


def test_wrong_encoder_and_damaged_index_say_rebuild(mlxrag, docs, tmp_path):
    """The wrong encoder and a damaged database name the way out, and the way out works."""
    mlxrag("ingest", docs)
    other = str(write_encoder(tmp_path / "other", seed=9))
    for command in (("search", "owl", "--encoder", other), ("ingest", docs, "--encoder", other)):
        code, _, err = mlxrag(*command)
        assert code == 1 and "--rebuild" in err and err.count("\n") == 1
    for file in (tmp_path / "ws" / "indexes" / "documents").glob("store.sqlite*"):
        file.write_bytes(b"rubbish" * 1000)
    for command in (("search", "owl"), ("ingest", docs)):
        code, _, err = mlxrag(*command)
        assert code == 1 and "--rebuild" in err and err.count("\n") == 1
    assert mlxrag("ingest", docs, "--rebuild")[0] == 0
    assert mlxrag("search", "owl")[0] == 0


def test_the_same_encoder_with_other_weights_is_told_from_another_encoder(mlxrag, docs, tmp_path):
    """The sentence does not say that the encoder X was used and not X."""
    mlxrag("ingest", docs)
    write_encoder(tmp_path / "encoder", seed=9)
    for command in (("search", "owl"), ("ask", "owl?"), ("ingest", docs)):
        code, out, err = mlxrag(*command)
        assert code == 1 and out == "" and "other files or settings of the encoder" in err and "--rebuild" in err
        assert err.count(str(tmp_path / "encoder")) == 1 and err.count("\n") == 1


def test_files_that_cannot_be_opened_are_refused_with_the_reason(mlxrag, docs):
    """A pipe, a link to nowhere and a forbidden file cost a row each, and never the job."""
    os.mkfifo(docs / "pipe.txt")
    (docs / "gone.md").symlink_to(docs / "nowhere.md")
    (docs / "secret.txt").write_text("none of your business")
    (docs / "secret.txt").chmod(0)
    code, out, _ = mlxrag("ingest", docs, "--json")
    value = json.loads(out)
    reasons = {row["source"]: row["reason"] for row in value["refused"]}
    assert code == 0 and value["indexed"] >= 2
    assert "pipe" in reasons["docs/pipe.txt"] and reasons["docs/gone.md"]
    assert os.geteuid() == 0 or "permission denied" in reasons["docs/secret.txt"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(mlxrag, docs, monkeypatch):
    """What was indexed before is still found, and the same command goes on when there is room."""
    mlxrag("ingest", docs)
    (docs / "long.txt").write_text("\n\n".join(f"Chapter {i}. The emu runs {i} miles." for i in range(4000)))

    def small(path):
        db = whole(path)
        db.execute("PRAGMA max_page_count = 60")
        return db

    from mlxrag.rag import store

    whole = store.connect
    monkeypatch.setattr(store, "connect", small)
    code, out, err = mlxrag("ingest", docs)
    assert code == 1 and out == "" and "the disk is full" in err and err.count("\n") == 1
    monkeypatch.setattr(store, "connect", whole)
    assert json.loads(mlxrag("search", "owl", "--retriever", "lexical", "--json")[1])["hits"]
    assert json.loads(mlxrag("ingest", docs, "--json")[1])["indexed"] == 1


def test_a_mistyped_path_does_not_cost_the_index(mlxrag, docs, tmp_path):
    """--rebuild throws the index away only when there is something to read."""
    mlxrag("ingest", docs)
    assert mlxrag("ingest", tmp_path / "dosc", "--rebuild")[0] == 1
    assert json.loads(mlxrag("search", "owl", "--json")[1])["hits"]


def test_the_prefix_of_a_question_may_change(mlxrag, docs):
    """What stands before a question is not part of the index, so it may be tried out."""
    mlxrag("ingest", docs)
    assert mlxrag("search", "owl", "--json", "--question-prefix", "find: ")[0] == 0


def test_snippet_is_cut_around_the_matching_words():
    """A long passage is shown where most of its matching words are."""
    text = "filler " * 100 + "the kernel and the kernel " + "filler " * 100
    at = text.index("kernel")
    spans = [(at, at + 6), (at + 15, at + 21)]
    shown = snippet(text, spans, styled=False, width=80).plain
    assert shown.count("*kernel*") == 2 and shown.strip().startswith("…") and shown.endswith("…")
    assert "kernel" in snippet("kernel", [(0, 6)], styled=True).plain
    assert snippet("", [], styled=False).plain.strip() == ""
