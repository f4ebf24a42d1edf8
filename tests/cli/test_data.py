"""`mlxrag data`, from a table of facts to a cleaned, split, augmented, audited and exported set, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxrag.cli.main import cli
from mlxrag.errors import BadInput, NotFound
from mlxrag.rag.read import find_files, read_file
from mlxrag.settings import Reading


class Shell:
    """Calls commands in a workspace of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *words: str) -> Any:
        """Run a command and return what it answers as JSON; its exception, if it fails."""
        done = self.run(*words, "--json")
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout)

    def run(self, *words: str) -> Any:
        return CliRunner().invoke(cli, ["data", *words, "--workspace", str(self.root / "ws")], standalone_mode=False)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    made = Shell(tmp_path_factory.mktemp("data"))
    made("synthetic", str(made.root / "docs"), "--name", "facts", "--rows", "12")
    return made


def test_facts_become_documents_and_questions(shell: Shell) -> None:
    """A document for each row, a question for each cell; the list shows the version, `show` its examples."""
    listed = shell("list")
    assert [row["name"] for row in listed] == ["facts"] and listed[0]["counts"] == {"all": 72}
    assert len(list((shell.root / "docs").glob("*.md"))) == 12
    shown = shell("show", "facts", "-n", "3", "--seed", "1")
    assert len(shown) == 3 and all(row["question"].endswith("?") for row in shown)
    text = shell.run("show", "facts", "-n", "1").stdout
    assert "answer:" in text and "docs/" in text


def test_documents_of_facts_are_those_that_are_read_from_the_folder(shell: Shell) -> None:
    """Source and id are the same, so that an audit against an index sees what has changed and nothing else."""
    files = find_files([shell.root / "docs"], Reading())
    found = {d.source: d.id for d in (read_file(file, Reading()) for file in files)}
    shown = shell("show", "facts", "-n", "100")
    assert {p["source"]: p["document_id"] for row in shown for p in row["passages"]} == found


def test_a_page_to_browse_holds_every_example(shell: Shell, tmp_path: Path) -> None:
    """One file without links to elsewhere, with all questions in it."""
    page = tmp_path / "page.html"
    assert shell("show", "facts", "-n", "100", "--html", str(page))["examples"] == 72
    text = page.read_text()
    assert text.count("<article") == 72 and "http://" not in text and "https://" not in text


def test_splits_augmentation_and_cleaning_are_new_versions(shell: Shell) -> None:
    """Each answers with its version and counts; what was made, kept and dropped adds up; diff tells them apart."""
    parts = shell("split", "facts", "--name", "parts", "--shares", "0.6,0.2,0.2")
    assert set(parts["counts"]) == {"train", "valid", "test"} and sum(parts["counts"].values()) == 72
    more = shell("augment", "parts", "--name", "more", "--by", "case", "--by", "unanswerable")
    for counts in more["augmented"].values():
        assert counts["made"] == counts["kept"] + sum(counts["dropped"].values())
    kept = sum(c["kept"] for c in more["augmented"].values())
    assert (
        more["counts"]["train"] == parts["counts"]["train"] + kept and more["counts"]["test"] == parts["counts"]["test"]
    )
    clean = shell("clean", "more", "--name", "clean")
    assert clean["cleaned"].get("dropped: asked before, with the same answers", 0) == clean["refused"]
    found = shell("diff", "parts", "more")
    assert len(found["added"]) == kept and not found["removed"] and found["same"] == 72
    assert "Distributions" in shell.run("diff", "parts", "more").stdout


def test_an_audit_of_a_leaking_set_is_an_exit_of_three(shell: Shell, tmp_path: Path) -> None:
    """A document in two splits is grave; a sound split passes `--strict`; an adapter that is not there is named."""
    sound = shell("split", "facts", "--name", "sound", "--seed", "3")
    assert shell.run("audit", f"sound@{sound['version']}", "--strict").return_value != 3
    for name, part in (("train", "0"), ("test", "1")):
        rows = shell("show", "facts", "-n", "80")
        chosen = [r for i, r in enumerate(rows) if str(i % 2) == part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in chosen))
    shell("import", str(tmp_path), "--name", "leaking")
    done = shell.run("audit", "leaking", "--strict", "--json")
    found = json.loads(done.stdout)
    assert done.return_value == 3 and found["times"]["document in two splits"] and found["findings"][0]["grave"]
    with pytest.raises(NotFound):
        shell("audit", "facts", "--adapter", "nothing")


@pytest.mark.parametrize("form", ["squad", "clapnq", "csv", "ragas", "chat", "mlxrag", "parquet"])
def test_what_is_exported_can_be_imported(shell: Shell, tmp_path: Path, form: str) -> None:
    """Every format that is written is read again, all rows of it."""
    suffix = {"squad": "json", "csv": "csv", "parquet": "parquet"}.get(form, "jsonl")
    path = tmp_path / f"out.{suffix}"
    assert shell("export", "facts", str(path), "--to", form, "--split", "all") == {str(path): 72}
    back = shell("import", str(path), "--name", f"back-{form}")
    assert sum(back["counts"].values()) + back["refused"] == 72 and back["refused"] == 0


def test_misuse_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    """Bad shares, an unknown augmenter or format, a file that holds no question."""
    assert "such as 0.8,0.1,0.1" in str(shell.run("split", "facts", "--shares", "a,b").exception)
    with pytest.raises(BadInput, match="did you mean 'typos'"):
        shell("augment", "facts", "--by", "tpyos")
    with pytest.raises(BadInput, match="did you mean 'squad'"):
        shell("export", "facts", str(tmp_path / "x"), "--to", "squat")
    (tmp_path / "bad.jsonl").write_text('{"question": ""}\n')
    with pytest.raises(BadInput, match=r"bad.jsonl:1: no question"):
        shell("import", str(tmp_path / "bad.jsonl"), "--name", "bad")
